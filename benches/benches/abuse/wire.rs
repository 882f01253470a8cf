//! The tenant's pods, as far as they send packets: they are addresses in a network namespace
//! behind the node. What the node passes on to any other pod is lost.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use npc_benches::netns::Netns;

use crate::Result;
use crate::scene::{address, local_address};

/// How many pods of the tenant send.
pub(crate) const SENDERS: usize = 20;

/// The address by which pods reach the node.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The namespace of the pods that send; they have the first of the tenant's local addresses.
pub(crate) fn connect(node: &Netns) -> Result<Netns> {
    let pods = Netns::create(&format!("{}-pods", node.name()))?;
    let mut lines = format!(
        "link add pods type veth peer name eth0 netns {}\nlink set pods up\naddr add {GATEWAY}/32 dev pods\n\
         link add void type veth peer name lost\nlink set void arp off up\nlink set lost up\nroute add {}/16 dev void\n",
        pods.name(),
        Ipv4Addr::from(u32::from(address(0)) & 0xffff_0000)
    );
    let mut own = String::from("link set lo up\nlink set eth0 up\n");
    for pod in (0..SENDERS).map(local_address) {
        let _ = writeln!(lines, "route add {pod}/32 dev pods");
        let _ = writeln!(own, "addr add {pod}/32 dev eth0");
    }
    let _ = write!(own, "route add {GATEWAY}/32 dev eth0\nroute add default via {GATEWAY}\n");
    node.exec(&["sysctl", "-qw", "net.ipv4.ip_forward=1"], "")?;
    node.exec(&["ip", "-batch", "-"], &lines)?;
    pods.exec(&["ip", "-batch", "-"], &own)?;
    Ok(pods)
}
