//! What a kernel holds, by its dumps, beside what the policies ask for.

use super::{CLUSTER, OFFLINE, chain, chain_of_port, dumps, origin, peers};
use crate::Files;

/// Rules that the input's policies do not ask for are told by their comments.
#[test]
fn a_kernel_of_other_policies_is_explained_by_its_comments() {
    let files = Files::of(CLUSTER);
    let (kernel, chain) = (dumps(&files), chain(&files));
    files.add("in.yaml", &CLUSTER.replace("port: 5432", "port: 5433"));
    let answer = files.npc("why", &[&[chain.as_str()], &OFFLINE[..], &kernel[..]].concat());
    assert_eq!(answer.code, 0, "{}", answer.err);
    assert!(answer.out.contains("in the kernel; the policies of the input do not ask for it"), "{}", answer.out);
    assert!(answer.out.contains("networkpolicy shop/db, networkpolicy shop/default-deny"), "{}", answer.out);
    assert!(answer.out.contains(&origin().replace(" in.", "  in.")), "{}", answer.out);
}

/// A file of the folder, changed.
fn change(files: &Files, name: &str, change: impl Fn(&str) -> String) {
    let text = std::fs::read_to_string(files.path().join(name)).unwrap();
    files.add(name, &change(&text));
}

/// The text without this line.
fn without_line(text: &str, line: &str) -> String {
    assert!(text.lines().any(|one| one == line), "{line}\n{text}");
    text.lines().filter(|one| *one != line).flat_map(|one| [one, "\n"]).collect()
}

#[test]
fn an_address_is_led_as_the_kernel_leads_it_and_not_as_the_policies_ask() {
    let files = Files::of(CLUSTER);
    let (kernel, old) = (dumps(&files), chain(&files));
    let ask = |kernel: &[&str], format: &[&str]| {
        let answer = files.npc("why", &[&["10.0.0.2"], &OFFLINE[..], kernel, format].concat());
        assert_eq!(answer.code, 0, "{}", answer.err);
        answer
    };
    let json = ask(&kernel, &["-o", "json"]).json();
    assert_eq!(
        (&json["chains"][0]["chain"], &json["differs"]),
        (&old.as_str().into(), &serde_json::json!([])),
        "{json}"
    );
    // The kernel is of policies before an edit.
    files.add("in.yaml", &CLUSTER.replace("port: 5432", "port: 5433"));
    let new = chain_of_port(&files, 5433);
    let json = ask(&kernel, &["-o", "json"]).json();
    assert_eq!(json["chains"][0]["chain"], old.as_str(), "{json}");
    assert_eq!(json["chains"][0]["wanted"], new.as_str(), "{json}");
    assert_eq!(json["policies"][0]["policy"], "shop/db", "by the comments of the kernel's rules: {json}");
    let text = ask(&kernel, &[]).out;
    assert!(
        text.contains(&format!("now      ingress: the kernel leads it to {old}, the policies of the input to {new}"))
    );
    // Without the kernel's sets that cannot be known.
    let text = ask(&kernel[..4], &[]).out;
    assert!(text.contains("the kernel's sets were not read") && text.contains(&new), "{text}");
    // The kernel does not isolate it at all.
    files.add("in.yaml", CLUSTER);
    change(&files, "sets.save", |sets| without_line(sets, "add npc4-ingress 10.0.0.2"));
    let text = ask(&kernel, &[]).out;
    assert!(text.contains(&format!("the kernel leads it to no chain, the policies of the input to {old}")), "{text}");
    assert!(text.contains("judged by no chain"), "{text}");
}

