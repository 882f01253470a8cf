//! What ought to become of each probe, by the oracle alone, and whether it did.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use npc_compiler::object::{Objects, Pod};

use super::{Kind, Lab, Payload, Place, Probe, Result, Seen};
use crate::oracle::{End, Oracle, Packet, Payload as Carried, Verdict};

/// How often a probe that ought to have arrived is sent again before its loss
/// counts: a packet can get lost on a busy machine, and that is no verdict. It costs
/// nothing where the packet arrives.
pub const RETRIES: usize = 10;

/// A probe, what was expected of it and what was seen.
#[derive(Debug, Clone)]
pub struct Judged {
    /// The probe.
    pub probe: Probe,
    /// What the oracle says of it.
    pub expected: Verdict,
    /// What became of it.
    pub seen: Seen,
}

impl Judged {
    /// Whether it was as it should be.
    #[must_use]
    pub fn agrees(&self) -> bool {
        match self.seen {
            Seen::Arrived => self.expected.allowed(),
            // Wherever it went, it should not have; what never left proves nothing.
            Seen::Astray(_) | Seen::Unsent(_) => false,
            Seen::Nothing | Seen::Refused(_) => !self.expected.allowed(),
        }
    }
}

/// All probes of a lab, judged.
#[derive(Debug, Clone)]
pub struct Judgement {
    /// The judged probes, in the order of the probes.
    pub judged: Vec<Judged>,
    /// How many probes were sent again because they ought to have arrived.
    pub retried: usize,
}

impl Judgement {
    /// The probes that were not as they should be.
    pub fn mismatches(&self) -> impl Iterator<Item = &Judged> {
        self.judged.iter().filter(|judged| !judged.agrees())
    }
}

/// One of so many probes is sent again where nothing about it has changed.
const SAMPLE: u64 = 8;

/// What the oracle expected of each probe when it was sent last, of those that were as expected since
/// the agents are the same.
#[derive(Debug, Default)]
pub(super) struct Sent {
    expected: HashMap<Probe, Verdict>,
    /// How often the lab was judged.
    times: u64,
}

impl Sent {
    /// Forgets all probes, so that each is sent anew.
    pub(super) fn forget(&mut self) {
        self.expected.clear();
    }

    /// Picks the probes that are worth sending: all that were never seen to agree or are judged
    /// otherwise now, and a sample of the rest, another one each time.
    ///
    /// To send all probes of a small cluster takes seconds of a processor, and many tests judge
    /// after each of several edits.
    fn pick(&mut self, probes: Vec<Probe>, expected: Vec<Verdict>, seed: u64) -> (Vec<Probe>, Vec<Verdict>) {
        self.times += 1;
        let is_sampled = |probe: &Probe| {
            let mut hasher = DefaultHasher::new();
            (seed, self.times, probe).hash(&mut hasher);
            hasher.finish().is_multiple_of(SAMPLE)
        };
        let is_picked =
            |(probe, expected): &(Probe, Verdict)| self.expected.get(probe) != Some(expected) || is_sampled(probe);
        probes.into_iter().zip(expected).filter(is_picked).unzip()
    }

    /// Notes the probes that were as the oracle expects. The others are sent the next time too.
    fn record(&mut self, judgement: &Judgement) {
        for judged in &judgement.judged {
            if judged.agrees() {
                self.expected.insert(judged.probe, judged.expected);
            } else {
                self.expected.remove(&judged.probe);
            }
        }
    }
}

