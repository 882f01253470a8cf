//! Random clusters, real agents, real packets: what the kernel lets through is what the oracle
//! allows. `NPC_LAB_CASES` has more of them judged, `NPC_LAB_SEED` begins at another one.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::net::IpAddr;

use npc_compiler::object::Objects;
use npc_tests::lab::{Backend, Enforcer, Lab, Mode, report};
use npc_tests::random;

use crate::number;

/// One of each combination of mode and backend.
const CASES: u64 = 4;

/// The cluster with each address given to one owner only: two namespaces with
/// one address cannot be distinguished by packets.
fn buildable(mut objects: Objects) -> Objects {
    let mut taken: BTreeSet<IpAddr> = BTreeSet::new();
    for node in &mut objects.nodes {
        node.addresses.retain(|address| taken.insert(*address));
    }
    for pod in objects.pods.iter_mut().filter(|pod| pod.is_endpoint()) {
        pod.ipv4 = pod.ipv4.filter(|address| taken.insert((*address).into()));
        pod.ipv6 = pod.ipv6.filter(|address| taken.insert((*address).into()));
    }
    for pod in &mut objects.pods {
        // Its node has its own addresses, which the lab knows better.
        pod.host_addresses.clear();
    }
    objects
}

#[test]
fn random_clusters_are_kept() {
    let Some(agent) = Enforcer::for_test() else { return };
    let first = number("NPC_LAB_SEED", 0);
    let mut counts = report::Counts::default();
    for seed in first..first + number("NPC_LAB_CASES", CASES) {
        let mode = [Mode::Routed, Mode::Bridge][usize::from(seed % 2 == 1)];
        let backend = [Backend::Nft, Backend::Legacy][usize::from(seed / 2 % 2 == 1)];
        let objects = buildable(random::cluster(seed));
        let lab = Lab::builder(objects).mode(mode).backend(backend).enforcer(agent.clone()).start();
        let mut lab = lab.unwrap_or_else(|error| panic!("NPC_LAB_SEED={seed}: {error}"));
        let judgement = lab.judge().unwrap();
        let wrong = judgement.mismatches().count();
        assert_eq!(wrong, 0, "NPC_LAB_SEED={seed}\n{}", report::table(&lab, &judgement));
        counts.extend(&report::Counts::of(&judgement));
    }
    eprintln!("{}", counts.sentence());
}
