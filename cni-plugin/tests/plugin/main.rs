//! The binary, called as a runtime calls it, before an agent that the test plays.

#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

mod node;

use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use npc_cni::note;
use npc_cni::protocol::{Answer, Command as Asked, Reason, Request};
use serde_json::{Value, json};

use node::*;

#[test]
fn an_add_reports_to_the_agent_and_passes_the_result_on_untouched() {
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let node = Node::new();
        let agent = node.agent(vec![Answer::done()]);
        let output = call("ADD", &node.configuration(version, &json!({}), Some(PREVIOUS)));
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), PREVIOUS);
        let requests = agent.join().unwrap();
        let Asked::Add(add) = &requests[0].command else { panic!("{requests:?}") };
        let addresses: Vec<String> = add.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.0.0.5", "fd00::5"]);
        assert_eq!([&*add.namespace, &*add.name, add.uid.as_deref().unwrap()], ["shop", "web-0", "u1"]);
        assert_eq!([&*add.attachment.container_id, &*add.attachment.interface, &*add.network], ["c1", "eth0", "net"]);
        assert!((1..=30_000).contains(&add.wait));
    }
}

#[test]
fn an_ipv6_only_pod_and_one_without_addresses_start() {
    let node = Node::new();
    let agent = node.agent(vec![Answer::done()]);
    let v6 = r#"{"ips":[{"address":"fd00::5/64"},{"address":"fe80::5/64"}]}"#;
    assert!(call("ADD", &node.configuration("0.3.1", &json!({}), Some(v6))).status.success());
    let requests = agent.join().unwrap();
    assert!(
        matches!(&requests[0].command, Asked::Add(add) if add.addresses == ["fd00::5".parse::<std::net::IpAddr>().unwrap()])
    );
    // The agent is not asked.
    let output = call("ADD", &node.configuration("1.0.0", &json!({}), Some("{}")));
    assert!(output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("has no address"));
}

