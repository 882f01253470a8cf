//! Which states of the cluster each node may have been in, and when.
//!
//! A state may be in a node's kernel from the moment that the test begins to write it down for the
//! agents, until the agent has said that a later one is in the kernel. For each direction, a packet
//! may only ever get the verdict of one of these. That holds for everything that an agent does in
//! between, and for every way in which it ends.

use std::time::Instant;

use super::flow::{Flow, Verdicts};

/// What all states of a while say of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sure {
    /// Each allows it, at both ends.
    Allowed,
    /// All deny it in one and the same direction.
    Denied,
    /// Neither.
    Neither,
}

/// One state of the cluster.
#[derive(Debug)]
struct ClusterState {
    written: Instant,
    what: String,
    verdicts: Verdicts,
}

/// The states of a cluster, in their order.
#[derive(Debug)]
pub struct Timeline {
    states: Vec<ClusterState>,
    /// Per place that is a node: which states were said to be in its kernel.
    confirmed: Vec<Vec<(Instant, usize)>>,
    /// Nothing is sure in these times.
    excused: Vec<(Instant, Option<Instant>)>,
    interferences: Vec<Interference>,
}

/// Another program has changed a kernel.
#[derive(Debug)]
struct Interference {
    begin: Instant,
    end: Instant,
    /// The state that it made.
    state: usize,
}

impl Timeline {
    /// Begins with a state that all of so many places have.
    #[must_use]
    pub fn new(places: usize, verdicts: Verdicts) -> Self {
        let written = Instant::now();
        let states = vec![ClusterState { written, what: "the beginning".to_owned(), verdicts }];
        Self { states, confirmed: vec![vec![(written, 0)]; places], excused: Vec::new(), interferences: Vec::new() }
    }

    /// The number of the last state.
    #[must_use]
    pub fn last(&self) -> usize {
        self.states.len() - 1
    }

    /// The last state.
    #[must_use]
    pub fn verdicts(&self) -> &Verdicts {
        &self.states[self.states.len() - 1].verdicts
    }

    /// A state is about to be written down. What led to it is for people.
    pub fn begin(&mut self, verdicts: Verdicts, what: String) {
        self.states.push(ClusterState { written: Instant::now(), what, verdicts });
    }

    /// A state is in a node's kernel.
    pub fn confirm(&mut self, node: usize, state: usize) {
        self.confirmed[node].push((Instant::now(), state));
    }

    /// The last state that is known to be in a node's kernel.
    #[must_use]
    pub fn confirmed(&self, node: usize) -> usize {
        self.confirmed[node].last().map_or(0, |(_, state)| *state)
    }

    /// From now on nothing is sure, because the test changes the kernel behind the agent.
    pub fn excuse(&mut self) {
        self.excused.push((Instant::now(), None));
    }

    /// From now on all is sure again.
    pub fn excuse_no_more(&mut self) {
        if let Some((_, end)) = self.excused.last_mut() {
            *end = Some(Instant::now());
        }
    }

    /// What another program did since [`Timeline::excuse`] has made this state, and all is sure again.
    pub fn interfered(&mut self, verdicts: Verdicts, what: String) {
        self.begin(verdicts, what);
        self.excuse_no_more();
        if let Some((begin, Some(end))) = self.excused.last().copied() {
            self.interferences.push(Interference { begin, end, state: self.last() });
        }
    }

    /// Whether a packet of a connection, sent then, may pass though all states deny its flow: a kernel that let
    /// a packet of it through while another program changed it knows the connection, until an agent has
    /// followed a later state.
    #[must_use]
    pub fn may_be_known(&self, flows: &[Flow], flow: usize, born: Instant, sent: Instant) -> bool {
        let is_since = |of: &&Interference| born <= of.end && of.begin <= sent;
        self.interferences.iter().filter(is_since).any(|of| {
            let mut nodes = flows[flow].judges.into_iter().flatten();
            nodes.any(|node| self.window(node, sent, sent).0 <= of.state)
        })
    }

    /// The first and the last state that a node may have been in.
    fn window(&self, node: usize, begin: Instant, end: Instant) -> (usize, usize) {
        let confirmed = &self.confirmed[node];
        let before = confirmed.partition_point(|(at, _)| *at <= begin);
        let first = confirmed[before.saturating_sub(1)].1;
        let last = self.states.partition_point(|state| state.written <= end).saturating_sub(1);
        (first, last.max(first))
    }

    /// What all states say of a flow that some node may have been in; and
    /// whether there was more than one.
    #[must_use]
    pub fn judge(&self, flows: &[Flow], flow: usize, begin: Instant, end: Instant) -> (Sure, bool) {
        let is_excused = |(from, to): &(Instant, Option<Instant>)| *from <= end && to.is_none_or(|to| to >= begin);
        if self.excused.iter().any(is_excused) {
            return (Sure::Neither, false);
        }
        let (mut all_allow, mut in_flight) = (true, false);
        let mut one_denies = false;
        for (direction, node) in flows[flow].judges.into_iter().enumerate() {
            let Some(node) = node else { continue };
            let (first, last) = self.window(node, begin, end);
            in_flight |= first != last;
            let mut verdicts = self.states[first..=last].iter().map(|state| state.verdicts.of[flow][direction]);
            let allowed = verdicts.clone().all(|verdict| verdict);
            all_allow &= allowed;
            one_denies |= !verdicts.any(|verdict| verdict);
        }
        let sure = match (all_allow, one_denies) {
            (true, _) => Sure::Allowed,
            (false, true) => Sure::Denied,
            (false, false) => Sure::Neither,
        };
        (sure, in_flight)
    }

