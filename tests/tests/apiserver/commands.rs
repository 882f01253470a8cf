//! Commands that ask a cluster answer as they do of its objects in a file.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use npc_tests::apiserver::{Fault, Resource, Server, Verb};
use npc_tests::lab::Enforcer;
use serde_json::{Value, json};
use tempfile::TempDir;

fn pod(namespace: &str, name: &str, number: u8) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": {"app": name}},
        "spec": {"nodeName": "node-1", "containers": [
            {"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 8080}]},
        ]},
        "status": {"phase": "Running", "podIPs": [{"ip": format!("10.244.0.{number}")}], "hostIPs": [{"ip": "192.0.2.1"}]},
    })
}

fn objects() -> Vec<Value> {
    let namespace = |name: &str| {
        let labels = json!({"team": name, "kubernetes.io/metadata.name": name});
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    };
    vec![
        namespace("shop"),
        namespace("ops"),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"},
               "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}}),
        pod("shop", "web", 2),
        pod("shop", "api", 3),
        pod("ops", "monitor", 4),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": "api"},
               "spec": {"clusterIP": "10.0.0.9", "selector": {"app": "api"}, "ports": [{"port": 80, "targetPort": "http"}]}}),
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
               "metadata": {"namespace": "shop", "name": "api"},
               "spec": {"podSelector": {"matchLabels": {"app": "api"}}, "policyTypes": ["Ingress"], "ingress": [{
                   "from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": "http", "protocol": "TCP"}]}]}}),
    ]
}

struct World {
    server: Server,
    folder: TempDir,
    npc: PathBuf,
}

impl World {
    fn new() -> Self {
        let Ok(Enforcer::Agent(npc)) = Enforcer::sibling() else { panic!("build the binaries first") };
        let (server, folder) = (Server::start().unwrap(), tempfile::tempdir().unwrap());
        server.replace_all(&objects());
        server.write_kubeconfig(folder.path()).unwrap();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects()});
        fs::write(folder.path().join("all.json"), list.to_string()).unwrap();
        Self { server, folder, npc }
    }

    fn run(&self, args: &[&str], input: [&str; 2]) -> Output {
        let [flag, file] = input;
        let file = self.folder.path().join(file);
        Command::new(&self.npc).args(args).args([Path::new(flag), &file]).output().unwrap()
    }

    fn of_cluster(&self, args: &[&str]) -> Output {
        self.run(args, ["--kubeconfig", "kubeconfig"])
    }

    fn of_files(&self, args: &[&str]) -> Output {
        self.run(args, ["-f", "all.json"])
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_cluster_and_its_objects_in_a_file_are_judged_alike() {
    let world = World::new();
    for args in [
        &["matrix", "-o", "json"][..],
        &["matrix", "--by", "pod", "-o", "json", "--address", "203.0.113.9"],
        &["compile", "--node", "node-1", "-o", "json"],
        &["explain", "-n", "shop", "web", "svc/api:80"],
        &["explain", "ops/monitor", "shop/api:8080"],
    ] {
        let (cluster, files) = (world.of_cluster(args), world.of_files(args));
        assert_eq!(cluster.status.code(), files.status.code(), "{args:?}: {}", text(&cluster.stderr));
        // Places are a file's alone.
        let without_places = |out: &Output| -> Vec<String> {
            text(&out.stdout)
                .lines()
                .filter(|line| !line.contains("all.json") && !line.contains(" | "))
                .map(str::to_owned)
                .collect()
        };
        if args[0] == "explain" {
            assert_eq!(without_places(&cluster)[0], without_places(&files)[0], "{args:?}");
        } else {
            assert_eq!(text(&cluster.stdout), text(&files.stdout), "{args:?}");
        }
    }
}

#[test]
fn without_a_file_the_mark_is_in_the_object_as_the_server_has_it() {
    let world = World::new();
    let answer = text(&world.of_cluster(&["explain", "ops/monitor", "shop/api:8081"]).stdout);
    for expected in [
        "  --> networkpolicy shop/api  spec.ingress[0]\n",
        "   = note: the rules are about http from app=web in namespace shop\n",
    ] {
        assert!(answer.contains(expected), "{expected}: {answer}");
    }
    let answer = text(&world.of_cluster(&["explain", "shop/api", "shop/api:8080"]).stdout);
    assert!(answer.starts_with("ALLOWED"), "{answer}");
    let answer = text(&world.of_cluster(&["explain", "shop/web", "shop/api:8081"]).stdout);
    let lines: Vec<&str> = answer.lines().skip_while(|line| !line.contains("-->")).collect();
    assert_eq!(lines.first(), Some(&"  --> networkpolicy shop/api  spec.ingress[0].ports[0]"), "{answer}");
    // The fragment is the item, in any order of its fields, and the mark below its line.
    let mark = lines.iter().position(|line| line.contains('^')).unwrap();
    let start = lines[mark].find('^').unwrap();
    let marked = &lines[mark - 1][start..start + lines[mark].matches('^').count()];
    assert_eq!(marked, "port: http", "{answer}");
    assert!(lines[mark].ends_with("wants http = 8080, there is 8081"), "{answer}");
    assert!(lines.iter().any(|line| line.contains("protocol: TCP")), "{answer}");
    // A label of a peer, and what is allowed, by the path of its item.
    let answer = text(&world.of_cluster(&["explain", "shop/web", "shop/api:8080"]).stdout);
    assert!(answer.contains("allowed[rule]"), "{answer}");
    assert!(answer.contains("  --> networkpolicy shop/api  spec.ingress[0].from[0]\n"), "{answer}");
}

#[test]
fn a_cluster_that_does_not_answer_is_said_to_not_answer() {
    let world = World::new();
    let forbidden = world.server.inject(Fault::forbidden().on(Resource::Pods).verbs(&[Verb::List]));
    let refused = world.of_cluster(&["matrix"]);
    assert_eq!(refused.status.code(), Some(5));
    assert!(text(&refused.stderr).contains("cannot list pods"), "{}", text(&refused.stderr));
    forbidden.lift();
    world.server.stop();
    let gone = world.of_cluster(&["matrix"]);
    assert_eq!(gone.status.code(), Some(5), "{}", text(&gone.stderr));
}
