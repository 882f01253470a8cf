//! Chains of other programs, which npc removes once their program is gone.

use std::fmt::Write as _;

use super::hook::FORWARD;

/// The input of `iptables-restore --noflush` that deletes these rules of FORWARD, each by its text
/// behind the chain's name, empties chains and deletes chains. It is one commit.
#[must_use]
pub fn others_restore(jumps: &[&str], emptied: &[&str], deleted: &[&str]) -> String {
    let mut text = String::from("*filter\n");
    for chain in emptied {
        // A declaration empties a chain.
        let _ = writeln!(text, ":{chain} - [0:0]");
    }
    for jump in jumps {
        let _ = writeln!(text, "-D {FORWARD} {jump}");
    }
    for chain in deleted {
        let _ = writeln!(text, "-X {chain}");
    }
    text.push_str("COMMIT\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_empty_and_unasked_before_it_goes() {
        assert_eq!(
            others_restore(&["-j AZURE-NPM"], &["AZURE-NPM", "AZURE-NPM-EGRESS"], &["AZURE-NPM"]),
            "*filter\n:AZURE-NPM - [0:0]\n:AZURE-NPM-EGRESS - [0:0]\n-D FORWARD -j AZURE-NPM\n-X AZURE-NPM\nCOMMIT\n"
        );
    }
}
