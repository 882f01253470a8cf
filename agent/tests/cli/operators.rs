//! What operators of clusters and nodes get: kubeconfigs, flags that would do nothing, streams that are
//! closed.

use std::process::Stdio;

use crate::{Answer, Files, SHOP};

/// A kubeconfig with this below the cluster and below the user.
fn kubeconfig(cluster: &str, user: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\nclusters: [{{name: c, cluster: {{{cluster}}}}}]\n\
         users: [{{name: u, user: {{{user}}}}}]\ncontexts: [{{name: x, context: {{cluster: c, user: u}}}}]\n\
         current-context: x\n"
    )
}

/// What explain says with this KUBECONFIG.
fn asked(files: &Files, kubeconfig: &str) -> Answer {
    let output = files.command(&["explain", "web", "api"]).env("KUBECONFIG", kubeconfig).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Answer { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

#[test]
fn files_of_the_list_in_kubeconfig_that_do_not_exist_are_passed_over() {
    let files = Files::of("");
    // Nothing listens on port 1, so it was this file that was used.
    files.add("kc", &kubeconfig("server: 'https://127.0.0.1:1'", "token: t"));
    let merged = asked(&files, "/nowhere:kc");
    assert_eq!(merged.code, 5, "{}", merged.err);
    assert!(merged.err.contains("127.0.0.1:1") || merged.err.contains("refused"), "{}", merged.err);
    assert!(!merged.err.contains("/nowhere"), "{}", merged.err);
    let none = asked(&files, "/nowhere:/neither");
    assert_eq!(none.code, 5, "{}", none.err);
    assert!(none.err.contains("there is no /nowhere and no /neither, which KUBECONFIG names"), "{}", none.err);
}

#[test]
fn what_is_wrong_with_a_kubeconfig_names_the_file_and_the_program() {
    let files = Files::of("");
    let exec =
        "exec: {apiVersion: client.authentication.k8s.io/v1, command: kubelogin-nothere, interactiveMode: Never}";
    for (name, text, says) in [
        ("exec", kubeconfig("server: 'https://127.0.0.1:1'", exec), &["\"kubelogin-nothere\"", "install it"][..]),
        (
            "context",
            kubeconfig("server: 'https://127.0.0.1:1'", "token: t").replace("current-context: x\n", ""),
            &["the kubeconfig context: it has no current-context"],
        ),
        ("broken", "a: [".to_owned(), &["the kubeconfig broken: it cannot be read"]),
        (
            "authority",
            kubeconfig("server: 'https://127.0.0.1:1', certificate-authority: /nowhere", "token: t"),
            &["authority: its certificate-authority cannot be read"],
        ),
        (
            "host",
            kubeconfig("server: 'https://api.nowhere.invalid:6443'", "token: t"),
            &["DNS knows no address of the API server's host", "check the server in the kubeconfig"],
        ),
    ] {
        files.add(name, &text);
        let answer = asked(&files, name);
        assert_eq!(answer.code, 5, "{name}: {}", answer.err);
        for says in says {
            assert!(answer.err.contains(says), "{name}: {}", answer.err);
        }
        for rust in ["os error", "dns error", "Connect)", "auth exec"] {
            assert!(!answer.err.contains(rust), "{name}: {}", answer.err);
        }
    }
    let agent = files.command(&["agent", "--node", "n", "--once", "--kubeconfig", "broken"]).output().unwrap();
    assert!(matches!(agent.status.code(), Some(5 | 2)), "{agent:?}");
}

#[test]
fn a_reader_that_closes_standard_error_ends_no_command() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c}]}\n";
    for (files, command, code) in
        [(Files::of(pod), "matrix", 0), (Files::of(SHOP), "nonsense", 2), (Files::of("a: ["), "matrix", 2)]
    {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = files.command(&[command, "-f", "in.yaml"]);
        let status = command.stdout(Stdio::null()).stderr(writer).status().unwrap();
        assert_eq!(status.code(), Some(code), "{command:?}");
    }
}

#[test]
fn an_empty_standard_input_is_an_error() {
    let files = Files::of("");
    for command in ["lint", "matrix"] {
        let output = files.command(&[command, "-f", "-"]).stdin(Stdio::null()).output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{command}: {err}");
        assert!(err.contains("standard input is empty") && err.contains("nothing was judged"), "{err}");
    }
}

#[test]
fn the_agent_says_what_helps_where_it_has_no_manifests() {
    let files = Files::of("a: [");
    std::fs::create_dir(files.path().join("empty")).unwrap();
    std::fs::create_dir(files.path().join("broken")).unwrap();
    files.add("broken/x.yaml", "a: [");
    for (folder, says) in [("empty", "--allow-empty"), ("broken", "nothing is enforced; correct it")] {
        let answer = files.run(&["agent", "--node", "n", "--once", "--manifests", folder]);
        // Without the right to enforce anything it ends sooner.
        assert_ne!(answer.code, 0, "{}", answer.err);
        assert!(!answer.err.contains("--allow-errors"), "{}", answer.err);
        if answer.code == 2 {
            assert!(answer.err.contains(says), "{folder}: {}", answer.err);
        }
    }
}

#[test]
fn flags_that_would_do_nothing_are_refused_with_what_to_do() {
    let files = Files::of("");
    std::fs::create_dir(files.path().join("empty")).unwrap();
    for (words, says) in [
        (
            &["agent", "--manifests", "empty", "--hold-removals", "5"][..],
            "--hold-removals does nothing with --manifests",
        ),
        (&["agent", "--manifests", "empty", "--relist-spread", "5"], "--relist-spread does nothing"),
        (&["agent", "--manifests", "empty", "--watch-timeout", "50"], "--watch-timeout does nothing"),
        (&["agent", "--manifests", "empty", "--remove-startup-taint"], "--remove-startup-taint does nothing"),
        (&["agent", "--allow-empty"], "--allow-empty does nothing without --manifests"),
        (&["cleanup", "--cni-bin-dir", "/x"], "--cni-bin-dir does nothing without --cni"),
        (&["cleanup", "--cni-conf-dir", "/x"], "--cni-conf-dir does nothing without --cni"),
        (&["agent", "--manifests", "empty", "--log-level", "loud"], "loud is not a log level"),
    ] {
        let answer = files.run(words);
        assert_eq!(answer.code, 2, "{words:?}: {}", answer.err);
        assert!(answer.err.contains(says), "{words:?}: {}", answer.err);
    }
}

#[test]
fn the_helps_of_commands_for_nodes_begin_with_examples_and_have_limits_and_exit_codes() {
    let files = Files::of("");
    for (command, limits) in [
        ("agent", &["10 to 110", "0 to 600", "3600 at most", "1 to 86400"][..]),
        ("install-cni", &["1 to 100", "1 to 600"]),
        ("cleanup", &[]),
    ] {
        let help = files.run(&[command, "--help"]).out;
        assert!(help.starts_with("Examples:\n  npc "), "{help}");
        // Lines of help are wrapped.
        let text = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for says in limits.iter().chain(&["Exit codes: 0 "]) {
            assert!(text.contains(says), "{command} lacks {says}: {help}");
        }
    }
}