#[test]
fn without_an_agent_an_add_fails_with_11_after_its_time() {
    let node = Node::new();
    let input = node.configuration("1.1.0", &json!({"timeoutSeconds": 1}), Some(PREVIOUS));
    let (code, message) = error(&call("ADD", &input));
    assert_eq!(code, 11);
    for part in ["shop/web-0", "in the kernel after ", "kubelet tries again", "No such file", "npc agent of this node"]
    {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert_eq!(node.notes(), []);
    // A socket that takes connections and sends nothing.
    let _silent = UnixListener::bind(&node.socket).unwrap();
    let (code, message) = error(&call("ADD", &input));
    assert_eq!(code, 11);
    assert!(message.contains("did not answer in time"), "{message}");
}

#[test]
fn an_agent_that_comes_in_time_is_found() {
    let node = Node::new();
    let input = node.configuration("1.0.0", &json!({"timeoutSeconds": 100}), Some(PREVIOUS));
    let plugin = thread::spawn(move || call("ADD", &input));
    // The first one ends before it answers.
    let listener = UnixListener::bind(&node.socket).unwrap();
    drop(listener.accept().unwrap());
    drop(listener);
    fs::remove_file(&node.socket).unwrap();
    node.agent(vec![Answer::done()]).join().unwrap();
    assert!(plugin.join().unwrap().status.success());
}

#[test]
fn the_agents_reason_is_in_the_error() {
    let node = Node::new();
    let agent = node.agent(vec![Answer::refused(Reason::Malformed, "the moon is full")]);
    let (code, message) = error(&call("ADD", &node.configuration("1.0.0", &json!({}), Some(PREVIOUS))));
    // The time that has passed, and not the time that there was.
    assert!(
        code == 11 && message.contains("kubelet tries again. The moon is full. Is") && message.contains("after 0."),
        "{message}"
    );
    agent.join().unwrap();
}

/// One that has too much to do says so at once.
#[test]
fn an_agent_that_has_no_time_yet_is_asked_again() {
    let busy = || Answer::refused(Reason::Timeout, "4096 requests wait");
    for settings in [json!({"timeoutSeconds": 100}), json!({"timeoutSeconds": 100, "failurePolicy": "open"})] {
        let node = Node::new();
        let agent = node.agent(vec![busy(), busy(), Answer::done()]);
        let output = call("ADD", &node.configuration("1.0.0", &settings, Some(PREVIOUS)));
        assert!(output.status.success(), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
        let waited = agent.join().unwrap().into_iter().map(|request| match request.command {
            Asked::Add(add) => add.waited,
            other => panic!("{other:?}"),
        });
        assert!(waited.is_sorted());
        assert_eq!(node.notes(), []);
    }
    // One that says so until the end.
    let node = Node::new();
    let listener = UnixListener::bind(&node.socket).unwrap();
    thread::spawn(move || listener.incoming().for_each(|stream| drop(serve(&stream.unwrap(), &busy()))));
    let (code, message) =
        error(&call("ADD", &node.configuration("1.0.0", &json!({"timeoutSeconds": 1}), Some(PREVIOUS))));
    assert!(code == 11 && message.contains("4096 requests wait"), "{message}");
}

#[test]
fn open_namespaces_and_an_open_policy_start_pods_and_leave_a_note() {
    for settings in [
        json!({"timeoutSeconds": 1, "failurePolicy": "open"}),
        json!({"timeoutSeconds": 1, "openNamespaces": ["a", "shop"]}),
    ] {
        let node = Node::new();
        let output = call("ADD", &node.configuration("1.0.0", &settings, Some(PREVIOUS)));
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), PREVIOUS);
        let notes = node.notes();
        assert!(matches!(&notes[0].command, Asked::Add(add) if add.name == "web-0"), "{notes:?}");
        // No agent read it before the DEL, so no agent has to know of this pod.
        assert!(call("DEL", &node.configuration("1.0.0", &settings, None)).status.success());
        assert_eq!(node.notes(), []);
        // If one did, a DEL takes the place of the note.
        assert!(call("ADD", &node.configuration("1.0.0", &settings, Some(PREVIOUS))).status.success());
        node.sandboxes("c1");
        assert!(call("DEL", &node.configuration("1.0.0", &settings, None)).status.success());
        let notes = node.notes();
        assert!(matches!(&notes[..], [Request { command: Asked::Delete { .. }, .. }]), "{notes:?}");
    }
    let node = Node::new();
    let closed = json!({"timeoutSeconds": 1, "openNamespaces": ["kube-system"]});
    assert_eq!(error(&call("ADD", &node.configuration("1.0.0", &closed, Some(PREVIOUS)))).0, 11);
}

/// For how long a DEL may take.
const LONGEST_DEL: Duration = Duration::from_secs(1);

/// Its runtime was started again and has removed the sandbox. There is nothing left to start, even with settings that
/// let pods start without an agent.
#[test]
fn an_add_ends_with_its_network_namespace_and_leaves_no_note() {
    for is_silent in [false, true] {
        let node = Node::new();
        // An agent that takes the request and does not answer, or none.
        let _agent = is_silent.then(|| UnixListener::bind(&node.socket).unwrap());
        let netns = node.socket.with_file_name("netns");
        fs::write(&netns, "").unwrap();
        let path = netns.to_str().unwrap();
        let environment = ENVIRONMENT.map(|(name, value)| (name, if name == "CNI_NETNS" { path } else { value }));
        let settings = json!({"timeoutSeconds": 100, "failurePolicy": "open"});
        let previous = r#"{"ips":[{"address":"10.0.0.5/24"}]}"#;
        let input = node.configuration("1.0.0", &settings, Some(previous));
        let mut plugin = start("ADD", &environment, input.as_bytes());
        thread::sleep(Duration::from_millis(500));
        assert!(plugin.try_wait().unwrap().is_none(), "it waits");
        fs::remove_file(&netns).unwrap();
        let (code, message) = error(&plugin.wait_with_output().unwrap());
        assert_eq!(code, 3);
        assert!(message.contains("c1") && message.contains("shop/web-0") && message.contains("CNI_NETNS"), "{message}");
        assert_eq!(node.notes(), []);
    }
}

