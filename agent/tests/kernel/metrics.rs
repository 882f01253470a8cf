//! What a running agent tells Prometheus is what happened.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{SystemTime, UNIX_EPOCH};

use npc_agent::dataplane::backend::Backend;

use super::agent::{Agent, Folder, Refusing};
use super::namespace::{Namespace, output, run};
use super::{dump, on_both_backends};

on_both_backends!(
    what_the_kernel_holds_and_what_it_took_is_counted,
    what_others_changed_is_counted,
    writes_that_are_refused_are_counted
);

/// All of them; the agent is in this namespace.
pub(crate) struct Scrape(String);

impl Scrape {
    pub(crate) fn now() -> Self {
        let mut stream = TcpStream::connect("127.0.0.1:10901").unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        Self(text)
    }

    /// One of them, by its name and labels.
    fn of(&self, name: &str) -> f64 {
        let value = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in\n{}", self.0)).parse().unwrap()
    }

    /// One that is a number of things.
    pub(crate) fn count(&self, name: &str) -> u64 {
        let value = self.of(name);
        assert!(value >= 0.0 && value.fract() == 0.0, "{name} {value}");
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small whole number")]
        let count = value as u64;
        count
    }
}

fn since_1970() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

fn what_the_kernel_holds_and_what_it_took_is_counted(backend: Backend) {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    folder.write(
        "odd.yaml",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: odd, namespace: shop}\nspec:\n  \
         podSelector: {}\n  ingress: [{from: [{ipBlock: {cidr: 10.0.0.300/8}}]}]\n",
    );
    let begin = since_1970();
    let mut agent = Agent::start(&folder, backend, &[]);
    agent.wait(1);
    folder.write_pod("web-2", "web", 3);
    agent.wait(2);
    let scrape = Scrape::now();
    assert_eq!(scrape.count(&format!("npc_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))), 1);
    for (name, count) in [("npc_ready", 1), ("npc_policies", 2), ("npc_rejected_policies", 1), ("npc_endpoints", 3)] {
        assert_eq!(scrape.count(name), count, "{name}");
    }
    let synced = scrape.of("npc_last_sync_timestamp_seconds");
    assert!(synced >= begin.floor() && synced <= since_1970(), "{begin} {synced}");
    // As the kernel's own tools count them.
    for (family, iptables, prefix) in [("IPv4", "iptables", "npc4-"), ("IPv6", "ip6tables", "npc6-")] {
        let of = |name: &str| scrape.count(&format!("npc_{name}{{family=\"{family}\"}}"));
        let rules = output(&format!("{iptables}-{backend}-save"), &["-t", "filter"]);
        assert_eq!(of("rules"), rules.lines().filter(|line| line.starts_with("-A NPC-")).count() as u64, "{rules}");
        let sets = output("ipset", &["save"]);
        let lines =
            |verb: &str| sets.lines().filter(|line| line.starts_with(&format!("{verb} {prefix}"))).count() as u64;
        assert_eq!((of("sets"), of("set_entries")), (lines("create"), lines("add")), "{sets}");
        assert!(of("rules") > 5 && of("sets") > 2 && of("set_entries") > 3);
    }
    // Rules of each family were written, sets with them and for the pod.
    let restores = scrape.count("npc_restore_duration_seconds_count");
    assert!(restores >= 2, "{restores}");
    assert_eq!(scrape.count("npc_xtables_lock_wait_seconds_count"), restores);
    assert!(scrape.count("npc_ipset_duration_seconds_count") >= 2);
    for stage in ["compile", "apply"] {
        assert_eq!(scrape.count(&format!("npc_pass_duration_seconds_count{{stage=\"{stage}\"}}")), 2);
    }
    assert_eq!(scrape.count("npc_event_to_kernel_seconds_count{kind=\"Pod\"}"), 3);
    for name in ["restore", "ipset", "pass"] {
        assert_eq!(scrape.count(&format!("npc_{name}_failures_total")), 0);
    }
}

fn what_others_changed_is_counted(backend: Backend) {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let mut agent = Agent::start(&folder, backend, &[]);
    agent.wait(1);
    let held = dump(backend);
    let iptables = format!("iptables-{backend}");
    for (what, change) in [
        ("hook", &[&iptables, "-D", "FORWARD", "-j", "NPC-FORWARD"][..]),
        ("chain", &[&iptables, "-F", "NPC-INGRESS"]),
        ("members", &["ipset", "add", "npc4-ingress", "192.0.2.1"]),
    ] {
        // A query of how much it grew needs the value before.
        assert_eq!(Scrape::now().count(&format!("npc_drift_found_total{{what=\"{what}\"}}")), 0);
        run(change[0], &change[1..]);
        agent.wait_for("drift found");
        agent.wait(1);
        let scrape = Scrape::now();
        for metric in ["found", "repaired"] {
            assert_eq!(scrape.count(&format!("npc_drift_{metric}_total{{what=\"{what}\"}}")), 1, "{}", scrape.0);
        }
        assert_eq!(dump(backend), held);
    }
}

fn writes_that_are_refused_are_counted(backend: Backend) {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let refusing = Refusing::new(&folder, backend);
    let mut agent = refusing.start(&folder, backend);
    agent.wait_for("ruleset not programmed");
    let scrape = Scrape::now();
    for name in ["npc_restore_failures_total", "npc_pass_failures_total", "npc_restore_duration_seconds_count"] {
        assert!(scrape.count(name) >= 1, "{name}\n{}", scrape.0);
    }
    assert_eq!((scrape.count("npc_ready"), scrape.count("npc_ipset_failures_total")), (0, 0));
    refusing.lift();
    agent.wait(1);
    assert_eq!(Scrape::now().count("npc_ready"), 1);

    // Another program puts a set that is full in place of ours; the next pod does not
    // get in, unless the agent has seen it before.
    let peers = dump(backend).into_iter().find_map(|line| {
        let name = line.strip_prefix("add ")?.strip_suffix(" 10.244.1.2")?.to_owned();
        name.starts_with("npc4-p").then_some(name)
    });
    let peers = peers.unwrap();
    for pod in 3..=20 {
        run("ipset", &["create", "full", "hash:ip", "maxelem", "1"]);
        run("ipset", &["add", "full", "192.0.2.1"]);
        run("ipset", &["swap", "full", &peers]);
        folder.write_pod(&format!("web-{pod}"), "web", pod);
        agent.wait(u64::from(pod) - 1);
        run("ipset", &["destroy", "full"]);
        if Scrape::now().count("npc_ipset_failures_total") > 0 {
            // It got in all the same, by a set of another name.
            let address = format!(" 10.244.1.{pod}");
            let peer = |line: &String| line.starts_with("add npc4-") && line.ends_with(&address);
            assert!(dump(backend).iter().any(peer), "{:#?}", dump(backend));
            return;
        }
    }
    panic!("no write to a set was refused\n{}", Scrape::now().0);
}
