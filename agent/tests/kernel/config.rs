//! What the running agent makes of flags, environment and configuration file.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use npc_agent::dataplane::backend::Backend;
use serde_json::Value;

use super::agent::{Agent, Folder, wait_ready};
use super::dump;
use super::namespace::Namespace;

/// An agent of manifests with a configuration file, and nothing else said.
fn command(folder: &Folder, config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_npc"));
    let manifests = folder.manifests();
    command.args([Path::new("agent"), Path::new("--config"), config, Path::new("--manifests"), &manifests]);
    command
}

/// What every test's file says; that the log can be read shows that it counts.
const COMMON: &str = "node: node-1\nlogFormat: json\nbackend: nft\n";

#[test]
fn a_flag_goes_before_the_environment_and_that_before_the_file() {
    let folder = Folder::new();
    let config = folder.path("config.yaml");
    let ready = |of: &str| folder.path(&format!("ready-{of}"));
    let addresses = [("file", 1), ("environment", 2), ("flag", 3)].map(|(of, n)| (of, format!("127.0.0.1:2000{n}")));
    let [(_, by_file), (_, by_environment), (_, by_flag)] = &addresses;
    let text =
        format!("{COMMON}metricsAddress: {by_file}\nreadyFile: {}\nkeepEstablished: true\n", ready("file").display());
    fs::write(&config, text).unwrap();
    let environment = [
        ("NPC_METRICS_ADDRESS", by_environment.clone()),
        ("NPC_READY_FILE", ready("environment").display().to_string()),
        ("NPC_KEEP_ESTABLISHED", "false".to_owned()),
    ];
    let flags = ["--metrics-address", by_flag, "--ready-file", ready("flag").to_str().unwrap(), "--keep-established"]
        .map(str::to_owned);
    for (first, environment, flags) in
        [("file", &[][..], &[][..]), ("environment", &environment, &[]), ("flag", &environment, &flags)]
    {
        let _namespace = Namespace::enter();
        let environment = environment.iter().map(|(name, value)| (name, value));
        let mut agent = Agent::run(command(&folder, &config).envs(environment).args(flags));
        agent.wait(1);
        wait_ready(&ready(first));
        for (of, address) in &addresses {
            assert_eq!(ready(of).exists(), *of == first, "{first}: the ready file by {of}");
            assert_eq!(TcpStream::connect(address).is_ok(), *of == first, "{first}: metrics by {of}");
        }
        let keeps = !dump(Backend::Nft).iter().any(|line| line.starts_with(":NPC-STRAY"));
        assert_eq!(keeps, first != "environment", "{first}: established flows are kept");
        agent.end(Signal::SIGTERM);
        // It takes its ready file with it only if it is told to look.
        let _ = fs::remove_file(ready(first));
    }
}

#[test]
fn a_key_that_there_is_not_keeps_the_agent_from_starting() {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let config = folder.path("config.yaml");
    let before = dump(Backend::Nft);
    for (text, says) in [
        (
            "keepEstablishd: true\n",
            "config.yaml:4:17: keepEstablishd is not a setting of the agent; did you mean keepEstablished?",
        ),
        ("logLevel: {}\n", "config.yaml:4:11: logLevel: a text is wanted"),
        ("logDenied: [\n", "config.yaml: "),
    ] {
        fs::write(&config, format!("{COMMON}{text}")).unwrap();
        let (code, said) = Agent::run(command(&folder, &config).arg("--once")).ended();
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(says), "{said}");
        assert_eq!(dump(Backend::Nft), before);
    }
    fs::remove_file(&config).unwrap();
    let (code, said) = Agent::run(command(&folder, &config).arg("--once")).ended();
    assert!(code == Some(2) && said.contains("cannot read the configuration"), "{code:?} {said}");
}

/// Replaces a file as careful tools do.
fn rename_over(config: &Path, text: &str) {
    let beside = config.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(&beside, config).unwrap();
}

/// Replaces a file as the kubelet does that of a mounted ConfigMap: the file is
/// a link through `..data`, a link to a folder, and that one is turned.
fn turn_link(config: &Path, text: &str) {
    let mount = config.parent().unwrap();
    let version = mount.join(format!("..{}", fs::read_dir(mount).unwrap().count()));
    fs::create_dir(&version).unwrap();
    fs::write(version.join("config.yaml"), text).unwrap();
    let turned = mount.join("..data_tmp");
    symlink(version.file_name().unwrap(), &turned).unwrap();
    fs::rename(&turned, mount.join("..data")).unwrap();
    if fs::symlink_metadata(config).is_err() {
        symlink("..data/config.yaml", config).unwrap();
    }
}

