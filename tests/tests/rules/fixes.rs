//! Fixes of denied flows: which change each kind of denial gets, and in random clusters that
//! each fix does what it says. A fix is applied by another library to the object's JSON, read
//! again by the reader of manifests, and judged anew; what it opens is compared with the
//! difference of two whole matrices.

mod causes;
mod checked;
mod kind;
mod mistakes;
mod narrow;

use npc_agent::source::manifests::{ReadOptions, parse_text};
use npc_compiler::cluster::Cluster;
use npc_compiler::cluster::group::Groups;
use npc_compiler::object::Objects;
use npc_compiler::verdict::explain::Port;
use npc_compiler::verdict::fix::{Change, Edit, FlowFix, fixes};

use checked::{check, explained};

/// The changes of the only fix and what it opens, a line each.
fn fixed(yaml: &str, from: &str, to: &str, port: &Port) -> String {
    fixed_in(&parse_text("in.yaml", yaml, &ReadOptions::default()).unwrap().objects, from, to, port)
}

fn fixed_in(objects: &Objects, from: &str, to: &str, port: &Port) -> String {
    let cluster = Cluster::new(objects);
    let explanation = explained(objects, &cluster, from, to, Some(port)).unwrap();
    let found = fixes(objects, &cluster, &Groups::of_cluster(&cluster), &explanation, &(), &|cluster, _| cluster, 4);
    let [FlowFix { fix, .. }] = found.as_slice() else { panic!("{found:?}") };
    let fix = match fix {
        Err(reason) => return format!("{reason:?}"),
        Ok(fix) => fix,
    };
    check(objects, &cluster, &explanation, &found[0], fix, (from, to, Some(port)), &|cluster, _| cluster).unwrap();
    let change = |change: &Change| {
        let object = format!("{} {}", change.object.kind, change.object.name);
        match &change.edit {
            Edit::NewPolicy(document) => format!("new {object} {}", document["spec"]),
            Edit::MovedPolicy(document, old) => format!("moved {} {}", old.name, document["metadata"]),
            _ => format!("{object} {}", serde_json::to_string(&change.patch()).unwrap()),
        }
    };
    let opened = fix.opens.iter().map(|of| {
        let verb = if of.certain { "opens" } else { "may open" };
        format!("{verb} {} {} {}", of.from.id, of.to.id, of.traffic)
    });
    fix.changes.iter().map(change).chain(opened).collect::<Vec<_>>().join("\n")
}

/// Two namespaces, with pods of each, and policies.
fn cluster(policies: &str) -> String {
    let pod = |namespace: &str, name: &str, labels: &str, address: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {labels}}}\n\
             spec: {{containers: [{{name: c, ports: [{{name: http, containerPort: 8080}}]}}]}}\n\
             status: {{phase: Running, podIP: {address}}}\n---\n"
        )
    };
    let namespace = |name: &str, labels: &str| {
        format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}{labels}}}\n---\n")
    };
    [
        namespace("shop", ""),
        namespace("ops", ""),
        namespace("dev", ", labels: {team/of: x}"),
        pod("shop", "web", "{app: web}", "10.0.0.1"),
        pod("shop", "api", "{app: api, tier: back}", "10.0.0.2"),
        pod("shop", "cart", "{app: cart, tier: back}", "10.0.0.3"),
        pod("ops", "prom", "{app: prom}", "10.0.1.1"),
        pod("ops", "grafana", "{app: grafana}", "10.0.1.2"),
        pod("dev", "tool", "{app: tool}", "10.0.2.1"),
        policies.to_owned(),
    ]
    .concat()
}

/// A policy for shop/api.
fn ingress(rules: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: api, namespace: shop}}\n\
         spec: {{podSelector: {{matchLabels: {{app: api}}}}, policyTypes: [Ingress]{rules}}}\n---\n"
    )
}

