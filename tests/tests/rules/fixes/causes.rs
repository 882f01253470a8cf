//! The change that the cause of a denial names, and what is taken in its place where it does harm.

use npc_compiler::object::Protocol;
use npc_compiler::verdict::explain::Port;

use super::{cluster, fixed};

const PORT: Port = Port::Numbers(None, 8080, 8080);

/// A policy of a namespace with a name and a spec.
fn policy(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{{spec}}}\n---\n"
    )
}

/// A policy that allows nothing to, or from, the pods of a namespace.
fn deny(namespace: &str, direction: &str) -> String {
    policy(namespace, "a-deny", &format!("podSelector: {{}}, policyTypes: [{direction}]"))
}

const FROM_WEB: &str = "ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 8080}]}]";

#[test]
fn a_fix_corrects_a_policy_that_does_not_apply_by_mistake() {
    let name = |app: &str| format!("podSelector: {{matchLabels: {{app: {app}}}}}");
    let turned = r#"{"ports":[{"port":8080}],"to":[{"podSelector":{"matchLabels":{"app":"api"}}}]}"#;
    let wrong_way = "policyTypes: [Ingress, Egress], \
                     ingress: [{from: [{podSelector: {matchLabels: {app: api}}}], ports: [{port: 8080}]}]";
    for (what, policies, to, expected) in [
        (
            "policyTypes",
            policy("shop", "api", &format!("{}, policyTypes: [Egress], {FROM_WEB}", name("api"))) + &deny("shop", "Ingress"),
            "shop/api",
            r#"NetworkPolicy api [{"op":"add","path":"/spec/policyTypes/-","value":"Ingress"}]"#.to_owned(),
        ),
        (
            // It stays where it stands: the flow does not need it to go.
            "a rule in the wrong direction",
            policy("shop", "web", &format!("{}, {wrong_way}", name("web"))) + &deny("shop", "Egress"),
            "shop/api",
            format!(r#"NetworkPolicy web [{{"op":"add","path":"/spec/egress","value":[{turned}]}}]"#),
        ),
        (
            // api may answer to web by the rule as it stands; to move it would close that.
            "a rule in the wrong direction that admits something there",
            policy("shop", "web", &format!("{}, {wrong_way}", name("web"))),
            "shop/api",
            format!(r#"NetworkPolicy web [{{"op":"add","path":"/spec/egress","value":[{turned}]}}]"#),
        ),
        (
            "the namespace",
            policy("default", "api", &format!("{}, {FROM_WEB}", name("api"))) + &deny("shop", "Ingress"),
            "shop/api",
            r#"moved api {"name":"api","namespace":"shop"}"#.to_owned(),
        ),
        (
            "the podSelector",
            policy("shop", "cart", &format!("{}, {FROM_WEB}", name("carts"))) + &deny("shop", "Ingress"),
            "shop/cart",
            r#"NetworkPolicy cart [{"op":"replace","path":"/spec/podSelector","value":{"matchLabels":{"app":"cart"}}}]"#.to_owned(),
        ),
    ] {
        // A client without a port of its own, so that a rule with the port is about the server's.
        let client = "metadata: {name: web, namespace: shop, labels: {app: web}}\nspec: {containers: [{name: c";
        let yaml = cluster(&policies);
        let yaml = yaml.replace(&format!("{client}, ports: [{{name: http, containerPort: 8080}}]"), client);
        assert_eq!(fixed(&yaml, "shop/web", to, &PORT), expected, "{what}");
    }
}

#[test]
fn a_rule_is_not_taken_away_that_may_be_right_where_it_stands() {
    // Both ends have the port, and the other half of the rule may be missing.
    let spec = "podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress, Egress], \
                ingress: [{from: [{podSelector: {matchLabels: {app: api}}}], ports: [{port: 8080}]}]";
    let turned = r#"{"ports":[{"port":8080}],"to":[{"podSelector":{"matchLabels":{"app":"api"}}}]}"#;
    let yaml = cluster(&(policy("shop", "web", spec) + &deny("shop", "Egress")));
    let expected = format!(r#"NetworkPolicy web [{{"op":"add","path":"/spec/egress","value":[{turned}]}}]"#);
    assert_eq!(fixed(&yaml, "shop/web", "shop/api", &PORT), expected);
}

#[test]
fn a_selector_of_nothing_is_replaced_by_what_it_means() {
    let of_ops = r#"{"matchLabels":{"kubernetes.io/metadata.name":"ops"}}"#;
    let monitoring = "apiVersion: v1\nkind: Namespace\nmetadata: {name: monitoring, labels: {team: security}}\n---\n\
                      apiVersion: v1\nkind: Pod\nmetadata: {name: probe, namespace: monitoring, labels: {app: probe}}\n\
                      spec: {containers: [{name: c}]}\nstatus: {phase: Running, podIP: 10.0.3.1}\n---\n";
    for (peer, from, expected) in [
        (
            "podSelector: {matchLabels: {name: web}}",
            "shop/web",
            r#"/podSelector","value":{"matchLabels":{"app":"web"}}"#.to_owned(),
        ),
        (
            "namespaceSelector: {matchLabels: {name: ops}}, podSelector: {matchLabels: {app: prom}}",
            "ops/prom",
            format!(r#"/namespaceSelector","value":{of_ops}"#),
        ),
        (
            "namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: Monitoring}}",
            "monitoring/probe",
            r#"/namespaceSelector","value":{"matchLabels":{"kubernetes.io/metadata.name":"monitoring"}}"#.to_owned(),
        ),
        (
            "namespaceSelector: {matchLabels: {team: securty}}",
            "monitoring/probe",
            r#"/namespaceSelector","value":{"matchLabels":{"team":"security"}}"#.to_owned(),
        ),
    ] {
        let spec = format!(
            "podSelector: {{matchLabels: {{app: api}}}}, ingress: [{{from: [{{{peer}}}], ports: [{{port: 8080}}]}}]"
        );
        let yaml = cluster(&[policy("shop", "api", &spec), monitoring.to_owned()].concat());
        let expected = format!(r#"NetworkPolicy api [{{"op":"replace","path":"/spec/ingress/0/from/0{expected}}}]"#);
        assert_eq!(fixed(&yaml, from, "shop/api", &PORT), expected, "{peer}");
    }
    // A namespace has the label: the rule means that one, and is left as it is.
    let spec = "podSelector: {matchLabels: {app: api}}, \
                ingress: [{from: [{namespaceSelector: {matchLabels: {team: securty}}}], ports: [{port: 8080}]}]";
    let other = "apiVersion: v1\nkind: Namespace\nmetadata: {name: other, labels: {team: securty}}\n---\n";
    let yaml = cluster(&[&policy("shop", "api", spec), monitoring, other].concat());
    let text = fixed(&yaml, "monitoring/probe", "shop/api", &PORT);
    assert!(!text.contains("replace"), "{text}");
}

#[test]
fn one_patch_corrects_two_mistakes_of_a_rule() {
    let spec = "podSelector: {matchLabels: {app: api}}, \
                ingress: [{from: [{podSelector: {matchLabels: {name: web}}}], ports: [{port: 80}]}]";
    let text = fixed(&cluster(&policy("shop", "api", spec)), "shop/web", "shop/api", &PORT);
    let selector =
        r#"{"op":"replace","path":"/spec/ingress/0/from/0/podSelector","value":{"matchLabels":{"app":"web"}}}"#;
    let port = r#"{"op":"add","path":"/spec/ingress/0/ports/-","value":{"port":8080}}"#;
    assert_eq!(text, format!("NetworkPolicy api [{selector},{port}]\nopens shop/web shop/api 80"));
}

#[test]
fn an_and_that_was_meant_as_or_gets_the_selector_as_an_item_of_its_own() {
    let both =
        "namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ops}}, podSelector: {matchLabels: {app: web}}";
    let spec = format!("podSelector: {{matchLabels: {{app: api}}}}, ingress: [{{from: [{{{both}}}]}}]");
    let text = fixed(&cluster(&policy("shop", "api", &spec)), "shop/web", "shop/api", &PORT);
    let item = r#"{"op":"add","path":"/spec/ingress/0/from/-","value":{"podSelector":{"matchLabels":{"app":"web"}}}}"#;
    assert!(text.starts_with(&format!("NetworkPolicy api [{item}]\nopens shop/web shop/api ")), "{text}");
}

#[test]
fn no_pod_gets_the_label_by_which_another_workload_is_known() {
    let worker = "apiVersion: v1\nkind: Pod\nmetadata: {name: worker, namespace: shop, labels: {job: worker}}\n\
                  spec: {containers: [{name: c}]}\nstatus: {phase: Running, podIP: 10.0.0.9}\n---\n";
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: front, namespace: shop}\n\
                   spec: {selector: {tier: front}, ports: [{port: 80}]}\n---\n";
    let other = policy("shop", "front", "podSelector: {matchLabels: {tier: front}}, policyTypes: [Ingress]");
    let peer = r#"NetworkPolicy api [{"op":"add","path":"/spec/ingress/0/from/-","value":{"podSelector":{"matchLabels":{"job":"worker"}}}}]"#;
    let label = r#"Pod worker [{"op":"add","path":"/metadata/labels/tier","value":"front"}]"#;
    for (what, wanted, more, expected) in [
        ("of a workload", "app: web", "", peer),
        ("of no workload of the input", "app: gateway", "", peer),
        ("by which a Service selects", "tier: front", service, peer),
        ("by which another policy selects", "tier: front", other.as_str(), peer),
        ("of no other workload", "tier: front", "", label),
    ] {
        let spec = format!(
            "podSelector: {{matchLabels: {{app: api}}}}, \
             ingress: [{{from: [{{podSelector: {{matchLabels: {{{wanted}}}}}}}], ports: [{{port: 8080}}]}}]"
        );
        let yaml = cluster(&[&policy("shop", "api", &spec), worker, more].concat());
        assert_eq!(fixed(&yaml, "shop/worker", "shop/api", &PORT), expected, "{what}");
    }
}

#[test]
fn no_rule_goes_into_a_policy_that_denies_all_by_default() {
    let rule = r#"{"from":[{"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"ops"}},"podSelector":{"matchLabels":{"app":"prom"}}}],"ports":[{"port":8080}]}"#;
    // The namespace has one pod, so that the policy of all its pods selects no other.
    let nearest = policy(
        "dev",
        "tool",
        "podSelector: {matchLabels: {app: tool}}, \
         ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: cart}}}]}]",
    );
    let text = fixed(&cluster(&[deny("dev", "Ingress"), nearest].concat()), "ops/prom", "dev/tool", &PORT);
    assert_eq!(text, format!(r#"NetworkPolicy tool [{{"op":"add","path":"/spec/ingress/-","value":{rule}}}]"#));
    let text = fixed(&cluster(&deny("dev", "Ingress")), "ops/prom", "dev/tool", &PORT);
    let expected = format!(
        r#"new NetworkPolicy allow-tool-from-prom {{"ingress":[{rule}],"podSelector":{{"matchLabels":{{"app":"tool"}}}},"policyTypes":["Ingress"]}}"#
    );
    assert_eq!(text, expected);
}

#[test]
fn a_rule_gets_only_the_ports_that_it_lacks() {
    let spec = |ports: &str| {
        format!(
            "podSelector: {{matchLabels: {{app: web}}}}, policyTypes: [Egress], egress: [{{to: [{{namespaceSelector: \
             {{matchLabels: {{kubernetes.io/metadata.name: ops}}}}, podSelector: {{matchLabels: {{app: prom}}}}}}], ports: [{ports}]}}]"
        )
    };
    let port = |protocol: &str| format!(r#"{{"port":53,"protocol":"{protocol}"}}"#);
    let one = |port: String| format!(r#"{{"op":"add","path":"/spec/egress/0/ports/-","value":{port}}}"#);
    for (ports, asked, expected) in [
        ("{port: 53, protocol: UDP}", Protocol::Tcp, one(port("TCP"))),
        ("{port: 53}", Protocol::Udp, one(port("UDP"))),
        ("{port: 80}", Protocol::Udp, [one(port("UDP")), one(port("TCP"))].join(",")),
    ] {
        let yaml = cluster(&policy("shop", "web", &spec(ports)));
        // A DNS server, which is asked by both protocols.
        let of_server = |port: &str| {
            format!(
                "name: prom, namespace: ops, labels: {{app: prom}}}}\nspec: {{containers: [{{name: c, ports: [{port}]"
            )
        };
        let http = of_server("{name: http, containerPort: 8080}");
        assert!(yaml.contains(&http), "{yaml}");
        let yaml = yaml.replace(&http, &of_server("{name: dns, containerPort: 53, protocol: UDP}"));
        let text = fixed(&yaml, "shop/web", "ops/prom", &Port::Numbers(Some(asked), 53, 53));
        let patch = text.lines().next().unwrap_or_default();
        assert_eq!(patch, format!("NetworkPolicy web [{expected}]"), "{ports}: {text}");
    }
}
