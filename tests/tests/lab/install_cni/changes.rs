//! What changes around an installed plugin: the name of our file, the node's plugins, and a
//! node that starts anew.

use std::fs;
use std::os::unix::fs::symlink;
use std::thread;

use npc_agent::install_cni::report::AlertReason;

use super::api::{Says, installed};
use super::host::{Host, OWN, SOURCE};
use super::{chain, has_alert, is_isolated, report};
use crate::cni::node::{REFERENCE, binary, wait};
use crate::cni::traffic::{listen, passes, reaches};

/// Waits until these are the files of the runtime's folder.
fn wait_for_files(host: &Host, names: [&str; 2]) {
    wait("the folder has these files", || host.files().keys().map(String::as_str).eq(names));
}

#[test]
fn a_changed_file_name_leaves_no_old_file_and_no_moment_without_the_plugin() {
    let Some(host) = Host::new(3) else { return };
    host.write_source(0);
    let before = host.files();
    let mut installer = host.install(&[]);
    host.wait_installed();
    for name in ["04-npc.conflist", "06-npc.conflist"] {
        // What the runtime has read, and goes by until it has read the new file.
        let read = host.configuration().unwrap();
        host.end(installer, installed());
        installer = host.install(&["--cni-conf-name", name]);
        wait_for_files(&host, [name, SOURCE]);
        let (mut old, mut new) = (host.sandbox("web-0"), host.sandbox("web-1"));
        host.add_by(&mut old, &read).unwrap();
        host.add(&mut new).unwrap();
        assert!(old.is_ours && is_isolated(&host, &old), "{name}: a pod of the old file");
        assert!(new.is_ours && is_isolated(&host, &new), "{name}");
        wait("the report says so", || report(&host).installed && report(&host).alerts.is_empty());
        for sandbox in [old, new] {
            host.delete(&sandbox).unwrap();
            sandbox.remove();
        }
    }
    host.write_source(1);
    wait("it follows its source", || chain(&host, "06-npc.conflist") == ["ptp", "npc-cni"]);
    host.write_source(0);
    host.end(installer, Says::Refuses(404, "NotFound"));
    assert_eq!(host.files(), before);
    // An installer that does not run any more left a file under another name than the command has.
    host.api.says(installed());
    let installer = host.install(&[]);
    host.wait_installed();
    installer.kill();
    host.node.kill_agent();
    let (code, text) = host.cleanup(&["--cni-conf-name", "04-npc.conflist"]);
    assert!(code == Some(0) && text.contains(OWN), "{text}");
    assert_eq!(host.files(), before);
    let mut last = host.sandbox("web-2");
    host.add(&mut last).unwrap();
    assert!(!last.is_ours);
}

/// The kernel and /run are empty then. Conflist and plugin are in place.
#[test]
fn after_a_reboot_a_pod_waits_for_the_agent_and_starts_isolated() {
    let Some(host) = Host::new(1) else { return };
    listen(host.node.outside(), &[8080, 9090]);
    host.write_source(0);
    let installer = host.install(&[]);
    host.wait_installed();
    installer.kill();
    host.node.kill_agent();
    assert!(host.node.netns().command(binary("npc")).args(["cleanup", "--quiet"]).status().unwrap().success());
    fs::remove_dir_all(host.node.socket().parent().unwrap()).unwrap();
    let mut web = host.sandbox("web-0");
    thread::scope(|scope| {
        let adding = scope.spawn(|| host.add(&mut web));
        wait("the pod waits", || host.runs_plugin());
        host.node.start_agent();
        host.node.wait_ready();
        adding.join().unwrap().unwrap();
    });
    assert!(web.is_ours && is_isolated(&host, &web));
    let to = "192.0.2.2".parse().unwrap();
    assert!(!passes(&web.netns, to, 9090));
    assert!(reaches(&web.netns, to, 8080));
    let _installer = host.install(&[]);
    wait("the next installer finds all in place", || report(&host).installed);
}

#[test]
fn a_link_in_place_of_the_plugin_is_reported_as_one() {
    let Some(host) = Host::new(1) else { return };
    host.write_source(0);
    let plugin = host.bin().join("npc-cni");
    symlink("/nowhere/npc-cni", &plugin).unwrap();
    let _installer = host.install(&[]);
    wait("the link is reported", || has_alert(&host, AlertReason::NotAFile));
    assert!(!has_alert(&host, AlertReason::CannotWrite) && !host.conf().join(OWN).exists());
    fs::remove_file(&plugin).unwrap();
    host.wait_installed();
    wait("all is well", || report(&host).alerts.is_empty());
    assert!(plugin.symlink_metadata().unwrap().is_file());
}

#[test]
fn the_conflist_appears_only_where_the_runtime_finds_all_plugins() {
    let Some(host) = Host::new(1) else { return };
    host.write_source(0);
    fs::remove_file(host.bin().join("ptp")).unwrap();
    let installer = host.install(&[]);
    wait("the plugin is missed", || has_alert(&host, AlertReason::PluginMissing));
    assert!(!host.conf().join(OWN).exists() && !report(&host).installed);
    symlink(format!("{REFERENCE}/ptp"), host.bin().join("ptp")).unwrap();
    host.wait_installed();
    wait("all is well", || report(&host).installed && report(&host).alerts.is_empty());
    // One that goes later is reported, and the file stays.
    fs::remove_file(host.bin().join("portmap")).unwrap();
    wait("the plugin is missed", || has_alert(&host, AlertReason::PluginMissing));
    assert_eq!(chain(&host, OWN), ["ptp", "portmap", "npc-cni"]);
    // The runtime has another folder, as CRI-O.
    host.end(installer, Says::Refuses(404, "NotFound"));
    host.api.says(installed());
    let _installer = host.install(&["--cni-plugin-dirs", REFERENCE]);
    host.wait_installed();
    wait("all is well", || report(&host).installed && report(&host).alerts.is_empty());
}