#[test]
fn each_kind_of_denial_gets_the_smallest_change() {
    let port = || Port::Numbers(None, 8080, 8080);
    let new_rule = r#"{"from":[{"podSelector":{"matchLabels":{"app":"web"}}}],"ports":[{"port":8080}]}"#;
    let list = |rule: &str| format!(r#"NetworkPolicy api [{{"op":"add","path":"/spec/ingress","value":[{rule}]}}]"#);
    for (name, rules, from, expected) in [
        ("no list", "", "shop/web", list(new_rule)),
        ("an empty list", ", ingress: []", "shop/web", list(new_rule)),
        ("a null list", ", ingress:", "shop/web", list(new_rule)),
        (
            "another rule",
            ", ingress: [{from: [{podSelector: {matchLabels: {app: cart}}}], ports: [{port: 1}]}]",
            "ops/prom",
            r#"NetworkPolicy api [{"op":"add","path":"/spec/ingress/-","value":{"from":[{"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"ops"}},"podSelector":{"matchLabels":{"app":"prom"}}}],"ports":[{"port":8080}]}}]"#.to_owned(),
        ),
        (
            "peer-other-namespace",
            ", ingress: [{from: [{podSelector: {matchLabels: {app: prom}}}], ports: [{port: http}]}]",
            "ops/prom",
            r#"NetworkPolicy api [{"op":"add","path":"/spec/ingress/0/from/0/namespaceSelector","value":{"matchLabels":{"kubernetes.io/metadata.name":"ops"}}}]"#.to_owned(),
        ),
        (
            "peer-label-value",
            ", ingress: [{from: [{podSelector: {matchLabels: {app: cart}}}], ports: [{port: http}]}]",
            "shop/web",
            r#"NetworkPolicy api [{"op":"add","path":"/spec/ingress/0/from/-","value":{"podSelector":{"matchLabels":{"app":"web"}}}}]"#.to_owned(),
        ),
        (
            "a selector of no pod",
            ", ingress: [{from: [{podSelector: {matchLabels: {app: wep}}}], ports: [{port: http}]}]",
            "shop/web",
            r#"NetworkPolicy api [{"op":"add","path":"/spec/ingress/0/from/-","value":{"podSelector":{"matchLabels":{"app":"web"}}}}]"#.to_owned(),
        ),
        (
            "peer-label-missing",
            ", ingress: [{from: [{podSelector: {matchExpressions: [{key: tier, operator: In, values: [back]}]}}], ports: [{port: http}]}]",
            "shop/web",
            r#"Pod web [{"op":"add","path":"/metadata/labels/tier","value":"back"}]"#.to_owned(),
        ),
        (
            "peer-namespace-label",
            ", ingress: [{from: [{namespaceSelector: {matchLabels: {team/of: x}}, podSelector: {matchLabels: {app: prom}}}, {namespaceSelector: {matchLabels: {team/of: x}}}], ports: [{port: http}]}]",
            "ops/prom",
            // A label of the namespace would admit all its pods.
            r#"NetworkPolicy api [{"op":"add","path":"/spec/ingress/0/from/-","value":{"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"ops"}},"podSelector":{"matchLabels":{"app":"prom"}}}}]"#.to_owned(),
        ),
        (
            "port-number",
            ", ingress: [{from: [{podSelector: {}}], ports: [{port: 80}]}]",
            "shop/web",
            "NetworkPolicy api [{\"op\":\"add\",\"path\":\"/spec/ingress/-\",\"value\":".to_owned() + new_rule + "}]",
        ),
        (
            "ipblock-outside",
            ", ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24}}], ports: [{port: http}]}]",
            "198.51.100.7",
            r#"NetworkPolicy api [{"op":"add","path":"/spec/ingress/0/from/-","value":{"ipBlock":{"cidr":"198.51.100.7/32"}}}]"#.to_owned(),
        ),
        (
            "ipblock-except",
            ", ingress: [{from: [{ipBlock: {cidr: 198.51.100.0/24, except: [198.51.100.0/30, 198.51.100.7/32]}}], ports: [{port: http}]}]",
            "198.51.100.7",
            r#"NetworkPolicy api [{"op":"remove","path":"/spec/ingress/0/from/0/ipBlock/except/1"}]"#.to_owned(),
        ),
        (
            "a whole prefix",
            ", ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24}}], ports: [{port: http}]}]",
            "198.51.100.0/24",
            r#"NetworkPolicy api [{"op":"add","path":"/spec/ingress/0/from/-","value":{"ipBlock":{"cidr":"198.51.100.0/24"}}}]"#.to_owned(),
        ),
    ] {
        assert_eq!(fixed(&cluster(&ingress(rules)), from, "shop/api", &port()), expected, "{name}");
    }
}

#[test]
fn a_label_is_no_fix_of_one_rule_among_equals_and_a_policy_with_a_finding_gets_no_patch() {
    let port = || Port::Numbers(None, 8080, 8080);
    let new_rule = r#"{"from":[{"podSelector":{"matchLabels":{"app":"web"}}}],"ports":[{"port":8080}]}"#;
    for (name, rules, from, expected) in [
        (
            "a label of the namespace opens no less",
            ", ingress: [{from: [{namespaceSelector: {matchLabels: {team/of: x}}, podSelector: {matchLabels: {app: prom}}}], ports: [{port: http}]}]",
            "ops/prom",
            r#"NetworkPolicy api [{"op":"add","path":"/spec/ingress/0/from/-","value":{"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"ops"}},"podSelector":{"matchLabels":{"app":"prom"}}}}]"#.to_owned(),
        ),
        (
            "two rules are equally near: a label is no fix",
            ", ingress: [{from: [{podSelector: {matchLabels: {app: wep}}}], ports: [{port: http}]}, {from: [{podSelector: {matchLabels: {role: dba}}}], ports: [{port: http}]}]",
            "shop/web",
            r#"NetworkPolicy api [{"op":"add","path":"/spec/ingress/0/from/-","value":{"podSelector":{"matchLabels":{"app":"web"}}}}]"#.to_owned(),
        ),
        (
            "two rules are equally near: a label of the namespace is no fix",
            ", ingress: [{from: [{namespaceSelector: {matchLabels: {team/of: x}}, podSelector: {matchLabels: {app: prom}}}], ports: [{port: http}]}, {from: [{namespaceSelector: {matchLabels: {team: y}}, podSelector: {matchLabels: {app: prom}}}], ports: [{port: http}]}]",
            "ops/prom",
            r#"NetworkPolicy api [{"op":"add","path":"/spec/ingress/0/from/-","value":{"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"ops"}},"podSelector":{"matchLabels":{"app":"prom"}}}}]"#.to_owned(),
        ),
        (
            "a finding in the rule",
            ", ingress: [{from: [{podSelector: {matchLabels: {app: web}}, ipBlock: {cidr: 192.0.2.0/24}}], ports: [{port: http}]}]",
            "shop/web",
            // The API server refuses each patch of this policy, and takes one of its own.
            format!("new NetworkPolicy allow-api-from-web {{\"ingress\":[{new_rule}],\"podSelector\":{{\"matchLabels\":{{\"app\":\"api\"}}}},\"policyTypes\":[\"Ingress\"]}}"),
        ),
        (
            "a finding in the rule, at another item",
            ", ingress: [{from: [{podSelector: {matchLabels: {app: cart}}}, {ipBlock: {cidr: 192.0.2.0}}], ports: [{port: http}]}]",
            "shop/web",
            // The API server refuses each patch of this policy, and takes one of its own.
            format!("new NetworkPolicy allow-api-from-web {{\"ingress\":[{new_rule}],\"podSelector\":{{\"matchLabels\":{{\"app\":\"api\"}}}},\"policyTypes\":[\"Ingress\"]}}"),
        ),
        (
            "a finding in another rule",
            ", ingress: [{from: [{podSelector: {matchLabels: {app: cart}}}], ports: [{port: http}]}, {from: [{ipBlock: {cidr: 192.0.2.0}}], ports: [{port: 1}]}]",
            "shop/web",
            // The API server refuses each patch of this policy.
            format!("new NetworkPolicy allow-api-from-web {{\"ingress\":[{new_rule}],\"podSelector\":{{\"matchLabels\":{{\"app\":\"api\"}}}},\"policyTypes\":[\"Ingress\"]}}"),
        ),
    ] {
        assert_eq!(fixed(&cluster(&ingress(rules)), from, "shop/api", &port()), expected, "{name}");
    }
}

#[test]
fn a_fix_corrects_a_part_that_was_not_understood_if_a_patch_can() {
    let port = || Port::Numbers(None, 8080, 8080);
    let patch = |operation: &str| format!("NetworkPolicy api [{operation}]");
    for (rules, from, expected) in [
        (
            ", ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 8080, protocol: tcp}]}]",
            "shop/web",
            patch(r#"{"op":"replace","path":"/spec/ingress/0/ports/0/protocol","value":"TCP"}"#),
        ),
        (
            ", ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 8090, endPort: 8080}]}]",
            "shop/web",
            // The range that its author meant.
            patch(r#"{"op":"replace","path":"/spec/ingress/0/ports/0","value":{"endPort":8090,"port":8080}}"#)
                + "\nopens shop/web shop/api 8081-8090",
        ),
        (
            ", ingress: [{from: [{podSelector: }], ports: [{port: 8080}]}]",
            "shop/web",
            patch(
                r#"{"op":"replace","path":"/spec/ingress/0/from/0","value":{"podSelector":{"matchLabels":{"app":"web"}}}}"#,
            ),
        ),
        (
            ", ingress: [{from: [{ipBlock: {cidr: 198.51.100.7}}], ports: [{port: 8080}]}]",
            "198.51.100.7",
            patch(r#"{"op":"replace","path":"/spec/ingress/0/from/0/ipBlock/cidr","value":"198.51.100.7/32"}"#),
        ),
    ] {
        assert_eq!(fixed(&cluster(&ingress(rules)), from, "shop/api", &port()), expected, "{rules}");
    }
}

#[test]
fn a_pod_in_its_nodes_network_is_admitted_by_the_nodes_address() {
    let host = "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n\
                status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}\n---\n\
                apiVersion: v1\nkind: Pod\nmetadata: {name: host, namespace: shop, labels: {app: host}}\n\
                spec: {nodeName: n1, hostNetwork: true, containers: [{name: c}]}\n\
                status: {phase: Running, podIP: 192.168.0.1}\n---\n";
    let rules = ", ingress: [{from: [{podSelector: {matchLabels: {app: host}}}], ports: [{port: http}]}]";
    let yaml = cluster(&[&ingress(rules), host].concat());
    // A pod of an unknown node may be on this one, and is then admitted without a rule.
    let yaml = yaml.replace("spec: {containers", "spec: {nodeName: n2, containers");
    let expected = r#"NetworkPolicy api [{"op":"add","path":"/spec/ingress/0/from/-","value":{"ipBlock":{"cidr":"192.168.0.1/32"}}}]"#;
    let port = Port::Numbers(None, 8080, 8080);
    assert_eq!(fixed(&yaml, "shop/host", "shop/api", &port), expected);
    // The fix opens nothing to a pod of the node, which the node reached before, and something
    // to a pod that the same policies judge on another node.
    let replica = |name: &str, node: &str, address: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: api, tier: back}}}}\n\
             spec: {{nodeName: {node}, containers: [{{name: c, ports: [{{name: http, containerPort: 8080}}]}}]}}\n\
             status: {{phase: Running, podIP: {address}}}\n---\n"
        )
    };
    let replicas = [replica("a", "n1", "10.0.0.4"), replica("b", "n2", "10.0.0.5")].concat();
    let expected = format!("{expected}\nopens 192.168.0.1 shop/b 8080");
    let yaml = [yaml, replicas].concat();
    assert_eq!(fixed(&yaml, "shop/host", "shop/api", &port), expected);
    // The input does not say the node of this replica. If it is n1, the node reached it before.
    let unknown = replica("c", "x", "10.0.0.6").replace("nodeName: x, ", "");
    let expected = format!("{expected}\nmay open 192.168.0.1 shop/c 8080");
    assert_eq!(fixed(&[yaml, unknown].concat(), "shop/host", "shop/api", &port), expected);
}

