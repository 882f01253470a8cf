//! Plans are carried out write by write on a model of the kernel, with packets
//! on their way at every moment: each gets the old verdict or the new one.
#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

mod ahead;
mod mid_stream;
mod moves;
mod seed;
mod takeover;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::IpAddr;

use npc_compiler::cluster::Cluster;
use npc_compiler::object::{Family, Objects, Protocol};
use npc_compiler::plan::{KernelState, Plan, Step};
use npc_compiler::policy::Direction;
use npc_compiler::ruleset::layout::{self, Bounds, RulesetOptions, SelfMatch};
use npc_compiler::ruleset::node::{ChainName, ChainRole, InterfaceName, Member, SetName, Target};
use npc_tests::model::{Flight, Model, Packet, Question};
use npc_tests::random;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use self::moves::{count_lists, regrouping, relabelling};

const NODE: &str = "n1";

fn ruleset(objects: &Objects) -> KernelState {
    ruleset_of(objects, &RulesetOptions { self_match: SelfMatch::Bpf, ..RulesetOptions::default() })
}

fn ruleset_of(objects: &Objects, options: &RulesetOptions) -> KernelState {
    KernelState::from(&layout::ruleset(&Cluster::new(objects), NODE, options))
}

/// All pods run on one node, so that there are groups to move between.
fn gathered(mut objects: Objects) -> Objects {
    for pod in &mut objects.pods {
        pod.node = Some(NODE.to_owned());
        pod.host_network = false;
    }
    objects
}

/// A cluster, and another in which some of the objects are those of a third.
fn transition() -> impl Strategy<Value = (Objects, Objects)> {
    let changes = proptest::collection::vec(any::<bool>(), 24);
    (random::objects(), random::objects(), changes).prop_map(|(old, other, changes)| {
        let mut changes = changes.into_iter();
        let mut new = old.clone();
        let mut take = |place: usize, len: usize| place < len && changes.next().unwrap_or_default();
        for (i, pod) in other.pods.into_iter().enumerate() {
            if take(i, new.pods.len()) {
                new.pods[i] = pod;
            }
        }
        for (i, policy) in other.policies.into_iter().enumerate() {
            if i >= new.policies.len() {
                new.policies.push(policy);
            } else if take(i, new.policies.len()) {
                new.policies[i] = policy;
            }
        }
        if take(0, 1) {
            new.namespaces = other.namespaces;
        }
        (gathered(old), gathered(new))
    })
}

pub(super) fn packets(old: &Objects, new: &Objects, family: Family) -> Vec<Packet> {
    let pods = old.pods.iter().chain(&new.pods);
    let mut addresses: BTreeSet<IpAddr> = pods.filter_map(|pod| pod.address(family)).collect();
    let outside = random::addresses(new).into_iter().filter(|address| Family::of(address) == family);
    addresses.extend(outside.step_by(7).take(2));
    let ports = [Some((Protocol::Tcp, 80)), Some((Protocol::Udp, 53)), None];
    let pairs = addresses.iter().flat_map(|a| addresses.iter().map(|b| (*a, *b)));
    pairs
        .flat_map(|(source, destination)| ports.map(|port| Packet { source, destination, port }))
        .filter(|packet| packet.source != packet.destination)
        .collect()
}

/// What is asked about a packet: as the first of its connection, and as one in its
/// middle where it can be that.
pub(super) fn questions(packet: &Packet) -> impl Iterator<Item = Question> + use<> {
    let is_tcp = matches!(packet.port, Some((Protocol::Tcp, _)));
    let mid_stream = Direction::ALL.into_iter().filter(move |_| is_tcp).map(Question::MidStream);
    Direction::ALL.into_iter().map(Question::First).chain(mid_stream)
}

/// Whether a packet in the middle of a connection may be dropped between two
/// states that both let it pass: where the isolation of its end changes, by one
/// write for each direction. Its sender sends it again. The other way round there
/// is no exception.
fn changes_isolation(before: &Model, after: &Model, question: Question, packet: &Packet) -> bool {
    let Question::MidStream(end) = question else { return false };
    let isolates = |model: &Model| Direction::ALL.map(|direction| model.isolates(direction, end, packet));
    isolates(before) != isolates(after)
}