#[test]
fn an_address_of_several_pods_is_judged_by_the_policies_of_them_all() {
    let twin = "\
---
apiVersion: v1
kind: Pod
metadata: {name: twin, namespace: shop, labels: {app: twin}}
spec: {nodeName: n1, containers: [{name: c}]}
status: {phase: Running, podIP: 10.0.0.2}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: twin, namespace: shop}
spec: {podSelector: {matchLabels: {app: twin}}, ingress: [{ports: [{port: 99}]}]}
";
    let files = Files::of(&format!("{CLUSTER}{twin}"));
    let (db, twin) = (chain_of_port(&files, 5432), chain_of_port(&files, 99));
    for kernel in [vec![], dumps(&files)] {
        let json = files.npc("why", &[&["10.0.0.2", "-o", "json"], &OFFLINE[..], &kernel[..]].concat()).json();
        let joint = json["chains"][0]["chain"].as_str().unwrap().to_owned();
        assert!(joint != db && joint != twin, "{json}");
        assert_eq!(json["chains"][0]["policies"], serde_json::json!(["shop/db", "shop/default-deny", "shop/twin"]));
        // The chain that leads to both.
        let json = files.npc("why", &[&[joint.as_str(), "-o", "json"], &OFFLINE[..], &kernel[..]].concat()).json();
        let rules = json["rules"].to_string();
        assert!(rules.contains(&db) && rules.contains(&twin), "{json}");
        assert_eq!(json["policies"].as_array().unwrap().len(), 3, "{json}");
    }
}

#[test]
fn a_rule_that_the_policies_do_not_ask_for_is_not_wanted_because_its_chain_is() {
    let files = Files::of(CLUSTER);
    let (kernel, chain) = (dumps(&files), chain(&files));
    let foreign = format!("-A {chain} -m mark --mark 0x1 -j ACCEPT");
    let ours = format!("-A {chain} -p tcp -m tcp --dport 9 -j RETURN");
    change(&files, "v4.save", |save| save.replace("COMMIT", &format!("{foreign}\n{ours}\nCOMMIT")));
    for (line, code, owner) in [(&foreign, 3, None), (&ours, 0, Some("npc"))] {
        let answer = files.npc("why", &[&[line.as_str(), "-o", "json"], &OFFLINE[..], &kernel[..]].concat());
        let json = answer.json();
        assert_eq!((&json["held"], &json["wanted"]), (&true.into(), &false.into()), "{json}");
        assert_eq!((answer.code, json["owner"].as_str()), (code, owner), "{json}");
    }
    let text = files.npc("why", &[&[chain.as_str()], &OFFLINE[..], &kernel[..]].concat()).out;
    assert!(text.contains("the kernel has other rules in it than the policies of the input ask for"), "{text}");
}

#[test]
fn the_hook_is_where_the_dump_has_it() {
    let files = Files::of(CLUSTER);
    let kernel = dumps(&files);
    let (jump, other) = ("-A FORWARD -j NPC-FORWARD\n", "-A FORWARD -j KUBE-FORWARD\n");
    let saves = ["v4.save", "v6.save"].map(|name| (name, std::fs::read_to_string(files.path().join(name)).unwrap()));
    let ask = |forward: [Option<&[&str]>; 2]| {
        for ((name, save), rules) in saves.iter().zip(forward) {
            let declared = rules.map(|rules| format!("*filter\n:FORWARD ACCEPT [0:0]\n{}", rules.concat()));
            files.add(name, &declared.map_or_else(|| save.clone(), |all| save.replacen("*filter\n", &all, 1)));
        }
        let thing = "-A FORWARD -j NPC-FORWARD";
        let json = files.npc("why", &[&[thing, "-o", "json"], &OFFLINE[..], &kernel[..]].concat()).json();
        let text = files.npc("why", &[&[thing], &OFFLINE[..], &kernel[..]].concat()).out;
        (json["held"].as_bool(), text)
    };
    let (held, text) = ask([Some(&[jump, other]), Some(&[jump])]);
    assert_eq!((held, text.contains("first in FORWARD"), text.contains("now")), (Some(true), true, false), "{text}");
    let (held, text) = ask([Some(&[jump]), Some(&[other, jump])]);
    assert_eq!((held, text.contains("IPv6: in FORWARD 1 times and not")), (Some(true), true), "{text}");
    assert!(!text.contains("IPv4: "), "{text}");
    let (held, text) = ask([Some(&[other]), Some(&[jump])]);
    assert_eq!((held, text.contains("IPv4: not in FORWARD")), (Some(false), true), "{text}");
    let (held, text) = ask([None, Some(&[jump])]);
    assert_eq!((held, text.contains("IPv4: npc could not read FORWARD")), (None, true), "{text}");
}

