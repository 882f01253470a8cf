//! A model of a kernel that is being written to: sets and chains as plans
//! write them, changed write by write, and packets that are on their way
//! through the rules at any of these moments.
//!
//! A packet asks one rule after another. The rules it sees are those of the
//! commit before it came; the sets it asks are as they are when it asks. So
//! between two of its look-ups any number of writes may happen, but no grace
//! period passes while it is on its way. The model follows every packet
//! through every such interleaving.

mod rule;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;

use npc_compiler::object::{Family, Protocol};
use npc_compiler::plan::{FamilyState, Plan, SetWrite, Step, Unexpected};
use npc_compiler::policy::Direction;
use npc_compiler::ruleset::node::{self, ChainName, Member, SetKind, SetName};
use smallvec::{SmallVec, smallvec};

use rule::{Action, Fields, Rule};

/// A packet of no known connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Where it comes from.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// Its protocol and destination port; `None` for one without ports.
    pub port: Option<(Protocol, u16)>,
}

/// Which packet of a connection it is, and in which direction it is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Question {
    /// The first, by the rules of a direction.
    First(Direction),
    /// One in its middle, by all rules that judge the end that a direction is
    /// about, but for what they ask about the other end's isolation.
    MidStream(Direction),
}

impl Question {
    /// The direction.
    #[must_use]
    pub fn direction(self) -> Direction {
        match self {
            Self::First(direction) | Self::MidStream(direction) => direction,
        }
    }

    fn is_mid_stream(self) -> bool {
        matches!(self, Self::MidStream(_))
    }
}

/// A chain, and a set or chain that a rule in it names and that does not exist. A kernel refuses such a rule.
fn dangling(state: &FamilyState) -> Option<(&ChainName, &str)> {
    state.chains.iter().find_map(|(chain, rules)| {
        let sets = rules.iter().flat_map(node::Rule::sets).filter(|set| !state.sets.contains_key(*set));
        let chains = rules.iter().filter_map(node::Rule::leads_to).filter(|next| !state.chains.contains_key(*next));
        Some((chain, sets.map(SetName::as_str).chain(chains.map(ChainName::as_str)).next()?))
    })
}

/// A chain, by a number in its model: a packet's way names many.
type ChainId = usize;

/// The numbers of the chains that packets begin in.
const FORWARD: ChainId = 0;
const STRAY: ChainId = 1;

/// The rules of a commit, by the numbers of their chains; `None` for a chain that is not there.
type Commit = Vec<Option<Rc<[Rule]>>>;

/// Where a packet is: the rule that it meets next, and those to return to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// The commit whose rules it sees.
    commit: usize,
    /// Chain and rule, the innermost last.
    frames: Frames,
    /// How many of the rule's sets were asked and said yes.
    asked: usize,
}

/// Chains and rules; few, because most chains lead on by `goto`.
type Frames = SmallVec<[(ChainId, usize); 4]>;

/// One family of a kernel.
#[derive(Debug)]
pub struct Model {
    family: Family,
    actual: FamilyState,
    /// The numbers of all chains that rules or commits have named.
    numbers: BTreeMap<ChainName, ChainId>,
    /// The rules after each commit.
    commits: Vec<Commit>,
    /// What the last commit was read from, chain by chain.
    read: BTreeMap<ChainName, (Vec<node::Rule>, Rc<[Rule]>)>,
}

impl Model {
    /// A kernel that holds this.
    #[must_use]
    pub fn new(family: Family, actual: &FamilyState) -> Self {
        let numbers = [ChainName::forward(), ChainName::stray()];
        let numbers = numbers.iter().enumerate().map(|(number, name)| (name.clone(), number)).collect();
        let (actual, read) = (actual.clone(), BTreeMap::new());
        let mut model = Self { family, actual, numbers, commits: Vec::new(), read };
        model.commit();
        model
    }

    /// What it holds.
    #[must_use]
    pub fn actual(&self) -> FamilyState {
        self.actual.clone()
    }

    /// Takes over what is held; only chains that have changed are read anew.
    fn commit(&mut self) {
        self.read.retain(|name, (rules, _)| self.actual.chains.get(name) == Some(rules));
        for (name, rules) in &self.actual.chains {
            if self.read.contains_key(name) {
                continue;
            }
            let read = rules.iter().map(|rule| Rule::of(rule, |chain| number(&mut self.numbers, chain))).collect();
            number(&mut self.numbers, name);
            self.read.insert(name.clone(), (rules.clone(), read));
        }
        let mut commit = vec![None; self.numbers.len()];
        for (name, (_, rules)) in &self.read {
            commit[self.numbers[name]] = Some(Rc::clone(rules));
        }
        self.commits.push(commit);
    }