/// Carries the plan between two states out and watches every packet.
pub(super) fn watch(
    old: &KernelState,
    new: &KernelState,
    packets: impl Fn(Family) -> Vec<Packet>,
) -> Result<(), TestCaseError> {
    let plan = Plan::between(old, new);
    for family in Family::ALL {
        let before = Model::new(family, old.family(family));
        let after = Model::new(family, new.family(family));
        let mut model = Model::new(family, old.family(family));
        let mut flights: Vec<(Flight, Packet, Question, [BTreeSet<bool>; 2])> = Vec::new();
        for packet in packets(family) {
            for question in questions(&packet) {
                let verdicts = BTreeSet::from([before.verdict(question, &packet), after.verdict(question, &packet)]);
                let mut may_be = [verdicts.clone(), verdicts];
                if changes_isolation(&before, &after, question, &packet) {
                    may_be[1].insert(false);
                }
                let mut flight = Flight::new(question, packet);
                flight.go_on(&model, false);
                flights.push((flight, packet, question, may_be));
            }
        }
        let mut wrong = None;
        let mut history = Vec::new();
        model.apply(&plan, |model, what, all_arrive| {
            history.push(what.to_owned());
            for (flight, packet, question, [verdicts, may_be]) in &mut flights {
                let seen = flight.go_on(model, all_arrive);
                if wrong.is_none() && !seen.is_subset(may_be) {
                    wrong = Some(format!("{question:?} of {packet:?}: {seen:?}, not {verdicts:?}, after {history:#?}"));
                }
            }
        });
        prop_assert!(wrong.is_none(), "{}", wrong.unwrap_or_default());
        prop_assert_eq!(&model.actual(), new.family(family));
    }
    is_enforced_when_it_says_so(&plan, old, new, packets)
}

/// What comes behind [`Plan::enforced_by`] changes no verdict.
fn is_enforced_when_it_says_so(
    plan: &Plan,
    old: &KernelState,
    new: &KernelState,
    packets: impl Fn(Family) -> Vec<Packet>,
) -> Result<(), TestCaseError> {
    let enforcing = Plan { steps: plan.steps[..plan.enforced_by()].to_vec() };
    for family in Family::ALL {
        let after = Model::new(family, new.family(family));
        let mut model = Model::new(family, old.family(family));
        model.apply(&enforcing, |_, _, _| {});
        for packet in packets(family) {
            for question in questions(&packet) {
                let verdicts = (model.verdict(question, &packet), after.verdict(question, &packet));
                prop_assert_eq!(verdicts.0, verdicts.1, "{:?} of {:?} after {:#?}", question, packet, enforcing);
            }
        }
    }
    Ok(())
}

