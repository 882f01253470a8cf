//! Groups change their places in the dispatch tree: an agent that knows a secret of its node
//! follows one that knew none, the other way round, and one that knew another.

use npc_compiler::object::Family;
use npc_compiler::plan::{KernelState, Plan};
use npc_compiler::ruleset::layout::RulesetOptions;
use npc_compiler::ruleset::names::seed::Seed;
use npc_tests::model::{Model, Question};
use npc_tests::random;

use super::{Direction, cases, cut_short, packets, ruleset_of, transition, watch};

fn seeds() -> [Option<Seed>; 3] {
    [None, Some(1), Some(2)].map(|number: Option<u8>| number.map(|number| Seed::from_bytes([number; 32])))
}

fn of(objects: &npc_compiler::object::Objects, seed: Option<Seed>) -> KernelState {
    ruleset_of(objects, &RulesetOptions { seed, ..RulesetOptions::default() })
}

#[test]
fn a_tree_of_another_seed_is_taken_over_without_an_open_moment() {
    let mut runner = random::runner(11, cases(60));
    runner
        .run(&transition(), |(old, new)| {
            let packets = |family| packets(&old, &new, family);
            for (was, is) in [(0, 1), (1, 0), (1, 2)] {
                let seeds = seeds();
                watch(&of(&old, seeds[was]), &of(&new, seeds[is]), packets)?;
                // An agent that ends in the middle is followed by one that knows the new seed
                // or the old one, as the kernel keeps both for a moment.
                let (actual, desired) = (of(&old, seeds[was]), of(&old, seeds[is]));
                let plan = Plan::between(&actual, &desired);
                for steps in 1..plan.steps.len() {
                    let half = cut_short(&actual, &plan, steps);
                    watch(&half, &desired, packets)?;
                    watch(&half, &actual, packets)?;
                }
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_seed_changes_no_verdict_and_the_same_one_writes_nothing() {
    let mut runner = random::runner(12, cases(60));
    runner
        .run(&transition(), |(objects, _)| {
            let [unkeyed, keyed, _] = seeds().map(|seed| of(&objects, seed));
            for family in Family::ALL {
                let models = [&unkeyed, &keyed].map(|state| Model::new(family, state.family(family)));
                for packet in packets(&objects, &objects, family) {
                    for question in Direction::ALL.map(Question::First) {
                        let [one, other] = models.each_ref().map(|model| model.verdict(question, &packet));
                        assert_eq!(one, other, "{question:?} of {packet:?}");
                    }
                }
            }
            assert_eq!(keyed.seed(), seeds()[1]);
            assert_eq!(unkeyed.seed(), None);
            assert!(Plan::between(&keyed, &of(&objects, keyed.seed())).is_empty());
            Ok(())
        })
        .unwrap();
}
