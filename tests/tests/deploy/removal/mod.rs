//! What an operator does with Helm and kubectl, and what the installer of the CNI plugin makes of
//! what it then finds at the API server.

mod api;

use std::path::{Path, PathBuf};
use std::process::Command;

use npc_agent::install_cni::owner::{Wish, wish};
use npc_agent::source::kube::{connect, daemon_set};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{chart, repository, tools};
use api::{ADMINISTRATOR, Api, INSTALLER};

/// A cluster with one node.
struct Cluster {
    api: Api,
    folder: TempDir,
}

impl Cluster {
    /// Of this minor version of Kubernetes.
    async fn new(minor: u32) -> Self {
        let (api, address) = Api::start(minor).await;
        let folder = tempfile::tempdir().unwrap();
        for token in [ADMINISTRATOR, INSTALLER] {
            let config = json!({
                "apiVersion": "v1", "kind": "Config", "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": address}}],
                "users": [{"name": "u", "user": {"token": token}}],
            });
            std::fs::write(folder.path().join(token), config.to_string()).unwrap();
        }
        let cluster = Self { api, folder };
        cluster.node(&json!({}));
        let space = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "npc-system"}});
        cluster.api.put("/api/v1/namespaces/npc-system", space);
        cluster
    }

    /// Puts the Linux node n1 of the pool `main` there, with this spec.
    fn node(&self, spec: &Value) {
        let labels = json!({"kubernetes.io/os": "linux", "pool": "main"});
        let node =
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": labels}, "spec": spec});
        self.api.put("/api/v1/nodes/n1", node);
    }

    /// Runs Helm or kubectl as an administrator would, and answers the writes that it sent.
    async fn run(&self, program: &Path, arguments: &[&str]) -> Vec<String> {
        self.run_and_read(program, arguments).await.0
    }

    /// The same, and what the program printed.
    async fn run_and_read(&self, program: &Path, arguments: &[&str]) -> (Vec<String>, String) {
        self.api.take_writes();
        let mut command = Command::new(program);
        command.args(arguments).env("KUBECONFIG", self.folder.path().join(ADMINISTRATOR));
        // Nothing of the machine's own configuration.
        for (name, folder) in [("HOME", "home"), ("HELM_CACHE_HOME", "cache"), ("HELM_DATA_HOME", "data")] {
            command.env(name, self.folder.path().join(folder));
        }
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let writes = self.api.take_writes();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}\n{writes:#?}");
        (writes, String::from_utf8(output.stdout).unwrap())
    }

    /// What the installer on n1 does if it is ended now.
    async fn wish(&self) -> Wish {
        let connector = connect(Some(&self.folder.path().join(INSTALLER)), None).unwrap();
        let answer = daemon_set(&connector.client().unwrap(), "npc-system", "npc", "n1").await;
        wish(&answer, "install-cni", "n1")
    }

    #[track_caller]
    fn assert_removes(wish: &Wish, way: &str) {
        let removes = matches!(wish, Wish::Remove(_) | Wish::AskAgain { remove_at_end: true, .. });
        assert!(removes, "{way}: {wish:?}");
    }
}

