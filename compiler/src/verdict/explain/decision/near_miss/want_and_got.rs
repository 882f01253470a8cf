//! What a part of a rule asks for, and what there is: as data, and in words.

use std::fmt;
use std::net::IpAddr;

use super::translated_addresses::Translated;
use crate::algebra::cidr::Cidr;
use crate::algebra::selector::{Requirement, Selector};
use crate::algebra::traffic::Traffic;
use crate::object::Protocol;
use crate::verdict::explain::decision::mark::{in_words, label_in_words};

/// What a part of a rule asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Want {
    /// Pods of this namespace.
    Namespace(String),
    /// Pods of namespaces with such labels.
    NamespaceLabels(Selector),
    /// Pods with such labels in namespaces with such labels, as one item with both selectors means.
    BothLabels {
        /// The labels of the namespaces.
        namespaces: Selector,
        /// Those of the pods.
        pods: Selector,
    },
    /// Pods that meet these requirements: those of the podSelector that fail.
    PodLabels(Vec<Requirement>),
    /// Pods with such labels, where the other end is no pod that a selector could select.
    Pods(Selector),
    /// Addresses of this prefix.
    Block(Cidr),
    /// Addresses that none of these excepts holds.
    OutsideOf(Vec<Cidr>),
    /// Ports.
    Ports(WantedPorts),
    /// This protocol.
    Protocol(Protocol),
    /// The port that the destination gives this name.
    PortName(String),
    /// The port of this protocol that the destination gives this name.
    PortNameAs(String, Protocol),
}

/// Ports that a rule asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedPorts {
    /// The first number.
    pub first: u16,
    /// The last number.
    pub last: u16,
    /// The name by which the rule means the number.
    pub name: Option<String>,
    /// The protocol, where traffic of several protocols was asked about.
    pub protocol: Option<Protocol>,
}

/// What there is in place of what a part of a rule asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Got {
    /// A pod of this namespace.
    Namespace(String),
    /// A pod of this namespace, whose labels the input does not have.
    NamespaceWithoutLabels(String),
    /// The values of these labels, by their keys; none of a label that is not there.
    Labels(Vec<(String, Option<String>)>),
    /// A hostNetwork pod, which no selector selects.
    HostNetworkPod,
    /// No pod.
    NoPod,
    /// This address.
    Address(IpAddr),
    /// The address of a node that the input does not name.
    NodeAddress,
    /// No address in the input.
    NoAddress,
    /// An address that no policy matches, because it is translated before.
    Translated(Translated),
    /// Ports from the first to the last.
    Ports(u16, u16),
    /// Ports of one protocol: the first few ranges, and how many more there are.
    PortRanges(Vec<(u16, u16)>, usize),
    /// Every other port and protocol.
    OtherTraffic,
    /// This protocol.
    Protocol(Protocol),
    /// ICMP, which has no ports.
    Icmp,
    /// No pod that could give a port a name.
    NoPodWithPorts,
    /// A pod that gives no port a name.
    NoPortName,
    /// A pod that gives ports these names.
    PortNames(Vec<String>),
    /// A port of the name, and of another protocol.
    NamedPort {
        /// The name.
        name: String,
        /// The port's protocol.
        protocol: Protocol,
        /// Its number.
        port: u16,
    },
    /// Left out, where answers are compared that may differ in it.
    LeftOut,
}

impl fmt::Display for Want {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(name) | Self::PortName(name) => f.write_str(name),
            Self::NamespaceLabels(selector) => write!(f, "{selector}"),
            Self::BothLabels { namespaces, pods } => write!(f, "{namespaces} and {pods} together"),
            Self::PodLabels(requirements) => list(f, requirements.iter().map(in_words), ","),
            Self::Pods(selector) if selector.is_empty() => f.write_str("a pod"),
            Self::Pods(selector) => write!(f, "a pod with {selector}"),
            Self::Block(cidr) => write!(f, "{}", cidr.network()),
            Self::OutsideOf(excepts) => {
                f.write_str("not ")?;
                list(f, excepts.iter().map(Cidr::network), " and ")
            }
            Self::Ports(WantedPorts { first, last, name, protocol }) => {
                if let Some(protocol) = protocol {
                    write!(f, "{protocol} ")?;
                }
                if let Some(name) = name {
                    write!(f, "{name} = ")?;
                }
                ports(f, *first, *last)
            }
            Self::Protocol(protocol) => write!(f, "{protocol}"),
            Self::PortNameAs(name, protocol) => write!(f, "{name} as {protocol}"),
        }
    }
}

impl fmt::Display for Got {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(name) => f.write_str(name),
            Self::NamespaceWithoutLabels(name) => write!(f, "namespace {name}, whose labels nothing says"),
            Self::Labels(labels) => {
                list(f, labels.iter().map(|(key, value)| label_in_words(key, value.as_deref())), ",")
            }
            Self::HostNetworkPod => f.write_str("a hostNetwork pod"),
            Self::NoPod => f.write_str("no pod"),
            Self::Address(address) => write!(f, "{address}"),
            Self::NodeAddress => f.write_str("the address of a node"),
            Self::NoAddress => f.write_str("no address in the input"),
            Self::Translated(address) => write!(f, "{address}"),
            Self::Ports(first, last) => ports(f, *first, *last),
            Self::PortRanges(ranges, more) => {
                list(f, ranges.iter().map(|(first, last)| range(*first, *last)), ",")?;
                if *more > 0 { write!(f, ",+{more} more") } else { Ok(()) }
            }
            Self::OtherTraffic => f.write_str("every other port and protocol"),
            Self::Protocol(protocol) => write!(f, "{protocol}"),
            Self::Icmp => f.write_str("ICMP"),
            Self::NoPodWithPorts => f.write_str("no pod that could name a port"),
            Self::NoPortName => f.write_str("no port with a name"),
            Self::PortNames(names) => f.write_str(&names.join(", ")),
            Self::NamedPort { name, protocol, port } => write!(f, "{name} = {protocol} {port}"),
            Self::LeftOut => Ok(()),
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, items: impl Iterator<Item = impl fmt::Display>, separator: &str) -> fmt::Result {
    for (place, item) in items.enumerate() {
        if place > 0 {
            f.write_str(separator)?;
        }
        write!(f, "{item}")?;
    }
    Ok(())
}

fn ports(f: &mut fmt::Formatter<'_>, first: u16, last: u16) -> fmt::Result {
    // No packet has port 0.
    if first <= Traffic::PORTS.0 && last == Traffic::PORTS.1 {
        f.write_str("all ports")
    } else {
        f.write_str(&range(first, last))
    }
}

fn range(first: u16, last: u16) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}