#[test]
fn a_prefix_opens_what_it_holds_of_the_many_nodes_of_a_cluster() {
    let node = |i: u8| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: n{i}}}\n\
             status: {{addresses: [{{type: InternalIP, address: 192.168.0.{i}}}]}}\n---\n"
        )
    };
    let yaml = cluster(&[ingress(""), (1..=70).map(node).collect()].concat());
    let objects = parse_text("in.yaml", &yaml, &ReadOptions::default()).unwrap().objects;
    let cluster = Cluster::new(&objects);
    let port = Port::Numbers(None, 8080, 8080);
    let explanation = explained(&objects, &cluster, "192.168.0.0/24", "shop/api", Some(&port)).unwrap();
    let found = fixes(&objects, &cluster, &Groups::of_cluster(&cluster), &explanation, &(), &|cluster, _| cluster, 1);
    let fix = found[0].fix.as_ref().unwrap();
    // The input does not say the node of the pod, which reaches it without a rule.
    let nodes = fix.opens.iter().filter(|of| of.from.id.starts_with("192.168.0.") && !of.certain);
    assert_eq!(nodes.count(), 70, "{:?}", fix.opens);
}

#[test]
fn a_smaller_change_that_closes_something_is_not_taken() {
    // With Ingress among its types, the policy would isolate all pods of the namespace.
    let all = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: all, namespace: shop}\n\
               spec: {podSelector: {}, policyTypes: [Egress], egress: [{}], \
               ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 8080}]}]}\n---\n";
    let yaml = cluster(&[&ingress(""), all].concat());
    let text = fixed(&yaml, "shop/web", "shop/api", &Port::Numbers(None, 8080, 8080));
    let rule = r#"{"from":[{"podSelector":{"matchLabels":{"app":"web"}}}],"ports":[{"port":8080}]}"#;
    assert_eq!(text, format!(r#"NetworkPolicy api [{{"op":"add","path":"/spec/ingress","value":[{rule}]}}]"#));
}

#[test]
fn a_static_pod_gets_no_label() {
    // kubelet takes its labels from a file of the node.
    let rule = ", ingress: [{from: [{podSelector: {matchLabels: {tier: back}}}], ports: [{port: http}]}]";
    let yaml = cluster(&ingress(rule));
    let mut objects = parse_text("in.yaml", &yaml, &ReadOptions::default()).unwrap().objects;
    let port = Port::Numbers(None, 8080, 8080);
    assert!(fixed_in(&objects, "shop/web", "shop/api", &port).starts_with("Pod web "));
    objects.pods.iter_mut().filter(|pod| pod.name == "web").for_each(|pod| pod.config_hash = Some("h".to_owned()));
    assert!(fixed_in(&objects, "shop/web", "shop/api", &port).starts_with("NetworkPolicy api "));
}

#[test]
fn an_item_that_selects_pods_of_its_own_namespace_keeps_them() {
    // Two rules admit the same pod of the namespace, so that the loss of one closes nothing here.
    let item = "{from: [{podSelector: {matchLabels: {app: prom}}}], ports: [{port: http}]}";
    let rules = format!(", ingress: [{item}, {item}]");
    let own = "apiVersion: v1\nkind: Pod\nmetadata: {name: prom, namespace: shop, labels: {app: prom}}\n\
               spec: {containers: [{name: c}]}\nstatus: {phase: Running, podIP: 10.0.0.9}\n---\n";
    let yaml = cluster(&[&ingress(&rules), own].concat());
    let text = fixed(&yaml, "ops/prom", "shop/api", &Port::Numbers(None, 8080, 8080));
    let expected = r#"NetworkPolicy api [{"op":"add","path":"/spec/ingress/0/from/-","value":{"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"ops"}},"podSelector":{"matchLabels":{"app":"prom"}}}}]"#;
    assert_eq!(text, expected);
}

#[test]
fn both_directions_are_fixed_together() {
    let deny = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: deny, namespace: shop}\n\
                spec: {podSelector: {}, policyTypes: [Ingress, Egress]}\n---\n";
    let port = Port::Numbers(None, 8080, 8080);
    let text = fixed(&cluster(deny), "shop/web", "shop/api", &port);
    // A rule in the policy that isolates would open it for all pods of the namespace.
    let expected = "new NetworkPolicy allow-web-to-api {\"egress\":[{\"ports\":[{\"port\":8080}],\"to\":[{\"podSelector\":{\"matchLabels\":{\"app\":\"api\"}}}]}],\"podSelector\":{\"matchLabels\":{\"app\":\"web\"}},\"policyTypes\":[\"Egress\"]}\n\
                    new NetworkPolicy allow-api-from-web {\"ingress\":[{\"from\":[{\"podSelector\":{\"matchLabels\":{\"app\":\"web\"}}}],\"ports\":[{\"port\":8080}]}],\"podSelector\":{\"matchLabels\":{\"app\":\"api\"}},\"policyTypes\":[\"Ingress\"]}";
    assert_eq!(text, expected);
}

