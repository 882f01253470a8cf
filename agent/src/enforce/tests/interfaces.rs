//! Interfaces of pods, and ports of bridges.

use super::*;

/// A veth of pods to which these addresses are routed.
fn veth(index: u32, group: u32, addresses: &[&str]) -> Input {
    let routes = addresses.iter().map(|address| address.parse().expect("an address")).collect();
    let name = InterfaceName::new("azv1").expect("a name");
    let interface = Interface { index, group, is_bridge: false, routes };
    let in_pod_group = (group == POD_GROUP).then_some(index).into_iter().collect();
    Input::Network(Network { interfaces: [(name, interface)].into(), in_pod_group, ..Network::default() })
}

#[tokio::test(start_paused = true)]
async fn an_interface_joins_after_its_addresses_came_and_leaves_before_they_go() {
    let options =
        layout::RulesetOptions { anti_spoof: true, keep_established: true, ..layout::RulesetOptions::default() };
    let queued = vec![veth(7, 0, &["10.0.0.1/32"]), Input::Objects(objects(&["10.0.0.1"]))];
    let mut world = World::with_options(settings(), options, 0, queued);
    world.calls([Probe, Read, Apply, Hooked, Call::Group(7, POD_GROUP)]).await;
    // The echo of that.
    world.send(veth(7, POD_GROUP, &["10.0.0.1/32"])).await;
    // Another link of its name, which is in no group.
    world.send(veth(8, 0, &["10.0.0.2/32"])).await;
    world.calls([Apply, Call::Group(8, POD_GROUP)]).await;
    // The pod goes, the link not yet.
    let gone = Input::Network(Network { in_pod_group: [8].into(), ..Network::default() });
    world.send(gone).await;
    world.calls([Call::Group(8, NO_GROUP), Apply]).await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_joins_while_the_kernel_refuses() {
    let options =
        layout::RulesetOptions { anti_spoof: true, keep_established: true, ..layout::RulesetOptions::default() };
    let queued = vec![veth(7, 0, &["10.0.0.1/32"]), Input::Objects(objects(&["10.0.0.1"]))];
    let mut world = World::with_options(settings(), options, 1, queued);
    world.calls([Probe, Read, Refused, Read, Apply, Hooked, Call::Group(7, POD_GROUP)]).await;
    world.end().await;
}

/// A bridge with these ports.
fn bridge(ports: &[u32]) -> Input {
    let bridge_ports = [("cbr0".to_owned(), ports.iter().copied().collect())].into();
    Input::Network(Network { bridge_ports, ..Network::default() })
}

#[tokio::test(start_paused = true)]
async fn a_port_is_in_the_table_when_its_link_comes_and_guarded_when_its_pod_does() {
    let queued = vec![bridge(&[1]), Input::Objects(objects(&["10.0.0.1"]))];
    let mut world = World::new(settings(), 0, queued);
    let table = |world: &World| world.memory.lock().expect("no thread panicked").bridge.clone();
    world.calls([Probe, Read]).await;
    // Before the first write of a rule or a set.
    assert_eq!((table(&world).ports, table(&world).guarded), ([1].into(), [1].into()));
    world.calls([Apply, Hooked, Cut]).await;
    world.send(bridge(&[1, 2])).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((table(&world).ports, table(&world).guarded), ([1, 2].into(), [1].into()));
    world.send(Input::Objects(objects(&["10.0.0.1", "10.0.0.2"]))).await;
    world.calls([Apply, Cut]).await;
    assert_eq!(table(&world).guarded, [1, 2].into());
    assert_eq!(table(&world).addresses, [1, 2].map(|last| (last.into(), [10, 0, 0, last].into())).into());
    world.send(bridge(&[])).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(table(&world).is_empty());
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_bridge_family_all_else_is_enforced_and_the_lack_is_reported() {
    let settings = settings();
    let (status, metrics) = (settings.status.clone(), settings.metrics.clone());
    let missing = move || {
        let text = Metrics::text(&metrics.registry()).expect("a text");
        text.lines().find_map(|line| line.strip_prefix("npc_bridge_table_missing ").map(str::to_owned))
    };
    let mut world = World::new(settings, 0, vec![bridge(&[1]), Input::Objects(objects(&["10.0.0.1"]))]);
    world.memory.lock().expect("no thread panicked").no_bridge = Some(95);
    world.calls([Probe, Read, Apply, Hooked, Cut]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.ingress(), ["10.0.0.1"]);
    let now = status.now();
    assert!(now.ready && now.bridge.lack.expect("it is reported").contains("this kernel lacks nf_tables"));
    assert_eq!((now.bridge.ports, missing().as_deref()), (0, Some("1")));
    // It is tried again, by the clock, and the flows that began meanwhile are judged.
    world.memory.lock().expect("no thread panicked").no_bridge = None;
    world.calls([Audited, Cut]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let now = status.now();
    assert_eq!((now.bridge.lack, now.bridge.ports, missing().as_deref()), (None, 1, Some("0")));
    world.end().await;
}
