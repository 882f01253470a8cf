//! What pods of one bridge send each other that iptables does not see: real
//! agents, and frames made by hand.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod frames;
mod wire;

use std::fmt::Write as _;
use std::net::Ipv6Addr;

use nix::sys::signal::Signal;
use npc_agent::dataplane::nftables::{Request, Socket as NfTables, message};
use npc_agent::source::manifests;
use npc_agent::status::AgentStatus;
use npc_compiler::object::Objects;
use npc_tests::lab::{Agent, Backend, Enforcer, Lab, Mode};

use frames::{
    ADMITTED, ARP, ETHERNET_IPV4, IPV4, answers, arp, as_neighbour, datagram4, echo_request, foreign, frame, last,
    openers, own, pod,
};
use wire::{LAST, Wire, arrived, names};

fn cluster(isolated: bool) -> Objects {
    let mut text = String::from("{apiVersion: v1, kind: Node, metadata: {name: node-1}}\n");
    for name in ["a", "b", "c"] {
        let _ = write!(
            text,
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: n, labels: {{app: {name}}}}}, \
             spec: {{nodeName: node-1, containers: []}}}}\n"
        );
    }
    if isolated {
        text.push_str(
            r"
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: only-marks, namespace: n},
 spec: {podSelector: {matchLabels: {app: b}}, ingress: [{ports: [{protocol: UDP, port: 9998}]}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: marks-out, namespace: n},
 spec: {podSelector: {matchLabels: {app: c}}, policyTypes: [Egress], egress: [{ports: [{protocol: UDP, port: 9998}]}]}}
",
        );
    }
    manifests::parse_text("test", &text, &manifests::ReadOptions::default()).unwrap().objects
}

fn lab(isolated: bool, backend: Backend, arguments: &[&str]) -> Option<Lab> {
    let agent = Enforcer::for_test()?;
    let builder = Lab::builder(cluster(isolated)).mode(Mode::Bridge).backend(backend).enforcer(agent);
    let builder = arguments.iter().fold(builder, |builder, one| builder.agent_argument(*one));
    Some(builder.start().unwrap())
}

fn wire(lab: &Lab, name: &str) -> Wire {
    Wire::open(&lab.places()[lab.find(name).unwrap()].netns, "eth0", pod(lab, name).mac)
}

fn status(lab: &Lab) -> AgentStatus {
    lab.node("node-1").unwrap().within(AgentStatus::ask).unwrap().unwrap()
}

fn ip(lab: &Lab, command: &str) {
    lab.node("node-1").unwrap().exec(["ip"].into_iter().chain(command.split(' ')), "").unwrap();
}

/// Waits until the table speaks of this many ports.
fn wait_for_ports(lab: &mut Lab, wanted: usize) {
    let netns = lab.node("node-1").unwrap().try_clone().unwrap();
    let lacks = |_: &Agent| {
        let ports = netns.within(AgentStatus::ask)?.map_or(0, |status| status.bridge.ports);
        Ok((ports != wanted).then(|| format!("{ports} ports of {wanted} are in the table")))
    };
    lab.agent("node-1").unwrap().unwrap().wait_until(lacks).unwrap();
}

/// The bridge has learned where the pods are, so that frames for one go to one.
fn fill_forwarding_table(lab: &Lab) {
    for name in ["n/a", "n/b", "n/c"] {
        let (from, wire) = (pod(lab, name), wire(lab, name));
        wire.send(&frame([0xff; 6], from.mac, &[ARP], &arp(ETHERNET_IPV4, from.mac, from.v4, from.v4, 0, 46)));
    }
}

