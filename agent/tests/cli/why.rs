//! `npc why`.

mod dumps;

use crate::Files;

/// Two endpoints of one group, one that may ask them, and a policy for the rest.
pub(crate) const CLUSTER: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: db-0, namespace: shop, labels: {app: db}}
spec: {nodeName: n1, containers: [{name: c}]}
status: {phase: Running, podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: db-1, namespace: shop, labels: {app: db}}
spec: {nodeName: n1, containers: [{name: c}]}
status: {phase: Running, podIP: 10.0.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: api, namespace: shop, labels: {app: api}}
spec: {nodeName: n2, containers: [{name: c}]}
status: {phase: Running, podIP: 10.0.0.3}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: api}}}]
    ports: [{port: 5432}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: default-deny, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress]}
";

const OFFLINE: [&str; 2] = ["--node", "n1"];

/// The rule of the policy that admits api, and where it stands.
fn origin() -> String {
    let line = CLUSTER.lines().position(|line| line.starts_with("  - from:")).unwrap() + 1;
    format!("shop/db spec.ingress[0] in.yaml:{line}:5")
}

/// What `iptables-save` and `ipset save` would print on n1, in files of these names.
pub(crate) fn dumps(files: &Files) -> Vec<&'static str> {
    for (name, part) in [("v4.save", "iptables"), ("v6.save", "ip6tables"), ("sets.save", "ipset")] {
        let of = ["-o", "iptables", "--node", "n1", "--only", part];
        let text = files.npc("compile", &of).out;
        files.add(name, &text);
    }
    vec!["--iptables-save", "v4.save", "--iptables-save", "v6.save", "--ipset-save", "sets.save"]
}

/// The chain of the group of db, IPv4.
pub(crate) fn chain(files: &Files) -> String {
    chain_of_port(files, 5432)
}

/// The chain of the group that admits to a port, IPv4.
fn chain_of_port(files: &Files, port: u16) -> String {
    let text = files.npc("compile", &["-o", "iptables", "--node", "n1", "--only", "iptables"]).out;
    let line = text.lines().find(|line| line.starts_with("-A NPC-I-") && line.contains(&format!("--dport {port} ")));
    line.and_then(|line| line.split(' ').nth(1)).unwrap().to_owned()
}

fn peers(files: &Files) -> String {
    let text = files.npc("compile", &["-o", "iptables", "--node", "n1", "--only", "ipset"]).out;
    let line = text.lines().find(|line| line.starts_with("create npc4-p-"));
    line.and_then(|line| line.split(' ').nth(1)).unwrap().to_owned()
}

#[test]
fn a_chain_names_the_endpoints_that_it_judges_and_the_origin_of_each_rule() {
    let files = Files::of(CLUSTER);
    let chain = chain(&files);
    for kernel in [vec![], dumps(&files)] {
        let answer = files.npc("why", &[&[chain.as_str()], &OFFLINE[..], &kernel[..]].concat());
        assert_eq!(answer.code, 0, "{}", answer.err);
        let text = answer.out;
        let lines: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        let has = |line: &str| assert!(lines.iter().any(|one| one == line), "{line}\n{text}");
        has(&format!("{chain} group chain, ingress, IPv4, n1"));
        has("judges shop/db-0, shop/db-1 (10.0.0.1, 10.0.0.2)");
        has("because networkpolicy shop/db, networkpolicy shop/default-deny select them");
        has(&format!("rule 1 tcp 5432 from pods app=api of namespace shop {}", origin()));
        has("rule 3 everything else: denied");
        assert_eq!(text.contains("no kernel was read"), kernel.is_empty(), "{text}");
    }
}

