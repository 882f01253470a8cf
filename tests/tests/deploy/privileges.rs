//! What the agent may do is the least that it needs.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::chart;

fn of_kind<'a>(objects: &'a crate::yaml::Objects, kind: &str) -> Vec<&'a Value> {
    objects.values().filter(|object| object["kind"] == kind).collect()
}

/// Every right of the chart's roles, as `group/resource verb`.
fn rights(over: &str) -> BTreeSet<String> {
    let objects = chart::objects(&chart::values_with(over));
    let texts = |list: &Value| list.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect();
    let mut rights = BTreeSet::new();
    for role in of_kind(&objects, "ClusterRole") {
        for rule in role["rules"].as_array().unwrap() {
            let lists: [Vec<String>; 3] = ["apiGroups", "resources", "verbs"].map(|field| texts(&rule[field]));
            let [groups, resources, verbs] = &lists;
            for group in groups {
                for resource in resources {
                    rights.extend(verbs.iter().map(|verb| format!("{group}/{resource} {verb}")));
                }
            }
        }
    }
    rights
}

#[test]
fn the_agent_reads_six_kinds_and_writes_events_only() {
    let mut expected = BTreeSet::from(["events.k8s.io/events create".to_owned()]);
    for resource in ["/pods", "/namespaces", "/nodes", "networking.k8s.io/networkpolicies"] {
        expected.extend(["get", "list", "watch"].map(|verb| format!("{resource} {verb}")));
    }
    // What commands in its pod list besides.
    expected.extend(["/services list", "discovery.k8s.io/endpointslices list"].map(str::to_owned));
    assert_eq!(rights(""), expected);
    expected.insert("/nodes patch".to_owned());
    assert_eq!(rights("startupTaint: {enabled: true}"), expected, "the taint takes one right more");
}

#[test]
fn the_roles_are_bound_to_the_agents_account_only() {
    let objects = chart::objects(&chart::values_with(chart::EVERYTHING));
    let account = json!([{"kind": "ServiceAccount", "name": "npc", "namespace": chart::NAMESPACE}]);
    let bindings = of_kind(&objects, "ClusterRoleBinding");
    assert_eq!(bindings.len(), of_kind(&objects, "ClusterRole").len());
    for binding in bindings {
        assert_eq!(binding["subjects"], account);
        assert_eq!(binding["roleRef"]["name"], binding["metadata"]["name"]);
    }
}

#[test]
fn the_container_has_two_capabilities_and_a_root_that_it_cannot_write() {
    for over in ["", chart::EVERYTHING] {
        let objects = chart::objects(&chart::values_with(over));
        let daemon_sets = of_kind(&objects, "DaemonSet");
        let [daemon_set] = daemon_sets.as_slice() else { panic!("one DaemonSet") };
        let pod = &daemon_set["spec"]["template"]["spec"];
        assert_eq!(pod["containers"].as_array().unwrap().len(), 1);
        for absent in ["initContainers", "hostPID", "hostIPC"] {
            assert_eq!(pod.get(absent), None, "{absent}");
        }
        assert_eq!(pod["securityContext"], json!({"seccompProfile": {"type": "RuntimeDefault"}}));
        let container = &pod["containers"][0];
        assert_eq!(
            container["securityContext"],
            json!({
                "privileged": false,
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "runAsUser": 0,
                "runAsGroup": 0,
                "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
            })
        );
        let writable: Vec<_> = (container["volumeMounts"].as_array().unwrap().iter())
            .filter(|mount| mount["readOnly"] != true)
            .map(|mount| mount["mountPath"].as_str().unwrap())
            .collect();
        assert_eq!(writable, ["/run/xtables.lock", "/run/npc"]);
    }
}

#[test]
fn it_runs_on_every_linux_node_and_is_replaced_one_by_one() {
    let objects = chart::objects(&chart::values());
    let spec = &of_kind(&objects, "DaemonSet")[0]["spec"];
    assert_eq!(
        spec["updateStrategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}})
    );
    let pod = &spec["template"]["spec"];
    assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]));
    assert_eq!(pod["nodeSelector"], json!({"kubernetes.io/os": "linux"}));
    assert_eq!(pod["priorityClassName"], "system-node-critical");
    assert_eq!(pod["hostNetwork"], true);
    assert!(pod["containers"][0]["resources"]["limits"].get("cpu").is_none(), "a held-back agent enforces late");
}