#[test]
fn the_name_of_a_new_policy_is_one_that_its_namespace_does_not_have() {
    let policy = |namespace: &str, name: &str, labels: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{podSelector: {labels}, policyTypes: [Ingress]}}\n---\n"
        )
    };
    for (namespace, expected) in [("ops", "allow-api-from-web"), ("shop", "allow-api-from-web-2")] {
        let other = policy(namespace, "allow-api-from-web", "{matchLabels: {app: none}}");
        let yaml = cluster(&[policy("shop", "deny", "{}"), other].concat());
        let text = fixed(&yaml, "shop/web", "shop/api", &Port::Numbers(None, 8080, 8080));
        assert!(text.starts_with(&format!("new NetworkPolicy {expected} ")), "{text}");
    }
}

#[test]
fn a_denial_without_a_small_fix_gets_the_reason() {
    let port = || Port::Numbers(None, 8080, 8080);
    assert_eq!(fixed(&cluster(&ingress("")), "shop/web", "shop/api", &Port::Icmp), "Icmp");
    // No selector selects a pod without labels, so no rule can name it.
    let unlabelled = cluster(&ingress("")).replace("labels: {app: web}", "labels: {}");
    assert_eq!(fixed(&unlabelled, "shop/web", "shop/api", &port()), "NoLabel(\"shop\", \"web\")");
    // A policy whose podSelector is not understood allows nothing, even if it has rules.
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: all, namespace: shop}\n\
                  spec: {podSelector: {matchExpressions: [{key: app, operator: Near}]}, policyTypes: [Ingress]}\n---\n";
    let unlabelled = cluster(policy).replace("labels: {app: api, tier: back}", "labels: {}");
    let finding = r#"Finding { policy: ("shop", "all"), path: "spec.podSelector.matchExpressions[0]"#;
    let reason = fixed(&unlabelled, "shop/web", "shop/api", &port());
    assert!(reason.starts_with(finding), "{reason}");
}