#[test]
fn a_line_of_a_save_is_found_with_its_number_in_the_chain() {
    let files = Files::of(CLUSTER);
    let kernel = dumps(&files);
    let save = std::fs::read_to_string(files.path().join("v4.save")).unwrap();
    let chain = chain(&files);
    let of_chain: Vec<&str> = save.lines().filter(|line| line.starts_with(&format!("-A {chain} "))).collect();
    for (number, line) in (1..).zip(&of_chain) {
        for line in [(*line).to_owned(), format!("[12:720] {line}")] {
            let answer = files.npc("why", &[&[line.as_str(), "-o", "json"], &OFFLINE[..], &kernel[..]].concat());
            assert_eq!(answer.code, 0, "{}", answer.err);
            let json = answer.json();
            assert_eq!((&json["is"], &json["held"]), (&"rule".into(), &true.into()), "{json}");
            assert_eq!(json["rules"][0]["number"], number, "{json}");
            assert_eq!(json["judges"][0]["endpoint"], "shop/db-0", "{json}");
        }
    }
    // One that the kernel does not hold still says by its comment where it came from.
    let old = of_chain[0].replace("5432", "5433");
    let answer = files.npc("why", &[&[old.as_str(), "-o", "json"], &OFFLINE[..], &kernel[..]].concat());
    let json = answer.json();
    assert_eq!((answer.code, &json["held"], &json["rules"][0]["number"]), (3, &false.into(), &().into()), "{json}");
    assert_eq!(json["rules"][0]["origins"][0]["policy"], "shop/db", "{json}");
}

/// A rule as an agent without comments wrote it.
fn without_comment(line: &str) -> String {
    let Some((before, comment)) = line.split_once(" -m comment --comment ") else { return line.to_owned() };
    let end = comment[1..].find('"').unwrap() + 2;
    format!("{before}{}", &comment[end..])
}

#[test]
fn a_rule_that_an_older_agent_wrote_without_its_comment_is_known() {
    let files = Files::of(CLUSTER);
    dumps(&files);
    let save = std::fs::read_to_string(files.path().join("v4.save")).unwrap();
    let old: Vec<String> = save.lines().map(without_comment).collect();
    assert!(!old.iter().any(|line| line.contains("--comment")) && save.contains("--comment"), "{old:?}");
    let kernel = ["--iptables-save", "old.save", "--iptables-save", "v6.save", "--ipset-save", "sets.save"];
    let chain = chain(&files);
    let first = old.iter().find(|line| line.starts_with(&format!("-A {chain} "))).unwrap().clone();
    files.add("old.save", &(old.join("\n") + "\n"));
    for (thing, kernel) in [(&first, &kernel[..]), (&chain, &kernel[..]), (&first, &[][..])] {
        let answer = files.npc("why", &[&[thing.as_str(), "-o", "json"][..], &OFFLINE[..], kernel].concat());
        let json = answer.json();
        assert_eq!((answer.code, &json["wanted"]), (0, &true.into()), "{json}");
        assert_eq!(json["rules"][0]["origins"][0]["policy"], "shop/db", "{json}");
        assert_eq!(json["rules"][0]["number"], 1, "{json}");
        assert_eq!(json["differs"], serde_json::json!([]), "{json}");
    }
    // A rule that was really changed is named by its number.
    files.add("old.save", &old.join("\n").replace("--dport 5432", "--dport 5433"));
    let answer = files.npc("why", &[&[chain.as_str()], &OFFLINE[..], &kernel[..]].concat());
    assert!(answer.out.contains("rule 1 is not asked for"), "{}", answer.out);
}

#[test]
fn a_set_says_what_its_members_are_and_which_rules_ask_it() {
    let files = Files::of(CLUSTER);
    let peers = peers(&files);
    let text = files.npc("why", &[&[peers.as_str()], &OFFLINE[..]].concat()).out;
    let expected = format!(
        "{peers}  peer set: pods app=api of namespace shop, IPv4, n1\n  because  networkpolicy shop/db asks for it\n"
    );
    assert!(text.starts_with(&expected), "{text}");
    assert!(text.contains("rule 1") && text.contains(&origin().replace(" in.", "  in.")), "{text}");
    let text = files.npc("why", &["npc4-ingress", "--node", "n1"]).out;
    assert!(text.contains("isolated set") && text.contains("judges   shop/db-0, shop/db-1"), "{text}");
}

