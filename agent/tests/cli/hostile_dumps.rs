//! What `iptables-save` and `ipset save` printed, broken, and arguments that name nothing: `npc why` and
//! the other commands that take names end with a code of their contract, and in words for people.

use crate::Files;
use crate::hostile::{answers, mutated};
use crate::why::{CLUSTER, chain, dumps};

/// Arguments that are no name of anything.
const ODD: [&str; 18] = [
    "",
    "-",
    "\u{202e}",
    "denied[",
    "near[near[x]]",
    "%s%n",
    "../../etc/passwd",
    "a/b/c/d/e",
    "10.0.0.0/33",
    "shop/api:99999",
    "svc/",
    "\u{1b}[31m",
    "\n",
    "NPC-",
    "npc4-",
    "-A NPC-X -m set --match-set",
    "-A \"unclosed",
    "18446744073709551616",
];

#[test]
fn for_any_dump_why_ends_in_words_and_with_a_code_of_its_contract() {
    let files = Files::of(CLUSTER);
    let (chain, kernel) = (chain(&files), dumps(&files));
    let things = [chain.as_str(), "10.0.0.1", "npc4-ingress"];
    let (mut wrong, mut answered) = (Vec::new(), 0);
    for number in 0..84 {
        // Each of the three files meets every kind of change.
        let name = ["v4.save", "v6.save", "sets.save"][number / 14 % 3];
        let whole = std::fs::read_to_string(files.path().join(name)).unwrap();
        std::fs::write(files.path().join(name), mutated(&whole, number)).unwrap();
        let words = [&["why", "-f", "in.yaml", "--node", "n1", things[number % 3]], &kernel[..]].concat();
        match answers(&files, &words) {
            Ok(is_answer) => answered += usize::from(is_answer),
            Err(fault) => wrong.push(format!("{number}: {fault}")),
        }
        std::fs::write(files.path().join(name), whole).unwrap();
    }
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
    assert!(answered > 60, "only {answered} of 84 commands answered");
}

#[test]
fn an_argument_that_names_nothing_is_refused_in_words() {
    let files = Files::of(CLUSTER);
    let mut wrong = Vec::new();
    for odd in ODD {
        let commands: [&[&str]; 9] = [
            &["why", "-f", "in.yaml", "--node", "n1", odd],
            &["why", "-f", "in.yaml", "--node", odd, "10.0.0.1"],
            &["why", "-f", "in.yaml", "--node", "n1", "--seed", odd, "10.0.0.1"],
            &["reason", odd],
            &["schema", odd],
            &["explain", "-f", "in.yaml", odd, "shop/api"],
            &["matrix", "-f", "in.yaml", "-n", odd],
            &["migrate", "-f", "in.yaml", "--max-set-members", odd],
            &["explain", "-f", "in.yaml", "--remove", odd, "any", "any"],
        ];
        wrong.extend(commands.iter().filter_map(|words| answers(&files, words).err()));
    }
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
}
