//! The agent that is abused, as a process of its own.

use std::env;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use npc_agent::dataplane::backend::Backend;
use npc_benches::binary;
use npc_benches::netns::Netns;
use npc_benches::resident::{self, Resident};
use npc_lab::apiserver::{Resource, Server};

use crate::Result;

/// The agent's node.
pub(crate) const NODE: &str = "node-0";

/// Where every pod of the node reaches it.
pub(crate) const METRICS_PORT: u16 = 10_901;

/// The descriptors that the agent may have. A service manager gives as few.
const DESCRIPTORS: &str = "--nofile=1024:1024";

/// A running agent; ended when this is dropped.
pub(crate) struct Agent {
    process: Child,
    denied: Arc<Mutex<Vec<String>>>,
    /// Its kubeconfig is in here.
    _folder: tempfile::TempDir,
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Agent {
    /// `loads_first` is `NPC_LARGE_CHANGES_FIRST` of the agent; `None` leaves it unset, as an agent is shipped.
    pub(crate) fn start(server: &Server, node: &Netns, backend: Backend, loads_first: Option<bool>) -> Result<Self> {
        let listener = node.listen()?;
        server.listen(move |_| listener.try_clone())?;
        let folder = tempfile::tempdir()?;
        let kubeconfig = server.write_kubeconfig(folder.path())?;
        let mut process = Command::new("ip")
            .args(["netns", "exec", node.name(), "prlimit", DESCRIPTORS])
            .arg(binary("npc")?)
            .args(["agent", "--node", NODE, "--backend", &backend.to_string(), "--relist-spread", "0"])
            .args(["--log-denied", "--metrics-address", &format!("0.0.0.0:{METRICS_PORT}"), "--kubeconfig"])
            .arg(&kubeconfig)
            .envs(loads_first.map(|is_on| ("NPC_LARGE_CHANGES_FIRST", if is_on { "1" } else { "0" })))
            .stderr(Stdio::piped())
            .spawn()?;
        let log = BufReader::new(process.stderr.take().ok_or("its log was asked for")?);
        let denied = Arc::<Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&denied);
        // A pipe that is full would stop the agent.
        thread::spawn(move || {
            for line in log.lines().map_while(std::io::Result::ok) {
                if line.contains("denied") && line.contains("victim-") {
                    kept.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                } else if env::var_os("NPC_BENCH_LOG").is_some() {
                    eprintln!("{line}");
                }
            }
        });
        while server.full_reads(Resource::Pods) == 0 {
            if process.try_wait()?.is_some() {
                return Err("the agent ended".into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(Self { process, denied, _folder: folder })
    }

    /// The most that was resident of it until now, in bytes.
    pub(crate) fn peak(&self) -> Result<u64> {
        Ok(Resident::of(self.process.id())?.peak)
    }

    /// How long it was on a processor until now, in seconds.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        Ok(resident::cpu_seconds(self.process.id())?)
    }

    /// The lines of its log about denied flows of pods that are not the tenant's.
    pub(crate) fn denied_of_victims(&self) -> Vec<String> {
        self.denied.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
