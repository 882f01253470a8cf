//! What the plugins before this one made: the addresses of the container's interface,
//! and the node's end of it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::check::is_of_a_pod;
use crate::link::{self, NodeEnd, node_end};
use crate::netlink::Socket;
use crate::protocol::HostInterface;
use crate::{Code, Error, route};

/// The index of the loopback interface, in each network namespace.
const LOOPBACK: u32 = 1;

/// Where the kernel shows the interfaces of the node.
const SYSFS: &str = "/sys/class/net";

/// The result of an ADD, as far as it matters here. In 0.3.x an address also has a `version`, and often no interface.
/// In 0.2.0 and before there is one of each family (`ip4`, `ip6`), of no interface. A plugin may write that form for
/// every version that it is asked for.
///
/// It is read as plugins in Go read it: `null` is as if the key were missing, and of a key that is there twice the
/// last counts.
#[derive(Debug)]
pub struct Previous {
    interfaces: Vec<Interface>,
    ips: Vec<Ip>,
}

/// The address of a family in 0.2.0.
#[derive(Debug, Deserialize)]
struct OnlyIp {
    ip: String,
}

#[derive(Debug, Deserialize)]
struct Interface {
    #[serde(default)]
    name: Option<String>,
    /// The network namespace; empty for interfaces of the node.
    #[serde(default)]
    sandbox: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Ip {
    /// With the length of a prefix.
    address: String,
    #[serde(default)]
    interface: Option<i64>,
}

/// Whose an address in the result is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// The container's interface.
    Pod,
    /// Another interface of a container.
    Other,
    /// An interface without a sandbox and with another name, which is one of the node.
    Node,
    /// The result does not show it.
    Unknown,
}

/// A part of a result, unless it is `null`.
fn part<T: DeserializeOwned>(parts: &BTreeMap<String, &RawValue>, key: &str) -> serde_json::Result<Option<T>> {
    let Some(part) = parts.get(key) else { return Ok(None) };
    // By way of a value, of a key that is there twice the last counts.
    serde_json::from_value(serde_json::from_str(part.get())?)
}

impl Interface {
    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    fn is_of_node(&self) -> bool {
        self.sandbox.as_deref().unwrap_or_default().is_empty()
    }
}

impl Previous {
    /// Reads a result.
    ///
    /// # Errors
    /// If it has another shape.
    pub fn parse(text: &RawValue) -> Result<Self, Error> {
        let wrong = |what: &str| {
            Error::new(
                Code::Decode,
                format!(
                    "npc-cni: prevResult is not the result of a CNI plugin, so the pod's addresses are unknown: {what}"
                ),
            )
        };
        // serde would take an array for an object.
        if !text.get().starts_with('{') {
            return Err(wrong("an object is expected"));
        }
        let read = || {
            let parts: BTreeMap<String, &RawValue> = serde_json::from_str(text.get())?;
            let mut ips: Vec<Ip> = part(&parts, "ips")?.unwrap_or_default();
            for family in ["ip4", "ip6"] {
                let only: Option<OnlyIp> = part(&parts, family)?;
                ips.extend(only.map(|OnlyIp { ip }| Ip { address: ip, interface: None }));
            }
            Ok(Self { interfaces: part(&parts, "interfaces")?.unwrap_or_default(), ips })
        };
        read().map_err(|error: serde_json::Error| wrong(&error.to_string()))
    }