#[test]
fn only_plain_frames_come_from_the_ports_of_pods_and_only_its_own_go_to_an_isolated_one() {
    for backend in [Backend::Nft, Backend::Legacy] {
        let Some(mut lab) = lab(false, backend, &[]) else { return };
        fill_forwarding_table(&lab);
        let (a, b) = (pod(&lab, "n/a"), pod(&lab, "n/b"));
        let (from, to) = (wire(&lab, "n/a"), wire(&lab, "n/b"));
        let (foreign, own) = (foreign(&a, &b), own(&a, &b));
        assert_eq!(arrived(&from, &to, &last(&a, &b), &foreign), names(&foreign), "nothing is isolated");
        let [first, second] = frames::in_two(&a, &b, &pod(&lab, "n/c"));
        let second = [("in two", second)];
        from.send(&first);
        assert_eq!(arrived(&from, &to, &last(&a, &b), &second), names(&second), "nothing is isolated");
        let mut objects = lab.cluster().objects.clone();
        objects.policies = cluster(true).policies;
        lab.apply(objects).unwrap();
        assert_eq!(arrived(&from, &to, &last(&a, &b), &foreign), Vec::<&str>::new(), "{backend:?}");
        assert_eq!(arrived(&from, &to, &last(&a, &b), &own), names(&own), "{backend:?}");
        // The ready file is there before the status is.
        wait_for_ports(&mut lab, 3);
        let bridge = status(&lab).bridge;
        assert_eq!((bridge.ports, bridge.guarded, bridge.held, bridge.lack), (3, 1, 0, None));

        // What an isolated pod may send to one address goes to no port of another, as
        // here to a pod that is not isolated.
        let c = pod(&lab, "n/c");
        let elsewhere = frames::elsewhere(&c, &a);
        let (from_c, to_a) = (wire(&lab, "n/c"), wire(&lab, "n/a"));
        assert_eq!(arrived(&from_c, &to_a, &last(&c, &a), &elsewhere), Vec::<&str>::new(), "{backend:?}");

        // A port is held to plain frames when its link appears, before its pod has an
        // address.
        let beyond = lab.places()[lab.find("n/c").unwrap()].netns.name().to_owned();
        ip(&lab, &format!("link add new0 type veth peer name new1 netns {beyond}"));
        ip(&lab, "link set new0 master cbr0");
        wait_for_ports(&mut lab, 4);
        ip(&lab, "link del new0");
        wait_for_ports(&mut lab, 3);

        // An uplink is no pod's: a router beyond it goes on to advertise itself, and
        // tags are others' business. Both ends of the pair are the node's.
        for command in [
            "link add up0 address 02:00:00:09:00:01 type veth peer name up1 address 02:00:00:09:00:02",
            "link set up0 master cbr0 up",
            "link set up1 up",
        ] {
            ip(&lab, command);
        }
        let router = pod(&lab, "n/a").router();
        let uplink = Wire::open(lab.node("node-1").unwrap(), "up1", router.mac);
        let of_router = frames::foreign(&router, &b);
        let expected: Vec<&str> = names(&of_router)
            .into_iter()
            .filter(|name| !["subnet broadcast", "another IPv6 address"].contains(name))
            .collect();
        let last = frame(b.mac, router.mac, &[IPV4], &datagram4(router.v4, b.v4, ADMITTED, LAST));
        assert_eq!(arrived(&uplink, &to, &last, &of_router), expected, "{backend:?}");

        // Nothing isolated, nothing held.
        let mut objects = lab.cluster().objects.clone();
        objects.policies.clear();
        lab.apply(objects).unwrap();
        assert_eq!(arrived(&from, &to, &frames::last(&a, &b), &foreign), names(&foreign), "{backend:?}");
        assert_eq!(tables(&lab), "");
    }
}

/// The tables of bridges, as nft lists them.
fn tables(lab: &Lab) -> String {
    lab.node("node-1").unwrap().exec(["nft", "-a", "list", "tables", "bridge"], "").unwrap()
}

fn table(lab: &Lab) -> String {
    lab.node("node-1").unwrap().exec(["nft", "-a", "list", "table", "bridge", "npc"], "").unwrap()
}