/// Judges a lab by its probes: by all of them the first time, after agents came or went, and if
/// `NPC_EVERY_PROBE` is `1`, and otherwise by those that [`Sent::pick`] picks.
pub(super) fn judge_changed(lab: &mut Lab, probes: Vec<Probe>) -> Result<Judgement> {
    let expected = expect(lab, &probes);
    if std::env::var_os("NPC_EVERY_PROBE").is_some_and(|value| value == "1") {
        return judge_as(lab, &probes, expected);
    }
    let seed = std::env::var("PROPTEST_RNG_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_default();
    let (probes, expected) = lab.sent.pick(probes, expected, seed);
    let judgement = judge_as(lab, &probes, expected)?;
    lab.sent.record(&judgement);
    Ok(judgement)
}

/// Sends probes and compares what is seen with what the oracle expects.
///
/// # Errors
/// When the lab fails.
pub fn judge(lab: &mut Lab, probes: &[Probe]) -> Result<Judgement> {
    let expected = expect(lab, probes);
    judge_as(lab, probes, expected)
}

fn judge_as(lab: &mut Lab, probes: &[Probe], expected: Vec<Verdict>) -> Result<Judgement> {
    let mut seen = lab.probe(probes)?;
    let mut retried = 0;
    for _ in 0..RETRIES {
        let lost = |index: &usize| match seen[*index] {
            Seen::Nothing | Seen::Refused(_) => expected[*index].allowed(),
            Seen::Unsent(_) => true,
            Seen::Arrived | Seen::Astray(_) => false,
        };
        let lost: Vec<usize> = (0..probes.len()).filter(lost).collect();
        if lost.is_empty() {
            break;
        }
        retried += lost.len();
        let again: Vec<Probe> = lost.iter().map(|index| probes[*index]).collect();
        for (index, answer) in lost.into_iter().zip(lab.probe(&again)?) {
            seen[index] = answer;
        }
    }
    let judged = probes.iter().zip(expected).zip(seen);
    let judged = judged.map(|((probe, expected), seen)| Judged { probe: *probe, expected, seen }).collect();
    Ok(Judgement { judged, retried })
}

/// What the oracle expects of probes between the places of a lab.
#[must_use]
pub fn expect(lab: &Lab, probes: &[Probe]) -> Vec<Verdict> {
    expect_of(&lab.cluster().objects, lab.places(), lab.allows_tunnels(), probes)
}

/// What the oracle expects for other objects than the lab has now.
#[must_use]
pub fn expect_of(objects: &Objects, places: &[Place], tunnels: bool, probes: &[Probe]) -> Vec<Verdict> {
    let allows = if tunnels { Oracle::allows } else { Oracle::allows_without_tunnels };
    let strangers = without_nodes(objects.clone());
    let honest = Oracle::new(objects);
    let distrustful = Oracle::new(&strangers);
    probes
        .iter()
        .map(|probe| match probe.source.filter(|_| probe.forged) {
            Some(claim) => forged(&distrustful, allows, places, probe, claim),
            None => allows(&honest, &source(places, probe), &end(&places[probe.to], probe.address), packet(probe)),
        })
        .collect()
}

/// Asks an oracle about a packet.
type Allows<'a> = fn(&Oracle<'a>, &End, &End, Packet) -> Verdict;

fn packet(probe: &Probe) -> Packet {
    let payload = match probe.payload {
        Payload::Port(protocol, port) => Carried::Port(protocol, port),
        Payload::Icmp => Carried::Icmp,
    };
    Packet { family: probe.family(), payload }
}

fn source(places: &[Place], probe: &Probe) -> End {
    let place = &places[probe.from];
    end(place, probe.source.or(place.address(probe.family())).unwrap_or(probe.address))
}

fn end(place: &Place, address: IpAddr) -> End {
    match place.kind {
        Kind::Pod { index, .. } => End::Pod(index),
        Kind::Node => End::Node { name: place.name.trim_start_matches("node/").to_owned(), address },
        Kind::Outside => End::Address(address),
    }
}

/// A packet counts as what its source claims, and no node trusts a claim to be
/// itself: that is how a forger would get in. The claimed pod's egress is
/// judged where the packet crosses the node that this pod is on.
fn forged<'a>(oracle: &Oracle<'a>, allows: Allows<'a>, places: &[Place], probe: &Probe, claim: IpAddr) -> Verdict {
    let verdict = allows(oracle, &End::Address(claim), &end(&places[probe.to], probe.address), packet(probe));
    let claimed = places.iter().find(|place| place.addresses.contains(&claim)).and_then(Place::node);
    let crosses = [places[probe.from].node(), places[probe.to].node()];
    let judged = claimed.is_some() && crosses.contains(&claimed);
    Verdict { egress: verdict.egress || !judged, ..verdict }
}