    /// The addresses of the interface of this name in this network namespace, and those
    /// that name no interface; each once, in order. Link-local ones are not among them,
    /// because each interface of each pod may have the same.
    ///
    /// # Errors
    /// If one of them is none, or none that a pod can have. If the result does not show of an address
    /// that it is the pod's, another interface's, or the node's own: if it is the pod's, the pod would
    /// be open there.
    pub fn addresses(&self, interface: &str, netns: &str) -> Result<Vec<IpAddr>, Error> {
        let mut addresses = Vec::new();
        for ip in &self.ips {
            let text = ip.address.split_once('/').map_or(&*ip.address, |(address, _)| address);
            let address: IpAddr = text.parse().map_err(|_| {
                let what = ip.address.chars().take(64).collect::<String>();
                Error::new(Code::Decode, format!("npc-cni: {what:?} in prevResult is no address"))
            })?;
            let (address, owner) = (address.to_canonical(), self.owner(ip, interface, netns));
            if owner == Owner::Pod && !is_of_a_pod(address) {
                let what = format!("npc-cni: {address} in prevResult is none that a pod can have");
                return Err(Error::new(Code::Decode, what));
            }
            if is_link_local(address) {
                continue;
            }
            match owner {
                Owner::Pod if !addresses.contains(&address) => addresses.push(address),
                Owner::Pod | Owner::Other => {}
                // As the gateway on a bridge.
                Owner::Node if is_of_node(address) => {}
                Owner::Node | Owner::Unknown => {
                    return Err(Error::new(
                        Code::Decode,
                        format!(
                            "npc-cni: {address} in prevResult is of no interface that is known to be {interface} in \
                             {netns}, so the pod's addresses are unknown and its policies cannot be enforced. The \
                             plugin that gives the network has to list {interface} with its sandbox (CNI_NETNS), and \
                             its place in interfaces with the address, or no interface with the address"
                        ),
                    ));
                }
            }
        }
        Ok(addresses)
    }

    fn owner(&self, ip: &Ip, interface: &str, netns: &str) -> Owner {
        let Some(index) = ip.interface.and_then(|index| usize::try_from(index).ok()) else { return Owner::Pod };
        let Some(found) = self.interfaces.get(index) else { return Owner::Unknown };
        match found.sandbox.as_deref().filter(|sandbox| !sandbox.is_empty()) {
            // Some plugins (azure-vnet) list the container's interface without its network namespace.
            None if found.name() == interface => Owner::Pod,
            // One that is no file is a name of the plugin's own, which CNI allows.
            Some(sandbox) if found.name() == interface && (is_same(sandbox, netns) || is_no_file(sandbox)) => {
                Owner::Pod
            }
            Some(_) if found.name() != interface => Owner::Other,
            None => Owner::Node,
            Some(_) => Owner::Unknown,
        }
    }

    /// The node's end of the container's interface of this name in this network namespace, as the
    /// kernel knows it. If the kernel cannot say: the interface through which the node reaches the
    /// pod. Else, as behind a bridge, the first of the node's interfaces in the result that can be
    /// it. The plugin that makes it lists it before other plugins add theirs (`bandwidth` an ifb).
    #[must_use]
    pub fn host_interface(&self, interface: &str, netns: &str, addresses: &[IpAddr]) -> Option<HostInterface> {
        let node = Socket::open().ok()?;
        match node_end(&node, netns, interface) {
            Ok(NodeEnd::Is(end)) => return Some(end),
            // A route leads to the interface below a macvlan or an ipvlan, which many share.
            Ok(NodeEnd::None) => return None,
            Ok(NodeEnd::Elsewhere) | Err(_) => {}
        }
        let by_route = addresses.iter().find_map(|address| {
            let index = route::interface_to(&node, *address).ok().flatten()?;
            link::of_index(&node, index).ok().filter(|found| leads_to_pod(&found.name))
        });
        // Some plugins (azure-vnet) list the container's interface without its network
        // namespace. The node's uplink may have the same name.
        let is_possible =
            |found: &&Interface| found.is_of_node() && found.name() != interface && leads_to_pod(found.name());
        let by_result =
            || self.interfaces.iter().filter(is_possible).find_map(|found| link::of_name(&node, found.name()).ok());
        by_route.or_else(by_result)
    }
}

/// Whether an interface of the node can lead to one pod, and goes with it. Behind a bridge
/// or an uplink are others, and an uplink may be a bond or a VLAN.
fn leads_to_pod(name: &str) -> bool {
    name != "lo" && is_plain(name) && may_be_of_pod(&Path::new(SYSFS).join(name))
}

/// The same, by what the kernel shows of it in this folder.
fn may_be_of_pod(interface: &Path) -> bool {
    let is = |what: &str| interface.join(what).exists();
    !is("device") && !is("bridge") && !is("bonding") && !has_lower(interface)
}

/// Whether an interface stands on others, as a bond, a VLAN and a macvlan do. None that is one of
/// a pair does.
fn has_lower(interface: &Path) -> bool {
    let mut entries = fs::read_dir(interface).into_iter().flatten().flatten();
    entries.any(|entry| entry.file_name().as_encoded_bytes().starts_with(b"lower_"))
}

