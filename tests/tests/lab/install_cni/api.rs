//! As much of an API server as the installer asks: its DaemonSet and its node.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use npc_tests::lab::Netns;
use serde_json::{Value, json};

/// What the server answers about the DaemonSet.
#[derive(Debug, Clone)]
pub(crate) enum Says {
    /// The object.
    Found(Value),
    /// A refusal, with this code and reason.
    Refuses(u16, &'static str),
    /// It closes the connection.
    Nothing,
}

/// A DaemonSet whose pod template has these containers and selects these labels.
pub(crate) fn daemon_set(containers: &[&str], selector: &Value) -> Value {
    let containers: Vec<_> = containers.iter().map(|name| json!({"name": name})).collect();
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "npc", "namespace": "npc-system"},
        "spec": {
            "selector": {"matchLabels": {"app": "npc"}},
            "template": {
                "metadata": {"labels": {"app": "npc"}},
                "spec": {"containers": containers, "nodeSelector": selector, "tolerations": [{"operator": "Exists"}]},
            },
        },
    })
}

/// The DaemonSet as it is while npc is installed.
pub(crate) fn installed() -> Says {
    Says::Found(daemon_set(&["install-cni", "npc"], &json!({"kubernetes.io/os": "linux"})))
}

pub(crate) struct Api {
    says: Arc<Mutex<Says>>,
    kubeconfig: PathBuf,
}

impl Api {
    /// On the node's loopback.
    pub(crate) fn start(netns: &Netns, folder: &Path) -> Self {
        let listener = netns.within(|| TcpListener::bind(("127.0.0.1", 0)).unwrap()).unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let says = Arc::new(Mutex::new(installed()));
        let answers = Arc::clone(&says);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let says = answers.lock().unwrap().clone();
                // A client that has gone is no matter.
                let _ = answer(stream.unwrap(), &says);
            }
        });
        let kubeconfig = folder.join("installer.kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
        });
        fs::write(&kubeconfig, config.to_string()).unwrap();
        Self { says, kubeconfig }
    }

    pub(crate) fn says(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }
}

fn answer(mut stream: TcpStream, says: &Says) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let (code, body) = if request.starts_with("GET /api/v1/nodes/n1 ") {
        let labels = json!({"kubernetes.io/os": "linux", "kubernetes.io/hostname": "n1"});
        (
            200,
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": labels},
            "spec": {"taints": [{"key": "pool", "value": "batch", "effect": "NoSchedule"}]}}),
        )
    } else {
        assert!(request.starts_with("GET /apis/apps/v1/namespaces/npc-system/daemonsets/npc "), "{request}");
        match says {
            Says::Found(object) => (200, object.clone()),
            Says::Refuses(code, reason) => (
                *code,
                json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason,
                    "message": "words"}),
            ),
            Says::Nothing => return Ok(()),
        }
    };
    let body = body.to_string();
    write!(
        stream,
        "HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