/// What was deleted, in its order, as `daemonsets/npc`.
fn deleted(writes: &[String]) -> Vec<String> {
    let paths = writes.iter().filter_map(|write| write.strip_prefix("DELETE "));
    paths
        .map(|path| path.rsplitn(3, '/').take(2).collect::<Vec<_>>())
        .map(|last| format!("{}/{}", last[1], last[0]))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_does_with_helm_decides_whether_the_plugin_stays() {
    let Some(helm) = tools::find("helm") else { return };
    let cluster = Cluster::new(36).await;
    let chart_folder = chart::folder();
    let chart_folder = chart_folder.to_str().unwrap();
    let upgrade = async |more: &[&str]| {
        let fixed = ["upgrade", "npc", chart_folder, "--install", "--namespace", "npc-system"];
        let quick = ["--disable-openapi-validation", "--timeout", "60s"];
        cluster.run(&helm, &[&fixed, more, &quick].concat()).await
    };
    // Revision 1 has no plugin, 2 has it.
    upgrade(&[]).await;
    let before = cluster.api.paths();
    assert!(before.iter().any(|path| path.ends_with("/daemonsets/npc")), "{before:?}");
    let on = ["--set", "cni.enabled=true"];
    upgrade(&on).await;
    assert_eq!(cluster.wish().await, Wish::Keep);

    // An upgrade, and a node that is drained, sick, or has a taint.
    upgrade(&[&on[..], &["--set", "image.tag=9.9.9"]].concat()).await;
    assert_eq!(cluster.wish().await, Wish::Keep, "an upgrade");
    let taint = |key: &str| json!({"taints": [{"key": key, "effect": "NoExecute"}]});
    for spec in [json!({"unschedulable": true}), taint("node.kubernetes.io/unreachable"), taint("gpu")] {
        cluster.node(&spec);
        assert_eq!(cluster.wish().await, Wish::Keep, "{spec}");
    }
    cluster.node(&json!({}));

    upgrade(&["--set", "cni.enabled=false"]).await;
    Cluster::assert_removes(&cluster.wish().await, "cni.enabled=false");
    upgrade(&on).await;
    assert_eq!(cluster.wish().await, Wish::Keep);
    upgrade(&[&on[..], &["--set", "nodeSelector.pool=other"]].concat()).await;
    Cluster::assert_removes(&cluster.wish().await, "another nodeSelector");

    let rollback = async |revision: &str| {
        cluster.run(&helm, &["rollback", "npc", revision, "--namespace", "npc-system", "--timeout", "60s"]).await
    };
    rollback("2").await;
    assert_eq!(cluster.wish().await, Wish::Keep, "a rollback to a revision with the plugin");
    rollback("1").await;
    Cluster::assert_removes(&cluster.wish().await, "a rollback to before the plugin");

    upgrade(&[&on[..], &["--set", "startupTaint.enabled=true"]].concat()).await;
    assert_eq!(cluster.wish().await, Wish::Keep);
    let writes = cluster.run(&helm, &["uninstall", "npc", "--namespace", "npc-system", "--timeout", "60s"]).await;
    Cluster::assert_removes(&cluster.wish().await, "helm uninstall");
    let deleted = deleted(&writes);
    for object in [
        "daemonsets/npc",
        "serviceaccounts/npc",
        "roles/npc-install-cni",
        "validatingadmissionpolicies/npc-startup-taint",
        "validatingadmissionpolicybindings/npc-startup-taint",
    ] {
        assert!(deleted.contains(&object.to_owned()), "{object} stays: {deleted:?}");
    }
    assert_eq!(cluster.api.paths(), ["/api/v1/namespaces/npc-system", "/api/v1/nodes/n1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kubectl_deletes_takes_the_plugin_away() {
    let Some(kubectl) = tools::find("kubectl") else { return };
    let cluster = Cluster::new(36).await;
    let overlay = |name: &str| repository("deploy/kustomize/overlays").join(name);
    let apply = async |folder: PathBuf| {
        let folder = folder.to_str().unwrap().to_owned();
        cluster.run(&kubectl, &["apply", "--server-side", "--validate=false", "-k", &folder]).await
    };
    apply(overlay("aks")).await;
    assert_eq!(cluster.wish().await, Wish::Keep);
    // The component is left out, and comes back.
    apply(overlay("generic")).await;
    Cluster::assert_removes(&cluster.wish().await, "another overlay");
    apply(overlay("aks")).await;
    assert_eq!(cluster.wish().await, Wish::Keep);
    let folder = overlay("aks");
    let writes = cluster.run(&kubectl, &["delete", "--wait=false", "-k", folder.to_str().unwrap()]).await;
    Cluster::assert_removes(&cluster.wish().await, "kubectl delete -k");
    let deleted = deleted(&writes);
    assert!(deleted.contains(&"daemonsets/npc".to_owned()), "{deleted:?}");
}

/// Helm and kubectl delete an account, its rights and its DaemonSet one after the other, in an
/// order of their own. The installer may get its SIGTERM in between. It removes the plugin at the
/// end of its grace period, when any of these objects may be gone already.
#[tokio::test(flavor = "multi_thread")]
async fn the_plugin_goes_in_any_order_of_removal() {
    let Some(kubectl) = tools::find("kubectl") else { return };
    let cluster = Cluster::new(36).await;
    let folder = repository("deploy/kustomize/overlays/aks");
    let folder = folder.to_str().unwrap();
    let space = ["--namespace", "npc-system"];
    for first in ["daemonset/npc", "serviceaccount/npc", "role/npc-install-cni", "rolebinding/npc-install-cni"] {
        cluster.run(&kubectl, &["apply", "--server-side", "--validate=false", "-k", folder]).await;
        assert_eq!(cluster.wish().await, Wish::Keep);
        cluster.run(&kubectl, &[&["delete", "--wait=false", first], &space[..]].concat()).await;
        Cluster::assert_removes(&cluster.wish().await, first);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn helm_leaves_the_admission_policy_out_on_an_older_api_server_and_says_so() {
    let Some(helm) = tools::find("helm") else { return };
    let chart_folder = chart::folder();
    let with = ["install", "npc", chart_folder.to_str().unwrap(), "--namespace", "npc-system"];
    let more = ["--disable-openapi-validation", "--set", "startupTaint.enabled=true"];
    for (minor, is_there) in [(29, false), (30, true)] {
        let cluster = Cluster::new(minor).await;
        let (_, printed) = cluster.run_and_read(&helm, &[&with[..], &more].concat()).await;
        let has =
            |kind: &str| cluster.api.paths().iter().any(|path| path.ends_with(&format!("/{kind}/npc-startup-taint")));
        assert!(has("clusterroles"), "the agent can remove the taint in any case");
        let policies = (has("validatingadmissionpolicies"), has("validatingadmissionpolicybindings"));
        assert_eq!(policies, (is_there, is_there), "1.{minor}");
        assert_eq!(printed.contains("needs 1.30, and was left out"), !is_there, "{printed}");
        assert!(printed.contains("rollout status"), "{printed}");
    }
}