/// The same cluster where no address is known to be a node's.
fn without_nodes(objects: Objects) -> Objects {
    let keep = |pod: Pod| Pod { host_addresses: Vec::new(), ..pod };
    let pods = objects.pods.into_iter().map(|pod| {
        // Indexes must stay, so pods on the host's network become finished.
        let finished = pod.finished || pod.host_network;
        Pod { finished, ..keep(pod) }
    });
    Objects { pods: pods.collect(), nodes: Vec::new(), ..objects }
}

#[cfg(test)]
mod tests {
    use npc_compiler::object::Protocol;

    use super::*;

    fn probes() -> Vec<Probe> {
        let address = IpAddr::from([10, 0, 0, 1]);
        (1..=1000).map(|port| Probe::new(0, 1, address, Payload::Port(Protocol::Tcp, port))).collect()
    }

    const ALLOWED: Verdict = Verdict { egress: true, ingress: true };

    /// All of these arrived where `arrives` says so.
    fn judgement(probes: &[Probe], expected: &[Verdict], arrives: impl Fn(usize) -> bool) -> Judgement {
        let judge = |(index, (probe, expected)): (usize, (&Probe, &Verdict))| {
            let seen = if arrives(index) { Seen::Arrived } else { Seen::Nothing };
            Judged { probe: *probe, expected: *expected, seen }
        };
        Judgement { judged: probes.iter().zip(expected).enumerate().map(judge).collect(), retried: 0 }
    }

    #[test]
    fn what_is_judged_otherwise_is_sent_again_and_of_the_rest_a_sample() {
        let probes = probes();
        let mut expected = vec![ALLOWED; probes.len()];
        let mut sent = Sent::default();
        assert_eq!(sent.pick(probes.clone(), expected.clone(), 1).0, probes, "the first time");
        sent.record(&judgement(&probes, &expected, |_| true));

        for verdict in &mut expected[..10] {
            verdict.ingress = false;
        }
        let (again, verdicts) = sent.pick(probes.clone(), expected.clone(), 1);
        assert_eq!((&again[..10], &verdicts[..10]), (&probes[..10], &expected[..10]));
        assert!((80..250).contains(&again.len()), "{}", again.len());
        sent.record(&judgement(&again, &verdicts, |index| index >= 10));
        let (other, _) = sent.pick(probes.clone(), expected, 1);
        assert!((70..250).contains(&other.len()), "{}", other.len());
        let rest = |picked: &[Probe]| {
            let rest = picked.iter().filter(|probe| !probes[..10].contains(probe));
            rest.copied().collect::<Vec<Probe>>()
        };
        assert_ne!(rest(&again), rest(&other), "another sample");
    }

    #[test]
    fn what_was_not_as_expected_and_what_was_forgotten_is_sent_again() {
        let probes = probes();
        let expected = vec![ALLOWED; probes.len()];
        let mut sent = Sent::default();
        sent.record(&judgement(&probes, &expected, |index| index >= 100));
        for _ in 0..2 {
            let (again, verdicts) = sent.pick(probes.clone(), expected.clone(), 1);
            assert_eq!(again[..100], probes[..100], "these did not arrive");
            assert!(again.len() < 350, "{}", again.len());
            sent.record(&judgement(&again, &verdicts, |index| index >= 100));
        }
        // What has agreed before and does not any more counts as never sent, too.
        sent.record(&judgement(&probes[100..200], &expected, |_| false));
        assert_eq!(sent.pick(probes.clone(), expected.clone(), 1).0[..200], probes[..200]);
        sent.forget();
        assert_eq!(sent.pick(probes.clone(), expected, 1).0, probes);
    }
}
