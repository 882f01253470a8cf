//! Services as kube-proxy has them in a node: an address that the nat table
//! turns into a backend's, before the FORWARD chain sees the packet, and a
//! masqueraded source where a pod is its own backend, after it.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use npc_compiler::object::{Family, Objects, Pod, Protocol, Service, TargetPort};

use super::error::{Error, Result};
use super::netns::find_program;
use super::topology::Place;

/// Which iptables the rules are made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// `iptables-nft`
    Nft,
    /// `iptables-legacy`
    Legacy,
}

impl Backend {
    /// As the command line and the agent's `--backend` spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        }
    }

    /// The path of one of its programs, as `iptables-nft-restore`.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn program(self, family: Family, verb: &str) -> Result<std::path::PathBuf> {
        let six = if family == Family::V4 { "" } else { "6" };
        let name = format!("ip{six}tables-{}{verb}", self.as_str());
        find_program(&name).ok_or(Error::Missing { what: name, remedy: "install iptables".to_owned() })
    }
}

/// A port of a Service and a pod behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The Service's address.
    pub address: IpAddr,
    /// The Service's port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// The index of the pod.
    pub pod: usize,
    /// The pod's address and port.
    pub backend: SocketAddr,
    /// The number by which a probe chooses it, from 1.
    pub number: u8,
}

/// Every backend of every port of every address of the Services. DSCP has six
/// bits: of more than 62 backends the rest cannot be chosen, and is left out.
#[must_use]
pub fn targets(objects: &Objects) -> Vec<Target> {
    let mut targets = Vec::new();
    for service in &objects.services {
        for port in &service.ports {
            for address in &service.addresses {
                let backends = objects.pods.iter().enumerate().filter(|(_, pod)| serves(service, pod));
                let sockets = backends.filter_map(|(index, pod)| {
                    let number = match &port.target {
                        TargetPort::Number(number) => *number,
                        TargetPort::Name(name) => {
                            pod.ports.iter().find(|p| p.name == *name && p.protocol == port.protocol)?.port
                        }
                    };
                    Some((index, SocketAddr::new(pod.address(Family::of(address))?, number)))
                });
                targets.extend(sockets.zip(1..=62).map(|((pod, backend), number)| Target {
                    address: *address,
                    port: port.port,
                    protocol: port.protocol,
                    pod,
                    backend,
                    number,
                }));
            }
        }
    }
    targets
}

fn serves(service: &Service, pod: &Pod) -> bool {
    let selected = |selector: &npc_compiler::object::Labels| {
        selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
    };
    pod.is_endpoint() && pod.namespace == service.namespace && service.selector.as_ref().is_some_and(selected)
}

/// Writes the rules into a node.
pub(super) fn install(node: &Place, targets: &[Target], backend: Backend) -> Result<()> {
    for family in Family::ALL {
        let restore = backend.program(family, "-restore")?;
        let rules = rules(targets, family);
        node.netns.exec([restore.as_os_str(), "--noflush".as_ref(), "--wait".as_ref()], &rules)?;
    }
    Ok(())
}

fn rules(targets: &[Target], family: Family) -> String {
    let mut text = "*nat\n:LAB-SERVICES - [0:0]\n-A PREROUTING -j LAB-SERVICES\n-A OUTPUT -j LAB-SERVICES\n".to_owned();
    let targets: Vec<&Target> = targets.iter().filter(|t| Family::of(&t.address) == family).collect();
    for target in &targets {
        let Target { address, port, backend, number, .. } = target;
        let protocol = target.protocol.lower();
        let _ = writeln!(
            text,
            "-A LAB-SERVICES -d {address} -p {protocol} --dport {port} -m dscp --dscp {number} \
             -j DNAT --to-destination {backend}"
        );
    }
    // A probe that chooses none, like a person with curl, gets the first.
    for target in targets.iter().filter(|t| t.number == 1) {
        let Target { address, port, backend, .. } = target;
        let protocol = target.protocol.lower();
        let _ = writeln!(
            text,
            "-A LAB-SERVICES -d {address} -p {protocol} --dport {port} -j DNAT --to-destination {backend}"
        );
    }
    let mut hairpins: Vec<IpAddr> = targets.iter().map(|t| t.backend.ip()).collect();
    hairpins.sort_unstable();
    hairpins.dedup();
    for pod in hairpins {
        let _ = writeln!(text, "-A POSTROUTING -s {pod} -d {pod} -j MASQUERADE");
    }
    text.push_str("COMMIT\n");
    text
}
