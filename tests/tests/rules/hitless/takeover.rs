//! From the layout of an earlier npc to today's and back, with every packet watched
//! after every write. The earlier one is a dump, so that no change here changes it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use npc_agent::source::manifests;
use npc_compiler::object::{Family, Objects, Protocol};
use npc_compiler::plan::{Delta, FamilyState, KernelState, Plan};
use npc_compiler::policy::Direction;
use npc_compiler::ruleset::node::{ChainName, ChainRole, Match, Rule, Target};
use npc_compiler::ruleset::text;
use npc_tests::model::{Model, Packet, Question};

use super::{cut_short, ruleset, watch};

fn cluster() -> Objects {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rules/hitless/takeover/cluster.yaml");
    let loaded = manifests::load(&[path.into()], &manifests::ReadOptions::default()).unwrap();
    assert!(loaded.problems.is_empty());
    loaded.objects
}

/// What two earlier npc made of it: one whose first chain was another, and one whose rules
/// that admit bore no comment.
fn earlier() -> [KernelState; 2] {
    [include_str!("takeover/earlier.rules"), include_str!("takeover/uncommented.rules")].map(state)
}

/// The state that a dump shows: sets, and then the tables of both families, IPv4's first.
fn state(dump: &str) -> KernelState {
    let mut state = KernelState::default();
    let mut sections = dump.split("*filter\n");
    text::read_sets(sections.next().unwrap(), &mut state);
    for (family, section) in Family::ALL.into_iter().zip(sections) {
        let actual = state.family_mut(family);
        actual.chains = text::chains(family, section);
        assert!(!actual.chains.is_empty(), "{family}");
        assert_eq!(actual.chains.values().flatten().find(|rule| rule.is_foreign()), None);
    }
    assert!(Family::ALL.iter().all(|family| !state.family(*family).sets.is_empty()));
    state
}

/// To and from every pod, and somewhere in and outside a block.
fn packets(family: Family) -> Vec<Packet> {
    let mut addresses: Vec<IpAddr> = cluster().pods.iter().filter_map(|pod| pod.address(family)).collect();
    let others = ["192.0.2.9", "203.0.113.9", "2001:db8::9"].map(|text| text.parse::<IpAddr>().unwrap());
    addresses.extend(others.into_iter().filter(|address| Family::of(address) == family));
    let ports = [
        Some((Protocol::Tcp, 5432)),
        Some((Protocol::Tcp, 8080)),
        Some((Protocol::Tcp, 80)),
        Some((Protocol::Udp, 53)),
        Some((Protocol::Udp, 4789)),
        Some((Protocol::Udp, 6080)),
        None,
    ];
    let pairs = addresses.iter().flat_map(|a| addresses.iter().map(|b| (*a, *b))).filter(|(a, b)| a != b);
    pairs.flat_map(|(source, destination)| ports.map(|port| Packet { source, destination, port })).collect()
}

/// Other objects, with which an agent may find the earlier layout at its start.
fn edited() -> Vec<Objects> {
    let all = cluster();
    let without = |index: usize| {
        let mut objects = all.clone();
        objects.policies.remove(index);
        objects
    };
    let mut edited: Vec<Objects> = (0..all.policies.len()).map(without).collect();
    let mut gone = all.clone();
    gone.pods.remove(0);
    edited.extend([all.clone(), gone]);
    edited
}

#[test]
fn an_earlier_layout_is_taken_over_and_given_back_without_an_open_moment() {
    for (earlier, objects) in earlier().iter().flat_map(|earlier| edited().into_iter().map(move |edit| (earlier, edit)))
    {
        let today = ruleset(&objects);
        watch(earlier, &today, packets).unwrap();
        watch(&today, earlier, packets).unwrap();
    }
}

#[test]
fn a_takeover_that_was_cut_short_is_taken_up_by_either() {
    let today = ruleset(&cluster());
    for earlier in earlier() {
        let plan = Plan::between(&earlier, &today);
        for steps in 1..plan.steps.len() {
            let reached = cut_short(&earlier, &plan, steps);
            watch(&reached, &today, packets).unwrap();
            watch(&reached, &earlier, packets).unwrap();
        }
    }
}

/// The dump is of another layout, and not of nothing: otherwise the rest proves
/// nothing.
#[test]
fn the_earlier_layout_stops_what_todays_lets_go_on() {
    let [earlier, _] = earlier();
    let states = [earlier, ruleset(&cluster())];
    let [web, db] = ["10.0.0.2", "10.0.0.1"].map(|text| text.parse::<IpAddr>().unwrap());
    let packet = Packet { source: web, destination: db, port: Some((Protocol::Tcp, 5432)) };
    let [earlier, today] = states.map(|state| {
        let model = Model::new(Family::V4, &state.v4);
        let questions = Direction::ALL.map(|end| [Question::First(end), Question::MidStream(end)]);
        questions.map(|asked| asked.map(|question| model.verdict(question, &packet)))
    });
    assert_eq!(earlier, [[true, false], [true, false]]);
    assert_eq!(today, [[true, true], [true, true]]);
}

/// The other dump is of the same layout without comments: what a takeover writes for them is
/// the chains of groups and what leads to these, and no set.
#[test]
fn comments_alone_change_the_chains_of_groups_and_no_set() {
    let ([_, uncommented], today) = (earlier(), ruleset(&cluster()));
    for family in Family::ALL {
        let (old, new) = (uncommented.family(family), today.family(family));
        assert_eq!(old.sets, new.sets);
        let bare = |state: &FamilyState| {
            let rules = state.chains.iter().filter(|(name, _)| matches!(name.role(), ChainRole::Group(_)));
            let rules = rules.map(|(_, rules)| rules.iter().map(without_comment).collect::<Vec<_>>());
            rules.collect::<BTreeSet<_>>()
        };
        assert_ne!(old.chains, new.chains);
        // It is a takeover and no repair: each chain of a group that gets comments has another
        // name, and what leads to it is redirected.
        let groups = |state: &FamilyState| -> BTreeSet<ChainName> {
            let names = state.chains.keys().filter(|name| matches!(name.role(), ChainRole::Group(_)));
            names.cloned().collect()
        };
        let (before, after) = (groups(old), groups(new));
        let (before, after): (BTreeSet<ChainName>, BTreeSet<ChainName>) =
            (before.difference(&after).cloned().collect(), after.difference(&before).cloned().collect());
        assert!(!before.is_empty() && before.len() == after.len(), "{before:?} {after:?}");
        let leads = |state: &FamilyState, to: &BTreeSet<ChainName>| {
            let rules = state.chains.values().flatten();
            rules
                .filter(|rule| matches!(&rule.target, Target::Jump(name) | Target::Goto(name) if to.contains(name)))
                .count()
        };
        assert!(leads(old, &before) > 0 && leads(new, &after) > 0 && leads(new, &before) == 0);
        assert_eq!(bare(old), bare(new));
        let delta = Delta::between(old, new);
        let is_named = |name: &ChainName| {
            use ChainRole::{Dispatch, DispatchList, Entry, Group};
            matches!(name.role(), Group(_) | Dispatch(_) | DispatchList(_) | Entry(_))
        };
        assert!(delta.sets.is_empty() && delta.chains.keys().all(is_named), "{delta:?}");
    }
}

fn without_comment(rule: &Rule) -> Rule {
    let mut rule = rule.clone();
    rule.matches.retain(|one| !matches!(one, Match::Comment(_)));
    rule
}
