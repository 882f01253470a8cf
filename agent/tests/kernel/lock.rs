//! While another program holds the xtables lock. Only legacy has one.

use std::collections::BTreeSet;
use std::fs::File;

use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use nix::fcntl::{Flock, FlockArg};
use npc_agent::dataplane::backend::Backend;
use npc_agent::dataplane::network::Network;
use npc_agent::dataplane::{Error, Kernel, Linux};
use npc_agent::enforce::Enforcer;
use npc_compiler::engine::{Event, PodKey};
use npc_compiler::object::{Family, Labels, Pod};
use npc_compiler::plan::KernelState;
use npc_compiler::policy::Direction;
use npc_compiler::ruleset::node::{Member, SetName};
use serde_json::json;

use super::namespace::{Namespace, run};

/// Its label is the part of its name before the hyphen.
fn pod(name: &str, host: u8) -> Event {
    let app = name.split('-').next().unwrap().to_owned();
    let labels = Labels::from([("app".to_owned(), app)]);
    let mut pod = Pod::from_template("n".to_owned(), name.to_owned(), labels, PodSpec::default());
    pod.node = Some("node-1".to_owned());
    pod.ipv4 = Some([10, 0, 0, host].into());
    Event::Pod(Box::new(pod))
}

fn policy(of: &str, from: &str, port: u16) -> Event {
    let object = json!({"metadata": {"namespace": "n", "name": of}, "spec": {
        "podSelector": {"matchLabels": {"app": of}},
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": from}}}], "ports": [{"port": port}]}]}});
    let policy: NetworkPolicy = serde_json::from_value(object).unwrap();
    Event::Policy(Box::new(policy.into()))
}

fn actual() -> KernelState {
    Linux::open(Some(Backend::Legacy)).unwrap().read().unwrap()
}

/// The hosts that are isolated.
fn isolated(state: &KernelState) -> BTreeSet<u8> {
    let (_, members) = &state.v4.sets[&SetName::isolated(Family::V4, Direction::Ingress)];
    let host = |member: &Member| match member {
        Member::Address(std::net::IpAddr::V4(address)) => address.octets()[3],
        other => panic!("{other}"),
    };
    members.iter().map(host).collect()
}

fn pass(agent: &mut Enforcer<Linux>, events: impl IntoIterator<Item = Event>) -> Result<(), Error> {
    agent.take(events);
    agent.pass(&Network::default()).map(drop)
}

#[test]
fn pods_join_and_leave_groups_whose_rules_do_not_wait() {
    let _namespace = Namespace::enter();
    let lock = || Flock::lock(File::create("/run/xtables.lock").unwrap(), FlockArg::LockExclusive).unwrap();
    let mut agent = Enforcer::new(Linux::open(Some(Backend::Legacy)).unwrap(), "node-1");
    let first = [pod("web-1", 1), pod("db-1", 11), pod("cart-1", 21), pod("api-1", 31), pod("job-1", 41)];
    let policies = [policy("web", "api", 80), policy("db", "job", 5432), policy("cart", "web", 80)];
    pass(&mut agent, first.into_iter().chain(policies)).unwrap();
    let before = actual();
    let holder = lock();
    // Rules that have to wait.
    assert!(pass(&mut agent, [policy("db", "job", 5433)]).unwrap_err().is_contention());
    assert_eq!(actual().v4.chains, before.v4.chains);
    // One joins a group that does not, with peers of its own; one joins that
    // which does, and it and its peers stay as they are.
    let joining = [pod("web-2", 2), pod("api-2", 32), pod("db-2", 12), pod("job-2", 42)];
    assert!(pass(&mut agent, joining).unwrap_err().is_contention());
    let meanwhile = actual();
    assert_eq!(isolated(&meanwhile), [1, 2, 11, 21].into());
    let peers = |host: u8| {
        let member = Member::Address(std::net::IpAddr::from([10, 0, 0, host]));
        let is_peers = |name: &SetName| !name.leads_to_groups();
        let mut asked =
            meanwhile.v4.sets.iter().filter(|(name, _)| is_peers(name) && before.v4.sets.contains_key(*name));
        asked.any(|(_, (_, members))| members.contains(&member))
    };
    assert_eq!([peers(32), peers(2), peers(42)], [true, true, false]);
    // One leaves a group, and another its node.
    let gone = |name: &str| Event::PodGone(PodKey::Name("n".into(), name.into()));
    assert!(pass(&mut agent, [gone("web-1"), gone("cart-1")]).unwrap_err().is_contention());
    assert_eq!(isolated(&actual()), [2, 11].into());
    assert_eq!(actual().v4.chains, before.v4.chains);
    // The holder has written, the hook among it, and lets go.
    let writes = |what: &[&str]| {
        let own_lock = ["XTABLES_LOCKFILE=/run/other.lock", "iptables-legacy"];
        run("env", &[&own_lock, what].concat());
    };
    writes(&["-D", "FORWARD", "-j", "NPC-FORWARD"]);
    writes(&["-F", "NPC-DENY-INGRESS"]);
    drop(holder);
    pass(&mut agent, []).unwrap();
    assert_eq!(isolated(&actual()), [2, 11, 12].into());
    assert!(agent.holds().unwrap());
    run("iptables-legacy", &["-C", "FORWARD", "-j", "NPC-FORWARD"]);
}