#[test]
fn an_address_says_which_chain_judges_it_and_which_sets_hold_it() {
    let files = Files::of(CLUSTER);
    let chain = chain(&files);
    // Its endpoint says which node.
    let text = files.npc("why", &["10.0.0.2"]).out;
    assert!(text.starts_with("10.0.0.2  address of an endpoint of this node, IPv4, n1\n"), "{text}");
    assert!(text.contains(&format!("  ingress  judged by {chain} (shop/db, shop/default-deny)\n")), "{text}");
    assert!(text.contains("  egress   not isolated"), "{text}");
    assert!(text.contains("npc4-ingress"), "{text}");
    let text = files.npc("why", &["10.0.0.3", "--node", "n1"]).out;
    assert!(text.contains("of node n2") && text.contains(&peers(&files)), "{text}");
    assert!(files.npc("why", &["203.0.113.9", "--node", "n1"]).out.contains("outside the cluster"));
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: db, namespace: shop}\n\
                   spec: {clusterIP: 10.96.0.20, ports: [{port: 5432}]}\n";
    let text = Files::of(&format!("{CLUSTER}\n{service}")).npc("why", &["10.96.0.20", "--node", "n1"]).out;
    assert!(text.starts_with("10.96.0.20  address of shop/svc/db, which kube-proxy translates"), "{text}");
}

#[test]
fn what_is_not_of_npc_is_said_to_be_whose_it_is() {
    let files = Files::of(CLUSTER);
    for (thing, says) in [
        ("KUBE-FORWARD", "kube-proxy"),
        ("AZURE-NPM-INGRESS", "Azure NPM"),
        ("kube-router-local-pods", "kube-router"),
        ("KUBE-SRC-6SKFDGOVMX2TBJ7T", "kube-router"),
        ("CNI-FORWARD", "a CNI plugin"),
        ("-A FORWARD -m mark --mark 0x1 -j ACCEPT", "another program"),
        ("INPUT", "the kernel"),
    ] {
        let answer = files.npc("why", &[&[thing], &OFFLINE[..]].concat());
        assert_eq!(answer.code, 3, "{thing}: {}", answer.err);
        assert!(answer.out.contains(says), "{thing}: {}", answer.out);
    }
    let answer = files.npc("why", &["-A FORWARD -j NPC-FORWARD", "--node", "n1"]);
    assert_eq!((answer.code, answer.out.contains("hook")), (0, true), "{}", answer.out);
    // A chain of another time or node.
    let answer = files.npc("why", &[&["NPC-I-aaaaaaaaaaaaaaaa"], &OFFLINE[..]].concat());
    assert_eq!(answer.code, 3, "{}", answer.out);
    assert!(answer.out.contains("do not ask for it"), "{}", answer.out);
}

#[test]
fn what_cannot_be_a_thing_is_refused_with_what_can() {
    let files = Files::of(CLUSTER);
    let refused = |words: &[&str], says: &str| {
        let answer = files.npc("why", words);
        assert_eq!(answer.code, 2, "{}", answer.out);
        assert!(answer.err.contains(says), "{}", answer.err);
    };
    refused(&["shop/db"], "iptables-save");
    refused(&["npc4-ingress"], "--node NAME");
    refused(&["npc4-ingress", "--node", "n1", "--ipset-save", "x"], "--iptables-save");
    refused(&["npc4-ingress", "--node", "n1", "--iptables-save", "missing"], "cannot read missing");
    files.add("other.save", "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n");
    refused(&["npc4-ingress", "--node", "n1", "--iptables-save", "other.save"], "has no chain of npc");
    assert_eq!(files.npc("why", &["npc4-ingress", "--node", "n9"]).code, 3);
}

#[test]
fn an_address_of_nothing_that_npc_knows_is_not_of_npc() {
    let files = Files::of(CLUSTER);
    for kernel in [vec![], dumps(&files)] {
        let answer = files.npc("why", &[&["8.8.8.8", "-o", "json"], &OFFLINE[..], &kernel[..]].concat());
        let json = answer.json();
        assert_eq!((answer.code, &json["owner"], &json["wanted"]), (3, &().into(), &false.into()), "{json}");
    }
}

