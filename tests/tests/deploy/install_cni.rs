//! The container that installs the CNI plugin: its flags are there, and what an operator does
//! to the release decides whether the plugin stays on a node.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Taint;
use npc_agent::install_cni::owner::{NodeTraits, OwnerAnswer, Wish, wish};
use serde_json::Value;

use crate::{chart, kustomize, npc, repository, tools};

const CONTAINER: &str = "install-cni";

fn daemon_set(objects: &crate::yaml::Objects) -> Value {
    objects.values().find(|object| object["kind"] == "DaemonSet").unwrap().clone()
}

fn of_chart(over: &str) -> Value {
    daemon_set(&chart::objects(&chart::values_with(over)))
}

fn container<'a>(set: &'a Value, name: &str) -> &'a Value {
    let containers = set["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    containers.iter().find(|container| container["name"] == name).unwrap()
}

/// What the installer of a Linux node of the pool `main` does when it ends.
fn wish_of(set: &Value) -> Wish {
    let set: DaemonSet = serde_json::from_value(set.clone()).unwrap();
    let labels = [("kubernetes.io/os", "linux"), ("pool", "main")];
    let labels: BTreeMap<_, _> = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    // Which the chart tolerates, as all others.
    let gpu = Taint { key: "gpu".to_owned(), effect: "NoExecute".to_owned(), ..Taint::default() };
    let traits = NodeTraits { labels, taints: vec![gpu] };
    wish(&OwnerAnswer::Found(Box::new(set), Some(traits)), CONTAINER, "node-1")
}

#[test]
fn the_plugin_stays_through_upgrades_and_goes_when_the_release_has_it_no_more() {
    let stays = [
        of_chart("cni: {enabled: true}"),
        of_chart("{cni: {enabled: true}, image: {repository: npc, tag: '0.2.0'}}"),
        of_chart("{cni: {enabled: true}, nodeSelector: {pool: main}}"),
        daemon_set(&kustomize::build(&repository("deploy/kustomize/overlays/aks"))),
    ];
    for set in stays {
        assert_eq!(wish_of(&set), Wish::Keep, "{set}");
    }
    let virtual_nodes = "affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: \
        [{matchExpressions: [{key: pool, operator: NotIn, values: [main]}]}]}}}";
    let goes = [
        // cni.enabled=false, a rollback to before it, and another overlay.
        of_chart(""),
        daemon_set(&kustomize::build(&repository("deploy/kustomize/overlays/generic"))),
        of_chart("{cni: {enabled: true}, nodeSelector: {pool: other}}"),
        of_chart(&format!("{{cni: {{enabled: true}}, {virtual_nodes}}}")),
    ];
    for set in goes {
        assert!(matches!(wish_of(&set), Wish::Remove(_)), "{set}");
    }
}

#[test]
fn the_agent_serves_the_plugins_socket_whether_it_is_installed_or_not() {
    for over in ["", "cni: {enabled: true}"] {
        let set = of_chart(over);
        let agent = container(&set, "npc");
        assert!(agent["args"].as_array().unwrap().contains(&"--cni-socket=/run/npc/cni.sock".into()), "{over}");
        let mounts = agent["volumeMounts"].as_array().unwrap();
        assert!(mounts.iter().any(|mount| mount["mountPath"] == "/run/npc"), "{over}");
    }
}

/// A pod of the node's network is started without a CNI plugin, so none can wait for itself.
#[test]
fn the_agent_and_the_installer_need_no_plugin_to_start() {
    let sets =
        [of_chart("cni: {enabled: true}"), daemon_set(&kustomize::build(&repository("deploy/kustomize/overlays/aks")))];
    for set in sets {
        assert_eq!(set["spec"]["template"]["spec"]["hostNetwork"], true, "{set}");
        for name in [CONTAINER, "npc"] {
            container(&set, name);
        }
    }
}

#[test]
fn the_installers_flags_exist_and_its_folders_are_those_of_the_node() {
    let set = of_chart(
        "cni: {enabled: true, confDir: /a/net.d, binDir: /b/bin, cacheDir: /c, otherBinDir: /d, openNamespaces: 'x,y'}",
    );
    let installer = container(&set, CONTAINER);
    let args: Vec<&str> = installer["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect();
    assert_eq!(args[0], CONTAINER);
    assert!(args.contains(&"--open-namespaces=x,y"), "{args:?}");
    if let Some(npc) = npc() {
        let help = tools::run(&npc, [], &[CONTAINER, "--help"]);
        for arg in &args[1..] {
            let flag = arg.split('=').next().unwrap();
            assert!(help.contains(&format!("{flag} ")), "{flag} is not in the help");
        }
    }
    let volumes = set["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
    let mounts = installer["volumeMounts"].as_array().unwrap();
    for (flag, path) in [
        ("--cni-conf-dir", "/a/net.d"),
        ("--cni-bin-dir", "/b/bin"),
        ("--cni-cache-dir", "/c"),
        ("--cni-plugin-dirs", "/d"),
    ] {
        assert!(args.contains(&format!("{flag}={path}").as_str()), "{args:?}");
        let mount = mounts.iter().find(|mount| mount["mountPath"] == path).unwrap();
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).unwrap();
        assert_eq!(volume["hostPath"]["path"], path);
    }
    // The kubelet must not kill it while it asks.
    let seconds = |flag: &str| args.iter().find_map(|arg| arg.strip_prefix(flag)).unwrap().parse::<u64>().unwrap();
    let grace = set["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(seconds("--grace=") + 5 < grace);
    // Both containers have one file for the report.
    let report = args.iter().find_map(|arg| arg.strip_prefix("--report=")).unwrap();
    let env = container(&set, "npc")["env"].as_array().unwrap();
    assert!(env.iter().any(|one| one["name"] == "NPC_CNI_REPORT" && one["value"] == report));
}