#[test]
fn a_del_and_a_gc_take_values_of_wrong_types() {
    for (key, value) in [
        ("name", json!(7)),
        ("conflist", json!([])),
        ("timeoutSeconds", json!(0)),
        ("failurePolicy", json!({})),
        ("openNamespaces", json!("kube-system")),
    ] {
        let node = Node::new();
        node.sandboxes("c1");
        let input = node.configuration("1.1.0", &json!({key: value, "cni.dev/valid-attachments": []}), None);
        let output = call("DEL", &input);
        assert!(output.status.success(), "{key}: {output:?}");
        assert_eq!(node.notes().len(), 1, "{key}");
        assert!(call_with("GC", &[], input.as_bytes()).status.success(), "{key}");
        // What starts a pod says what is wrong.
        let input = node.configuration("1.1.0", &json!({key: value}), Some(PREVIOUS));
        let (code, message) = error(&call("ADD", &input));
        assert!(code == 7 && message.contains(key), "{message}");
    }
}

/// As plugins of before 0.3.0 write it, for every version that they are asked for.
#[test]
fn the_addresses_of_a_result_of_the_oldest_shape_are_reported() {
    let previous = r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.5/24"},"ip6":{"ip":"fd00::5/64"}}"#;
    for version in ["0.3.0", "1.0.0"] {
        for settings in [json!({}), json!({"failurePolicy": "open"}), json!({"openNamespaces": ["shop"]})] {
            let node = Node::new();
            let agent = node.agent(vec![Answer::done()]);
            let output = call("ADD", &node.configuration(version, &settings, Some(previous)));
            assert!(output.status.success(), "{output:?}");
            assert_eq!(String::from_utf8(output.stdout).unwrap(), previous);
            // Without a request the agent would wait for ever.
            assert!(!String::from_utf8(output.stderr).unwrap().contains("has no address"), "{version} {settings}");
            let requests = agent.join().unwrap();
            let Asked::Add(add) = &requests[0].command else { panic!("{requests:?}") };
            let addresses: Vec<String> = add.addresses.iter().map(ToString::to_string).collect();
            assert_eq!(addresses, ["10.0.0.5", "fd00::5"]);
        }
        let node = Node::new();
        let closed = node.configuration(version, &json!({"timeoutSeconds": 1}), Some(previous));
        assert_eq!(error(&call("ADD", &closed)).0, 11, "without an agent it does not start");
    }
}

#[test]
fn a_pod_whose_addresses_are_not_known_to_be_its_own_does_not_start() {
    let node = Node::new();
    for (sandbox, index) in [("/proc/self/ns/net", 0), ("/run/netns/pod", 17)] {
        let previous = json!({
            "interfaces": [{"name": "eth0", "sandbox": sandbox}], "ips": [{"address": "10.0.0.5/24", "interface": index}],
        });
        let input = node.configuration("1.0.0", &json!({"timeoutSeconds": 1}), Some(&previous.to_string()));
        let (code, message) = error(&call("ADD", &input));
        assert!(code == 6 && message.contains("10.0.0.5") && message.contains("CNI_NETNS"), "{message}");
    }
}

#[test]
fn a_pod_whose_addresses_are_unknown_starts_unreported_where_its_policies_may_wait() {
    let node = Node::new();
    // Of one family only: if the agent knew it alone, the other would stay open.
    let half = r#"{"interfaces":[{"name":"eth0","sandbox":"/run/netns/pod"}],
        "ips":[{"address":"10.0.0.5/24","interface":0},{"address":"fd00::5/64","interface":7}]}"#;
    let add = |settings: &Value| call("ADD", &node.configuration("1.0.0", settings, Some(half)));
    for settings in [json!({"failurePolicy": "open"}), json!({"openNamespaces": ["a", "shop"]})] {
        let output = add(&settings);
        assert!(output.status.success(), "{settings}: {output:?}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), half);
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(log.contains("fd00::5") && log.contains("the API reports"), "{log}");
    }
    assert!(node.notes().is_empty());
    for settings in [json!({}), json!({"openNamespaces": ["kube-system"]})] {
        assert_eq!(error(&add(&settings)).0, 6, "{settings}");
    }
}

