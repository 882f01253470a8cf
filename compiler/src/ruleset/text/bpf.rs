//! What no match of iptables says, as classic BPF programs in the text form of
//! `-m bpf --bytecode`.

use crate::object::Family;

/// A classic BPF program that matches an IPv4 packet whose source (offset 12)
/// equals its destination (16).
const SELF_V4: &str = "6,32 0 0 16,7 0 0 0,32 0 0 12,29 0 1 0,6 0 0 1,6 0 0 0";

/// The same for IPv6: the four words of the source (offset 8) against those of
/// the destination (24).
const SELF_V6: &str = "18,32 0 0 24,7 0 0 0,32 0 0 8,29 0 13 0,32 0 0 28,7 0 0 0,32 0 0 12,29 0 9 0,\
                       32 0 0 32,7 0 0 0,32 0 0 16,29 0 5 0,32 0 0 36,7 0 0 0,32 0 0 20,29 0 1 0,6 0 0 1,6 0 0 0";

/// A classic BPF program that matches an IPv4 packet with an ICMP error, if the
/// packet that it quotes went to where the error comes from. The header may have
/// options, so its length goes into X first; then the type (a redirect, 5, is no
/// error), and the destination of the quoted packet (16 bytes into it, behind 8
/// of ICMP) against the source (offset 12).
const ERROR_V4: &str = "9,177 0 0 0,80 0 0 0,21 5 0 5,64 0 0 24,7 0 0 0,32 0 0 12,29 0 1 0,6 0 0 1,6 0 0 0";

/// The same for IPv6: ICMPv6 right behind the header (58 at offset 6), a type
/// below 128 (offset 40), and the four words of the quoted packet's destination
/// (24 bytes into it, which begins at 48) against those of the source (offset
/// 8).
const ERROR_V6: &str = "22,48 0 0 6,21 0 19 58,48 0 0 40,53 17 0 128,\
                        32 0 0 72,7 0 0 0,32 0 0 8,29 0 13 0,32 0 0 76,7 0 0 0,32 0 0 12,29 0 9 0,\
                        32 0 0 80,7 0 0 0,32 0 0 16,29 0 5 0,32 0 0 84,7 0 0 0,32 0 0 20,29 0 1 0,6 0 0 1,6 0 0 0";

/// The classic BPF program behind [`Match::ErrorFromQuotedDestination`](crate::ruleset::node::Match::ErrorFromQuotedDestination), in the
/// text form of `-m bpf --bytecode`.
#[must_use]
pub fn error_bytecode(family: Family) -> &'static str {
    match family {
        Family::V4 => ERROR_V4,
        Family::V6 => ERROR_V6,
    }
}

/// The classic BPF program behind [`Match::SourceIsDestination`](crate::ruleset::node::Match::SourceIsDestination), in the text
/// form of `-m bpf --bytecode`.
#[must_use]
pub fn self_bytecode(family: Family) -> &'static str {
    match family {
        Family::V4 => SELF_V4,
        Family::V6 => SELF_V6,
    }
}
