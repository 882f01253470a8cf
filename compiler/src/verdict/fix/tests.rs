//! The fixes of one answer together, in random clusters.

use std::cell::Cell;
use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::select;

use super::difference::difference;
use super::*;
use crate::algebra::traffic::Traffic;
use crate::object::{Family, Protocol};
use crate::sample_services::objects_with_services;
use crate::verdict::explain::{Port, QuestionEnd, explain};

/// Ports to ask about; none asks about all.
fn port() -> impl Strategy<Value = Option<Port>> {
    let tcp = |port| Some(Port::Numbers(Some(Protocol::Tcp), port, port));
    select(vec![None, None, tcp(80), tcp(8080), Some(Port::Numbers(Some(Protocol::Udp), 53, 53))])
}

/// What is opened between two ends, for certain or not: a fix may open what the one before it left open.
type Cells = BTreeMap<(String, String, Option<Family>), Traffic>;

fn add(cells: &mut Cells, opens: &[Opened]) {
    for Opened { from, to, family, traffic, .. } in opens {
        let cell = cells.entry((from.id.to_string(), to.id.to_string(), *family)).or_insert_with(Traffic::none);
        *cell = cell.union(traffic);
    }
}

/// Applies all fixes of an answer in turn: how many flows needed one of their own.
fn check(
    objects: &Objects,
    from: &QuestionEnd<'_>,
    to: &QuestionEnd<'_>,
    port: Option<&Port>,
) -> Result<usize, TestCaseError> {
    let cluster = Cluster::new(objects);
    let groups = Groups::of_cluster(&cluster);
    let Ok(answer) = explain(&cluster, &groups, from, to, port) else { return Ok(0) };
    let bounded = |cluster: Cluster, _: Option<&str>| cluster;
    let found = fixes(objects, &cluster, &groups, &answer, &(), &bounded, 4);
    let fixed: Vec<(&FlowFix, &Fix)> = found.iter().filter_map(|of| Some((of, of.fix.as_ref().ok()?))).collect();
    if fixed.len() < 2 {
        return Ok(0);
    }
    let before = View::new(objects, (&cluster, &groups), &(), &bounded);
    let changes: Vec<Change> = fixed.iter().flat_map(|(_, fix)| fix.changes.clone()).collect();
    let Some(after) = Changed::all(before, &changes) else {
        return Err(TestCaseError::fail(format!("{changes:#?} do not fit one after the other")));
    };
    let names: Vec<_> = changes.iter().filter(|of| of.new_object().is_some()).map(|of| &of.object).collect();
    let is_new = |place: usize| !names[..place].contains(&names[place]);
    prop_assert!((0..names.len()).all(is_new), "one name for two policies: {names:?}");
    let flows = fixed.iter().flat_map(|(of, _)| &of.flows).map(|place| &answer.flows[*place]);
    let mut asked = Vec::new();
    for flow in flows {
        for pair in flow.asked.pairs().unwrap_or_default() {
            prop_assert!(after.passes(pair), "{:?} is not allowed after {changes:#?}", pair.question);
            asked.push(pair.clone());
        }
    }
    // What they open together is what they say. What one of them opens may be what another one is for.
    let blocks: Vec<Cidr> = answer.flows.iter().flat_map(peer::blocks).collect();
    let opened = |asked: &[Pair]| difference(before, after.view(before), asked, &blocks);
    let (Some(others), Some(all)) = (opened(&asked), opened(&[])) else { return Ok(fixed.len()) };
    let mut said = Cells::new();
    for (_, fix) in &fixed {
        add(&mut said, &fix.opens);
    }
    let [others, all] = [others, all].map(|difference| {
        let mut cells = Cells::new();
        add(&mut cells, &difference.opens);
        cells
    });
    for (least, most) in [(&others, &said), (&said, &all)] {
        for (cell, traffic) in least {
            let most = most.get(cell).cloned().unwrap_or_else(Traffic::none);
            prop_assert!(
                traffic.difference(&most).is_none(),
                "{cell:?} {traffic} {most}: {said:?} {all:?} {changes:#?}"
            );
        }
    }
    Ok(fixed.len())
}

#[test]
fn the_fixes_of_one_answer_can_all_be_applied_in_turn() {
    let several = Cell::new(0);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 192,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let checked = runner.run(&(objects_with_services(), port(), any::<bool>()), |(objects, port, is_default_deny)| {
        let mut objects = objects;
        if is_default_deny {
            // Policies of all pods that allow nothing: every flow needs changes in both directions.
            for namespace in objects.namespaces.iter().map(|of| of.name.clone()).collect::<Vec<_>>() {
                let denied = crate::sample::policy(&format!(
                    r#"{namespace}/zz-deny {{"podSelector": {{}}, "policyTypes": ["Ingress", "Egress"]}}"#
                ));
                objects.policies.push(denied);
            }
        }
        let cluster = Cluster::new(&objects);
        let pods: Vec<_> = cluster.endpoints().map(|(id, _)| id).collect();
        for from in pods.iter().take(3) {
            for to in objects.services.iter().take(3).map(QuestionEnd::Service).chain([QuestionEnd::Pods(pods.clone())])
            {
                let count = check(&objects, &QuestionEnd::Pod(*from), &to, port.as_ref())?;
                several.set(several.get() + usize::from(count > 1));
            }
        }
        Ok(())
    });
    checked.unwrap_or_else(|error| panic!("{error}"));
    assert!(several.get() > 30, "only {} answers with several fixes", several.get());
}
