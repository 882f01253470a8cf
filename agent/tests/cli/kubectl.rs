//! What kubectl takes, npc takes.

use std::process::Command;

use crate::{Files, SHOP};

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {app: a}}\n";

#[test]
fn objects_of_json_follow_each_other() {
    let pod =
        |name: &str| format!("{{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {{\"name\": \"{name}\"}}}}");
    let files = Files::of("");
    files.add("a.json", &format!("{}{}\n{}", pod("a"), pod("b"), pod("c")));
    assert_eq!(files.run(&["explain", "-f", "a.json", "a", "c"]).code, 0);
    files.add("b.json", &format!("{}\n{{\"apiVersion\": \"v1\", \"kind\": \"Pod\",\n \"metadata\": 7}}", pod("a")));
    let answer = files.run(&["matrix", "-f", "b.json"]);
    assert!(answer.err.contains("b.json:3:"), "{}", answer.err);
}

#[test]
fn files_may_be_a_list_and_recursion_is_taken() {
    let files = Files::of(POD);
    files.add("b.yaml", &POD.replace("name: a", "name: b"));
    assert_eq!(files.run(&["explain", "-R", "-f", "in.yaml,b.yaml", "a", "b"]).code, 0);
}

#[test]
fn objects_with_a_generated_name_are_all_there() {
    let job = "apiVersion: batch/v1\nkind: Job\nmetadata: {generateName: migrate-}\nspec: {template: {metadata: {labels: {app: j}}}}\n";
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {generateName: p-}\nspec: {podSelector: {}}\n";
    let files = Files::of(&[job, job, policy, policy].join("---\n"));
    let answer = files.npc("matrix", &["-o", "json"]);
    let json = answer.json();
    let ids: Vec<&str> = json["endpoints"].as_array().unwrap().iter().map(|e| e["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 2, "{}{}", answer.out, answer.err);
    assert!(ids.iter().all(|id| id.starts_with("default/Job/migrate-") && id.len() > "default/Job/migrate-".len()));
    assert_eq!(answer.out, files.npc("matrix", &["-o", "json"]).out, "the same each time");
    assert!(!answer.err.contains("counts instead"), "{}", answer.err);
}

#[test]
fn a_mark_of_byte_order_may_begin_each_document() {
    let text = format!(
        "\u{feff}{POD}---\n\u{feff}{}\n\u{feff}---\n{}",
        POD.replace("name: a", "name: b"),
        POD.replace("name: a", "name: c")
    );
    let files = Files::of(&text);
    for name in ["a", "b", "c"] {
        let answer = files.npc("explain", &[name, "203.0.113.1"]);
        assert_eq!(answer.code, 0, "{name}: {}", answer.err);
    }
}

#[test]
fn kustomizations_are_built_by_kubectl() {
    let files = Files::of(SHOP);
    let run = |path: &str| {
        Command::new(env!("CARGO_BIN_EXE_npc"))
            .args(["matrix", "-k", "prod"])
            .env("PATH", path)
            .current_dir(files.path())
            .output()
            .unwrap()
    };
    let without = run("/nowhere");
    assert_eq!(without.status.code(), Some(2));
    let said = String::from_utf8_lossy(&without.stderr).into_owned();
    assert!(said.contains("kubectl kustomize prod | npc … -f -"), "{said}");
    let script = files.path().join("kubectl");
    files.add("script", "#!/bin/sh\n[ \"$*\" = 'kustomize prod' ] && exec cat in.yaml\n");
    // The copy is never open for writing in this process, whose other tests start processes: that would
    // keep the kernel from running it.
    let copy = Command::new("install").args(["-m", "755"]).arg(files.path().join("script")).arg(&script).status();
    assert!(copy.unwrap().success());
    let with = run(&format!("{}:/usr/bin:/bin", files.path().display()));
    assert_eq!(with.status.code(), Some(0), "{}", String::from_utf8_lossy(&with.stderr));
}

#[test]
fn endpoints_have_the_names_that_kubectl_and_dns_give_them() {
    let files = Files::of(SHOP);
    files.add(
        "dotted.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web.shop, namespace: default, labels: {app: dotted}}\n",
    );
    let first = |from: &str, to: &str| {
        let answer = files.npc("explain", &[from, to]);
        let line = answer.out.lines().next().unwrap_or_else(|| panic!("{from} {to}: {}", answer.err)).to_owned();
        (answer.code, line)
    };
    let plain = first("shop/deploy/web", "shop/deploy/api:8080");
    for (from, to) in [
        ("web.shop", "api.shop:8080"),
        ("shop/deployment.apps/web", "deployment.apps/api.shop:tcp/8080"),
        ("shop/deployments.v1.apps/web", "shop/api:8080/tcp"),
    ] {
        assert_eq!(first(from, to), plain, "{from} {to}");
    }
    let service = first("shop/web", "shop/svc/api:80");
    for to in ["api.shop.svc.cluster.local:80", "api.shop.svc:80", "svc/api.shop:80", "api.shop.svc.other.domain:80"] {
        assert_eq!(first("shop/web", to), service, "{to}");
    }
    let exact = files.run(&["explain", "-f", "in.yaml,dotted.yaml", "web.shop", "shop/api:8080"]);
    assert!(exact.out.contains("default/pod/web.shop"), "an exact name wins: {}{}", exact.out, exact.err);
}

#[test]
fn icmp_and_outside_can_be_asked_about() {
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec:\n  podSelector: {matchLabels: {app: a}}\n  \
                  ingress:\n  - from: [{podSelector: {}}]\n  - from: [{ipBlock: {cidr: 203.0.113.0/24}}]\n    ports: [{port: 443}]\n";
    let files = Files::of(&format!("{POD}---\n{}---\n{policy}", POD.replace("name: a, labels: {app: a}", "name: b")));
    let asks = |from: &str, to: &str| files.npc("explain", &[from, to]).code;
    assert_eq!(asks("b", "a:icmp"), 0);
    assert_eq!(asks("203.0.113.7", "a:443"), 0);
    assert_eq!(asks("203.0.113.7", "a:icmp"), 1);
    assert_eq!(asks("outside", "a:443"), 1, "some may, and others may not");
    assert_eq!(asks("outside", "b"), 0);
    let json = files.npc("explain", &["outside", "a:443", "-o", "json"]).json();
    assert_eq!(json["verdict"], "Partial");
    let ends: Vec<&str> =
        json["flows"].as_array().unwrap().iter().map(|flow| flow["from"]["kind"].as_str().unwrap()).collect();
    assert!(ends.iter().all(|kind| *kind == "Block"), "{ends:?}");
}

#[test]
fn a_policy_alone_says_what_it_selects_and_what_of_it_is_unused() {
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec:\n  podSelector: {matchLabels: {app: a}}\n  \
                  ingress:\n  - from: [{podSelector: {matchLabels: {app: b}}}, {podSelector: {matchLabels: {app: gone}}}]\n    \
                  ports: [{port: 80}, {port: web}]\n  - from: [{namespaceSelector: {matchLabels: {team: x}}}]\n";
    let files = Files::of(&format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: default}}\n---\n{POD}---\n{}---\n{policy}",
        POD.replace("name: a, labels: {app: a}", "name: b, labels: {app: b}")
    ));
    let answer = files.npc("explain", &["netpol/p"]);
    assert_eq!(answer.code, 0, "{}", answer.err);
    answer.says(
        "networkpolicy default/p\n\n  \
         selects   pods with app=a of namespace default: default/pod/a\n  \
         isolates  ingress\n\n  \
         spec.ingress[0]\n    \
         from  pods with app=b of namespace default: default/pod/b\n    \
         from  pods with app=gone of namespace default: unused, no pod of the input is meant\n    \
         on  TCP 80\n    \
         on  TCP web: unused, no pod that is meant has a port of this name\n\n  \
         spec.ingress[1]  (admits nothing now)\n    \
         from  every pod of namespaces with team=x: unused, no pod of the input is meant\n    \
         on  every port and protocol\n",
    );
    let json = files.npc("explain", &["default/networkpolicy/p", "-o", "json"]).json();
    assert_eq!(json["kind"], "PolicyExplanation");
    assert_eq!((&json["rules"][0]["unused"], &json["rules"][1]["unused"]), (&false.into(), &true.into()));
    assert_eq!(json["rules"][1]["location"]["line"], 21, "{json}");
    let none = files.npc("explain", &["netpol/q"]);
    assert_eq!(none.code, 3);
    assert!(none.err.contains("which has p"), "{}", none.err);
    assert_eq!(files.npc("explain", &["netpol/p", "a"]).code, 2);
}

