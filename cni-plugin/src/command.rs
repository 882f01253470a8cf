//! The commands of the specification.

use std::io;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::configuration::{Input, Settings, VERSIONS};
use crate::environment::Environment;
use crate::error::Failure;
use crate::netns::Netns;
use crate::previous::Previous;
use crate::protocol::{Add, Answer, Attachment, Command, OPEN_PATIENCE, Reason, Request};
use crate::{Code, Error, client, note};

/// For how long a DEL tries to reach the agent. It has to be over within a second.
const DELETE_PATIENCE: Duration = Duration::from_millis(700);

/// Why a sandbox has ended.
const NETNS_GONE: &str = "its network namespace (CNI_NETNS) is not there any more";

/// Runs the command of the environment; answers what goes to standard output.
///
/// # Errors
/// In the form that the specification wants.
pub fn run(environment: &Environment, input: io::Result<Vec<u8>>) -> Result<String, Failure> {
    let mut version = VERSIONS[VERSIONS.len() - 1].to_owned();
    let done = read(environment, input, &mut version);
    done.map_err(|error| Failure { version, error })
}

fn read(environment: &Environment, input: io::Result<Vec<u8>>, version: &mut String) -> Result<String, Error> {
    let Some(command) = environment.command.as_deref() else {
        return Err(Error::new(
            Code::InvalidEnvironment,
            "npc-cni: the environment variable CNI_COMMAND is missing. This is a CNI plugin: a container runtime starts \
             it, after its entry is last in the plugins of a conflist",
        ));
    };
    let input = input.map_err(|error| {
        Error::new(Code::Io, format!("npc-cni: the network configuration cannot be read from standard input: {error}"))
    })?;
    let input = Input::parse(&input);
    // Runtimes of before 0.2.0 gave it nothing to read.
    if command == "VERSION" {
        let spoken = input.and_then(|input| input.version());
        return Ok(versions(spoken.unwrap_or(VERSIONS[VERSIONS.len() - 1])));
    }
    let input = input?;
    let spoken = input.version();
    if let Ok(spoken) = spoken {
        spoken.clone_into(version);
    }
    // The same in all versions. A pod has to go, even if its configuration was broken or changed since its ADD.
    if command == "DEL" {
        return delete(environment, &input);
    }
    let spoken = spoken?;
    match (command, spoken) {
        ("ADD", _) => add(environment, &input),
        ("CHECK", "0.4.0" | "1.0.0" | "1.1.0") => check(environment, &input),
        // The agent's state never enters into it: a runtime that reads an error here makes
        // the whole node NotReady.
        ("STATUS", "1.1.0") => input.settings().map(|_| String::new()),
        ("GC", "1.1.0") => gc(&input),
        _ => Err(Error::new(
            Code::InvalidEnvironment,
            format!("npc-cni: CNI_COMMAND {command:?} is not one of the CNI specification {spoken}"),
        )),
    }
}

fn versions(spoken: &str) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Versions<'a> {
        cni_version: &'a str,
        supported_versions: [&'a str; VERSIONS.len()],
    }
    let versions = Versions { cni_version: spoken, supported_versions: VERSIONS };
    serde_json::to_string(&versions).unwrap_or_default()
}

/// The runtime's description of a container, as a request without a time.
fn described(environment: &Environment, input: &Input) -> Result<Add, Error> {
    let (container_id, interface) = (environment.container_id()?, environment.interface()?);
    let netns = environment.netns()?;
    let pod = environment.pod()?;
    let Some(previous) = input.previous() else {
        return Err(Error::new(
            Code::InvalidConfiguration,
            "npc-cni: prevResult is missing. This plugin gives no pod a network: its entry belongs last in the plugins of \
             a conflist, behind one that does",
        ));
    };
    let previous = Previous::parse(previous)?;
    let addresses = previous.addresses(interface, netns)?;
    let host_interface = previous.host_interface(interface, netns, &addresses);
    Ok(Add {
        attachment: Attachment { container_id: container_id.to_owned(), interface: interface.to_owned() },
        network: input.network(),
        netns: netns.to_owned(),
        namespace: pod.namespace,
        name: pod.name,
        uid: pod.uid,
        addresses,
        host_interface,
        wait: 0,
        waited: 0,
        open: false,
    })
}

fn add(environment: &Environment, input: &Input) -> Result<String, Error> {
    // As the plugin before wrote it.
    let result = || input.previous().map(|previous| previous.get().to_owned()).unwrap_or_default();
    // Nothing about a pod can be wrong where npc is gone.
    if input.is_uninstalled() {
        eprintln!("npc-cni: npc's conflist is gone from this node, so this pod is not reported");
        return Ok(result());
    }
    let begun = Instant::now();
    let settings = input.settings()?;
    let netns = Netns::at(environment.netns()?);
    let add = match described(environment, input) {
        Ok(add) => add,
        // Nothing is reported, not even the addresses that are known: those that CNI reported
        // for a pod count alone, and the others would stay open.
        Err(error) if error.code == Code::Decode && settings.starts_unenforced(&environment.pod()?.namespace) => {
            eprintln!("{error}. The pod starts all the same; the agent goes by the addresses that the API reports");
            return Ok(result());
        }
        Err(error) => return Err(error),
    };
    if add.addresses.is_empty() {
        eprintln!(
            "npc-cni: {} of pod {}/{} has no address, so policies do not apply to it",
            add.attachment.interface, add.namespace, add.name
        );
    } else if let Err(error) = wait_for_rules(&settings, &add, &netns, begun) {
        // It may have been removed while the pod waited.
        if !input.is_uninstalled() {
            return Err(error);
        }
    }
    Ok(result())
}