#[test]
fn a_chain_of_both_families_shows_the_rules_of_each_once() {
    let files = Files::of(CLUSTER);
    for kernel in [vec![], dumps(&files)] {
        let text = files.npc("why", &[&["NPC-FORWARD"], &OFFLINE[..], &kernel[..]].concat()).out;
        assert!(text.contains("IPv4 rule 1 ") && text.contains("IPv6 rule 1 "), "{text}");
        let text = files.npc("why", &[&["NPC-DENY-INGRESS"], &OFFLINE[..], &kernel[..]].concat()).out;
        assert_eq!((text.contains("IPv4 IPv6"), text.matches("rule 1").count()), (true, 1), "{text}");
    }
}

#[test]
fn a_rule_names_all_that_it_came_from_though_its_comment_has_no_room() {
    let rules: String = (0..40).map(|_| "  - ports: [{port: 80}]\n").collect();
    let files = Files::of(&CLUSTER.replace("  ingress:\n", &format!("  ingress:\n{rules}")));
    let kernel = dumps(&files);
    let save = std::fs::read_to_string(files.path().join("v4.save")).unwrap();
    let rule = save.lines().find(|line| line.contains("--dport 80 ") && line.contains(" more\"")).unwrap();
    let json = files.npc("why", &[&[rule, "-o", "json"], &OFFLINE[..], &kernel[..]].concat()).json();
    let of = &json["rules"][0];
    assert_eq!((of["origins"].as_array().map(Vec::len), &of["more"]), (Some(40), &0.into()), "{json}");
    assert_eq!(of["origins"][39]["path"], "spec.ingress[39]", "{json}");
}

/// Twelve policies are more than the comment of a rule names.
#[test]
fn a_set_names_all_policies_that_ask_for_it() {
    let policy = |n: usize| {
        format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: a-policy-for-the-database-of-the-shop-{n:02}, \
             namespace: shop}}\nspec: {{podSelector: {{matchLabels: {{app: db}}}}, ingress: [{{from: [{{podSelector: \
             {{matchLabels: {{app: api}}}}}}], ports: [{{port: 5432}}]}}]}}\n"
        )
    };
    let files = Files::of(&(CLUSTER.to_owned() + &(0..12).map(policy).collect::<String>()));
    let peers = peers(&files);
    let dumps = dumps(&files);
    for kernel in [&[][..], &dumps[..]] {
        let json = files.npc("why", &[&[peers.as_str(), "-o", "json"], &OFFLINE[..], kernel].concat()).json();
        let (named, more) = (json["policies"].as_array().map(Vec::len), &json["morePolicies"]);
        assert_eq!((named, more), (Some(13), &0.into()), "{json}");
        let text = files.npc("why", &[&[peers.as_str()], &OFFLINE[..], kernel].concat()).out;
        assert!(text.contains(" more ask for it\n"), "{text}");
    }
    // The policies that a kernel was written for may be gone. Then its comments say how many there were.
    let gone = Files::of(CLUSTER);
    for name in ["v4.save", "v6.save", "sets.save"] {
        gone.add(name, &std::fs::read_to_string(files.path().join(name)).unwrap());
    }
    let json = gone.npc("why", &[&[peers.as_str(), "-o", "json"], &OFFLINE[..], &dumps[..]].concat()).json();
    let named = json["policies"].as_array().map_or(0, Vec::len);
    assert_eq!(json["morePolicies"], 13 - named, "{json}");
}

#[test]
fn an_address_of_a_node_and_a_rule_of_another_version_are_said_to_be_that() {
    let node = "---\napiVersion: v1\nkind: Node\nmetadata: {name: n1}\nstatus: {addresses: [{type: InternalIP, address: 192.0.2.1}]}\n";
    let files = Files::of(&format!("{CLUSTER}{node}"));
    let text = files.npc("why", &["192.0.2.1", "--node", "n1"]).out;
    assert!(
        text.contains("address of node n1") && text.contains("  of       no set and no chain of npc is about it\n"),
        "{text}"
    );
    assert!(!text.contains("no object of the input"), "{text}");
    let rule = format!("-A {} -m mark --mark 0x1 -j ACCEPT", chain(&files));
    let text = files.npc("why", &[&[rule.as_str()], &OFFLINE[..]].concat()).out;
    assert!(text.contains("  of       another program, or another version of npc\n"), "{text}");
}

