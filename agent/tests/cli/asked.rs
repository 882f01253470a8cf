//! Questions as people ask them in public: an answer says each thing once, and its fix is what an
//! expert would write.

use crate::{Answer, Files};

/// A Deployment, with labels of its own and of its pods.
fn deployment(name: &str, own: &str, pods: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, labels: {{{own}}}}}\nspec:\n  template:\n    \
         metadata: {{labels: {{{pods}}}}}\n    spec: {{containers: [{{name: c, ports: [{{name: http, containerPort: 8080}}]}}]}}\n---\n"
    )
}

fn policy(name: &str, spec: &str) -> String {
    format!("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n")
}

/// The lines of a change, as far as the next that is not indented as it is.
fn helps(answer: &Answer) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in answer.out.lines() {
        match (line.strip_prefix("   = help: "), found.last_mut()) {
            (Some(help), _) => found.push(help.to_owned()),
            (None, Some(last)) if line.starts_with("           ") => last.extend(["\n", line.trim_start()]),
            _ => {}
        }
    }
    found
}

#[test]
fn a_forgotten_rule_for_dns_is_proposed_once_for_both_protocols() {
    let dns = "apiVersion: v1\nkind: Namespace\nmetadata: {name: kube-system}\n---\napiVersion: v1\nkind: Pod\nmetadata: \
               {name: coredns, namespace: kube-system, labels: {k8s-app: kube-dns}}\nspec: {containers: [{name: c}]}\n---\n";
    let rule = "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{podSelector: \
                {matchLabels: {app: api}}}], ports: [{port: 8080}]}]}";
    let files = Files::of(&[&deployment("web", "", "app: web"), dns, &policy("web", rule)].concat());
    let answer = files.npc("explain", &["web", "kube-system/coredns:53/udp"]);
    assert!(answer.out.contains("no rule is about DNS (port 53)"), "{}", answer.out);
    assert_eq!(answer.out.matches("wants ").count(), 0, "it says what another rule lacks: {}", answer.out);
    let helps = helps(&answer);
    assert_eq!(helps.len(), 1, "{}", answer.out);
    assert!(helps[0].contains("ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]"), "{}", answer.out);
    // A rule for one protocol is about DNS.
    let udp = rule.replace("port: 8080", "port: 53, protocol: UDP");
    let files = Files::of(&[&deployment("web", "", "app: web"), dns, &policy("web", &udp)].concat());
    let answer = files.npc("explain", &["web", "kube-system/coredns:53"]);
    for text in ["no rule is about DNS", "can resolve no name"] {
        assert!(!answer.out.contains(text), "{text}: {}", answer.out);
    }
    assert!(answer.out.contains("without DNS by TCP"), "{}", answer.out);
}

#[test]
fn a_label_on_the_workload_alone_goes_to_its_template_though_other_policies_select_by_it() {
    let back =
        "{podSelector: {matchLabels: {tier: back}}, ingress: [{from: [{podSelector: {matchLabels: {app: api}}}]}]}";
    let api =
        "{podSelector: {matchLabels: {app: api}}, ingress: [{from: [{podSelector: {matchLabels: {tier: back}}}]}]}";
    let deployments = [
        deployment("cart", "app: cart, tier: back", "app: cart"),
        deployment("api", "", "app: api"),
        deployment("web", "", "app: web"),
    ];
    let files = Files::of(&[deployments.concat(), policy("back", back), policy("api", api)].concat());
    let denied = files.npc("explain", &["cart", "api:8080"]);
    let helps = helps(&denied);
    assert_eq!(helps.len(), 1, "{}", denied.out);
    for text in [
        "the source, default/deploy/cart, lacks the label that the rule asks for; add this to its spec.template.metadata.labels:\ntier: back",
        "default/deploy/web -> default/deploy/cart",
    ] {
        assert!(helps[0].contains(text), "{text}: {}", denied.out);
    }
    let json = files.npc("explain", &["cart", "api:8080", "-o", "json"]).json();
    let fix = &json["fixes"][0];
    assert_eq!(fix["verified"], false, "it closes something: {fix}");
    assert!(
        helps[0].contains("tried, and not called safe: turns this flow to ALLOWED") && !helps[0].contains("checked"),
        "{}",
        denied.out
    );
    let closed =
        |from: &str| fix["closes"].as_array().unwrap().iter().any(|of| of["from"].as_str().unwrap().contains(from));
    assert!(closed("web") && !closed("api"), "{fix}");
    // Where the policy does not apply, the flow is allowed, and it is said why.
    let allowed = files.npc("explain", &["web", "cart:8080"]);
    let near = "near[subject-near-miss]: networkpolicy default/back wants tier=back, there is tier=back in metadata.labels \
                of default/deploy/cart, not in its template\n  --> in.yaml:";
    assert!(allowed.out.contains(near), "{}", allowed.out);
    let other = Files::of(
        &[deployment("cart", "tier: front", "app: cart"), deployment("web", "", "app: web"), policy("back", back)]
            .concat(),
    );
    let allowed = other.npc("explain", &["web", "cart:8080"]);
    assert!(!allowed.out.contains("near["), "the label has another value: {}", allowed.out);
}