    /// Whether one node surely denies a flow and, at the same end of it, the
    /// flow that answers would make if they were none.
    #[must_use]
    pub fn denied_in_both_directions(&self, flows: &[Flow], flow: usize, begin: Instant, end: Instant) -> bool {
        let Some(back) = flows[flow].back else { return false };
        flows[flow].judges.into_iter().enumerate().any(|(direction, node)| {
            let Some(node) = node else { return false };
            let (first, last) = self.window(node, begin, end);
            let denies = |state: &ClusterState| {
                let of = &state.verdicts.of;
                !of[flow][direction] && !of[back][1 - direction]
            };
            self.states[first..=last].iter().all(denies)
        })
    }

    /// What led to the states that a flow's judges may have been in, for people.
    #[must_use]
    pub fn story(&self, flows: &[Flow], flow: usize, begin: Instant, end: Instant) -> String {
        let windows = flows[flow].judges.into_iter().flatten().map(|node| self.window(node, begin, end));
        let (first, last) = windows.fold((usize::MAX, 0), |all, one| (all.0.min(one.0), all.1.max(one.1)));
        let states = self.states.iter().enumerate().take(last + 1).skip(first);
        let told = states.map(|(number, state)| {
            let age = begin.saturating_duration_since(state.written).as_secs_f64()
                - state.written.saturating_duration_since(begin).as_secs_f64();
            format!("state {number} ({age:+.3} s before; {:?}): {}", state.verdicts.of[flow], state.what)
        });
        told.collect::<Vec<_>>().join("\n      ")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use npc_compiler::object::Protocol;

    use super::*;

    fn flow(judges: [Option<usize>; 2]) -> Flow {
        Flow {
            from: 0,
            to: 1,
            name: "a flow".to_owned(),
            protocol: Protocol::Udp,
            source: [10, 0, 0, 1].into(),
            destination: ([10, 0, 0, 2], 53).into(),
            judges,
            back: None,
        }
    }

    fn verdicts(egress: bool, ingress: bool) -> Verdicts {
        Verdicts { of: vec![[egress, ingress]] }
    }

    #[test]
    fn a_state_counts_from_its_beginning_until_a_later_one_is_confirmed() {
        let mut timeline = Timeline::new(2, verdicts(true, true));
        let flows = [flow([Some(0), Some(1)])];
        let judge = |timeline: &Timeline, begin| timeline.judge(&flows, 0, begin, Instant::now());
        let begin = Instant::now();
        assert_eq!(judge(&timeline, begin), (Sure::Allowed, false));
        timeline.begin(verdicts(true, false), String::new());
        assert_eq!(judge(&timeline, begin), (Sure::Neither, true));
        timeline.confirm(0, 1);
        assert_eq!(judge(&timeline, Instant::now()), (Sure::Neither, true));
        timeline.confirm(1, 1);
        assert_eq!(judge(&timeline, Instant::now()), (Sure::Denied, false));
        assert_eq!(judge(&timeline, begin), (Sure::Neither, true));
    }

    #[test]
    fn states_that_deny_at_different_ends_deny_nothing_for_sure() {
        let mut timeline = Timeline::new(1, verdicts(false, true));
        let flows = [flow([Some(0), Some(0)])];
        timeline.begin(verdicts(true, false), String::new());
        let now = Instant::now();
        assert_eq!(timeline.judge(&flows, 0, now, now), (Sure::Neither, true));
    }

    #[test]
    fn a_connection_may_be_known_from_an_interference_until_a_later_state_is_confirmed() {
        let mut timeline = Timeline::new(1, verdicts(true, false));
        let flows = [flow([None, Some(0)])];
        let before = Instant::now();
        timeline.excuse();
        timeline.interfered(verdicts(true, false), String::new());
        let may_be_known = |timeline: &Timeline, born, sent| timeline.may_be_known(&flows, 0, born, sent);
        assert!(may_be_known(&timeline, before, Instant::now()));
        assert!(!may_be_known(&timeline, before, before), "it was sent before");
        assert!(!may_be_known(&timeline, Instant::now(), Instant::now()), "it began behind it");
        timeline.begin(verdicts(true, false), String::new());
        timeline.confirm(0, 1);
        assert!(may_be_known(&timeline, before, Instant::now()), "an agent that follows nothing new cuts nothing");
        timeline.confirm(0, 2);
        assert!(!may_be_known(&timeline, before, Instant::now()));
    }

    #[test]
    fn nothing_is_sure_while_another_program_changes_the_kernel() {
        let mut timeline = Timeline::new(1, verdicts(true, true));
        let flows = [flow([Some(0), None])];
        let before = Instant::now();
        timeline.excuse();
        timeline.excuse_no_more();
        let after = Instant::now();
        assert_eq!(timeline.judge(&flows, 0, before, after).0, Sure::Neither);
        assert_eq!(timeline.judge(&flows, 0, after, after).0, Sure::Allowed);
    }
}