#[test]
fn with_anti_spoof_a_bridged_pod_is_held_to_its_own_addresses() {
    for backend in [Backend::Nft, Backend::Legacy] {
        let Some(mut lab) = lab(true, backend, &["--anti-spoof"]) else { return };
        lab.settle().unwrap();
        fill_forwarding_table(&lab);
        let [a, b, c] = ["n/a", "n/b", "n/c"].map(|name| pod(&lab, name));
        let (from, to) = (wire(&lab, "n/a"), wire(&lab, "n/b"));
        let forged = as_neighbour(&a, &b, &c);
        let own = own(&a, &b);
        assert_eq!(arrived(&from, &to, &last(&a, &b), &own), names(&own), "{backend:?}");
        assert_eq!(arrived(&from, &to, &last(&a, &b), &forged), Vec::<&str>::new(), "{backend:?}");
        let [first, second] = frames::in_two(&a, &b, &c);
        from.send(&first);
        assert_eq!(arrived(&from, &to, &last(&a, &b), &[("in two", second)]), Vec::<&str>::new(), "{backend:?}");
        // To a pod that is not isolated, so no policy drops it.
        let of_nobody = [("echo request", echo_request(Ipv6Addr::UNSPECIFIED, &a, &c))];
        let to_c = wire(&lab, "n/c");
        assert_eq!(arrived(&from, &to_c, &last(&a, &c), &of_nobody), Vec::<&str>::new(), "{backend:?}");
        wait_for_ports(&mut lab, 3);
        assert_eq!(status(&lab).bridge.held, 3);
        // A pod that gives itself its neighbour's address wins nothing, also when a
        // new agent finds both at once.
        let netns = &lab.places()[lab.find("n/a").unwrap()].netns;
        netns.exec(["ip", "addr", "add", &format!("{}/32", c.v4), "dev", "eth0"], "").unwrap();
        lab.take_agent("node-1").unwrap().unwrap().stop(Signal::SIGKILL).unwrap();
        assert_eq!(arrived(&from, &to, &last(&a, &b), &forged), Vec::<&str>::new(), "without an agent");
        lab.start_agents().unwrap();
        lab.settle().unwrap();
        assert_eq!(arrived(&from, &to, &last(&a, &b), &forged), Vec::<&str>::new(), "{backend:?}");
        assert_eq!(arrived(&from, &to, &last(&a, &b), &own), names(&own), "{backend:?}");
    }
}

#[test]
fn without_the_flag_a_bridged_pod_can_send_as_its_neighbour() {
    let Some(mut lab) = lab(true, Backend::Nft, &[]) else { return };
    lab.settle().unwrap();
    fill_forwarding_table(&lab);
    let [a, b, c] = ["n/a", "n/b", "n/c"].map(|name| pod(&lab, name));
    let (from, to) = (wire(&lab, "n/a"), wire(&lab, "n/b"));
    let forged = as_neighbour(&a, &b, &c);
    let received = arrived(&from, &to, &last(&a, &b), &forged);
    assert!(received.len() > 8, "the frames are good ones: {received:?}");
}

/// The number of nf_tables' last commit in the node's namespace.
fn generation(lab: &Lab) -> u32 {
    let ask = || {
        let request = Request::get(message::GET_GENERATION, 0, "say which its last commit is", |_| ());
        NfTables::open().unwrap().ask(&request, |attributes| attributes.u32(1)).unwrap()[0]
    };
    lab.node("node-1").unwrap().within(ask).unwrap()
}

