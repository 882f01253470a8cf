//! Help, versions, completions, and the words for what is not there.

use std::os::unix::fs::symlink;
use std::process::Command;

use crate::{Files, SHOP};

const POLICY: &str =
    "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {podSelector: {}}\n";
const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop}\n";

#[test]
fn help_begins_with_three_examples_and_lists_commands_in_the_order_of_use() {
    let help = Files::of("").run(&["--help"]).out;
    let examples: Vec<&str> = help.lines().take_while(|line| !line.is_empty()).collect();
    assert_eq!(examples.iter().filter(|line| line.contains("npc ")).count(), 3, "{help}");
    let place = |command: &str| help.find(&format!("\n  {command} ")).unwrap_or_else(|| panic!("{command}: {help}"));
    let commands = ["explain", "matrix", "compile", "migrate", "agent", "status", "cleanup", "completion", "version"];
    assert!(commands.map(place).is_sorted(), "{help}");
}

#[test]
fn as_a_plugin_of_kubectl_it_is_called_so() {
    let files = Files::of(SHOP);
    let plugin = files.path().join("kubectl-npc");
    symlink(env!("CARGO_BIN_EXE_npc"), &plugin).unwrap();
    for words in [&["--help"][..], &["explain", "--help"], &["matrix", "--nope"]] {
        let output = Command::new(&plugin).args(words).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(text.contains("Usage: kubectl npc"), "{text}");
    }
    let help = Command::new(&plugin).args(["explain", "-h"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("\n  kubectl npc explain shop/netpol/api  ") && !help.contains("\n  npc "), "{help}");
    assert!(files.run(&["explain", "--help"]).out.contains("Usage: npc explain"));
    // So do hints, on standard output and on standard error.
    for words in [&["explain", "-f", "in.yaml", "shop/web", "shop/netpol/api"][..], &["reason", "port-is-service-port"]]
    {
        let output =
            Command::new(&plugin).args(words).current_dir(files.path()).env_remove("KUBECONFIG").output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(text.contains("kubectl npc explain"), "{text}");
        assert_eq!(text.matches("npc explain").count(), text.matches("kubectl npc explain").count(), "{text}");
    }
}

#[test]
fn help_is_a_command_too() {
    let files = Files::of("");
    assert_eq!(files.run(&["help"]).out, files.run(&["--help"]).out);
    for command in ["explain", "agent", "install-cni"] {
        let (asked, flag) = (files.run(&["help", command]), files.run(&[command, "--help"]));
        assert_eq!((asked.code, asked.out), (0, flag.out));
    }
    let unknown = files.run(&["help", "explian"]);
    assert!(unknown.code == 2 && unknown.err.contains("did you mean explain?"), "{}", unknown.err);
}

#[test]
fn the_version_is_a_command_too() {
    let files = Files::of("");
    assert_eq!(files.run(&["version"]).out, files.run(&["--version"]).out);
}

#[test]
fn manual_pages_are_written() {
    let files = Files::of("");
    assert_eq!(files.run(&["man", "pages"]).code, 0);
    for page in ["npc.1", "npc-explain.1", "npc-agent.1"] {
        let text = std::fs::read_to_string(files.path().join("pages").join(page)).unwrap();
        assert!(text.contains(".TH"), "{page}");
    }
}

#[test]
fn shells_complete_commands_flags_and_endpoints() {
    let files = Files::of(SHOP);
    for shell in ["bash", "zsh", "fish"] {
        let script = files.run(&["completion", shell]);
        assert!(script.code == 0 && script.out.contains("NPC_COMPLETE"), "{shell}: {}", script.err);
    }
    let complete = |words: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_npc"))
            .env("NPC_COMPLETE", "fish")
            .arg("--")
            .arg("npc")
            .args(words)
            .current_dir(files.path())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(complete(&["exp"]).contains("explain"));
    assert!(complete(&["matrix", "--ou"]).contains("--output"));
    let endpoints = complete(&["explain", "-f", "in.yaml", "shop/d"]);
    assert!(endpoints.contains("shop/deploy/web") && !endpoints.contains("monitoring"), "{endpoints}");
    assert!(complete(&["matrix", "-f", "in.yaml", "--from", "out"]).contains("outside"));
}

#[test]
fn bash_completes_by_the_script() {
    let files = Files::of(SHOP);
    let script = "PATH=$PWD:$PATH; source <(npc completion bash); COMP_WORDS=(npc explain -f in.yaml shop/d); COMP_CWORD=4; \
                  COMP_LINE='npc explain -f in.yaml shop/d'; COMP_POINT=${#COMP_LINE}; COMP_TYPE=9; \
                  _clap_complete_npc npc shop/d in.yaml; printf '%s\\n' \"${COMPREPLY[@]}\"";
    symlink(env!("CARGO_BIN_EXE_npc"), files.path().join("npc")).unwrap();
    let output = Command::new("bash").args(["-c", script]).current_dir(files.path()).output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(text.contains("shop/deploy/web"), "{text}");
}

#[test]
fn what_an_input_lacks_is_said_with_what_to_add() {
    let policies = Files::of(POLICY).npc("matrix", &[]);
    assert_eq!(policies.code, 0);
    assert!(policies.err.contains("1 policy, no pods: add Pods or workloads"), "{}", policies.err);
    let pods = Files::of(POD);
    assert!(pods.npc("matrix", &[]).err.contains("0 NetworkPolicies: everything is allowed"));
    assert!(pods.npc("explain", &["shop/a", "203.0.113.1"]).err.contains("0 NetworkPolicies"));
    assert!(!Files::of(SHOP).npc("matrix", &[]).err.contains("0 NetworkPolicies"));
    let nowhere = pods.npc("explain", &["shpo/a", "203.0.113.1"]);
    assert_eq!(nowhere.code, 3);
    assert!(nowhere.err.contains("there is no namespace \"shpo\""), "{}", nowhere.err);
    assert!(nowhere.err.contains("did you mean shop?"), "{}", nowhere.err);
    let twice = Files::of(SHOP).npc("explain", &["shpo/web", "203.0.113.1"]);
    assert_eq!(twice.err.matches("did you mean").count(), 1, "{}", twice.err);
    let policy = Files::of(POLICY).npc("explain", &["web", "203.0.113.1"]);
    assert!(policy.err.contains("1 policy, no pods"), "{}", policy.err);
}

#[test]
fn suggestions_are_near() {
    let files = Files::of(SHOP);
    let asks = |name: &str| files.npc("explain", &["-n", "shop", name, "203.0.113.1"]).err;
    assert!(asks("wbe").contains("did you mean: shop/deploy/web"), "{}", asks("wbe"));
    assert!(!asks("xy").contains("did you mean"), "{}", asks("xy"));
}

#[test]
fn a_name_in_a_namespace_and_a_policy_are_suggested_too() {
    let files = Files::of(SHOP);
    let asks = |words: &[&str]| files.npc("explain", words).err;
    assert!(
        asks(&["shop/ap", "203.0.113.1"]).contains("did you mean: shop/deploy/api"),
        "{}",
        asks(&["shop/ap", "any"])
    );
    let policy = asks(&["-n", "shop", "netpol/wbe"]);
    assert!(policy.contains("did you mean: shop/netpol/web"), "{policy}");
    let elsewhere = asks(&["-n", "monitoring", "netpol/web"]);
    assert!(elsewhere.contains("did you mean: shop/netpol/web"), "{elsewhere}");
    assert!(asks(&["shpo/netpol/web"]).contains("there is no namespace \"shpo\""), "{}", asks(&["shpo/netpol/web"]));
    let far = asks(&["-n", "shop", "netpol/prometheus"]);
    assert!(!far.contains("did you mean"), "{far}");
}

#[test]
fn what_an_input_lacks_is_said_once() {
    let none = Files::of(POLICY).npc("matrix", &[]);
    assert_eq!((none.out.as_str(), none.err.matches("no endpoints").count()), ("", 1), "{}{}", none.out, none.err);
    let cilium =
        "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: c, namespace: shop}\nspec: {}\n";
    let other = Files::of(&format!("{POD}{cilium}")).npc("matrix", &[]);
    assert!(other.err.contains("0 NetworkPolicies") && !other.err.contains("everything is allowed"), "{}", other.err);
    assert_eq!(other.err.matches("CiliumNetworkPolicy").count(), 1, "{}", other.err);
}

#[test]
fn warnings_that_say_the_same_are_folded() {
    let policy = |number: usize| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p{number}}}\n\
             spec: {{podSelector: {{}}, ingress: [{{zzz: 1}}]}}\n"
        )
    };
    let lines = |count: usize| {
        let text = (0..count).map(policy).collect::<Vec<_>>().join("---\n");
        let err = Files::of(&text).npc("matrix", &[]).err;
        err.lines().filter(|line| line.contains("no such field")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(lines(4).len(), 4);
    let many = lines(40);
    assert_eq!(many.len(), 4, "{many:#?}");
    assert!(many[3].starts_with("npc: 37 more of: the API has no such field"), "{}", many[3]);
}

#[test]
fn a_table_fits_the_columns_and_is_sorted_by_name() {
    let files = Files::of(SHOP);
    let run = |columns: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_npc"))
            .args(["matrix", "-f", "in.yaml"])
            .env("COLUMNS", columns)
            .current_dir(files.path())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let (wide, narrow) = (run("200"), run("67"));
    assert!(wide.lines().next().unwrap().trim_start().starts_with("monitoring/prometheus"), "{wide}");
    assert!(narrow.contains(" -> "), "{narrow}");
    assert!(narrow.lines().all(|line| line.chars().count() <= 67), "{narrow}");
    // Text that does not fit in a line stands in the next; nothing is left out.
    assert!(!run("40").contains("more"), "{}", run("40"));
    for name in ["monitoring/prometheus", "shop/api", "shop/db", "shop/web", "outside"] {
        assert!(run("40").contains(name), "{name}: {}", run("40"));
    }
    let table = wide.lines().take_while(|line| !line.is_empty());
    let names: Vec<&str> = table.skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    let (outside, endpoints) = names.split_last().unwrap();
    assert!(endpoints.is_sorted() && *outside == "outside", "{names:?}");
}

#[test]
fn tables_of_every_command_fit_the_columns() {
    let files = Files::of(SHOP);
    let run = |words: &[&str], columns: &str| {
        let output = files.command(words).env("COLUMNS", columns).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    for words in [
        &["matrix", "-f", "in.yaml"][..],
        &["compile", "-f", "in.yaml"],
        &["explain", "-f", "in.yaml", "shop/api"],
        &["explain", "-f", "in.yaml", "shop/svc/api"],
        &["migrate", "-f", "in.yaml"],
    ] {
        let (wide, narrow) = (run(words, "1000"), run(words, "60"));
        // Prose is left to the terminal.
        let is_table = |line: &&str| line.contains("  ") && !line.contains(": ");
        let long: Vec<&str> = narrow.lines().filter(is_table).filter(|line| line.chars().count() > 60).collect();
        assert!(long.is_empty(), "{words:?}: {long:#?}");
        for word in wide.split_whitespace() {
            assert!(narrow.contains(word), "{words:?} lacks {word}:\n{narrow}");
        }
    }
}

#[test]
fn the_destinations_of_a_source_are_sorted_by_name() {
    let pod = |name: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec: {{containers: []}}\n"
        )
    };
    let policy = |name: &str, port: u16| {
        format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\nspec: {{podSelector: \
             {{matchLabels: {{app: {name}}}}}, ingress: [{{from: [{{podSelector: {{matchLabels: {{app: web}}}}}}], ports: \
             [{{port: {port}}}]}}]}}\n"
        )
    };
    let ends = ["web", "api", "cache", "db"].map(pod).concat();
    let files = Files::of(&[ends, policy("api", 9000), policy("cache", 6379), policy("db", 5432)].concat());
    let output = files.command(&["matrix", "-f", "in.yaml"]).env("COLUMNS", "60").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let of_web = text.lines().filter(|line| line.starts_with("default/web"));
    let to: Vec<&str> = of_web.filter_map(|line| line.split_whitespace().nth(2)).collect();
    assert_eq!(to, ["default/api", "default/cache", "default/db", "outside"], "{text}");
}

#[test]
fn a_flag_without_effect_is_an_error() {
    let files = Files::of(SHOP);
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: n, namespace: shop}\nspec: {nodeName: n1}\n";
    files.add("pod.yaml", pod);
    let run = |words: &[&str]| files.run(&[&["compile", "-f", "in.yaml,pod.yaml"], words].concat());
    assert!(run(&["--node", "n1"]).out.contains("iptables-restore"), "--node alone prints the node's ruleset");
    assert!(run(&["--node", "n1", "--only", "ipset"]).out.starts_with("# 1. ipset restore"));
    for words in [
        &["--node", "n1", "-o", "pairs"][..],
        &["-o", "iptables"],
        &["--only", "ipset"],
        &["--node", "n1", "-o", "json", "--only", "ipset"],
        &["--node", "n1", "--expand"],
        &["--seed", "abcdefghijklmnop"],
        &["--node", "n1", "-l", "app=web"],
    ] {
        let answer = run(words);
        assert_eq!(answer.code, 2, "{words:?}: {}", answer.out);
    }
}