/// Whether the agent logs what it does in detail, by what it does next.
fn is_detailed(agent: &mut Agent, folder: &Folder, pod: u8) -> bool {
    folder.write_pod(&format!("web-{pod}"), "web", pod);
    let mut detailed = false;
    let done = |entry: &Value| entry["generation"].as_u64() >= Some(u64::from(pod) - 1);
    loop {
        let entry = agent.entry(|entry| entry["level"] == "DEBUG" || done(entry));
        detailed |= entry["message"] == "wrote sets";
        if done(&entry) {
            return detailed;
        }
    }
}

/// Pods are numbered from 3, as those of the folder go to 2.
fn a_file_that_changes_is_followed(change: fn(&Path, &str)) {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    fs::create_dir(folder.path("config")).unwrap();
    let config = folder.path("config").join("config.yaml");
    let write = |text: &str| change(&config, &format!("{COMMON}metricsAddress: 'off'\n{text}"));
    write("");
    let mut agent = Agent::run(command(&folder, &config).env("NPC_LOG_DENIED", "false"));
    agent.wait(1);
    assert!(!is_detailed(&mut agent, &folder, 3));

    write("logLevel: debug\n");
    agent.wait_for("changed the log level");
    assert!(is_detailed(&mut agent, &folder, 4));

    // What waits for a restart, and what waits in vain, is said to.
    write("logLevel: debug\nkeepEstablished: true\n");
    let entry = agent.wait_for("takes effect when the agent restarts");
    assert_eq!(entry["setting"], "keepEstablished");
    write("logLevel: debug\nkeepEstablished: true\nlogDenied: true\n");
    let entry = agent.wait_for("a flag or an environment variable overrides it");
    assert_eq!(entry["setting"], "logDenied");

    // What cannot be used changes nothing.
    for (text, says) in [("logLevl: info\n", "did you mean logLevel?"), ("logLevel: [\n", "config.yaml")] {
        write(text);
        let entry = agent.wait_for("the agent keeps the last good configuration");
        assert!(entry["level"] == "ERROR" && entry["message"].as_str().unwrap().contains(says), "{entry}");
    }
    assert!(is_detailed(&mut agent, &folder, 5));

    // And back, by a file that says nothing of it.
    write("keepEstablished: true\n");
    agent.wait_for("changed the log level");
    assert!(!is_detailed(&mut agent, &folder, 6));
    let strays = || dump(Backend::Nft).iter().any(|line| line.starts_with(":NPC-STRAY"));
    assert!(strays(), "it still goes by what it started with");
    agent.end(Signal::SIGTERM);
    let mut agent = Agent::run(&mut command(&folder, &config));
    agent.wait(1);
    assert!(!strays());
}

#[test]
fn a_file_that_is_written_in_place_is_followed() {
    a_file_that_changes_is_followed(|config, text| fs::write(config, text).unwrap());
}

#[test]
fn a_file_that_is_being_written_is_not_read() {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    fs::create_dir(folder.path("config")).unwrap();
    let config = folder.path("config").join("config.yaml");
    let text = format!("{COMMON}metricsAddress: 'off'\nlogLevel: debug\n");
    fs::write(&config, &text).unwrap();
    let mut agent = Agent::run(&mut command(&folder, &config));
    agent.wait(1);
    // A program empties the file and writes the first part of it, while the agent goes on.
    let mut file = fs::File::create(&config).unwrap();
    file.write_all(b"# nothing yet\n").unwrap();
    for pod in [3, 4] {
        folder.write_pod(&format!("web-{pod}"), "web", pod);
        let entry = agent.entry(|entry| {
            entry["generation"].as_u64() >= Some(u64::from(pod) - 1)
                || entry["message"].as_str().is_some_and(|said| said.contains("configuration"))
        });
        assert!(entry["generation"].is_u64(), "{entry}");
    }
    file.write_all(text.replace("debug", "info").as_bytes()).unwrap();
    drop(file);
    let entry = agent.entry(|entry| entry["message"].as_str().is_some_and(|said| said.contains("configuration")));
    assert!(entry["message"] == "the configuration file changed the log level", "{entry}");
}

#[test]
fn a_file_that_is_replaced_is_followed() {
    a_file_that_changes_is_followed(rename_over);
}

#[test]
fn a_mounted_config_map_is_followed() {
    a_file_that_changes_is_followed(turn_link);
}