/// Waits until the rules of the pod are in the kernel. `begun` is when this ADD began, and `netns`
/// what the pod's network namespace was then.
fn wait_for_rules(settings: &Settings, add: &Add, netns: &Netns<'_>, begun: Instant) -> Result<(), Error> {
    let is_open = settings.is_open(&add.namespace);
    let patience = if is_open { settings.timeout.min(OPEN_PATIENCE) } else { settings.timeout };
    let asked = client::ask(
        &settings.socket,
        begun + patience,
        || netns.is_gone(),
        |left| Request::new(Command::Add(Add { wait: millis(left), waited: millis(begun.elapsed()), ..add.clone() })),
    );
    let pod = format!("{}/{}", add.namespace, add.name);
    // Its address may be another pod's by now. So there is no note either.
    let gone = |why: &str| {
        let message = format!("npc-cni: the sandbox {} of pod {pod} has ended: {why}", add.attachment.container_id);
        Err(Error::new(Code::UnknownContainer, message))
    };
    let reason = match asked {
        Ok(Some(Answer { error: None, .. })) => return Ok(()),
        Ok(Some(Answer { error: Some(refusal), .. })) if refusal.kind == Reason::Gone => {
            return gone(&refusal.message);
        }
        Ok(Some(Answer { error: Some(refusal), .. })) => refusal.message,
        Ok(None) => return gone(NETNS_GONE),
        Err(error) => format!("the npc agent of this node, at {}, cannot be asked: {error}", settings.socket.display()),
    };
    if netns.is_gone() {
        return gone(NETNS_GONE);
    }
    if settings.starts_unenforced(&add.namespace) {
        eprintln!("npc-cni: pod {pod} starts before its policies are enforced: {reason}");
        let request = Request::new(Command::Add(Add { waited: millis(begun.elapsed()), open: is_open, ..add.clone() }));
        if let Err(error) = note::leave(&settings.socket, &add.attachment, &request) {
            eprintln!("npc-cni: the agent cannot be left a note about pod {pod}: {error}");
        }
        return Ok(());
    }
    Err(Error::new(
        Code::TryAgain,
        format!(
            "npc-cni: the network policies of pod {pod} are not in the kernel after {:.1} s, so the pod does not start \
             yet; kubelet tries again. {}. Is the npc agent of this node ready? (docs/cni.md has how to let pods start \
             without it.)",
            begun.elapsed().as_secs_f64(),
            sentence(&reason)
        ),
    ))
}

/// The same with the first letter as that of a sentence.
fn sentence(reason: &str) -> String {
    let mut letters = reason.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn delete(environment: &Environment, input: &Input) -> Result<String, Error> {
    let (container_id, interface) = (environment.container_id()?, environment.interface()?);
    let attachment = Attachment { container_id: container_id.to_owned(), interface: interface.to_owned() };
    let socket = input.socket();
    let request = Request::new(Command::Delete { attachment: attachment.clone() });
    match client::ask_once(&socket, Instant::now() + DELETE_PATIENCE, &request) {
        Ok(Answer { error: None, .. }) => {}
        // A pod can always be removed, even if the request fails.
        _ => {
            if let Err(error) = note::leave_gone(&socket, &attachment, &request) {
                eprintln!("npc-cni: the agent cannot be left a note about the removed {container_id}: {error}");
            }
        }
    }
    Ok(String::new())
}

fn check(environment: &Environment, input: &Input) -> Result<String, Error> {
    if input.is_uninstalled() {
        return Ok(String::new());
    }
    let settings = input.settings()?;
    let add = described(environment, input)?;
    if add.addresses.is_empty() {
        return Ok(String::new());
    }
    let until = Instant::now() + settings.timeout;
    let netns = Netns::at(&add.netns);
    let asked = client::ask(
        &settings.socket,
        until,
        || netns.is_gone(),
        |left| Request::new(Command::Check(Add { wait: millis(left), ..add.clone() })),
    );
    let (code, reason) = match asked {
        Ok(Some(Answer { error: None, .. })) => return Ok(String::new()),
        Ok(None) => (Code::UnknownContainer, NETNS_GONE.to_owned()),
        Ok(Some(Answer { error: Some(refusal), .. })) => {
            let code = if refusal.kind == Reason::Unknown { Code::UnknownContainer } else { Code::TryAgain };
            (code, refusal.message)
        }
        Err(error) => (
            Code::TryAgain,
            format!("the npc agent of this node, at {}, cannot be asked: {error}", settings.socket.display()),
        ),
    };
    Err(Error::new(code, format!("npc-cni: the network policies of pod {}/{}: {reason}", add.namespace, add.name)))
}

fn gc(input: &Input) -> Result<String, Error> {
    let command = Command::Gc { network: input.network(), valid: input.attachments()? };
    // An agent that is away finds by itself what is gone.
    if let Err(error) = client::ask_once(&input.socket(), Instant::now() + DELETE_PATIENCE, &Request::new(command)) {
        eprintln!("npc-cni: the agent cannot be asked to forget what is gone: {error}");
    }
    Ok(String::new())
}
