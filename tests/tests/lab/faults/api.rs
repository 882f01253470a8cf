//! The API server is gone.

use std::time::Duration;

use npc_compiler::object::{Objects, Pod};
use npc_tests::apiserver::Server;
use npc_tests::lab::{Backend, Mode};
use npc_tests::soak::{Editor, SoakLab};

use super::{PODS, all_is_well, builder, edit, logs, start};

/// All rules and sets of a node, without counts.
fn kernel(soak: &SoakLab, node: &str, backend: Backend) -> String {
    let netns = soak.lab().node(node).unwrap();
    let save = ["iptables", "ip6tables"].map(|family| format!("{family}-{}-save", backend.as_str()));
    let rules = save.map(|program| netns.exec([&*program], "").unwrap()).concat();
    let mut sets: Vec<String> = netns.exec(["ipset", "save"], "").unwrap().lines().map(str::to_owned).collect();
    sets.sort_unstable();
    let rules = rules.lines().filter(|line| !line.starts_with('#'));
    let rules: Vec<&str> = rules.map(|line| line.split(" [").next().unwrap_or_default()).collect();
    format!("{}\n{}", rules.join("\n"), sets.join("\n"))
}

/// Pods of other nodes are replaced by others, with other addresses.
fn replace_far_pods(objects: &mut Objects, editor: &mut Editor, round: usize) {
    const FAR: usize = 12;
    let pattern: Vec<Pod> = objects.pods.iter().filter(|pod| !is_far(pod)).cloned().collect();
    objects.pods.retain(|pod| !is_far(pod));
    for number in 0..FAR {
        let mut pod = pattern[editor.below(pattern.len())].clone();
        pod.name = format!("far-{round}-{number}");
        pod.uid.clone_from(&pod.name);
        pod.node = Some("elsewhere".to_owned());
        pod.ipv4 = format!("198.18.{round}.{number}").parse().ok();
        pod.ipv6 = format!("fd00:99::{round:x}:{number:x}").parse().ok();
        objects.pods.push(pod);
    }
}

fn is_far(pod: &Pod) -> bool {
    pod.node.as_deref() == Some("elsewhere")
}

/// Pods, labels and policies change while no agent can know; they keep what
/// was, and follow when the server is back.
fn the_api_server_is_gone_for_a_whole_rollout(backend: Backend, mode: Mode, seed: u64) {
    const EDITS: usize = 4;
    let mut editor = Editor::new(seed);
    let Some(builder) = builder(editor.cluster(PODS), backend, mode) else { return };
    let mut soak = start(builder.api_server(Server::in_process()));
    edit(&mut soak, &mut editor);
    let nodes = soak.nodes();
    for (round, forgotten) in [false, true].into_iter().enumerate() {
        edit(&mut soak, &mut editor);
        let of = |soak: &mut SoakLab, node: &String| soak.lab_mut().agent(node).unwrap().unwrap().pid();
        let processes: Vec<u32> = nodes.iter().map(|node| of(&mut soak, node)).collect();
        let before: Vec<String> = nodes.iter().map(|node| kernel(&soak, node, backend)).collect();
        soak.lab().api_server().unwrap().stop();
        for step in 0..EDITS {
            let mut objects = editor.edit(&soak.objects()).objects;
            replace_far_pods(&mut objects, &mut editor, EDITS * round + step);
            soak.write_without_answer(objects).unwrap();
            soak.wait(Duration::from_millis(500)).unwrap();
        }
        for (node, before) in nodes.iter().zip(&before) {
            assert_eq!(&kernel(&soak, node, backend), before, "{node} knows of nothing");
            let failures = soak.lab().metric(node, "npc_watch_failures_total").unwrap();
            assert!(failures >= 4.0, "{failures} failures of 4 watches");
        }
        assert!(!before.contains(&String::new()));
        soak.receive(forgotten).unwrap();
        soak.settle().unwrap();
        for (index, node) in nodes.iter().enumerate() {
            assert_ne!(kernel(&soak, node, backend), before[index], "{node} follows");
            let log = soak.lab().log(node).unwrap();
            let said = |what: &str| log.matches(what).count();
            assert!(said("lost the watch; what is in the kernel stays as it is") > round, "{log}");
            assert!(said("watching again") > round, "{log}");
        }
        let after: Vec<u32> = nodes.iter().map(|node| of(&mut soak, node)).collect();
        assert_eq!(after, processes, "none was started anew\n{}", logs(&soak));
    }
    edit(&mut soak, &mut editor);
    all_is_well(soak);
}

#[test]
fn the_api_server_is_gone_for_a_whole_rollout_nft() {
    the_api_server_is_gone_for_a_whole_rollout(Backend::Nft, Mode::Routed, 20);
}

#[test]
fn the_api_server_is_gone_for_a_whole_rollout_legacy() {
    the_api_server_is_gone_for_a_whole_rollout(Backend::Legacy, Mode::Bridge, 21);
}
