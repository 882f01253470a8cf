//! What the agent may do is the least that it needs.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::chart;

fn of_kind<'a>(objects: &'a crate::yaml::Objects, kind: &str) -> Vec<&'a Value> {
    objects.values().filter(|object| object["kind"] == kind).collect()
}

fn texts<C: FromIterator<String>>(list: &Value) -> C {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// Every right of the chart's roles, as `group/resource verb`.
fn rights(over: &str) -> BTreeSet<String> {
    let objects = chart::objects(&chart::values_with(over));
    let mut rights = BTreeSet::new();
    for role in of_kind(&objects, "ClusterRole").into_iter().chain(of_kind(&objects, "Role")) {
        let of = role["metadata"]["namespace"].as_str().map(|space| format!(" in {space}")).unwrap_or_default();
        for rule in role["rules"].as_array().unwrap() {
            let lists: [Vec<String>; 3] = ["apiGroups", "resources", "verbs"].map(|field| texts(&rule[field]));
            let [groups, resources, verbs] = &lists;
            let names = rule
                .get("resourceNames")
                .map(|names| format!(" {}", texts::<Vec<_>>(names).join(",")))
                .unwrap_or_default();
            for group in groups {
                for resource in resources {
                    rights.extend(verbs.iter().map(|verb| format!("{group}/{resource}{names} {verb}{of}")));
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
    expected.remove("/nodes patch");
    expected.insert("apps/daemonsets npc get in npc-system".to_owned());
    assert_eq!(rights("cni: {enabled: true}"), expected, "the CNI plugin's installer takes one right more");
}

#[test]
fn the_roles_are_bound_to_the_agents_account_only() {
    let objects = chart::objects(&chart::values_with(chart::EVERYTHING));
    let account = json!([{"kind": "ServiceAccount", "name": "npc", "namespace": chart::NAMESPACE}]);
    for kind in ["ClusterRole", "Role"] {
        let bindings = of_kind(&objects, &format!("{kind}Binding"));
        assert_eq!(bindings.len(), of_kind(&objects, kind).len());
        for binding in bindings {
            assert_eq!(binding["subjects"], account);
            assert_eq!(binding["roleRef"]["name"], binding["metadata"]["name"]);
            assert_eq!(binding["roleRef"]["kind"], kind);
        }
    }
}

#[test]
fn the_container_has_two_capabilities_and_a_root_that_it_cannot_write() {
    for (over, count) in [("", 1), (chart::EVERYTHING, 2)] {
        let objects = chart::objects(&chart::values_with(over));
        let daemon_sets = of_kind(&objects, "DaemonSet");
        let [daemon_set] = daemon_sets.as_slice() else { panic!("one DaemonSet") };
        let pod = &daemon_set["spec"]["template"]["spec"];
        let containers = pod["containers"].as_array().unwrap();
        assert_eq!(containers.len(), count);
        for absent in ["initContainers", "hostPID", "hostIPC"] {
            assert_eq!(pod.get(absent), None, "{absent}");
        }
        assert_eq!(pod["securityContext"], json!({"seccompProfile": {"type": "RuntimeDefault"}}));
        let container = containers.iter().find(|container| container["name"] == "npc").unwrap();
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
        assert_eq!(writable(container), ["/run/xtables.lock", "/run/npc"]);
        // With propagation of mounts, the agent would not start where /run is not shared.
        let netns = json!({"name": "netns", "mountPath": "/run/netns", "readOnly": true});
        assert!(container["volumeMounts"].as_array().unwrap().contains(&netns), "{container}");
    }
}

/// Where a container can write.
fn writable(container: &Value) -> Vec<&str> {
    let mounts = container["volumeMounts"].as_array().unwrap().iter();
    mounts.filter(|mount| mount["readOnly"] != true).map(|mount| mount["mountPath"].as_str().unwrap()).collect()
}

/// What can write the runtime's folders is root on the node, so that is all it can.
#[test]
fn the_cni_plugins_installer_has_no_capability_and_only_it_writes_the_runtimes_folders() {
    let objects = chart::objects(&chart::values_with("cni: {enabled: true, seLinuxOptions: {type: spc_t}}"));
    let containers = &of_kind(&objects, "DaemonSet")[0]["spec"]["template"]["spec"]["containers"];
    let container = containers.as_array().unwrap().iter().find(|container| container["name"] == "install-cni").unwrap();
    assert_eq!(
        container["securityContext"],
        json!({
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "runAsUser": 0,
            "runAsGroup": 0,
            "capabilities": {"drop": ["ALL"]},
            "seLinuxOptions": {"type": "spc_t"},
        })
    );
    assert_eq!(writable(container), ["/etc/cni/net.d", "/opt/cni/bin", "/run/npc-cni"]);
    assert!(container.get("ports").is_none(), "it listens nowhere");
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
