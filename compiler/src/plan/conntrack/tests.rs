//! Verdicts about flows by example; that they are those of the rules, for
//! random clusters, is tested where the rules are.

use k8s_openapi::api::core::v1::PodSpec;

use super::*;
use crate::cluster::Cluster;
use crate::object::{Labels, NetworkPolicy, Objects, Pod};
use crate::plan::Plan;
use crate::ruleset::layout::RulesetOptions;

fn pod(name: &str, app: &str, address: &str, node: &str) -> Pod {
    let labels = Labels::from([("app".to_owned(), app.to_owned())]);
    Pod {
        uid: format!("uid-{name}"),
        node: Some(node.to_owned()),
        ipv4: address.parse().ok(),
        ipv6: address.replace("10.0.0.", "fd00::").parse().ok(),
        host_addresses: vec!["192.0.2.10".parse().expect("an address")],
        ..Pod::from_template("shop".to_owned(), name.to_owned(), labels, PodSpec::default())
    }
}

/// db admits TCP 5432 from web and sends nothing but ICMP and the like; web is
/// not isolated.
fn shop() -> Objects {
    let policy = serde_json::json!({
        "metadata": {"namespace": "shop", "name": "db"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "db"}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": 5432}]}],
            "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "log"}}}]}],
        },
    });
    let policy: k8s_openapi::api::networking::v1::NetworkPolicy = serde_json::from_value(policy).expect("a policy");
    let mut objects = Objects {
        pods: vec![
            pod("db", "db", "10.0.0.1", "n1"),
            pod("web", "web", "10.0.0.2", "n1"),
            pod("log", "log", "10.0.0.3", "n2"),
            pod("job", "job", "10.0.0.4", "n2"),
        ],
        policies: vec![NetworkPolicy::from(policy)],
        ..Objects::default()
    };
    objects.declare_namespaces();
    objects
}

fn flow(source: &str, destination: &str, protocol: u8, port: u16) -> FlowKey {
    let address = |text: &str| text.parse().expect("an address");
    FlowKey { source: address(source), destination: address(destination), protocol, port, mid_stream: false }
}

/// The endpoints of a node by their last number, and addresses of its own.
struct World {
    local: Vec<IpAddr>,
    departed: Vec<IpAddr>,
}

impl AddressOwners for World {
    fn is_local(&self, address: IpAddr) -> bool {
        self.local.contains(&address)
    }

    fn is_own(&self, address: IpAddr) -> bool {
        address == "192.0.2.10".parse::<IpAddr>().expect("an address")
    }

    fn is_departed(&self, address: IpAddr) -> bool {
        self.departed.contains(&address)
    }
}

fn world(local: [u8; 2], departed: &[&str]) -> World {
    let both = |n: u8| [format!("10.0.0.{n}"), format!("fd00::{n}")];
    let address = |text: &str| text.parse().expect("an address");
    World {
        local: local.into_iter().flat_map(both).map(|text| address(&text)).collect(),
        departed: departed.iter().map(|text| address(text)).collect(),
    }
}

fn state(node: &str, options: &RulesetOptions) -> KernelState {
    KernelState::from(&crate::ruleset::layout::ruleset(&Cluster::new(&shop()), node, options))
}

#[test]
fn a_flow_is_forbidden_where_its_first_packet_would_be_dropped() {
    let options = RulesetOptions::default();
    let (here, near) = (state("n1", &options), world([1, 2], &[]));
    let judge = FlowJudgement::new(&here, &near);
    for (forbidden, why, tuple) in [
        (false, "admitted", flow("10.0.0.2", "10.0.0.1", 6, 5432)),
        (false, "admitted", flow("fd00::2", "fd00::1", 6, 5432)),
        (true, "another port", flow("10.0.0.2", "10.0.0.1", 6, 5433)),
        (true, "another protocol", flow("10.0.0.2", "10.0.0.1", 17, 5432)),
        (true, "another peer", flow("10.0.0.4", "10.0.0.1", 6, 5432)),
        (true, "the other way round", flow("10.0.0.1", "10.0.0.2", 6, 5432)),
        (true, "from outside", flow("203.0.113.1", "10.0.0.1", 6, 5432)),
        (false, "egress that names no port", flow("10.0.0.1", "10.0.0.3", 1, 0)),
        (true, "a tunnel all the same", flow("10.0.0.1", "10.0.0.3", 4, 0)),
        (false, "to itself", flow("10.0.0.1", "10.0.0.1", 6, 1)),
        (false, "its own node", flow("192.0.2.10", "10.0.0.1", 6, 1)),
        (false, "its own node", flow("10.0.0.1", "192.0.2.10", 17, 53)),
        (false, "its own node, by a translated loopback", flow("127.0.0.1", "10.0.0.1", 6, 1)),
        (true, "link-local, where something is isolated", flow("fe80::1", "fd00::2", 6, 1)),
        (true, "multicast, where something is isolated", flow("10.0.0.2", "224.0.0.251", 17, 5353)),
        (false, "of no pod that is here", flow("192.0.2.9", "224.0.0.251", 17, 5353)),
        (false, "of no pod that is here", flow("10.0.0.4", "10.0.0.3", 6, 1)),
        (false, "of a pod that is not isolated", flow("203.0.113.1", "10.0.0.2", 47, 0)),
    ] {
        assert_eq!(judge.forbids(&tuple), forbidden, "{why}: {tuple:?}");
    }
    // Each node judges its own ends.
    let (there, beyond) = (state("n2", &options), world([3, 4], &[]));
    let judge = FlowJudgement::new(&there, &beyond);
    assert!(!judge.forbids(&flow("10.0.0.1", "10.0.0.3", 6, 1)));
    assert!(!judge.forbids(&flow("10.0.0.4", "10.0.0.1", 6, 5432)));
    let allowing = state("n1", &RulesetOptions { allow_tunnels: true, ..options });
    assert!(!FlowJudgement::new(&allowing, &near).forbids(&flow("10.0.0.1", "10.0.0.3", 4, 0)));
}