    /// Carries a plan out. After every write, `moment` is called with what
    /// changed in words and whether packets on their way have all arrived.
    ///
    /// # Panics
    /// If the kernel would refuse a write, or a write would change nothing.
    pub fn apply(&mut self, plan: &Plan, mut moment: impl FnMut(&Self, &str, bool)) {
        for step in &plan.steps {
            match step {
                Step::Sets(writes) => {
                    for write in writes.iter().filter(|write| write.set().family() == self.family) {
                        let done = write.apply(&mut self.actual);
                        self.expect(done, matches!(write, SetWrite::Destroy(_)));
                        moment(self, &write.to_string(), false);
                    }
                }
                Step::Chains(family, writes) if *family == self.family => {
                    let done = writes.apply(&mut self.actual);
                    self.expect(done, true);
                    self.commit();
                    moment(self, "commit", false);
                }
                Step::Chains(..) => {}
                Step::Grace => moment(self, "grace", true),
            }
        }
    }

    /// A kernel refuses a rule that names a set or chain which is not there.
    fn expect(&self, done: Result<(), Unexpected>, may_dangle: bool) {
        done.unwrap_or_else(|unexpected| panic!("{unexpected}"));
        if may_dangle && let Some((chain, absent)) = dangling(&self.actual) {
            panic!("chain {chain} names {absent}, which is not there");
        }
    }

    fn holds(&self, set: &SetName, fields: Fields, packet: &Packet) -> bool {
        let Some((kind, members)) = self.actual.sets.get(set) else { return false };
        let address = match (fields, packet.port) {
            (Fields::DestinationPort, Some((protocol, port))) => {
                return members.contains(&Member::AddressPort(packet.destination, protocol, port));
            }
            (Fields::DestinationPort, None) => return false,
            (Fields::Source, _) => packet.source,
            (Fields::Destination, _) => packet.destination,
        };
        // Only these hold prefixes; a set of addresses may be large.
        let has_prefixes = *kind == SetKind::HashNet;
        let is_in = |member: &Member| matches!(member, Member::Prefix(prefix) if prefix.contains(address));
        members.contains(&Member::Address(address)) || has_prefixes && members.iter().any(is_in)
    }

    /// The rules of a chain as a place sees them; none of a chain that is not there.
    fn rules(&self, commit: usize, chain: ChainId) -> &[Rule] {
        // A later commit may have named more chains.
        self.commits[commit].get(chain).and_then(Option::as_deref).unwrap_or_default()
    }

    /// Where a packet begins: at the rule of NPC-FORWARD that asks whether its
    /// endpoint is isolated in the direction, and one in the middle of a connection
    /// at the first of the rules about those; `None` where there is no rule.
    fn begin(&self, question: Question) -> Option<Place> {
        let commit = self.commits.len() - 1;
        let entry = |direction| self.numbers.get(&ChainName::entry(direction)).copied();
        let chains = match question {
            Question::First(direction) => [entry(direction), None, None],
            Question::MidStream(_) => [Some(STRAY), entry(Direction::Egress), entry(Direction::Ingress)],
        };
        let jumps = |rule: &Rule| matches!(rule.action, Action::Jump(to) if chains.contains(&Some(to)));
        let rule = self.rules(commit, FORWARD).iter().position(jumps)?;
        Some(Place { commit, frames: smallvec![(FORWARD, rule)], asked: 0 })
    }

    /// The rule at a place is asked: where the packet is then, or its verdict. A set is
    /// looked up in by itself, because anything may be written between two look-ups.
    fn ask(&self, question: Question, mut place: Place, packet: &Packet) -> Result<Place, bool> {
        let Some((chain, rule)) = place.frames.pop() else { return Err(true) };
        let in_forward = place.frames.is_empty();
        let next = match self.rules(place.commit, chain).get(rule) {
            // The end of a chain of ours returns.
            None => None,
            Some(rule_here) if place.asked == 0 && !rule_here.matches(packet, question.is_mid_stream()) => {
                Some((chain, rule + 1))
            }
            Some(rule_here) => {
                if let Some((set, fields, is_in)) = rule_here.sets.get(place.asked) {
                    let is_asked = is_about(question, chain, *fields);
                    if (is_asked && self.holds(set, *fields, packet)) == *is_in {
                        place.frames.push((chain, rule));
                        place.asked += 1;
                        return Ok(place);
                    }
                    Some((chain, rule + 1))
                } else {
                    match rule_here.action {
                        Action::Drop => return Err(false),
                        Action::Return => None,
                        Action::Goto(target) => Some((target, 0)),
                        Action::Jump(target) => {
                            place.frames.push((chain, rule + 1));
                            Some((target, 0))
                        }
                    }
                }
            }
        };
        match next {
            // For first packets only the one rule of NPC-FORWARD is followed.
            Some(frame) if question.is_mid_stream() || !(in_forward && frame.0 == FORWARD) => {
                place.frames.push(frame);
            }
            None if question.is_mid_stream() && !place.frames.is_empty() => {}
            _ if question.is_mid_stream() || place.frames.len() <= 1 => return Err(true),
            _ => {}
        }
        place.asked = 0;
        Ok(place)
    }