#[test]
fn the_matrix_shows_what_is_asked_for() {
    let files = Files::of(SHOP);
    let names = |words: &[&str]| {
        let answer = files.npc("matrix", &[words, &["-o", "csv"]].concat());
        assert_eq!(answer.code, 0, "{words:?}: {}", answer.err);
        let rows = answer.out.lines().skip(1).map(|line| line.split(',').map(str::to_owned).collect::<Vec<_>>());
        rows.collect::<Vec<_>>()
    };
    let all = names(&[]);
    let has = |rows: &[Vec<String>], column: usize, end: &str| rows.iter().any(|row| row[column].contains(end));
    assert!(has(&all, 0, "outside") && has(&all, 1, "outside") && has(&all, 0, "monitoring/"), "{all:?}");
    let shop = names(&["-n", "shop"]);
    assert!(!shop.is_empty() && !has(&shop, 0, "monitoring/") && !has(&shop, 1, "monitoring/"), "{shop:?}");
    assert_eq!(names(&["-n", "shop", "-A"]), all);
    let from = names(&["--from", "shop/api"]);
    assert!(!from.is_empty() && from.iter().all(|row| row[0] == "shop/Deployment/api"), "{from:?}");
    let to = names(&["--to", "shop/db", "--from", "shop/api", "--port", "5432"]);
    assert_eq!(
        to,
        [["shop/Deployment/api", "shop/Deployment/db", "", "TCP", "5432", "allowed"].map(str::to_owned)],
        "{to:?}"
    );
    assert_eq!(names(&["--to", "shop/db", "--from", "shop/api", "--port", "5433"]), Vec::<Vec<String>>::new());
    assert_eq!(names(&["--port", "53/udp"]).iter().filter(|row| row[3] != "UDP").count(), 0);
    let outside = names(&["--from", "outside"]);
    let is_outside = |row: &Vec<String>| row[0] == "outside" || row[0].contains('.') || row[5] == "elsewhere";
    assert!(outside.iter().all(is_outside), "{outside:?}");
    let labelled = names(&["-l", "app=web", "--to", "shop/api"]);
    assert!(!has(&labelled, 0, "prometheus"), "{labelled:?}");
    assert_eq!(files.npc("matrix", &["--from", "shop/web:80"]).code, 2);
    assert_eq!(files.npc("matrix", &["--port", "http"]).code, 2);
    assert_eq!(files.npc("matrix", &["-l", "a b"]).code, 2);
    assert_eq!(files.npc("matrix", &["--from", "shop/nope"]).code, 3);
    let json = files.npc("matrix", &["--from", "shop/api", "--to", "outside", "-o", "json"]).json();
    assert_eq!(json["connections"].as_array().unwrap().len(), 0);
    assert_eq!(json["outside"][0]["to"], "outside", "{json}");
}