#[test]
fn a_restart_writes_nothing_and_what_another_program_changes_is_repaired() {
    for backend in [Backend::Legacy, Backend::Nft] {
        let Some(mut lab) = lab(true, backend, &["--anti-spoof"]) else { return };
        lab.settle().unwrap();
        let before = table(&lab);
        assert!(before.contains("policy accept") && before.contains("azv"), "{before}");
        let number = generation(&lab);
        lab.take_agent("node-1").unwrap().unwrap().stop(Signal::SIGKILL).unwrap();
        lab.start_agents().unwrap();
        lab.settle().unwrap();
        // Handles are in it, so nothing was made anew.
        assert_eq!(table(&lab), before);
        if backend == Backend::Legacy {
            // Nothing but the table is nf_tables'.
            assert_eq!(generation(&lab), number);
        }
        let told = "drift repaired kind=bridge";
        let without_handles = |table: String| {
            let lines = table.lines().map(|line| line.split(" # handle").next().unwrap().to_owned());
            lines.collect::<Vec<_>>()
        };
        for damage in [
            "delete table bridge npc",
            "flush chain bridge npc PREROUTING",
            "insert rule bridge npc PREROUTING accept",
            "flush set bridge npc ports",
            "add chain bridge npc foreign",
            "add table bridge npc { flags dormant; }",
            "flush ruleset",
        ] {
            let skip = backend == Backend::Nft && damage == "flush ruleset";
            if skip {
                // That the iptables rules go, too, is another test.
                continue;
            }
            let marks = lab.log("node-1").unwrap().matches(told).count();
            lab.node("node-1").unwrap().exec(["nft", damage], "").unwrap();
            let is_not_repaired = |agent: &Agent| {
                let marks_now = agent.log()?.matches(told).count();
                Ok((marks_now == marks).then(|| format!("{damage} is not repaired")))
            };
            lab.agent("node-1").unwrap().unwrap().wait_until(is_not_repaired).unwrap();
            assert_eq!(without_handles(table(&lab)), without_handles(before.clone()), "{damage}");
        }
        assert_eq!(lab.metric("node-1", "npc_bridge_table_missing").unwrap().to_string(), "0");

        lab.take_agent("node-1").unwrap().unwrap().stop(Signal::SIGTERM).unwrap();
        assert!(tables(&lab).contains("npc"), "what ends leaves it");
        let npc = std::env::current_exe().unwrap();
        let npc = npc.ancestors().skip(1).map(|folder| folder.join("npc")).find(|file| file.is_file()).unwrap();
        let said = lab.node("node-1").unwrap().exec([npc.to_str().unwrap(), "cleanup"], "").unwrap();
        assert!(said.contains("removed the table bridge npc"), "{said}");
        assert_eq!(tables(&lab), "");
    }
}

#[test]
fn a_frame_for_many_opens_no_flow_of_an_isolated_pod() {
    for backend in [Backend::Nft, Backend::Legacy] {
        let Some(mut lab) = lab(true, backend, &[]) else { return };
        lab.settle().unwrap();
        fill_forwarding_table(&lab);
        let [a, b] = ["n/a", "n/b"].map(|name| pod(&lab, name));
        let (from, to) = (wire(&lab, "n/a"), wire(&lab, "n/b"));
        let [in_its_name, its_own] = openers(&a, &b);
        for (wire, frames) in [(&from, in_its_name), (&to, its_own)] {
            for frame in frames {
                wire.send(&frame);
            }
        }
        assert_eq!(arrived(&from, &to, &last(&a, &b), &answers(&a, &b)), Vec::<&str>::new(), "{backend:?}");
    }
}

#[test]
fn the_next_pod_has_the_port_of_the_last_by_name_only() {
    for backend in [Backend::Nft, Backend::Legacy] {
        let Some(mut lab) = lab(true, backend, &["--anti-spoof"]) else { return };
        lab.settle().unwrap();
        fill_forwarding_table(&lab);
        let (a, b) = (pod(&lab, "n/a"), pod(&lab, "n/b"));
        // What the agent left speaks of the ports that were there. Another pod comes
        // while none looks, or one that does not know of the table.
        lab.take_agent("node-1").unwrap().unwrap().stop(Signal::SIGKILL).unwrap();
        let place = &lab.places()[lab.find("n/a").unwrap()];
        let port = format!("azv{}", lab.find("n/a").unwrap());
        let mac = a.mac.map(|byte| format!("{byte:02x}")).join(":");
        for command in [
            format!("link del {port}"),
            format!("link add {port} type veth peer name eth0 address {mac} netns {}", place.netns.name()),
            format!("link set {port} master cbr0 up"),
        ] {
            ip(&lab, &command);
        }
        place.netns.exec(["ip", "link", "set", "eth0", "up"], "").unwrap();
        // By an address that the node routes to the bridge, as iptables has it.
        let next = a.with_addresses_of(&pod(&lab, "n/c"));
        let (from, to) = (wire(&lab, "n/a"), wire(&lab, "n/b"));
        let own = own(&next, &b);
        assert_eq!(arrived(&from, &to, &last(&next, &b), &own), names(&own), "{backend:?}");
    }
}
