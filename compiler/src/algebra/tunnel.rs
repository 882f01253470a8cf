//! Encapsulations: which of them nodes unpack, and which a rule without ports does
//! not let out.
//!
//! A pod that is isolated for egress could send its packets inside of others, to a node that
//! unpacks and forwards them. They would pass the policies for its egress, because its own node
//! filters the outer packet alone. A rule without ports admits every protocol and every port, and
//! says nothing of that. So agents keep from it what a node's kernel unpacks by itself: for any
//! sender, without a key, by a device that is there as soon as its module is (`tunl0`, `sit0`,
//! `gre0`, `ip6tnl0` and the like), or by one that network engines for Kubernetes make.
//!
//! Agents leave everything else alone. What takes a key, a session or a program at the other end
//! takes that end's consent, and then any port carries a tunnel. No UDP port that clients send from
//! (32768 and above) is ever among them, because answers go there.

/// How rules distinguish an encapsulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// An IP protocol, in either family.
    Protocol(u8),
    /// UDP, to one of these ports.
    Udp(&'static [u16]),
    /// UDP, to a port that an operator chooses.
    AnyUdp,
}

/// An encapsulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encapsulation {
    /// Its name.
    pub name: &'static str,
    /// How rules distinguish it.
    pub carrier: Carrier,
    /// What unpacks it on a node.
    pub unpacked_by: &'static str,
    /// Whether agents keep it from a rule without ports.
    pub is_kept: bool,
    /// Why agents keep it from such a rule, or why they do not.
    pub why: &'static str,
}

/// Every encapsulation that was looked at.
pub const ENCAPSULATIONS: [Encapsulation; 25] = [
    kept(
        "IPIP, IPv4 in IPv6",
        Carrier::Protocol(4),
        "kernel: `tunl0`, `ip6tnl` devices",
        "any sender, no key; Calico and kube-router bring such devices up",
    ),
    kept("6in4, IPv6 in IPv6", Carrier::Protocol(41), "kernel: `sit0`, `ip6tnl0`", "any sender, no key"),
    kept(
        "GRE, NVGRE",
        Carrier::Protocol(47),
        "kernel: `gre0`, `gretap0`, `ip6gre0`, Open vSwitch",
        "any sender; these devices take packets with any key and without",
    ),
    let_be("ESP", Carrier::Protocol(50), "kernel: xfrm", "takes a key that both ends have"),
    let_be("AH", Carrier::Protocol(51), "kernel: xfrm", "takes a key that both ends have"),
    let_be("Minimal encapsulation", Carrier::Protocol(55), "nothing in Linux", "nothing unpacks it"),
    let_be("EtherIP", Carrier::Protocol(97), "user programs only", "Linux has no such device"),
    let_be(
        "PIM register",
        Carrier::Protocol(103),
        "kernel: `pimreg`, while a multicast router runs",
        "multicast inside only, which is not forwarded where a pod is isolated",
    ),
    let_be("IPComp", Carrier::Protocol(108), "kernel: xfrm", "takes a state that an operator made for this sender"),
    let_be(
        "L2TPv3 over IP",
        Carrier::Protocol(115),
        "kernel: `l2tp_ip`",
        "takes the 32-bit number of a session that an operator made",
    ),
    let_be(
        "MPLS in IP",
        Carrier::Protocol(137),
        "kernel: `ipip`, `ip6_tunnel`",
        "takes labels and `mpls.conf.*.input`, which is 0 until an operator sets it",
    ),
    kept(
        "VXLAN",
        Carrier::Udp(&[4789, 8472]),
        "kernel: `vxlan`, Open vSwitch",
        "any sender; Flannel, Calico, Cilium and others make such devices, with well-known network numbers",
    ),
    kept(
        "Geneve",
        Carrier::Udp(&[6081]),
        "kernel: `geneve`, Open vSwitch",
        "any sender; OVN-Kubernetes, Antrea and Cilium make such devices",
    ),
    kept(
        "GUE",
        Carrier::Udp(&[6080]),
        "kernel: `fou`, once an operator opens the port",
        "any sender, no key, and then `tunl0`, `sit0` or `gre0`",
    ),
    kept(
        "GRE in UDP",
        Carrier::Udp(&[4754]),
        "kernel: `fou`, once an operator opens the port",
        "any sender, no key, and then `gre0`",
    ),
    let_be("FOU", Carrier::AnyUdp, "kernel: `fou`, at a port that an operator chose", "it has no port of its own"),
    let_be(
        "VXLAN-GPE",
        Carrier::Udp(&[4790]),
        "kernel: `vxlan` with `external gpe`",
        "takes a device made for it, and no network engine is known to make one",
    ),
    let_be("MPLS in UDP", Carrier::Udp(&[6635]), "kernel: `bareudp`, `fou`", "as MPLS in IP"),
    let_be(
        "L2TP over UDP",
        Carrier::Udp(&[1701]),
        "kernel: `l2tp_core`, user programs",
        "takes a session, which a program negotiates or an operator made",
    ),
    let_be(
        "GTP-U",
        Carrier::Udp(&[2152]),
        "kernel: `gtp`, user programs",
        "takes a context that a program made for this subscriber",
    ),
    let_be("AMT", Carrier::Udp(&[2268]), "kernel: `amt`", "takes a device made for it; multicast inside only"),
    let_be("Teredo", Carrier::Udp(&[3544]), "user programs only", "Linux has no such device"),
    let_be("ESP in UDP", Carrier::Udp(&[4500]), "kernel: xfrm", "takes a key that both ends have"),
    let_be("Flannel's udp backend", Carrier::Udp(&[8285]), "user programs only", "a program unpacks it"),
    let_be(
        "WireGuard",
        Carrier::Udp(&[51820]),
        "kernel: `wireguard`",
        "takes a key that both ends have; and clients' ports are there",
    ),
];

