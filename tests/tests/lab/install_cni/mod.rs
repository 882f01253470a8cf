//! `npc install-cni` on a node with a real agent and real reference plugins, called as a
//! runtime calls them.

mod api;
mod changes;
mod host;
mod runtime;
mod sequences;
mod upgrade;

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use npc_agent::install_cni::report::{AlertReason, InstallReport};
use serde_json::{Value, json};

use crate::cni::node::{binary, wait};
use crate::cni::traffic::{listen, passes, reaches};
use api::{Says, daemon_set, installed};
use host::{Host, OWN, SOURCE};

/// The types of the plugins of a file.
fn chain(host: &Host, name: &str) -> Vec<String> {
    let files = host.files();
    let Some(text) = files.get(name) else { return Vec::new() };
    let list: Value = serde_json::from_str(text).unwrap();
    list["plugins"].as_array().unwrap().iter().map(|plugin| plugin["type"].as_str().unwrap().to_owned()).collect()
}

fn report(host: &Host) -> InstallReport {
    InstallReport::read(&host.report_file()).unwrap().unwrap_or_default()
}

fn has_alert(host: &Host, reason: AlertReason) -> bool {
    report(host).alerts.iter().any(|alert| alert.reason == reason)
}

/// All addresses of the pod are isolated in both directions.
fn is_isolated(host: &Host, sandbox: &host::Sandbox) -> bool {
    let addresses = sandbox.addresses();
    !addresses.is_empty() && addresses.iter().all(|address| crate::cni::is_isolated(&host.node, *address))
}

#[test]
fn a_pod_starts_isolated_once_the_plugin_is_installed() {
    let Some(host) = Host::new(1) else { return };
    listen(host.node.outside(), &[8080, 9090]);
    host.write_source(0);
    let installer = host.install(&[]);
    host.wait_installed();
    assert_eq!(chain(&host, OWN), ["ptp", "portmap", "npc-cni"]);
    assert_eq!(fs::read(host.bin().join("npc-cni")).unwrap(), fs::read(binary("npc-cni")).unwrap());
    wait("the report says so", || report(&host).installed);
    assert_eq!(report(&host).source.as_deref(), Some(SOURCE));
    let mut web = host.sandbox("web-0");
    host.add(&mut web).unwrap();
    assert!(web.is_ours && is_isolated(&host, &web));
    let to = "192.0.2.2".parse().unwrap();
    assert!(!passes(&web.netns, to, 9090));
    assert!(reaches(&web.netns, to, 8080));
    // It follows its source, and another plugin with new settings replaces ours.
    host.write_source(1);
    wait("it follows", || chain(&host, OWN) == ["ptp", "npc-cni"]);
    host.delete(&web).unwrap();
    drop(installer);
}

