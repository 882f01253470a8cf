//! What cannot be written for others, and the pods that start meanwhile.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::thread;

use nix::fcntl::{Flock, FlockArg};
use npc_compiler::object::{Labels, NetworkPolicy, Objects, Pod};
use serde_json::{Value, json};

use super::node::{Mode, Node, OUTSIDE, binary, wait};
use super::traffic::{Pings, listen, passes, reaches};
use super::{addresses, first, objects, pod, policy_of};

/// A pod with this label.
fn pod_of(name: &str, app: &str) -> Pod {
    Pod { labels: Labels::from([("app".to_owned(), app.to_owned())]), ..pod(name) }
}

/// A pod of another node.
fn client(last: u8) -> Pod {
    let pod = pod_of(&format!("client-{last}"), "client");
    Pod { node: Some("n2".to_owned()), ipv4: Some([10, 1, 0, last].into()), ..pod }
}

/// A web server, a cache and a database, with a policy each. That of the cache admits the three in both
/// directions, to all ports. That of the database admits its clients, and these ports beside.
fn cluster(ports: &Value, clients: u8, blocks: &[&str]) -> Objects {
    let peers = [json!({"podSelector": {"matchLabels": {"app": "client"}}})];
    let blocks = blocks.iter().map(|cidr| json!({"ipBlock": {"cidr": cidr}}));
    let from: Vec<Value> = peers.into_iter().chain(blocks).collect();
    let database: k8s_openapi::api::networking::v1::NetworkPolicy = serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": "db"},
        "spec": {"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"ports": ports}, {"from": from}]},
    }))
    .unwrap();
    let no_client =
        json!([{"podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["client"]}]}}]);
    let cache: k8s_openapi::api::networking::v1::NetworkPolicy = serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": "cache"},
        "spec": {"podSelector": {"matchLabels": {"app": "cache"}}, "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": no_client}], "egress": [{"to": no_client}, {"ports": [{"port": 8080}]}]},
    }))
    .unwrap();
    let pods = ["web", "cache", "db"].map(|name| pod_of(name, name));
    let web = policy_of(&json!({"matchLabels": {"app": "web"}}));
    Objects {
        pods: pods.into_iter().chain((1..=clients).map(client)).collect(),
        policies: vec![web, cache.into(), NetworkPolicy::from(database)],
        ..objects(&[])
    }
}

/// While npc cannot write what the database needs now, the web server and the cache start, and are isolated from the
/// first instant. The database starts once npc can (`allow`), and not before: not in so many seconds.
fn the_web_server_starts_and_the_database_waits(node: &mut Node, seconds: u32, allow: impl FnOnce()) {
    listen(node.outside(), &[8080, 9090]);
    let pings = first().map(|address| Pings::start(node.outside(), address));
    let mut web = node.sandbox("web", json!([]));
    node.add(&mut web).unwrap();
    let last = pings.each_ref().map(Pings::sent);
    for to in addresses(OUTSIDE) {
        assert!(!passes(&web.netns, to, 9090) && reaches(&web.netns, to, 8080), "{to}");
    }
    for (pings, last) in pings.into_iter().zip(last) {
        wait("pings go on", || pings.sent() > last + 100);
        assert_eq!(pings.answered_after(last), 0, "pings that began before the rules were answered after ADD");
    }
    node.settings = json!({"timeoutSeconds": seconds});
    let mut db = node.sandbox("db", json!([]));
    node.add_others(&mut db).unwrap();
    let error = node.add_own(&mut db).unwrap_err();
    assert!(error.contains("cannot bring the rules of this pod into the kernel"), "{error}");
    // The cache's rules ask in each direction whether it is isolated in the other one. That the database is to be
    // isolated in both is no matter of the cache.
    node.settings = json!({});
    let mut cache = node.sandbox("cache", json!([]));
    node.add(&mut cache).unwrap();
    for to in addresses(OUTSIDE) {
        assert!(!passes(&cache.netns, to, 9090) && reaches(&cache.netns, to, 8080), "{to}");
    }
    // It starts with its rules.
    node.settings = json!({"timeoutSeconds": 100});
    thread::scope(|scope| {
        let plugin = scope.spawn(|| node.add_own(&mut db));
        allow();
        plugin.join().unwrap().unwrap();
    });
    assert!(!passes(node.outside(), db.addresses()[0], 9090));
}