/// Whether two paths lead to one network namespace: `/var/run` is `/run` on most nodes, and
/// plugins write the same place in several ways.
fn is_same(one: &str, other: &str) -> bool {
    let plain =
        |path: &str| path.strip_prefix("/var/run/").map_or_else(|| path.to_owned(), |rest| format!("/run/{rest}"));
    let file = |path: &str| fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    plain(one) == plain(other) || file(one).is_some_and(|one| file(other) == Some(one))
}

/// Whether the node itself has an address, which no pod has then: its route ends in the node.
fn is_of_node(address: IpAddr) -> bool {
    Socket::open().and_then(|node| route::interface_to(&node, address)).is_ok_and(|index| index == Some(LOOPBACK))
}

fn is_no_file(path: &str) -> bool {
    fs::metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Whether a name can be that of an interface, and is no path.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.len() <= 15 && !name.contains('/') && name != "." && name != ".."
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]
mod tests {
    use super::*;

    fn addresses(text: &str) -> Result<Vec<String>, Code> {
        addresses_in("/var/run/netns/pod", text)
    }

    fn addresses_in(netns: &str, text: &str) -> Result<Vec<String>, Code> {
        let raw: Box<RawValue> = serde_json::from_str(text).unwrap();
        let previous = Previous::parse(&raw).map_err(|error| error.code)?;
        let addresses = previous.addresses("eth0", netns).map_err(|error| error.code)?;
        Ok(addresses.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn addresses_of_the_pods_interface_count() {
        let text = r#"{
            "interfaces": [{"name":"cni0","mac":"a"},{"name":"veth1","sandbox":""},
                           {"name":"eth0","sandbox":"/run/netns/pod"},{"name":"eth1","sandbox":"/run/netns/pod"},
                           {"name":"eth0","sandbox":"/proc/self/ns/net"}],
            "ips": [{"address":"10.0.0.5/24","interface":2,"gateway":"10.0.0.1"},{"address":"fd00::5/64","interface":2},
                    {"address":"fe80::5/64","interface":2},{"address":"169.254.3.4/16","interface":2},
                    {"address":"10.9.0.5/24","interface":3},{"address":"10.0.0.5/24","interface":2},
                    {"address":"127.0.0.1/8","interface":0},{"address":"169.254.3.9/16","interface":17}]}"#;
        assert_eq!(addresses(text).unwrap(), ["10.0.0.5", "fd00::5"]);
        // An address that may be the pod's would be open, even if the pod has others that are isolated.
        for unknown in [
            r#"{"address":"10.9.0.6/24","interface":4}"#,
            r#"{"address":"10.9.0.7/24","interface":0}"#,
            r#"{"address":"10.9.0.8/24","interface":17}"#,
            r#"{"address":"fd00::8/64","interface":17}"#,
        ] {
            let text = text.replace(r#"{"address":"10.0.0.5/24","interface":2}"#, unknown);
            assert_eq!(addresses(&text), Err(Code::Decode), "{unknown}");
        }
    }

    #[test]
    fn in_old_results_addresses_name_no_interface() {
        let text = r#"{"cniVersion":"0.3.0","ips":[{"version":"4","address":"10.0.0.5/24"},{"version":"6","address":"fd00::5/64"}]}"#;
        assert_eq!(addresses(text).unwrap(), ["10.0.0.5", "fd00::5"]);
        assert_eq!(
            addresses(r#"{"interfaces":null,"ips":[{"address":"fd00::5/64","interface":-1}]}"#).unwrap(),
            ["fd00::5"]
        );
        // The kernel's sets take no such address.
        for text in ["0.0.0.0/0", "::/0", "127.0.0.1/8", "::ffff:127.0.0.1", "224.0.0.5/24", "255.255.255.255"] {
            let text = format!(r#"{{"ips":[{{"address":"{text}"}}]}}"#);
            assert_eq!(addresses(&text), Err(Code::Decode), "{text}");
        }
        assert_eq!(addresses("{}").unwrap(), [""; 0]);
        assert_eq!(addresses(r#"{"ips":null,"interfaces":null}"#).unwrap(), [""; 0]);
    }

    #[test]
    fn a_result_of_the_oldest_shape_has_an_address_of_each_family() {
        let both = r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.5/24","gateway":"10.0.0.1"},"ip6":{"ip":"fd00::5/64"},"dns":{}}"#;
        assert_eq!(addresses(both).unwrap(), ["10.0.0.5", "fd00::5"]);
        assert_eq!(addresses(r#"{"ip4":null,"ip6":{"ip":"fd00::5/64"}}"#).unwrap(), ["fd00::5"]);
        let mixed = r#"{"ips":[{"address":"10.0.0.5/24"}],"ip4":{"ip":"10.0.0.5/24"},"ip6":{"ip":"fd00::5/64"}}"#;
        assert_eq!(addresses(mixed).unwrap(), ["10.0.0.5", "fd00::5"]);
        for text in [r#"{"ip4":{}}"#, r#"{"ip4":"10.0.0.5"}"#, r#"{"ip4":{"ip":"x"}}"#, r#"{"ip6":{"ip":7}}"#] {
            assert_eq!(addresses(text), Err(Code::Decode), "{text}");
        }
    }

    #[test]
    fn null_is_as_if_missing_and_of_two_values_the_last_counts() {
        let unnamed = r#"{"interfaces":[{"name":null,"sandbox":null},{"name":"eth0","sandbox":"/run/netns/pod"}],
            "ips":[{"address":"10.0.0.5/24","interface":1},{"address":"fd00::5/64","interface":null}]}"#;
        assert_eq!(addresses(unnamed).unwrap(), ["10.0.0.5", "fd00::5"]);
        let twice = r#"{"ips":[],"ips":[{"address":"x","address":"10.0.0.5/24"}]}"#;
        assert_eq!(addresses(twice).unwrap(), ["10.0.0.5"]);
    }

    /// A result with one address, of an interface with this name and sandbox.
    fn of_interface(name: &str, sandbox: &str, index: usize) -> String {
        format!(
            r#"{{"interfaces":[{{"name":"{name}","sandbox":"{sandbox}"}}],"ips":[{{"address":"10.0.0.5/24","interface":{index}}}]}}"#
        )
    }

    #[test]
    fn a_network_namespace_is_known_by_any_of_its_paths() {
        let folder = tempfile::tempdir().unwrap();
        let [own, other, link] = ["pod", "other", "link"].map(|name| folder.path().join(name).display().to_string());
        fs::write(&own, "").unwrap();
        fs::write(&other, "").unwrap();
        std::os::unix::fs::symlink(&own, &link).unwrap();
        let name = folder.path().file_name().unwrap().display().to_string();
        let detour = own.replace("/pod", &format!("/../{name}/pod"));
        for sandbox in [&own, &link, &detour, &format!("/{own}")] {
            assert_eq!(addresses_in(&own, &of_interface("eth0", sandbox, 0)).unwrap(), ["10.0.0.5"], "{sandbox}");
        }
        assert_eq!(addresses_in(&own, &of_interface("eth0", &other, 0)), Err(Code::Decode));
        for name in ["container", "/proc//run/netns/pod/ns/net"] {
            assert_eq!(addresses_in(&own, &of_interface("eth0", name, 0)).unwrap(), ["10.0.0.5"], "{name}");
        }
    }

    /// The pod has an address then, and starting it without one would start it open.
    #[test]
    fn addresses_of_which_none_is_known_to_be_the_pods_are_an_error() {
        for (name, sandbox, index) in [
            ("eth0", "/proc/self/ns/net", 0),
            ("eth0", "/run/netns/pod", 17),
            // The node's end of the pod's interface.
            ("veth1", "", 0),
        ] {
            let text = of_interface(name, sandbox, index);
            assert_eq!(addresses(&text), Err(Code::Decode), "{text}");
        }
        // Of one family only: the other would be open.
        let half = r#"{"interfaces":[{"name":"eth0","sandbox":"/run/netns/pod"}],
            "ips":[{"address":"10.0.0.5/24","interface":0},{"address":"fd00::5/64","interface":1}]}"#;
        assert_eq!(addresses(half), Err(Code::Decode));
        // Those of another interface of the pod, and link-local ones, are not this interface's.
        assert_eq!(addresses(&of_interface("eth1", "/run/netns/pod", 0)).unwrap(), [""; 0]);
        let local = of_interface("veth1", "", 0).replace("10.0.0.5/24", "fe80::5/64");
        assert_eq!(addresses(&local).unwrap(), [""; 0]);
    }

    #[test]
    fn an_interface_without_a_sandbox_is_the_pods_if_it_has_its_name() {
        let text =
            r#"{"interfaces":[{"name":"eth0"},{"name":"azv1"}],"ips":[{"address":"10.0.0.5/24","interface":0}]}"#;
        assert_eq!(addresses(text).unwrap(), ["10.0.0.5"]);
    }

    #[test]
    fn what_is_no_result_is_an_error() {
        for text in
            ["[]", "7", r#"{"ips":{}}"#, r#"{"ips":[{"address":"10.0.0.300/24"}]}"#, r#"{"ips":[{"address":7}]}"#]
        {
            assert_eq!(addresses(text), Err(Code::Decode), "{text}");
        }
    }

    fn host_interface(text: &str, interface: &str, addresses: &[&str]) -> Option<String> {
        let raw: Box<RawValue> = serde_json::from_str(text).unwrap();
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let found = Previous::parse(&raw).unwrap().host_interface(interface, "/run/netns/pod", &addresses)?;
        Some(found.name)
    }

    /// The interfaces of this machine but the loopback: those that lead to no pod, and the others.
    fn interfaces() -> (Vec<String>, Vec<String>) {
        let entries = std::fs::read_dir(SYSFS).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "lo").partition(|name| !leads_to_pod(name))
    }

    #[test]
    fn what_stands_on_other_interfaces_leads_to_no_pod() {
        let folder = tempfile::tempdir().unwrap();
        let interface = |name: &str, parts: &[&str]| {
            for part in ["mtu", "statistics"].iter().chain(parts) {
                fs::create_dir_all(folder.path().join(name).join(part)).unwrap();
            }
            may_be_of_pod(&folder.path().join(name))
        };
        assert!(interface("veth1", &[]));
        for (name, parts) in [
            ("eth0", &["device"][..]),
            ("bond0", &["bonding"]),
            ("bond1", &["bonding", "lower_eth0", "lower_eth1"]),
            ("eth0.7", &["lower_eth0"]),
            ("cni0", &["bridge"]),
        ] {
            assert!(!interface(name, parts), "{name}");
        }
    }

    #[test]
    fn an_uplink_is_no_interface_of_a_pod() {
        let result = |name: &str| {
            format!(
                r#"{{"interfaces":[{{"name":"{name}","mac":"00:0d:3a:00:00:01"}}],"ips":[{{"version":"4","address":"10.240.0.5/16"}}]}}"#
            )
        };
        assert_eq!(host_interface(&result("lo"), "eth0", &["127.0.0.1", "::1"]), None);
        let (uplinks, others) = interfaces();
        for name in &uplinks {
            assert_eq!(host_interface(&result(name), "net1", &[]), None, "{name}");
        }
        if let [main, appended, ..] = &*others {
            let both = format!(r#"{{"interfaces":[{{"name":"{main}"}},{{"name":"{appended}"}}]}}"#);
            assert_eq!(
                host_interface(&both, "net1", &[]).as_ref(),
                Some(main),
                "what other plugins append comes later"
            );
        }
        for name in others {
            assert_eq!(host_interface(&result(&name), "net1", &[]), Some(name.clone()));
            // azure-vnet lists the pod's own interface, without its network namespace.
            assert_eq!(host_interface(&result(&name), &name, &[]), None, "{name}");
            let more = format!(r#"{{"interfaces":[{{"name":"none"}},{{"name":"{name}"}},{{"name":"lo"}}]}}"#);
            assert_eq!(host_interface(&more, "net1", &[]), Some(name));
        }
    }

    #[test]
    fn the_loopback_is_reached_by_its_interface() {
        let node = Socket::open().unwrap();
        for address in ["127.0.0.1", "::1"] {
            assert_eq!(route::interface_to(&node, address.parse().unwrap()).ok().flatten(), Some(1), "{address}");
        }
    }

    #[test]
    fn a_hostile_name_of_an_interface_is_no_path() {
        assert!(!is_plain("../../../etc") && !is_plain("..") && !is_plain("") && is_plain("veth0"));
    }
}
