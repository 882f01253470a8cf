//! One spelling of a rule: versions of iptables print the same rule with other
//! blanks, quotes or names of protocols, and a kernel is compared with a ruleset
//! by values, not by how a version prints them.

use std::borrow::Cow;

use super::words::{TEXT_OPTIONS, Word, words};
use super::write::quoted;

/// Protocols as our rules name them, for what iptables finds in one /etc/protocols
/// or another: by number those without ports, by name the others.
const PROTOCOLS: [(&str, &str); 14] = [
    ("ipencap", "4"),
    ("ipv4", "4"),
    ("ipv6", "41"),
    ("gre", "47"),
    ("ipip", "94"),
    ("etherip", "97"),
    ("l2tp", "115"),
    ("mpls-in-ip", "137"),
    ("1", "icmp"),
    ("6", "tcp"),
    ("17", "udp"),
    ("58", "ipv6-icmp"),
    ("icmpv6", "ipv6-icmp"),
    ("132", "sctp"),
];

/// A line of `iptables -S` or `iptables-save` as [`crate::ruleset::text::rule_line`] spells
/// it. A line with quotes that do not end, or with signs that rules of ours never
/// have, is a rule of another program: it stays as it is.
pub(super) fn canonical(line: &str) -> String {
    // As nearly every line is, so that the others may cost what they cost.
    let is_plain = !line.contains(['"', '\\', '\'', '\0', '\t']) && !line.contains("  ") && !line.ends_with(' ');
    if is_plain && !line.contains(" -p ") {
        return line.to_owned();
    }
    let mut text = String::with_capacity(line.len());
    let mut before = Cow::Borrowed("");
    for Word { text: word, is_plain, .. } in words(line) {
        if !is_plain {
            return line.to_owned();
        }
        if !text.is_empty() {
            text.push(' ');
        }
        let protocol = PROTOCOLS.iter().find(|(printed, _)| before == "-p" && *printed == word);
        match protocol.map(|(_, ours)| *ours) {
            Some(ours) => text.push_str(ours),
            None if TEXT_OPTIONS.contains(&&*before) => text.push_str(&quoted(&word)),
            None if word.is_empty() || word.contains(' ') => text.extend(["\"", &word, "\""]),
            None => text.push_str(&word),
        }
        before = word;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_and_quotes_make_no_other_rule() {
        let ours = "-A NPC-I-X -p tcp -m limit --limit 10/sec --limit-burst 50 -j NFLOG --nflog-prefix NPC-I-X --nflog-group 28272";
        for printed in [
            ours.to_owned(),
            // 1.8.7
            ours.replace("--nflog-prefix ", "--nflog-prefix  "),
            ours.replace("--nflog-prefix NPC-I-X", "--nflog-prefix \"NPC-I-X\""),
            format!("{ours} "),
        ] {
            assert_eq!(canonical(&printed), ours);
        }
        assert_ne!(canonical(&ours.replace("28272", "28273")), ours);
    }

    #[test]
    fn what_is_inside_of_quotes_stays() {
        for line in [
            "-A NPC-X -m comment --comment \"a  b, c\" -j DROP",
            "-A NPC-X -m comment --comment \"a,b\" -j DROP",
            "-A NPC-X -m comment --comment \"a -p gre \" -j DROP",
            "-A NPC-X -m comment --comment \"\" -j DROP",
            "-A NPC-X -m comment --comment \"no end -j DROP",
            "-A NPC-X -m comment --comment \"a \\\" b\" -j DROP",
            "-A NPC-X -m bpf --bytecode \"1,6 0 0 1\" -j RETURN",
            "-A NPC-X -m conntrack --ctstate RELATED,ESTABLISHED -m set --match-set npc4-x dst,dst -j RETURN",
            "",
        ] {
            assert_eq!(canonical(line), line);
        }
        assert_eq!(
            canonical("-A NPC-X -m bpf --bytecode \"1,6 0 0 1\0\" -j RETURN"),
            "-A NPC-X -m bpf --bytecode \"1,6 0 0 1\" -j RETURN"
        );
        let bare = "-A NPC-X -m comment --comment plain -j DROP";
        assert_eq!(canonical(&bare.replace("plain", "\"plain\"")), bare);
    }

    #[test]
    fn protocols_are_read_under_any_name_of_this_system() {
        for (read, ours) in [("ipencap", "4"), ("ipv4", "4"), ("4", "4"), ("ipv6", "41"), ("gre", "47"), ("47", "47")] {
            assert_eq!(canonical(&format!("-A NPC-E-X -p {read} -j DROP")), format!("-A NPC-E-X -p {ours} -j DROP"));
        }
        // As 1.8.7 prints where there is no /etc/protocols.
        for (read, ours) in
            [("132", "sctp"), ("sctp", "sctp"), ("6", "tcp"), ("58", "ipv6-icmp"), ("icmpv6", "ipv6-icmp")]
        {
            assert_eq!(canonical(&format!("-A NPC-E-X -p {read} -j DROP")), format!("-A NPC-E-X -p {ours} -j DROP"));
        }
    }
}