const fn kept(name: &'static str, carrier: Carrier, unpacked_by: &'static str, why: &'static str) -> Encapsulation {
    Encapsulation { name, carrier, unpacked_by, is_kept: true, why }
}

const fn let_be(name: &'static str, carrier: Carrier, unpacked_by: &'static str, why: &'static str) -> Encapsulation {
    Encapsulation { name, carrier, unpacked_by, is_kept: false, why }
}

/// The IP protocols of [`ENCAPSULATIONS`] that agents keep from a rule without
/// ports. No policy can name them: only such a rule admits them.
pub const TUNNELS: [u8; 3] = {
    let (mut kept, mut count, mut place) = ([0; 3], 0, 0);
    while place < ENCAPSULATIONS.len() {
        if let (Carrier::Protocol(number), true) = (ENCAPSULATIONS[place].carrier, ENCAPSULATIONS[place].is_kept) {
            kept[count] = number;
            count += 1;
        }
        place += 1;
    }
    assert!(count == kept.len(), "the size of TUNNELS is that of the table");
    kept
};

/// The UDP ports of [`ENCAPSULATIONS`] that agents keep from a rule that admits all
/// of UDP.
///
/// Policies can name these ports, and one that does means it. Any other port, of
/// UDP or TCP, can carry a tunnel too, but only to an end that unpacks it on
/// purpose.
pub const TUNNEL_PORTS: [u16; 5] = {
    let (mut kept, mut count, mut place) = ([0; 5], 0, 0);
    while place < ENCAPSULATIONS.len() {
        if let (Carrier::Udp(ports), true) = (ENCAPSULATIONS[place].carrier, ENCAPSULATIONS[place].is_kept) {
            let mut port = 0;
            while port < ports.len() {
                kept[count] = ports[port];
                count += 1;
                port += 1;
            }
        }
        place += 1;
    }
    assert!(count == kept.len(), "the size of TUNNEL_PORTS is that of the table");
    kept
};

/// The table as documentation has it, in Markdown.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from(
        "| encapsulation | known by | unpacked by | under a rule without ports | why |\n|---|---|---|---|---|\n",
    );
    for one in &ENCAPSULATIONS {
        let carrier = match one.carrier {
            Carrier::Protocol(number) => format!("IP protocol {number}"),
            Carrier::Udp(ports) => {
                let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
                format!("UDP {}", ports.join(", "))
            }
            Carrier::AnyUdp => "UDP, any port".to_owned(),
        };
        let decision = if one.is_kept { "**dropped**" } else { "passes" };
        text.extend(["| ", one.name, " | ", &carrier, " | ", one.unpacked_by, " | ", decision, " | ", one.why, " |\n"]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where clients' own ports begin on Linux, to which answers go; IANA's begin at 49152.
    const CLIENT_PORTS: u16 = 32768;

    #[test]
    fn nothing_is_kept_that_takes_a_key_or_may_be_an_answer() {
        assert!(TUNNEL_PORTS.iter().all(|port| *port < CLIENT_PORTS), "{TUNNEL_PORTS:?}");
        for (name, carrier) in [("ESP", 50), ("AH", 51), ("TCP", 6), ("UDP", 17), ("ICMP", 1), ("ICMPv6", 58)] {
            assert!(!TUNNELS.contains(&carrier), "{name}");
        }
        let by_programs = ENCAPSULATIONS.iter().filter(|one| one.unpacked_by.starts_with("user programs only"));
        assert!(by_programs.clone().count() > 0 && by_programs.clone().all(|one| !one.is_kept));
    }

    #[test]
    fn each_stands_in_the_table_once() {
        let mut carriers: Vec<String> = Vec::new();
        for one in &ENCAPSULATIONS {
            match one.carrier {
                Carrier::Protocol(number) => carriers.push(format!("protocol {number}")),
                Carrier::Udp(ports) => carriers.extend(ports.iter().map(|port| format!("port {port}"))),
                Carrier::AnyUdp => carriers.push("any".to_owned()),
            }
        }
        let all = carriers.len();
        carriers.sort_unstable();
        carriers.dedup();
        assert_eq!(carriers.len(), all);
    }

    #[test]
    fn the_documentation_has_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/enforcement.md");
        let text = std::fs::read_to_string(path).expect("the documentation is beside the code");
        assert!(text.contains(&markdown()), "docs/enforcement.md lacks this table:\n\n{}", markdown());
    }
}