/// Another program holds the xtables lock, and an edited policy waits for it.
#[test]
fn a_pod_whose_rules_are_there_starts_while_those_of_others_wait_for_the_lock() {
    let Some(mut node) = Node::new(Mode::Routed, "legacy") else { return };
    let lock = node.folder().join("xtables.lock");
    node.variables = vec![("XTABLES_LOCKFILE", lock.clone())];
    node.write(&cluster(&json!([{"port": 5432}]), 1, &[]));
    node.start_agent();
    node.wait_ready();
    let held = Flock::lock(File::create(&lock).unwrap(), FlockArg::LockExclusive).unwrap();
    node.write(&cluster(&json!([{"port": 5433}]), 1, &[]));
    wait("the edited policy waits", || node.log().contains("for the xtables lock, which"));
    // What an agent says of others does not hold up a pod.
    node.wait_unready();
    // A try waits for the lock for two seconds.
    the_web_server_starts_and_the_database_waits(&mut node, 10, || drop(held));
}

/// The same without a rule for egress to all ports of somebody: such a policy has a rule against tunnels, which needs the
/// extension.
fn with_narrow_egress(mut objects: Objects) -> Objects {
    let cache = objects.policies.iter_mut().find(|policy| policy.name() == "cache").unwrap();
    cache.object.spec.as_mut().unwrap().egress.as_mut().unwrap().remove(0);
    objects
}

/// iptables-restore refuses the rules of an edited policy, because an extension has gone.
fn a_pod_starts_while_the_rules_of_others_are_refused(backend: &'static str) {
    let Some(mut node) = Node::new(Mode::Routed, backend) else { return };
    let extensions = node.folder().join("extensions");
    fs::create_dir(&extensions).unwrap();
    for file in fs::read_dir(extensions_of_this_machine()).unwrap() {
        let file = file.unwrap();
        std::os::unix::fs::symlink(file.path(), extensions.join(file.file_name())).unwrap();
    }
    node.variables = vec![("XTABLES_LIBDIR", extensions.clone())];
    node.write(&with_narrow_egress(cluster(&json!([{"port": 5432}]), 1, &[])));
    node.start_agent();
    node.wait_ready();
    let multiport = extensions.join("libxt_multiport.so");
    let there = fs::read_link(&multiport).unwrap();
    fs::remove_file(&multiport).unwrap();
    node.write(&with_narrow_egress(cluster(&json!([{"port": 5433}, {"port": 5435}]), 1, &[])));
    wait("the edited policy is refused", || node.log().contains("multiport"));
    the_web_server_starts_and_the_database_waits(&mut node, 3, || {
        std::os::unix::fs::symlink(there, multiport).unwrap();
    });
}

/// Where iptables finds its extensions.
fn extensions_of_this_machine() -> String {
    let output = Command::new("pkg-config").args(["--variable=xtlibdir", "xtables"]).output();
    let known = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    [known.as_str(), "/usr/lib/x86_64-linux-gnu/xtables", "/usr/lib/aarch64-linux-gnu/xtables", "/usr/lib64/xtables"]
        .into_iter()
        .find(|folder| Path::new(folder).join("libxt_multiport.so").exists())
        .expect("iptables is installed")
        .to_owned()
}

#[test]
fn a_pod_starts_while_the_rules_of_others_are_refused_by_nft() {
    a_pod_starts_while_the_rules_of_others_are_refused("nft");
}

#[test]
fn a_pod_starts_while_the_rules_of_others_are_refused_by_legacy() {
    a_pod_starts_while_the_rules_of_others_are_refused("legacy");
}

/// The kernel has no memory for what the peers of an edited policy need.
fn a_pod_starts_while_sets_of_others_are_refused(refused: &str, after: &Objects) {
    let Some(mut node) = Node::new(Mode::Routed, "nft") else { return };
    let file = node.folder().join("refused");
    node.under = Some(binary("npc-failing-netlink"));
    node.variables = vec![("NPC_NETLINK_REFUSED", file.clone())];
    node.write(&cluster(&json!([{"port": 5432}]), 1, &[]));
    node.start_agent();
    node.wait_ready();
    fs::write(&file, refused).unwrap();
    node.write(after);
    wait("it is refused", || node.log().contains("the kernel refused"));
    the_web_server_starts_and_the_database_waits(&mut node, 3, || fs::remove_file(file).unwrap());
}

#[test]
fn a_pod_starts_while_a_peer_of_others_is_refused() {
    a_pod_starts_while_sets_of_others_are_refused("10.1.0.2", &cluster(&json!([{"port": 5432}]), 2, &[]));
}

#[test]
fn a_pod_starts_while_a_new_set_of_others_is_refused() {
    a_pod_starts_while_sets_of_others_are_refused(
        "hash:net",
        &cluster(&json!([{"port": 5432}]), 1, &["198.51.100.0/24"]),
    );
}