/// Names of policies stand in comments.
#[test]
fn no_policys_name_changes_the_family_of_a_dump() {
    let files = Files::of(&CLUSTER.replace("name: db,", "name: npc6-db,"));
    let (kernel, chain) = (dumps(&files), chain(&files));
    let json = files.npc("why", &[&[chain.as_str(), "-o", "json"], &OFFLINE[..], &kernel[..]].concat()).json();
    assert_eq!((&json["families"], &json["held"]), (&serde_json::json!(["IPv4"]), &true.into()), "{json}");
    // Also of a rule that the kernel does not hold.
    let rule = format!("-A {chain} -p tcp -m comment --comment \"shop/npc6-db spec.ingress[7]\" -j RETURN");
    let json = files.npc("why", &[&[rule.as_str(), "-o", "json"], &OFFLINE[..], &kernel[..]].concat()).json();
    assert_eq!(json["families"], serde_json::json!(["IPv4"]), "{json}");
}

#[test]
fn the_secret_of_the_flag_counts_beside_dumps_that_do_not_show_it() {
    const SEED: &str = "abcdefghijklmnop";
    let files = Files::of(&format!("{CLUSTER}---\n{}", CLUSTER.replace("shop", "other").replace("10.0.0.", "10.0.1.")));
    let seed = ["--seed", SEED];
    for (name, part) in [("v4.save", "iptables"), ("sets.save", "ipset")] {
        let of = ["-o", "iptables", "--node", "n1", "--only", part];
        files.add(name, &files.npc("compile", &[&of[..], &seed].concat()).out);
    }
    let save = std::fs::read_to_string(files.path().join("v4.save")).unwrap();
    let rule = save.lines().find(|line| line.starts_with("-A NPC-INGRESS -m set")).expect("a dispatch tree").to_owned();
    let ask = |with: &[&str]| {
        files.npc("why", &[&[rule.as_str(), "--iptables-save", "v4.save"], &OFFLINE[..], with].concat())
    };
    let unknown = "the secret of the node is not known";
    let text = ask(&seed).out;
    assert!(!text.contains("do not ask for it") && !text.contains(unknown), "{text}");
    let text = ask(&["--ipset-save", "sets.save"]).out;
    assert!(!text.contains("do not ask for it") && !text.contains(unknown), "{text}");
    assert!(ask(&[]).out.contains(unknown));
}

/// A dump may hold any text.
#[test]
fn no_count_in_a_comment_is_too_large_to_read() {
    let files = Files::of(CLUSTER);
    let kernel = dumps(&files);
    let chain = "NPC-I-aaaaaaaaaaaaaaaa";
    for count in [u64::from(u32::MAX), u64::MAX] {
        let comment = format!("Ingress isolated by a/b, +{count} more, +{count} more");
        let rule = format!("-A {chain} -m comment --comment \"{comment}\" -g NPC-DENY-INGRESS");
        files.add("v4.save", &format!("*filter\n:{chain} - [0:0]\n{rule}\nCOMMIT\n"));
        let answer = files.npc("why", &[&[chain], &OFFLINE[..], &kernel[..2]].concat());
        assert_eq!(answer.code, 0, "{}", answer.err);
    }
}

#[test]
fn a_dump_with_counts_says_what_one_without_says() {
    let files = Files::of(CLUSTER);
    let (kernel, chain, peers) = (dumps(&files), chain(&files), peers(&files));
    for name in ["v4.save", "v6.save"] {
        change(&files, name, |save| {
            save.replacen("*filter\n", "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j NPC-FORWARD\n", 1)
        });
    }
    let save = std::fs::read_to_string(files.path().join("v4.save")).unwrap();
    let rule = save.lines().find(|line| line.starts_with(&format!("-A {chain} "))).unwrap();
    let things = [&chain, rule, &peers, "10.0.0.2", "-A FORWARD -j NPC-FORWARD"];
    let ask = || things.map(|thing| files.npc("why", &[&[thing], &OFFLINE[..], &kernel[..]].concat()).out);
    let plain = ask();
    assert!(plain[0].contains("rule 1") && !plain[0].contains("  now  "), "{}", plain[0]);
    for name in ["v4.save", "v6.save"] {
        change(&files, name, |save| save.replace("\n-A ", "\n[12:720] -A "));
    }
    for (plain, counted) in plain.iter().zip(ask()) {
        assert_eq!(plain, &counted);
    }
}