#[test]
fn a_del_succeeds_with_any_fault() {
    let node = Node::new();
    // No agent, no prevResult, no namespace any more, a wrong setting.
    let input = node.configuration("0.3.0", &json!({"failurePolicy": 7}), None);
    let environment = [("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0")];
    node.sandboxes("c1");
    for _ in 0..2 {
        let output = call_within(LONGEST_DEL, "DEL", &environment, input.as_bytes());
        assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    }
    assert_eq!(node.notes().len(), 1);
    // A version that the plugin does not speak, or none: the file was changed since the ADD.
    for version in [json!("0.2.0"), json!("1.2.0"), json!(7), json!(null)] {
        fs::remove_dir_all(note::folder(&node.socket)).unwrap();
        let input = json!({"cniVersion": version, "name": "net", "type": "npc-cni", "socket": node.socket}).to_string();
        let output = call_within(LONGEST_DEL, "DEL", &environment, input.as_bytes());
        assert!(output.status.success() && output.stdout.is_empty(), "{version}: {output:?}");
        assert_eq!(node.notes().len(), 1, "{version}");
    }
    // An agent that sends nothing.
    let _silent = UnixListener::bind(&node.socket).unwrap();
    assert!(call_within(LONGEST_DEL, "DEL", &environment, input.as_bytes()).status.success());
    // No room for a note.
    fs::remove_dir_all(note::folder(&node.socket)).unwrap();
    fs::write(note::folder(&node.socket), "").unwrap();
    assert!(call_within(LONGEST_DEL, "DEL", &environment, input.as_bytes()).status.success());
}

#[test]
fn a_del_leaves_no_note_about_a_container_that_no_agent_knew() {
    let node = Node::new();
    let input = node.configuration("1.0.0", &json!({}), None);
    // No agent ran here yet; then one did, and knew another container.
    for _ in 0..2 {
        assert!(call("DEL", &input).status.success());
        assert_eq!(node.notes(), []);
        node.sandboxes("c12");
    }
    // Where the file cannot be read, an agent may know the container.
    fs::remove_file(node.socket.with_file_name("sandboxes.json")).unwrap();
    fs::create_dir(node.socket.with_file_name("sandboxes.json")).unwrap();
    assert!(call("DEL", &input).status.success());
    assert_eq!(node.notes().len(), 1);
}

#[test]
fn a_del_that_the_agent_takes_leaves_no_note() {
    let node = Node::new();
    let agent = node.agent(vec![Answer::done()]);
    assert!(call("DEL", &node.configuration("1.0.0", &json!({}), Some(PREVIOUS))).status.success());
    let requests = agent.join().unwrap();
    assert!(matches!(&requests[0].command, Asked::Delete { attachment } if attachment.container_id == "c1"));
    assert_eq!(node.notes(), []);
}

#[test]
fn status_depends_on_the_configuration_alone() {
    let node = Node::new();
    let begun = Instant::now();
    assert!(
        call_with("STATUS", &[], node.configuration("1.1.0", &json!({"timeoutSeconds": 100}), None).as_bytes())
            .status
            .success()
    );
    assert!(begun.elapsed().as_secs() < 100);
    assert_eq!(error(&call("STATUS", &node.configuration("1.1.0", &json!({"timeoutSeconds": 0}), None))).0, 7);
    assert_eq!(error(&call("STATUS", &node.configuration("1.0.0", &json!({}), None))).0, 4);
}

