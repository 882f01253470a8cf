//! The real agent on an API server that has 1,000, 10,000 and 100,000 pods:
//! its memory after its first list, and after another when the server has
//! forgotten where its watches were; and the processor that it takes for that,
//! and for updates of pods that do not concern it. Needs root, and the binary:
//! `cargo build --workspace --release --bins`. The agent's node is a network
//! namespace; the server is in this process, so that the agent's `/proc` has the
//! agent's figures alone.
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

use std::io::{BufRead as _, BufReader};
use std::process::{self, Child, ChildStderr, Command, Stdio};
use std::time::Instant;

use npc_benches::binary;
use npc_benches::netns::Netns;
use npc_benches::resident::{Resident, cpu_seconds};
use npc_benches::served::{self, PODS_PER_NODE};
use npc_lab::apiserver::{Disturbance, Resource, Server};
use serde_json::{Value, json};

/// How many pods there are.
const PODS: [usize; 3] = [1_000, 10_000, 100_000];

/// How many updates of pods the agent is given that change nothing for it, as
/// kubelets write many.
const UPDATES: usize = 10_000;

/// After any failure here there is nothing to measure.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> Result<()> {
    if Netns::create(&format!("npc-bench-{}", process::id())).is_err() {
        println!("the agent's memory takes root and iproute2; it was left out");
        return Ok(());
    }
    println!("MB: resident (of it the agent's own, the rest is pages of files), at the peak so far");
    println!(
        "{:>8}  {:>24}  {:>24}  {:>10}  {:>8}  {:>14}",
        "pods", "after the first list", "after another", "in sync in", "CPU", "CPU per update"
    );
    for pods in PODS {
        measure(pods)?;
    }
    Ok(())
}

fn measure(pods: usize) -> Result<()> {
    let server = Server::in_process();
    for object in served::cluster(pods) {
        server.put(&object);
    }
    let netns = Netns::create(&format!("npc-bench-{}", process::id()))?;
    let begun = Instant::now();
    let mut agent = Agent::start(&server, &netns)?;
    agent.wait(PODS_PER_NODE)?;
    let (took, first, cpu) = (begun.elapsed(), agent.resident()?, agent.cpu_seconds()?);

    for number in 0..UPDATES {
        // Of a pod on another node, which is reported as often as it is written.
        let of = PODS_PER_NODE + number % (pods - PODS_PER_NODE);
        let mut pod = served::pod(of, of / PODS_PER_NODE);
        pod["metadata"]["annotations"]["round"] = json!(number.to_string());
        server.put(&pod);
    }
    // When it received this, it has received those before it.
    server.put(&served::pod(pods, 0));
    agent.wait(PODS_PER_NODE + 1)?;
    let each = (agent.cpu_seconds()? - cpu) / f64::from(u32::try_from(UPDATES)?);

    // What an agent meets that was away from the server for long.
    server.compact();
    server.disturb(Some(Resource::Pods), Disturbance::Expire);
    server.put(&served::pod(pods + 1, 0));
    agent.wait(PODS_PER_NODE + 2)?;
    if server.full_reads(Resource::Pods) < 2 {
        return Err("the agent did not list the pods again".into());
    }
    let again = agent.resident()?;
    println!(
        "{pods:>8}  {:>24}  {:>24}  {:>8.2} s  {cpu:>6.2} s  {:>11.0} µs",
        text(first),
        text(again),
        took.as_secs_f64(),
        each * 1e6
    );
    Ok(())
}

fn text(Resident { now, own, peak }: Resident) -> String {
    format!("{:4} ({:4}), {:4}", now >> 20, own >> 20, peak >> 20)
}

/// A running agent; ended when this is dropped.
struct Agent {
    process: Child,
    log: BufReader<ChildStderr>,
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
    fn start(server: &Server, netns: &Netns) -> Result<Self> {
        let listener = netns.listen()?;
        server.listen(move |_| listener.try_clone())?;
        let folder = tempfile::tempdir()?;
        let kubeconfig = server.write_kubeconfig(folder.path())?;
        let mut process = Command::new("ip")
            .args(["netns", "exec", netns.name()])
            .arg(binary("npc")?)
            .args(["agent", "--node", &served::node_name(0), "--backend", "nft", "--log-format", "json"])
            .args(["--metrics-address", "off", "--log-level", "info,npc_agent::enforce::report=debug", "--kubeconfig"])
            .arg(&kubeconfig)
            .stderr(Stdio::piped())
            .spawn()?;
        let log = process.stderr.take().ok_or("its log was asked for")?;
        Ok(Self { process, log: BufReader::new(log), _folder: folder })
    }

    /// Waits until so many pods of its node are in the kernel.
    fn wait(&mut self, endpoints: usize) -> Result<()> {
        let (mut line, mut all) = (String::new(), String::new());
        while self.log.read_line(&mut line)? > 0 {
            let entry: Value = serde_json::from_str(&line).unwrap_or_default();
            if entry["compiled"].is_string() && entry["endpoints"] == endpoints {
                return Ok(());
            }
            all.push_str(&std::mem::take(&mut line));
        }
        Err(format!("the agent ended:\n{all}").into())
    }

    /// `ip netns exec` has become the agent by now.
    fn resident(&self) -> Result<Resident> {
        Ok(Resident::of(self.process.id())?)
    }

    /// User and system time, of the children too that it has waited for.
    fn cpu_seconds(&self) -> Result<f64> {
        Ok(cpu_seconds(self.process.id())?)
    }
}
