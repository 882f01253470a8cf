//! A model of a kernel that is being written to: sets and chains as restore
//! text says, changed write by write, and packets that are on their way
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
use npc_compiler::ruleset::node::{ChainName, Member, SetName};
use npc_compiler::ruleset::text;

use rule::{Action, Rule};

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

type Rules = BTreeMap<String, Vec<Rule>>;

/// Where a packet is: the rule that it meets next, and those to return to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// The commit whose rules it sees.
    commit: usize,
    /// Chain and rule, the innermost last.
    frames: Vec<(String, usize)>,
    /// How many of the rule's sets were asked and said yes.
    asked: usize,
}

/// One family of a kernel.
#[derive(Debug)]
pub struct Model {
    family: Family,
    held: FamilyState,
    /// The rules after each commit, as iptables reads their text.
    commits: Vec<Rc<Rules>>,
}

impl Model {
    /// A kernel that holds this.
    #[must_use]
    pub fn new(family: Family, held: &FamilyState) -> Self {
        let mut model = Self { family, held: held.clone(), commits: Vec::new() };
        model.commit();
        model
    }

    /// What it holds.
    #[must_use]
    pub fn held(&self) -> FamilyState {
        self.held.clone()
    }

    fn commit(&mut self) {
        let rules = self.held.chains.iter().map(|(name, rules)| {
            let text = |rule| Rule::parse(&text::rule_line(self.family, name, rule));
            (name.as_str().to_owned(), rules.iter().map(text).collect())
        });
        self.commits.push(Rc::new(rules.collect()));
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
                        let done = write.apply(&mut self.held);
                        self.expect(done, matches!(write, SetWrite::Destroy(_)));
                        moment(self, &write.to_string(), false);
                    }
                }
                Step::Chains(family, writes) if *family == self.family => {
                    let done = writes.apply(&mut self.held);
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
        if may_dangle && let Some((chain, absent)) = self.held.dangling() {
            panic!("chain {chain} names {absent}, which is not there");
        }
    }

    fn holds(&self, set: &SetName, fields: &str, packet: &Packet) -> bool {
        let Some((_, members)) = self.held.sets.get(set) else { return false };
        match (fields, packet.port) {
            ("dst,dst", Some((protocol, port))) => {
                members.contains(&Member::AddressPort(packet.destination, protocol, port))
            }
            ("dst,dst", None) => false,
            (field, _) => {
                let address = if field == "src" { packet.source } else { packet.destination };
                members.iter().any(|member| match member {
                    Member::Address(member) => *member == address,
                    Member::Prefix(prefix) => prefix.contains(address),
                    Member::AddressPort(..) | Member::PrefixInterface(..) => false,
                })
            }
        }
    }

    /// Where a packet begins: at the rule of NPC-FORWARD that asks whether its
    /// endpoint is isolated in the direction, and one in the middle of a connection
    /// at the first of the rules about those; `None` where there is no rule.
    fn begin(&self, question: Question) -> Option<Place> {
        let commit = self.commits.len() - 1;
        let forward = self.commits[commit].get(ChainName::forward().as_str())?;
        let chains = match question {
            Question::First(direction) => vec![ChainName::entry(direction)],
            Question::MidStream(_) => {
                vec![ChainName::stray(), ChainName::entry(Direction::Egress), ChainName::entry(Direction::Ingress)]
            }
        };
        let jumps = |rule: &Rule| match &rule.action {
            Action::Jump(to) => chains.iter().any(|chain| to == chain.as_str()),
            _ => false,
        };
        let rule = forward.iter().position(jumps)?;
        Some(Place { commit, frames: vec![(ChainName::forward().as_str().to_owned(), rule)], asked: 0 })
    }

    /// The rule at a place is asked: where the packet is then, or its verdict.
    fn ask(&self, question: Question, place: &Place, packet: &Packet) -> Result<Place, bool> {
        let mut frames = place.frames.clone();
        let Some((chain, rule)) = frames.pop() else { return Err(true) };
        let in_forward = frames.is_empty();
        let rules = self.commits[place.commit].get(&chain).map_or(&[][..], Vec::as_slice);
        let next = match rules.get(rule) {
            // The end of a chain of ours returns.
            None => None,
            Some(rule_here) if !rule_here.matches(packet, question.is_mid_stream()) => Some((chain, rule + 1)),
            Some(rule_here) => {
                if let Some((set, fields, is_in)) = rule_here.sets.get(place.asked) {
                    let is_asked = is_about(question, &chain, fields);
                    if (is_asked && self.holds(set, fields, packet)) == *is_in {
                        frames.push((chain, rule));
                        return Ok(Place { commit: place.commit, frames, asked: place.asked + 1 });
                    }
                    Some((chain, rule + 1))
                } else {
                    match &rule_here.action {
                        Action::Drop => return Err(false),
                        Action::Return => None,
                        Action::Goto(target) => Some((target.clone(), 0)),
                        Action::Jump(target) => {
                            frames.push((chain, rule + 1));
                            Some((target.clone(), 0))
                        }
                    }
                }
            }
        };
        match next {
            // For first packets only the one rule of NPC-FORWARD is looked at.
            Some(frame) if question.is_mid_stream() || !(in_forward && frame.0 == ChainName::forward().as_str()) => {
                frames.push(frame);
            }
            None if question.is_mid_stream() && !frames.is_empty() => {}
            _ if question.is_mid_stream() || frames.len() <= 1 => return Err(true),
            _ => {}
        }
        Ok(Place { commit: place.commit, frames, asked: 0 })
    }

    /// The verdict on a packet that passes while nothing is written.
    #[must_use]
    pub fn verdict(&self, question: Question, packet: &Packet) -> bool {
        let Some(mut place) = self.begin(question) else { return true };
        loop {
            match self.ask(question, &place, packet) {
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
        let (chain, rule) = &place.frames[0];
        let field = if end == Direction::Egress { "src" } else { "dst" };
        let asked = self.commits[place.commit].get(chain).and_then(|rules| rules[*rule].sets.first());
        asked.is_some_and(|(set, ..)| self.holds(set, field, packet))
    }
}

/// Whether a chain's set is about the end in question. The first chains ask about
/// both ends of a packet in the middle of a connection.
fn is_about(question: Question, chain: &str, fields: &str) -> bool {
    let is_first = chain == ChainName::forward().as_str() || chain == ChainName::stray().as_str();
    match question {
        Question::MidStream(Direction::Egress) if is_first => fields == "src",
        Question::MidStream(Direction::Ingress) if is_first => fields == "dst",
        _ => true,
    }
}

/// A packet that comes at any moment of a plan: all places where it may be.
#[derive(Debug)]
pub struct Flight {
    packet: Packet,
    question: Question,
    places: BTreeSet<Place>,
}

impl Flight {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(question: Question, packet: Packet) -> Self {
        Self { packet, question, places: BTreeSet::new() }
    }

    /// A packet comes now, and those on their way go on or wait. The verdicts
    /// that are reached.
    pub fn go_on(&mut self, model: &Model, all_arrive: bool) -> BTreeSet<bool> {
        let mut verdicts = BTreeSet::new();
        let Some(begin) = model.begin(self.question) else { return BTreeSet::from([true]) };
        let mut open: Vec<Place> = std::mem::take(&mut self.places).into_iter().chain([begin]).collect();
        while let Some(place) = open.pop() {
            if !self.places.insert(place.clone()) {
                continue;
            }
            match model.ask(self.question, &place, &self.packet) {
                Ok(next) => open.push(next),
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