#[test]
fn a_check_asks_and_a_gc_reports() {
    let node = Node::new();
    let answers = vec![
        Answer::done(),
        Answer::refused(Reason::NotEnforced, "flushed"),
        Answer::refused(Reason::Unknown, "no such container"),
        Answer::done(),
    ];
    let agent = node.agent(answers);
    let input = node.configuration("1.1.0", &json!({}), Some(PREVIOUS));
    assert!(call("CHECK", &input).status.success());
    let (code, message) = error(&call("CHECK", &input));
    assert!(code == 11 && message.contains("flushed"), "{message}");
    assert_eq!(error(&call("CHECK", &input)).0, 3);
    let valid = json!({"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0", "x": 1}]});
    assert!(call_with("GC", &[], node.configuration("1.1.0", &valid, None).as_bytes()).status.success());
    let requests = agent.join().unwrap();
    assert!(matches!(&requests[3].command, Asked::Gc { network, valid } if network == "net" && valid.len() == 1));
    // libcni sends the list by the name of an earlier draft too.
    let both = json!({"cni.dev/valid-attachments": [], "cni.dev/attachments": []});
    fs::remove_file(&node.socket).unwrap();
    assert!(call("GC", &node.configuration("1.1.0", &both, None)).status.success());
    let agent = node.agent(vec![Answer::done()]);
    assert!(call("GC", &node.configuration("1.1.0", &both, None)).status.success());
    assert!(matches!(&agent.join().unwrap()[0].command, Asked::Gc { valid, .. } if valid.is_empty()));
    for version in ["0.4.0", "1.0.0"] {
        fs::remove_file(&node.socket).unwrap();
        let agent = node.agent(vec![Answer::done()]);
        let output = call("CHECK", &node.configuration(version, &json!({}), Some(PREVIOUS)));
        assert!(output.status.success(), "{version}");
        assert!(matches!(&agent.join().unwrap()[0].command, Asked::Check { .. }), "{version}");
    }
    // Older versions know neither.
    assert_eq!(error(&call("CHECK", &node.configuration("0.3.1", &json!({}), Some(PREVIOUS)))).0, 4);
    assert_eq!(error(&call("GC", &node.configuration("1.0.0", &valid, None))).0, 4);
    // Without an agent a GC succeeds, and a CHECK does not.
    let _ = fs::remove_file(&node.socket);
    assert!(call("GC", &node.configuration("1.1.0", &valid, None)).status.success());
    let input = node.configuration("1.1.0", &json!({"timeoutSeconds": 1}), Some(PREVIOUS));
    assert_eq!(error(&call("CHECK", &input)).0, 11);
}