#[test]
fn what_was_not_read_or_is_not_judged_is_said() {
    let broken =
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: odd, namespace: shop}\nspec: 7\n";
    let cilium =
        "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: c, namespace: shop}\nspec: {}\n";
    let files = Files::of(&format!("{CLUSTER}{broken}{cilium}"));
    let chain = chain(&Files::of(CLUSTER));
    for thing in ["10.0.0.1", chain.as_str()] {
        let words = [&[thing, "--allow-errors"][..], &OFFLINE[..]].concat();
        let answer = files.npc("why", &words);
        assert_eq!(answer.code, 0, "{}", answer.err);
        for text in [
            "warning[policies-not-judged]: npc judges NetworkPolicies only",
            "unknown: not read, and may change this: ",
            "shop/odd",
        ] {
            assert!(answer.out.contains(text), "{thing}: {text}: {}", answer.out);
        }
        let json = files.npc("why", &[&words[..], &["-o", "json"]].concat()).json();
        // What is not judged is a finding too, with its place.
        for (list, number) in [("warnings", 1), ("unknowns", 1), ("findings", 2)] {
            assert_eq!(json[list].as_array().map(Vec::len), Some(number), "{thing}: {list}: {json}");
        }
        crate::schema::conforms(crate::schema::KERNEL, &json);
    }
    // What another program made does not come from the input.
    let foreign = files.npc("why", &["KUBE-FORWARD", "--allow-errors", "-o", "json"]).json();
    assert_eq!((&foreign["warnings"], &foreign["unknowns"]), (&serde_json::json!([]), &serde_json::json!([])));
}

#[test]
fn the_secret_is_asked_for_only_where_names_depend_on_it() {
    let one_group = Files::of(CLUSTER);
    let both = format!("{CLUSTER}---\n{}", CLUSTER.replace("shop", "other").replace("10.0.0.", "10.0.1."));
    let two_groups = Files::of(&both);
    // A peer set and an isolated set have names of their own. A dispatch set does not.
    for (files, address, set, is_known) in [
        (&one_group, "10.0.0.3", "npc4-p-", true),
        (&one_group, "10.0.0.2", "npc4-ingress", true),
        (&two_groups, "10.0.0.3", "npc4-p-", true),
        (&two_groups, "10.0.0.2", "npc4-ingress", false),
    ] {
        let json = files.npc("why", &[address, "-o", "json", "--node", "n1"]).json();
        let mut sets = json["sets"].as_array().unwrap().iter().map(|set| set["set"].as_str().unwrap());
        assert!(sets.any(|name| name.starts_with(set)), "{json}");
        assert_eq!(json["seedKnown"], is_known, "{json}");
    }
    // Nor do dumps without sets say the names.
    let kernel = dumps(&two_groups);
    let json = two_groups.npc("why", &[&["10.0.0.2", "-o", "json"], &OFFLINE[..], &kernel[..4]].concat()).json();
    assert_eq!(json["seedKnown"], false, "{json}");
}

#[test]
fn flags_of_the_agent_say_which_chains_there_are() {
    let files = Files::of(CLUSTER);
    let why = |words: &[&str]| files.npc("why", &[words, &OFFLINE[..]].concat());
    let judged_by = |words: &[&str]| {
        let text = why(words).out;
        let chain = text.split_once("judged by ").and_then(|(_, rest)| rest.split(' ').next());
        chain.unwrap_or_else(|| panic!("{text}")).to_owned()
    };
    let (quiet, logging) = (judged_by(&["10.0.0.1"]), judged_by(&["10.0.0.1", "--log-denied"]));
    assert_ne!(quiet, logging);
    let found = why(&[&logging, "--log-denied"]);
    assert!(found.code == 0 && found.out.contains("logged (--log-denied)"), "{}", found.out);
    let other = why(&[&logging]);
    assert!(other.code == 3 && other.out.contains("--log-denied"), "{}", other.out);
    // Rules that were read show it.
    let kernel = dumps(&files);
    let held = why(&[&["10.0.0.1", "--log-denied", "--anti-spoof"], &kernel[..]].concat());
    assert_eq!((held.code, held.out.as_str()), (2, ""), "{}", held.err);
    assert!(held.err.contains("--log-denied, --anti-spoof: only where no kernel is read"), "{}", held.err);
}