#[test]
fn of_many_rules_that_are_equally_near_none_is_rewritten() {
    let rule = |i: u8| {
        let spec =
            "{podSelector: {matchLabels: {app: api}}, ingress: [{from: [{podSelector: {matchLabels: {app: xN}}}]}]}";
        policy(&format!("allow-{i:02}"), &spec.replace("xN", &format!("x{i}")))
    };
    let ends = [deployment("web", "", "app: web"), deployment("api", "", "app: api")].concat();
    let files = Files::of(&[ends.clone(), (0..12).map(rule).collect()].concat());
    let answer = files.npc("explain", &["web", "api:8080"]);
    let helps = helps(&answer);
    assert!(helps[0].starts_with("add this to spec.ingress of networkpolicy default/allow-00"), "{}", answer.out);
    assert!(helps[0].ends_with("opens no other"), "{}", answer.out);
    assert!(answer.out.contains("networkpolicy/allow-05, +6 more; 0 of 12 rules match"), "{}", answer.out);
    // One rule with quite another value means pods that the input does not have; a slip is mended.
    for (value, is_rewritten) in [("prometheus", false), ("frontend", true)] {
        let spec = format!(
            "{{podSelector: {{matchLabels: {{app: api}}}}, ingress: [{{from: [{{podSelector: {{matchLabels: {{app: {value}}}}}}}]}}]}}"
        );
        let ends = [deployment("web", "", "app: frontent"), deployment("api", "", "app: api")].concat();
        let answer = Files::of(&[ends, policy("api", &spec)].concat()).npc("explain", &["web", "api:8080"]);
        assert_eq!(
            answer.out.contains("selects no pod of the input; write in its place:"),
            is_rewritten,
            "{}",
            answer.out
        );
    }
}

#[test]
fn a_number_in_quotes_is_written_without_them() {
    let spec = "{podSelector: {matchLabels: {app: api}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: \"8080\"}]}]}";
    let ends = [deployment("web", "", "app: web"), deployment("api", "", "app: api")].concat();
    let files = Files::of(&[ends, policy("api", spec)].concat());
    let answer = files.npc("explain", &["web", "api:8080"]);
    let help = "spec.ingress[0].ports[0].port of networkpolicy default/api means a name; write in its place:\nport: 8080\n\
                checked: turns this flow to ALLOWED and opens no other";
    assert_eq!(helps(&answer), [help], "{}", answer.out);
    let json = files.npc("explain", &["web", "api:8080", "-o", "json"]).json();
    assert_eq!(json["fixes"][0]["patch"][0]["value"], 8080, "{json}");
}

#[test]
fn the_address_of_a_node_that_hides_the_client_is_no_fix() {
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nstatus: {addresses: [{type: InternalIP, address: 192.0.2.11}]}\n---\n";
    let web = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web}}\nspec: {nodeName: n2, containers: [{name: c}]}\n\
               status: {phase: Running, podIP: 10.0.0.1, hostIP: 192.0.2.12}\n---\n";
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {type: NodePort, selector: {app: web}, ports: [{port: 80, \
                   targetPort: 8080, nodePort: 30080}]}\n---\n";
    let spec = "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24}}]}]}";
    let answer = Files::of(&[node, web, service, &policy("web", spec)].concat())
        .npc("explain", &["203.0.113.5", "192.0.2.11:30080"]);
    assert_eq!(answer.code, 1, "{}{}", answer.out, answer.err);
    assert!(!answer.out.contains("192.0.2.11/32"), "it would admit every client: {}", answer.out);
    let helps = helps(&answer);
    assert_eq!(helps.len(), 1, "{}", answer.out);
    assert!(helps[0].contains("externalTrafficPolicy: Local in default/svc/web"), "{}", answer.out);
}

#[test]
fn what_is_unknown_is_said_with_where_to_find_it() {
    let spec = "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}";
    let ends = [deployment("web", "", "app: web"), deployment("api", "", "app: api")].concat();
    let files = Files::of(&[ends, policy("web", spec)].concat());
    let answer = files.npc("explain", &["web", "api:8080"]);
    assert_eq!(answer.code, 4, "{}", answer.out);
    assert!(answer.out.contains("= help: the running cluster has these facts"), "{}", answer.out);
}

#[test]
fn a_file_that_is_named_twice_is_no_duplicate() {
    let files = Files::of(&policy("web", "{podSelector: {}}"));
    let answer = files.run(&["lint", "-f", "in.yaml", "-f", "in.yaml"]);
    assert_eq!((answer.code, answer.out.as_str()), (0, ""), "{}", answer.err);
}

#[test]
fn a_type_before_the_namespace_is_put_right() {
    let answer = Files::of("").npc("explain", &["networkpolicy/shop/web"]);
    assert_eq!(answer.code, 2);
    assert!(answer.err.contains("write shop/networkpolicy/web"), "{}", answer.err);
}

#[test]
fn help_leads_from_a_code_to_its_page() {
    let help = Files::of("").run(&["explain", "--help"]).out;
    for text in ["npc reason CODE", "Examples:", "Exit codes: 0 allowed"] {
        assert!(help.contains(text), "{text}: {help}");
    }
}