#[test]
fn flows_of_a_departed_pod_are_nobodys() {
    let (here, world) = (state("n1", &RulesetOptions::default()), world([1, 1], &["10.0.0.2"]));
    let judge = FlowJudgement::new(&here, &world);
    assert!(judge.forbids(&flow("10.0.0.2", "10.0.0.1", 6, 5432)));
    assert!(judge.forbids(&flow("203.0.113.1", "10.0.0.2", 6, 1)));
    assert!(!judge.forbids(&flow("10.0.0.1", "10.0.0.3", 17, 1)));
}

#[test]
fn a_prefix_holds_what_lies_in_it() {
    let members: BTreeSet<Member> = ["10.0.0.0/24", "10.0.2.0/23", "192.0.2.7/32"]
        .map(|text| text.parse::<ipnetwork::IpNetwork>().expect("a prefix").into())
        .into();
    for (address, held) in [
        ("10.0.0.0", true),
        ("10.0.0.255", true),
        ("10.0.1.0", false),
        ("10.0.3.255", true),
        ("10.0.4.0", false),
        ("9.255.255.255", false),
    ] {
        assert_eq!(prefix_holds(&members, address.parse().expect("an address")), held, "{address}");
    }
}

#[test]
fn a_plan_narrows_where_something_that_passed_may_be_dropped() {
    let program = |objects: &Objects| {
        KernelState::from(&crate::ruleset::layout::ruleset(&Cluster::new(objects), "n1", &RulesetOptions::default()))
    };
    let narrows = |old: &Objects, new: &Objects| !narrowed(&Plan::between(&program(old), &program(new))).is_empty();
    let (shop, mut more) = (shop(), shop());
    // One more peer, here or elsewhere.
    more.pods.push(pod("web-2", "web", "10.0.0.5", "n1"));
    assert!(!narrows(&shop, &more));
    assert!(narrows(&more, &shop), "a peer that goes");
    // One more endpoint that is isolated: it may have flows.
    let mut more = shop.clone();
    more.pods.push(pod("db-2", "db", "10.0.0.6", "n1"));
    assert!(narrows(&shop, &more));
    assert!(!narrows(&more, &shop), "isolated no more");
    assert!(!narrows(&shop, &shop));
    // What may come from an interface concerns packets, not flows.
    let own = |hosts: &[&str]| {
        let options = RulesetOptions { anti_spoof: true, ..RulesetOptions::default() };
        let mut state = KernelState::from(&crate::ruleset::layout::ruleset(&Cluster::new(&shop), "n1", &options));
        let name = crate::ruleset::node::InterfaceName::new("azv1").expect("a name");
        let members = hosts.iter().map(|host| Member::of_interface(host.parse().expect("a prefix"), name));
        state.v4.sets.get_mut(&SetName::own(Family::V4)).expect("it is there").1.extend(members);
        state
    };
    let plan = Plan::between(&own(&["10.0.0.1/32", "10.0.0.2/32"]), &own(&["10.0.0.2/32", "10.0.0.3/32"]));
    assert!(!plan.is_empty() && narrowed(&plan).is_empty());
    // Rules.
    let mut open = shop.clone();
    open.policies.clear();
    assert!(narrows(&open, &shop));
}
