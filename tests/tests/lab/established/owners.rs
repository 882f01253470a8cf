//! Flows of an address that goes from one pod to the next. The sockets stay where
//! they are: they are the next pod's, which began before any agent knew of it.

use super::*;

const OTHER: u16 = 5433;

/// Where the next pod may send to: the database's admitted port and no other.
fn next_pods() -> NetworkPolicy {
    let ports = [json!({"port": ADMITTED}), json!({"port": ADMITTED, "protocol": "UDP"})];
    policy(
        "next",
        &json!({
            "podSelector": {"matchLabels": {"app": "next"}},
            "policyTypes": ["Ingress", "Egress"],
            "egress": [{"ports": ports}],
        }),
    )
}

/// The database admits this from everywhere, so nothing depends there on which pod
/// an address is of.
fn from_everywhere(ports: &[u16]) -> NetworkPolicy {
    let mut everywhere = db(&json!({"ipBlock": {"cidr": "0.0.0.0/0"}}), ports);
    let mut more = db(&json!({"ipBlock": {"cidr": "::/0"}}), ports);
    let rules = more.object.spec.as_mut().unwrap().ingress.take().unwrap();
    everywhere.object.spec.as_mut().unwrap().ingress.as_mut().unwrap().extend(rules);
    everywhere
}

/// The objects once a pod has finished, with another in its place if that is named.
fn after(lab: &Lab, old: &str, next: Option<(&str, &str)>) -> Objects {
    let mut objects = lab.cluster().objects.clone();
    let pod = objects.pods.iter_mut().find(|pod| pod.name == old && !pod.finished).unwrap();
    let next = next.map(|(name, app)| Pod {
        name: name.to_owned(),
        uid: format!("uid-of-{name}"),
        labels: Labels::from([("app".to_owned(), app.to_owned())]),
        ..pod.clone()
    });
    // Its object is there for long, address and all.
    pod.finished = true;
    objects.pods.extend(next);
    objects
}

fn datagrams(lab: &Lab, from: &str) -> Vec<(String, Flow)> {
    let flow = |family| {
        let mut flow = Flow::udp(lab, from, family, OTHER, false).unwrap();
        flow.exchange().unwrap();
        (format!("{from} {family} to another port"), flow)
    };
    Vec::from(Family::ALL.map(flow))
}

/// Changes the objects while flows that go on are in use.
fn apply_beside(lab: &mut Lab, objects: Objects, kept: &mut [(String, Flow)]) {
    meanwhile(lab, objects, || all_go_on(kept));
}

/// The address of a client.
fn the_next_pod_keeps_what_it_may_and_loses_what_it_may_not(backend: Backend, mode: Mode) {
    let policies = vec![from_everywhere(&[ADMITTED, OTHER]), next_pods()];
    let Some((mut lab, listeners)) = start(policies, backend, mode, &[]) else { return };
    let mut control = control(&lab);
    let mut kept = flows(&lab, &listeners, &["shop/web1"]);
    let mut others = flows(&lab, &listeners, &["shop/web2"]);
    // At once: one change is the end of the old pod and the next one.
    let mut denied = datagrams(&lab, "shop/web1");
    let replaced = after(&lab, "web1", Some(("second", "next")));
    apply_beside(&mut lab, replaced, &mut kept);
    all_are_cut(&mut denied, &mut control);
    all_go_on(&mut kept);
    // The agent learns of the next pod later than that the old one has ended, and
    // meanwhile its connections have begun.
    let finished = after(&lab, "second", None);
    apply_beside(&mut lab, finished, &mut kept);
    let mut denied = datagrams(&lab, "shop/web1");
    all_go_on(&mut kept);
    let second = lab.cluster().objects.pods.iter().find(|pod| pod.name == "second").unwrap().clone();
    let mut replaced = lab.cluster().objects.clone();
    let third = Pod { name: "third".to_owned(), uid: "uid-of-third".to_owned(), finished: false, ..second };
    replaced.pods.push(third);
    apply_beside(&mut lab, replaced, &mut kept);
    all_are_cut(&mut denied, &mut control);
    all_go_on(&mut kept);
    // While no agent runs.
    let replaced = after(&lab, "third", Some(("fourth", "web")));
    apply_beside(&mut lab, replaced, &mut kept);
    let mut denied = datagrams(&lab, "shop/web1");
    for node in ["node-1", "node-2"] {
        lab.take_agent(node).unwrap().unwrap().stop(nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    let replaced = after(&lab, "fourth", Some(("fifth", "next")));
    lab.write_manifests(replaced).unwrap();
    lab.start_agents().unwrap();
    all_are_cut(&mut denied, &mut control);
    all_go_on(&mut kept);
    all_go_on(&mut others);
}

/// The address of a server, and a client of the next pod's that may not.
fn the_next_server_keeps_the_clients_that_it_admits(backend: Backend, mode: Mode) {
    let team = json!({"namespaceSelector": {"matchLabels": {"may": "read"}}});
    let mut next = db(&team, &[ADMITTED]);
    next.object.metadata.name = Some("vault".to_owned());
    let spec = next.object.spec.as_mut().unwrap();
    let selector = spec.pod_selector.get_or_insert_default();
    selector.match_labels = Some([("app".to_owned(), "vault".to_owned())].into());
    let policies = vec![db(&web(), &[ADMITTED]), next];
    let Some((mut lab, listeners)) = start(policies, backend, mode, &[]) else { return };
    let mut control = control(&lab);
    let mut kept = flows(&lab, &listeners, &["team/web3"]);
    let mut denied = flows(&lab, &listeners, &["shop/web1", "shop/web2"]);
    // One of the same kind takes over, as in a StatefulSet: all may stay.
    let replaced = after(&lab, "db", Some(("db2", "db")));
    apply_beside(&mut lab, replaced, &mut kept);
    all_go_on(&mut kept);
    all_go_on(&mut denied);
    let replaced = after(&lab, "db2", Some(("vault", "vault")));
    apply_beside(&mut lab, replaced, &mut kept);
    all_are_cut(&mut denied, &mut control);
    all_go_on(&mut kept);
}

on_both_backends!(
    the_next_pod_keeps_what_it_may_and_loses_what_it_may_not: Routed,
    the_next_server_keeps_the_clients_that_it_admits: Bridge,
);
