//! Each target gets its corpus, and a thousand changes of it: the same in each run.

use std::fs;
use std::path::Path;
use std::thread;

use super::{FuzzTarget, TARGETS};

/// How often a file of the corpus is changed: slow targets take a second (`make fuzz` goes on).
const CHANGED: usize = 1_000;

/// Longer inputs show no more.
const LONGEST: usize = 4 << 10;

/// Bytes at which readers take another way.
const EDGES: [u8; 8] = [0, 1, 4, 16, 0x7f, 0x80, 0xfe, 0xff];

/// An input, which is printed if a target panics over it.
struct Input<'a>(&'a str, Vec<u8>);

impl Drop for Input<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let Self(target, bytes) = self;
            eprintln!("the input, for fuzz/corpus/{target}: b\"{}\"", bytes.escape_ascii());
        }
    }
}

fn run((name, target): FuzzTarget) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
    let mut paths: Vec<_> =
        fs::read_dir(&folder).expect("a corpus").map(|entry| entry.expect("a file").path()).collect();
    paths.sort();
    let corpus: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).expect("a file")).collect();
    assert!(!corpus.is_empty(), "{}", folder.display());
    let attempt = |bytes| {
        let input = Input(name, bytes);
        target(&input.1);
    };
    corpus.iter().cloned().for_each(attempt);
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..CHANGED {
        let mut bytes = corpus[random.usize(..corpus.len())].clone();
        bytes.truncate(LONGEST);
        for _ in 0..random.usize(1..6) {
            change(&mut bytes, &corpus, &mut random);
        }
        attempt(bytes);
    }
}

/// One change at a random place.
fn change(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut fastrand::Rng) {
    let at = random.usize(..=bytes.len());
    let length = random.usize(1..64).min(bytes.len() - at);
    match random.u8(..7) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.u8(..8),
        1 if at < bytes.len() => bytes[at] = EDGES[random.usize(..EDGES.len())],
        2 => drop(bytes.drain(at..at + length)),
        3 => bytes.truncate(at),
        4 => {
            let part = bytes[at..at + length].repeat(random.usize(1..8));
            bytes.splice(at..at, part);
        }
        5 => {
            let other = &corpus[random.usize(..corpus.len())];
            let from = random.usize(..=other.len());
            let to = (from + random.usize(1..64)).min(other.len());
            bytes.splice(at..at + length, other[from..to].iter().copied());
        }
        _ => {
            let new: Vec<u8> = (0..random.usize(1..5)).map(|_| random.u8(..)).collect();
            bytes.splice(at..at, new);
        }
    }
}

/// A test for each target, so that they run side by side.
macro_rules! tests {
    ($($test:ident: $name:ident,)*) => {
        $(
            #[test]
            fn $test() {
                run((stringify!($name), super::$name));
            }
        )*

        #[test]
        fn each_target_has_a_test_a_corpus_and_a_program() {
            let mut names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
            for part in ["corpus", "fuzz_targets"] {
                let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz").join(part);
                let mut found: Vec<String> = fs::read_dir(folder)
                    .expect("a folder")
                    .map(|entry| entry.expect("an entry").path().with_extension("").file_name().expect("a name").to_string_lossy().into_owned())
                    .collect();
                found.sort();
                names.sort_unstable();
                assert_eq!(found, names, "{part}");
            }
        }
    };
}

tests! {
    blocks_are_read_or_refused: blocks,
    what_a_container_runtime_sends_is_read_or_refused: cni,
    conntrack_entries_are_read_or_refused: conntrack,
    endpoints_are_read_or_refused: endpoints,
    lists_of_sets_are_read_or_refused: ipset,
    listings_of_rules_are_read_or_refused: iptables,
    manifests_are_read_or_refused: manifests,
    logged_packets_are_read_or_refused: nflog,
    tables_of_nftables_are_read_or_refused: nftables,
    sets_of_ports_have_the_ports_of_their_ranges: ports,
    links_addresses_and_routes_are_read_or_refused: rtnetlink,
}