    /// Whether a packet at a place looks up in a set next.
    fn looks_up(&self, question: Question, place: &Place, packet: &Packet) -> bool {
        let Some((chain, rule)) = place.frames.last() else { return false };
        let rule = self.rules(place.commit, *chain).get(*rule);
        rule.is_some_and(|rule| {
            rule.sets.len() > place.asked && (place.asked > 0 || rule.matches(packet, question.is_mid_stream()))
        })
    }

    /// The next place at which a packet looks up in a set, or its verdict if there is none.
    fn look_up(&self, question: Question, mut place: Place, packet: &Packet) -> Result<Place, bool> {
        while !self.looks_up(question, &place, packet) {
            place = self.ask(question, place, packet)?;
        }
        Ok(place)
    }

    /// The verdict on a packet that passes while nothing is written.
    #[must_use]
    pub fn verdict(&self, question: Question, packet: &Packet) -> bool {
        let Some(mut place) = self.begin(question) else { return true };
        loop {
            match self.ask(question, place, packet) {
                Ok(next) => place = next,
                Err(verdict) => return verdict,
            }
        }
    }

    /// Whether a packet's end is isolated in a direction, the end that another
    /// direction is about.
    #[must_use]
    pub fn isolates(&self, direction: Direction, end: Direction, packet: &Packet) -> bool {
        let Some(place) = self.begin(Question::First(direction)) else { return false };
        let (chain, rule) = place.frames[0];
        let field = if end == Direction::Egress { Fields::Source } else { Fields::Destination };
        let asked = self.rules(place.commit, chain)[rule].sets.first();
        asked.is_some_and(|(set, ..)| self.holds(set, field, packet))
    }
}

/// The number of a chain by its name.
fn number(numbers: &mut BTreeMap<ChainName, ChainId>, name: &ChainName) -> ChainId {
    let next = numbers.len();
    numbers.get(name).copied().unwrap_or_else(|| *numbers.entry(name.clone()).or_insert(next))
}

/// Whether a chain's set is about the end in question. The first chains ask about
/// both ends of a packet in the middle of a connection.
fn is_about(question: Question, chain: ChainId, fields: Fields) -> bool {
    match question {
        Question::MidStream(Direction::Egress) if chain <= STRAY => fields == Fields::Source,
        Question::MidStream(Direction::Ingress) if chain <= STRAY => fields == Fields::Destination,
        _ => true,
    }
}

/// A packet that comes at any moment of a plan: all places where it may be.
///
/// It may wait at any rule. But rules of a commit stay, and only sets change: so one that waits
/// before its next look-up in a set sees all that one sees that waits before the rules between.
#[derive(Debug)]
pub struct Flight {
    packet: Packet,
    question: Question,
    /// Where it may wait: before a look-up.
    places: BTreeSet<Place>,
}

impl Flight {
    /// A packet that has not entered the rules yet.
    #[must_use]
    pub fn new(question: Question, packet: Packet) -> Self {
        Self { packet, question, places: BTreeSet::new() }
    }

    /// A packet comes now, and those on their way go on or wait. The verdicts
    /// that are reached.
    pub fn go_on(&mut self, model: &Model, all_arrive: bool) -> BTreeSet<bool> {
        let mut verdicts = BTreeSet::new();
        let Some(begin) = model.begin(self.question) else { return BTreeSet::from([true]) };
        let mut open: Vec<Place> = std::mem::take(&mut self.places).into_iter().collect();
        open.push(begin);
        while let Some(place) = open.pop() {
            let next = model.look_up(self.question, place, &self.packet).and_then(|place| {
                let is_new = self.places.insert(place.clone());
                is_new.then(|| model.ask(self.question, place, &self.packet)).transpose()
            });
            match next {
                Ok(next) => open.extend(next),
                Err(verdict) => {
                    verdicts.insert(verdict);
                }
            }
        }
        if all_arrive {
            self.places.clear();
        }
        verdicts
    }
}