#[test]
fn version_needs_nothing_else() {
    let output = call_with("VERSION", &[], br#"{"cniVersion":"1.0.0"}"#);
    let versions: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(versions["cniVersion"], "1.0.0");
    assert_eq!(versions["supportedVersions"].as_array().unwrap().len(), 5);
    // An old runtime gives it nothing to read.
    for input in ["", "\n", "{}"] {
        let output = call_with("VERSION", &[], input.as_bytes());
        assert!(output.status.success(), "{output:?}");
        let versions: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(versions["cniVersion"], "1.1.0");
    }
}

#[test]
fn bad_input_is_an_error_that_says_what_is_wrong() {
    let node = Node::new();
    let good = node.configuration("1.0.0", &json!({"timeoutSeconds": 1}), Some(PREVIOUS));
    let without = |name: &str| ENVIRONMENT.iter().filter(|(key, _)| *key != name).copied().collect::<Vec<_>>();
    for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"] {
        let (code, message) = error(&call_with("ADD", &without(name), good.as_bytes()));
        assert!(code == 4 && message.contains(name), "{message}");
    }
    let with = |name: &'static str, value: &'static str| [without(name), vec![(name, value)]].concat();
    for (name, value) in
        [("CNI_CONTAINERID", "../../../etc/cron.d/x"), ("CNI_IFNAME", "../eth0"), ("CNI_ARGS", "K8S_POD_NAME=x")]
    {
        assert_eq!(error(&call_with("ADD", &with(name, value), good.as_bytes())).0, 4, "{value}");
        let code = if name == "CNI_ARGS" {
            None
        } else {
            Some(error(&call_with("DEL", &with(name, value), good.as_bytes())).0)
        };
        assert_eq!(code.unwrap_or(4), 4);
    }
    for (input, expected) in [
        (&good[..good.len() / 2], 6),
        ("", 6),
        ("[]", 6),
        (r#"{"cniVersion":"0.2.0"}"#, 1),
        (r#"{"cniVersion":"9.0.0"}"#, 1),
        (r#"{"name":"net"}"#, 1),
        (&node.configuration("1.0.0", &json!({}), None), 7),
        (&node.configuration("1.0.0", &json!({"timeoutSeconds": 101}), Some(PREVIOUS)), 7),
        (&node.configuration("1.0.0", &json!({}), Some("[1]")), 6),
        (&node.configuration("1.0.0", &json!({}), Some(r#"{"ips":[{"address":"x"}]}"#)), 6),
    ] {
        assert_eq!(error(&call("ADD", input)).0, expected, "{input}");
    }
    for input in [vec![0xff; 100], vec![b'['; 1 << 20], vec![b' '; 5 << 20]] {
        assert_eq!(error(&call_with("ADD", &ENVIRONMENT, &input)).0, 6);
    }
    // What is right but for its length.
    let long = json!({"timeoutSeconds": 1, "pad": "x".repeat(5 << 20)});
    let (code, message) =
        error(&call_with("ADD", &ENVIRONMENT, node.configuration("1.0.0", &long, Some(PREVIOUS)).as_bytes()));
    assert!(code == 6 && message.contains("bytes"), "{code} {message}");
    assert_eq!(error(&call("DANCE", &good)).0, 4);
    assert_eq!(error(&call("", &good)).0, 4);
}

#[test]
fn a_hostile_answer_is_an_error_in_time() {
    // The last one is right but for its length.
    let long = format!("{{\"version\":1,\"pad\":\"{}\"}}\n", "x".repeat(17 << 10));
    for answer in ["", "{", "{}\n", "null\n", "{\"version\":1,\"error\":7}\n", &"x".repeat(1 << 20), &long] {
        let node = Node::new();
        let listener = UnixListener::bind(&node.socket).unwrap();
        let input = node.configuration("1.0.0", &json!({"timeoutSeconds": 1}), Some(PREVIOUS));
        let answer = answer.to_owned();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = stream.unwrap().write_all(answer.as_bytes());
            }
        });
        assert_eq!(error(&call("ADD", &input)).0, 11);
    }
}

#[test]
fn the_folder_of_notes_is_roots_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let node = Node::new();
    node.sandboxes("c1");
    assert!(call("DEL", &node.configuration("1.0.0", &json!({}), None)).status.success());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let folder = note::folder(&node.socket);
    assert_eq!(mode(&folder), 0o700);
    let file = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    assert_eq!(mode(&file), 0o600);
}

#[test]
fn without_the_installed_conflist_the_plugin_does_nothing() {
    let node = Node::new();
    let conflist = node.socket.with_file_name("05-npc.conflist");
    fs::write(&conflist, "{}").unwrap();
    let settings = json!({"timeoutSeconds": 1, "conflist": conflist});
    let configuration = node.configuration("1.0.0", &settings, Some(PREVIOUS));
    // There is no agent.
    assert_eq!(error(&call("ADD", &configuration)).0, 11);
    assert_eq!(error(&call("CHECK", &configuration)).0, 11);
    fs::remove_file(&conflist).unwrap();
    let output = call("ADD", &configuration);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), PREVIOUS);
    assert!(call("CHECK", &configuration).status.success());
    // Nor is anything about the pod wrong then.
    let odd = PREVIOUS.replace(r#""interface":0"#, r#""interface":17"#);
    assert_ne!(odd, PREVIOUS);
    let of_nobody = node.configuration("1.0.0", &settings, Some(&odd));
    assert!(call("ADD", &of_nobody).status.success() && call("CHECK", &of_nobody).status.success());
    assert!(call("DEL", &configuration).status.success());
    assert!(node.notes().is_empty());
    // An operator changed the name of the conflist, and the runtime still has what the old file
    // said. A copy is not the installer's.
    let entry = |conflist: &Path| json!({"type": "npc-cni", "conflist": conflist});
    let list = |conflist: &Path| json!({"plugins": [{"type": "ptp"}, entry(conflist)]}).to_string();
    let other = conflist.with_file_name("04-npc.conflist");
    for copy in [list(&conflist), list(Path::new("04-npc.conflist")), json!({"delegates": [entry(&other)]}).to_string()]
    {
        fs::write(&other, &copy).unwrap();
        assert!(call("ADD", &configuration).status.success(), "{copy}");
    }
    fs::write(&other, list(&other)).unwrap();
    assert_eq!(error(&call("ADD", &configuration)).0, 11);
    assert_eq!(error(&call("CHECK", &configuration)).0, 11);
    fs::remove_file(&other).unwrap();
    assert!(call("ADD", &configuration).status.success());
    // A path that depends on where the runtime runs says nothing.
    let relative = json!({"timeoutSeconds": 1, "conflist": "05-npc.conflist"});
    assert_eq!(error(&call("ADD", &node.configuration("1.0.0", &relative, Some(PREVIOUS)))).0, 11);
}