fn cases(default: u32) -> u32 {
    std::env::var("NPC_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(default)
}

#[test]
fn every_packet_gets_the_old_verdict_or_the_new_one() {
    let mut runner = random::runner(1, cases(200));
    runner
        .run(&transition(), |(old, new)| watch(&ruleset(&old), &ruleset(&new), |family| packets(&old, &new, family)))
        .unwrap();
}

#[test]
fn policies_that_come_to_be_over_the_bound_on_set_members_or_within_it_are_transitions_too() {
    // An agent of an earlier version has no bound, which is the first of these.
    let most = || prop_oneof![Just(u64::MAX), 0_u64..30];
    let over = Cell::new(0);
    random::runner(12, cases(150))
        .run(&(transition(), most(), most()), |((old, new), before, after)| {
            let ruleset = |objects: &Objects, most| {
                ruleset_of(objects, &RulesetOptions { bounds: Bounds::of_members(most), ..RulesetOptions::default() })
            };
            over.set(over.get() + u32::from(ruleset(&new, after) != ruleset(&new, u64::MAX)));
            watch(&ruleset(&old, before), &ruleset(&new, after), |family| packets(&old, &new, family))
        })
        .unwrap();
    assert!(over.get() * 6 > cases(150), "only {} samples were over the bound", over.get());
}

#[test]
fn one_relabelled_pod_moves_by_sets_alone() {
    let mut runner = random::runner(5, cases(30));
    let cleared_later = Cell::new(0);
    runner
        .run(&relabelling(1), |moves| {
            let (actual, desired) = (ruleset(&moves.old), ruleset(&moves.new));
            let steps = Plan::between(&actual, &desired).steps;
            prop_assert!(!steps.iter().any(|step| matches!(step, Step::Chains(..))), "{:#?}", steps);
            let plan = Plan { steps };
            cleared_later.set(cleared_later.get() + usize::from(plan.enforced_by() < plan.steps.len()));
            watch(&actual, &desired, |family| moves.packets(family))
        })
        .unwrap();
    assert!(cleared_later.get() > 0, "every plan waited for its clearing up");
}

#[test]
fn pods_that_move_at_once_never_meet_a_mixture() {
    let mut runner = random::runner(6, cases(20));
    runner
        .run(&relabelling(3), |moves| watch(&ruleset(&moves.old), &ruleset(&moves.new), |family| moves.packets(family)))
        .unwrap();
}

#[test]
fn groups_come_and_go_among_many() {
    let mut runner = random::runner(7, cases(20));
    let (lists, large) = (Cell::new(0), Cell::new(0));
    runner
        .run(&regrouping(2), |moves| {
            large.set(large.get() + usize::from((40..200).contains(&moves.groups)));
            let (actual, desired) = (ruleset(&moves.old), ruleset(&moves.new));
            lists.set(lists.get() + usize::from(count_lists(&actual) != count_lists(&desired)));
            watch(&actual, &desired, |family| moves.packets(family))
        })
        .unwrap();
    assert!(lists.get() > 0, "no list came or went");
    assert!(large.get() > 0, "no node had 40 groups to 199");
}

#[test]
fn other_options_are_transitions_too() {
    let mut runner = random::runner(8, cases(30));
    let options = || (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    runner
        .run(&(random::objects().prop_map(gathered), options(), options()), |(objects, old, new)| {
            let ruleset = |(log_denied, allow_tunnels, keep_established, anti_spoof)| {
                let options = RulesetOptions {
                    log_denied,
                    allow_tunnels,
                    keep_established,
                    anti_spoof,
                    ..RulesetOptions::default()
                };
                ruleset_of(&objects, &options)
            };
            watch(&ruleset(old), &ruleset(new), |family| packets(&objects, &objects, family))
        })
        .unwrap();
}

/// States of one cluster and the next, in which interfaces may send from some
/// addresses and from others.
fn with_sources() -> impl Strategy<Value = (Objects, Objects, [BTreeSet<Member>; 2])> {
    let member = (0..6_u8, 0..4_u8).prop_map(|(host, interface)| {
        let interface = InterfaceName::new(&format!("azv{interface}")).unwrap();
        Member::of_interface(format!("10.0.0.{host}/32").parse().unwrap(), interface)
    });
    let own = || proptest::collection::btree_set(member.clone(), 0..9);
    (transition(), own(), own()).prop_map(|((old, new), was, is)| (old, new, [was, is]))
}

#[test]
fn what_may_come_from_an_interface_before_and_after_may_come_all_the_time() {
    let mut runner = random::runner(9, cases(100));
    let options = RulesetOptions { anti_spoof: true, ..RulesetOptions::default() };
    let name = SetName::own(Family::V4);
    runner
        .run(&with_sources(), |(old, new, own)| {
            let state = |objects: &Objects, own: &BTreeSet<Member>| {
                let mut state = ruleset_of(objects, &options);
                state.v4.sets.get_mut(&name).unwrap().1.clone_from(own);
                state
            };
            let [was, is] = &own;
            let (before, after) = (state(&old, was), state(&new, is));
            // Together with all other changes, and by the name that the rules ask.
            let mut model = Model::new(Family::V4, &before.v4);
            let mut wrong = None;
            model.apply(&Plan::between(&before, &after), |model, what, _| {
                let actual = model.actual();
                let asked = actual.chains[&ChainName::forward()][0].sets().eq([&name]);
                let now = &actual.sets[&name].1;
                let all = was.intersection(is).all(|member| now.contains(member));
                // One that gives its address to another has not lost it before
                // the other has it.
                let begun = !was.is_subset(now);
                let none_lost = !begun || is.is_subset(now);
                let nothing_else = now.iter().all(|member| was.contains(member) || is.contains(member));
                if !(asked && all && none_lost && nothing_else) {
                    wrong = wrong.take().or_else(|| Some(format!("after {what}: {now:?} between {was:?} and {is:?}")));
                }
            });
            prop_assert!(wrong.is_none(), "{}", wrong.unwrap_or_default());
            prop_assert_eq!(&model.actual(), &after.v4);
            watch(&before, &after, |family| packets(&old, &new, family))
        })
        .unwrap();
}

#[test]
fn setting_up_and_tearing_down_are_transitions_too() {
    let mut runner = random::runner(2, cases(50));
    runner
        .run(&random::objects().prop_map(gathered), |objects| {
            let (empty, full) = (KernelState::default(), ruleset(&objects));
            watch(&empty, &full, |family| packets(&objects, &objects, family))?;
            watch(&full, &empty, |family| packets(&objects, &objects, family))
        })
        .unwrap();
}

fn denies(chain: &ChainName) -> bool {
    matches!(chain.role(), ChainRole::Deny(_) | ChainRole::DenyStray)
}

/// What an agent before 0.2 made of a state: its groups dropped by themselves.
fn without_deny_chains(mut state: KernelState) -> KernelState {
    for actual in [&mut state.v4, &mut state.v6] {
        actual.chains.retain(|name, _| !denies(name));
        for rule in actual.chains.values_mut().flatten() {
            if rule.goes_to().is_some_and(denies) {
                rule.target = Target::Drop;
            }
        }
    }
    state
}

/// Where another program removed what denies, nothing is denied: the end of a chain
/// returns.
fn with_empty_deny_chains(mut state: KernelState) -> KernelState {
    for actual in [&mut state.v4, &mut state.v6] {
        let deny = actual.chains.iter_mut().filter(|(name, _)| denies(name));
        deny.for_each(|(_, rules)| rules.clear());
    }
    state
}

#[test]
fn chains_that_deny_come_without_a_moment_in_which_nothing_is_denied() {
    let mut runner = random::runner(9, cases(60));
    runner
        .run(&transition(), |(old, new)| {
            let (actual, desired) = (ruleset(&old), ruleset(&new));
            let packets = |family| packets(&old, &new, family);
            watch(&without_deny_chains(actual.clone()), &ruleset(&old), packets)?;
            watch(&without_deny_chains(actual.clone()), &desired, packets)?;
            // And back, as a node does whose agent is downgraded.
            watch(&actual, &without_deny_chains(desired.clone()), packets)?;
            watch(&with_empty_deny_chains(actual), &desired, packets)
        })
        .unwrap();
}

/// Every other member of every set is gone, and every other chain is empty.
fn with_half_of_it(mut state: KernelState) -> KernelState {
    for actual in [&mut state.v4, &mut state.v6] {
        for (_, members) in actual.sets.values_mut() {
            *members = members.iter().step_by(2).cloned().collect();
        }
        actual.chains.values_mut().step_by(2).for_each(Vec::clear);
    }
    state
}

#[test]
fn from_a_kernel_that_another_program_changed() {
    let mut runner = random::runner(3, cases(100));
    let damage = proptest::collection::vec(any::<prop::sample::Index>(), 0..6);
    runner
        .run(&(transition(), damage, any::<bool>()), |((old, new), damage, halved)| {
            let mut actual = ruleset(&old);
            if halved {
                actual = with_half_of_it(actual);
            }
            for (i, index) in damage.into_iter().enumerate() {
                let actual = if i % 2 == 0 { &mut actual.v4 } else { &mut actual.v6 };
                // Members lost, rules lost; a set or chain that a rule names
                // cannot be lost.
                if i % 3 == 0 {
                    let chain = index.index(actual.chains.len());
                    actual.chains.values_mut().nth(chain).unwrap().pop();
                } else {
                    let set = index.index(actual.sets.len());
                    actual.sets.values_mut().nth(set).unwrap().1.pop_first();
                }
            }
            watch(&actual, &ruleset(&new), |family| packets(&old, &new, family))
        })
        .unwrap();
}

/// What a kernel holds after so many steps of a plan.
fn cut_short(actual: &KernelState, plan: &Plan, steps: usize) -> KernelState {
    let cut = Plan { steps: plan.steps[..steps].to_vec() };
    let [v4, v6] = Family::ALL.map(|family| {
        let mut model = Model::new(family, actual.family(family));
        model.apply(&cut, |_, _, _| {});
        model.actual()
    });
    KernelState { v4, v6 }
}

#[test]
fn a_plan_that_was_cut_short_is_taken_up_from_where_it_stopped() {
    let mut runner = random::runner(4, cases(100));
    runner
        .run(&(transition(), any::<prop::sample::Index>()), |((old, new), cut)| {
            let (actual, desired) = (ruleset(&old), ruleset(&new));
            let plan = Plan::between(&actual, &desired);
            if plan.steps.is_empty() {
                return Ok(());
            }
            let reached = cut_short(&actual, &plan, cut.index(plan.steps.len()));
            watch(&reached, &desired, |family| packets(&old, &new, family))
        })
        .unwrap();
}