/// Each way in which npc or its plugin leaves a node or stays there, as the API server
/// shows it to the installer.
#[test]
fn each_way_of_removal_leaves_the_folder_as_it_was() {
    let Some(host) = Host::new(1) else { return };
    host.write_source(0);
    let before = host.files();
    let linux = json!({"kubernetes.io/os": "linux"});
    let both = ["install-cni", "npc"];
    let going = || {
        let mut set = daemon_set(&both, &linux);
        set["metadata"]["deletionTimestamp"] = json!("2026-11-28T00:00:00Z");
        set
    };
    let intolerant = || {
        let mut set = daemon_set(&both, &linux);
        set["spec"]["template"]["spec"]["tolerations"] = json!([{"key": "pool", "value": "web"}]);
        set
    };
    for (way, says, is_removed) in [
        ("helm uninstall, kubectl delete -k: the DaemonSet is gone", Says::Refuses(404, "NotFound"), true),
        ("the DaemonSet is being deleted", Says::Found(going()), true),
        ("the account is gone", Says::Refuses(401, "Unauthorized"), true),
        ("the right is gone", Says::Refuses(403, "Forbidden"), true),
        ("helm rollback, cni.enabled=false", Says::Found(daemon_set(&["npc"], &linux)), true),
        ("another nodeSelector", Says::Found(daemon_set(&both, &json!({"pool": "other"}))), true),
        ("a taint of the node that is not tolerated any more", Says::Found(intolerant()), true),
        ("an upgrade, a restart, a drained node", installed(), false),
        ("the API server is broken", Says::Refuses(500, "InternalError"), false),
        ("a proxy without an API server behind it", Says::Refuses(404, "page not found"), false),
        ("the API server is away", Says::Nothing, false),
    ] {
        host.api.says(installed());
        let installer = host.install(&[]);
        host.wait_installed();
        host.end(installer, says);
        let own = host.conf().join(OWN);
        assert_eq!(own.exists(), !is_removed, "{way}");
        assert_eq!(host.bin().join("npc-cni").exists(), !is_removed, "{way}");
        if is_removed {
            assert_eq!(host.files(), before, "{way}");
        }
    }
    // What is left when the API server could not be asked goes by a command.
    // The agent would put back what the command removes from the kernel.
    assert_eq!(host.cleanup(&[]).0, Some(2));
    assert!(host.conf().join(OWN).exists());
    host.node.kill_agent();
    fs::write(host.cache().join("kept"), r#"{"type":"npc-cni"}"#).unwrap();
    let (code, text) = host.cleanup(&[]);
    assert!(code == Some(0) && text.contains("kept ") && text.contains(OWN), "{text}");
    assert!(host.bin().join("npc-cni").exists());
    assert_eq!(host.files(), before);
    let (code, text) = host.cleanup(&["--purge"]);
    assert!(code == Some(0) && text.contains("npc-cni"), "{text}");
    assert!(!host.bin().join("npc-cni").exists());
}

/// The DEL of a pod uses the configuration that the runtime kept at its ADD.
#[test]
fn a_pod_that_was_started_with_the_plugin_ends_after_its_removal() {
    let Some(host) = Host::new(2) else { return };
    host.write_source(0);
    let installer = host.install(&[]);
    host.wait_installed();
    let mut web = host.sandbox("web-0");
    host.add(&mut web).unwrap();
    host.end(installer, Says::Refuses(404, "NotFound"));
    assert!(!host.conf().join(OWN).exists());
    assert!(host.bin().join("npc-cni").exists(), "a file of the runtime's cache names it");
    host.node.kill_agent();
    host.delete(&web).unwrap();
    // Without the agent the next pod starts, with the runtime's own configuration.
    let mut next = host.sandbox("web-1");
    host.add(&mut next).unwrap();
    assert!(!next.is_ours);
}

/// What Multus and Istio derive from our file outlives it, and must not keep pods from
/// starting.
#[test]
fn a_copy_of_our_file_lets_pods_start_after_the_removal() {
    let Some(host) = Host::new(2) else { return };
    host.write_source(0);
    let installer = host.install(&[]);
    host.wait_installed();
    let delegate: Value = serde_json::from_str(&host.files()[OWN]).unwrap();
    let multus = json!({"cniVersion": "1.0.0", "name": "m", "type": "multus", "delegates": [delegate]});
    fs::write(host.conf().join("00-multus.conf"), multus.to_string()).unwrap();
    let mut web = host.sandbox("web-0");
    host.add(&mut web).unwrap();
    assert!(web.is_ours && is_isolated(&host, &web));
    host.end(installer, Says::Refuses(404, "NotFound"));
    assert!(!host.conf().join(OWN).exists());
    host.node.kill_agent();
    let mut next = host.sandbox("web-1");
    host.add(&mut next).unwrap();
    assert!(next.is_ours, "the copy calls the plugin");
    host.delete(&next).unwrap();
}

/// The one command that lets a node start pods after any failure, and its undoing.
#[test]
fn a_node_whose_agent_is_broken_starts_pods_after_one_command() {
    let Some(host) = Host::new(3) else { return };
    host.write_source(0);
    let _installer = host.install(&["--timeout", "1"]);
    host.wait_installed();
    host.node.kill_agent();
    let mut web = host.sandbox("web-0");
    assert!(host.add(&mut web).unwrap_err().contains("\"code\":11"));
    // rm: it stays away while no agent is ready.
    fs::remove_file(host.conf().join(OWN)).unwrap();
    wait("the installer says why it waits", || has_alert(&host, AlertReason::AgentNotReady));
    host.add(&mut web).unwrap();
    assert!(!web.is_ours);
    host.node.start_agent();
    host.node.wait_ready();
    host.wait_installed();
    // mv: it stays away in any case.
    let (own, off) = (host.conf().join(OWN), host.conf().join(format!("{OWN}.off")));
    fs::rename(&own, &off).unwrap();
    wait("the installer obeys", || has_alert(&host, AlertReason::Off));
    let mut next = host.sandbox("web-1");
    host.add(&mut next).unwrap();
    assert!(!next.is_ours && !own.exists());
    fs::rename(&off, &own).unwrap();
    wait("it is installed again", || report(&host).installed);
    let mut last = host.sandbox("web-2");
    host.add(&mut last).unwrap();
    assert!(last.is_ours && is_isolated(&host, &last));
}

#[test]
fn what_cannot_be_written_or_read_is_reported_and_leaves_what_was_there() {
    let Some(host) = Host::new(1) else { return };
    host.write_source(0);
    let installer = host.install(&[]);
    host.wait_installed();
    let good = host.files()[OWN].clone();
    fs::write(host.conf().join(SOURCE), "{\"half").unwrap();
    wait("the broken source is reported", || has_alert(&host, AlertReason::SourceBroken));
    assert_eq!(host.files()[OWN], good);
    assert!(report(&host).installed);
    host.write_source(0);
    wait("all is well", || report(&host).alerts.is_empty());
    // A file that sorts before ours is left alone.
    fs::write(host.conf().join("00-other.conflist"), host.source(1)).unwrap();
    wait("it is reported", || has_alert(&host, AlertReason::Preempted));
    assert!(!report(&host).installed);
    fs::remove_file(host.conf().join("00-other.conflist")).unwrap();
    wait("all is well", || report(&host).alerts.is_empty());
    // A link in place of ours.
    fs::rename(host.conf().join(OWN), host.conf().join("aside")).unwrap();
    symlink("aside", host.conf().join(OWN)).unwrap();
    wait("the link is reported", || has_alert(&host, AlertReason::NotAFile));
    assert_eq!(fs::read_to_string(host.conf().join("aside")).unwrap(), good);
    fs::remove_file(host.conf().join(OWN)).unwrap();
    wait("it is installed again", || report(&host).installed);
    installer.kill();
}

/// A file system that goes with its test.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The folder is a tmpfs that is read-only at first and later has no room.
#[test]
fn a_read_only_folder_and_a_full_disk_are_reported_and_leave_the_last_good_state() {
    let Some(host) = Host::new(1) else { return };
    host.write_source(0);
    let small = host.conf().with_file_name("small");
    fs::create_dir(&small).unwrap();
    let mount = |words: &[&str]| assert!(Command::new("mount").args(words).status().unwrap().success());
    mount(&["-t", "tmpfs", "-o", "size=16k", "tmpfs", small.to_str().unwrap()]);
    let _mounted = Mounted(small.clone());
    let source = small.join(SOURCE);
    fs::write(&source, host.source(0)).unwrap();
    let own = small.join(OWN);
    // At first nothing can be written there at all. The installer is there before, because its
    // mount namespace is a copy.
    host.node.kill_agent();
    let _installer = host.install_in(&small, &[]);
    wait("it waits for the agent", || has_alert(&host, AlertReason::AgentNotReady));
    mount(&["-o", "remount,ro", small.to_str().unwrap()]);
    host.node.start_agent();
    host.node.wait_ready();
    wait("the failure is reported", || has_alert(&host, AlertReason::CannotWrite));
    assert!(!report(&host).installed);
    mount(&["-o", "remount,rw", small.to_str().unwrap()]);
    wait("the conflist is there", || own.exists());
    wait("all is well", || report(&host).alerts.is_empty());
    let good = fs::read_to_string(&own).unwrap();
    // The rest of the room goes, and then the source changes in place.
    let _ = fs::write(small.join("ballast"), vec![0; 1 << 20]);
    let changed = host.source(0).replace("1400", "1300");
    fs::write(&source, &changed).unwrap();
    wait("the failure is reported", || has_alert(&host, AlertReason::CannotWrite));
    assert_eq!(fs::read_to_string(&own).unwrap(), good);
    fs::remove_file(small.join("ballast")).unwrap();
    wait("it follows", || fs::read_to_string(&own).unwrap().contains("1300"));
    assert!(!small.join(format!(".{OWN}.new")).exists(), "nothing half is left");
}

/// The installer is refused where its flags make no sense.
#[test]
fn wrong_flags_are_refused() {
    for words in [
        &["--cni-conf-name", "05-npc.conf"][..],
        &["--cni-conf-name", "../05-npc.conflist"],
        &["--daemon-set", "npc"],
        &["--timeout", "101"],
        &["--daemon-set", "npc-system/npc"],
    ] {
        let output = Command::new(binary("npc"))
            .arg("install-cni")
            .args(words)
            .env_remove("NODE_NAME")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
