//! What the first program takes in a large cluster, and what one event and a
//! burst of them do after it.
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

use std::hint::black_box;
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use npc_benches::samples::Samples;
use npc_benches::{engine, shape};
use npc_compiler::engine::{Engine, Event, PodKey};
use npc_compiler::object::{Labels, Namespace, Pod};

fn first(c: &mut Criterion) {
    let mut group = c.benchmark_group("first program");
    group.sample_size(10);
    let shapes: [(&str, &str, Vec<Event>); 6] = [
        ("1: 100,000 pods, 75,000 policies, 1,000 nodes", "node-0", shape::many_namespaces(25_000, 1_000).collect()),
        ("1: the same on one node", "node-0", shape::many_namespaces(25_000, 1).collect()),
        ("2: 10,000 pods, 10,000 policies, all to all", "node", shape::all_to_all(10_000, 10_000).collect()),
        ("3: 100,000 pods in 10,000 groups, 10,100 policies", "node-0", shape::label_groups(100, 1_000, 100).collect()),
        ("4: 200 local and 250,000 remote pods, 10,000 policies", "local", shape::one_node(250_000, 10_000).collect()),
        ("5: 1,000 ipBlocks with exceptions", "node", shape::many_blocks(1_000).collect()),
    ];
    for (name, node, events) in shapes {
        group.bench_function(name, |b| {
            b.iter_custom(|rounds| {
                (0..rounds)
                    .map(|_| {
                        let events = events.clone();
                        let begun = Instant::now();
                        let mut engine = engine(node, events);
                        black_box(engine.commit());
                        let took = begun.elapsed();
                        drop(engine);
                        took
                    })
                    .sum()
            });
        });
    }
    group.finish();
}

fn pods(events: &[Event]) -> Vec<Pod> {
    let pod = |event: &Event| match event {
        Event::Pod(pod) => Some((**pod).clone()),
        _ => None,
    };
    events.iter().filter_map(pod).collect()
}

/// One event and its plan at a time, of another remote pod each time, so that
/// none finds its memory in a cache because it was there just now.
fn one_event() {
    for remote in [1_000, 10_000, 50_000, 250_000] {
        let events: Vec<Event> = shape::one_node(remote, 10_000).collect();
        let pods = pods(&events).split_off(shape::LOCAL);
        let mut engine = engine("local", events);
        engine.commit();
        let (mut goes, mut comes, mut relabelled) = (Samples::default(), Samples::default(), Samples::default());
        for n in 0..20_000 {
            // A stride that shares no factor with any of the numbers of pods.
            let pod = &pods[n * 7_919 % pods.len()];
            let other = Labels::from([("app".to_owned(), format!("app-{}", n % 50))]);
            let other = Pod { labels: other, ..pod.clone() };
            let events = [
                (&mut goes, Event::PodGone(PodKey::of(pod))),
                (&mut comes, Event::Pod(Box::new(pod.clone()))),
                (&mut relabelled, Event::Pod(Box::new(other))),
            ];
            for (samples, event) in events {
                black_box(samples.time(|| {
                    engine.apply(event);
                    engine.commit()
                }));
            }
            engine.apply(Event::Pod(Box::new(pod.clone())));
            engine.commit();
        }
        println!("one of {remote:7} remote pods goes         {goes}");
        println!("one of {remote:7} remote pods comes        {comes}");
        println!("one of {remote:7} remote pods is relabelled {relabelled}");
    }
}

/// A burst is one plan; what it costs for each event should not grow with it.
fn bursts() {
    let say = |what: &str, size: usize, samples: &Samples| {
        let each = samples.median().as_secs_f64() * 1e6 / f64::from(u32::try_from(size).unwrap_or(u32::MAX));
        println!("{size:7} {what:32} {samples}, {each:6.2} µs each");
    };
    let events: Vec<Event> = shape::one_node(250_000, 10_000).collect();
    let pods = pods(&events);
    let mut engine = engine("local", events);
    engine.commit();
    let (local, remote) = pods.split_at(shape::LOCAL);
    for (what, of, size) in [
        ("remote pods replaced", remote, 1_000),
        ("remote pods replaced", remote, 10_000),
        ("remote pods replaced", remote, 100_000),
        ("local pods replaced", local, shape::LOCAL),
    ] {
        // Each goes, and another of its name takes its address.
        let old = &of[..size];
        let new: Vec<Pod> =
            old.iter().map(|pod| Pod { uid: pod.uid.replace("-8000-", "-9000-"), ..pod.clone() }).collect();
        let mut samples = Samples::default();
        for round in 0..10 {
            let (gone, come) = if round % 2 == 0 { (old, &new[..]) } else { (&new[..], old) };
            let events = gone.iter().zip(come);
            let events =
                events.flat_map(|(gone, come)| [Event::Pod(Box::new(come.clone())), Event::PodGone(PodKey::of(gone))]);
            burst(&mut engine, events.collect(), &mut samples);
        }
        say(what, size, &samples);
    }
    for size in [5_000, 50_000] {
        let mut engine = npc_benches::engine("local", shape::teams(10, size));
        engine.commit();
        let mut samples = Samples::default();
        for round in 0..10 {
            let labels = Labels::from([("team".to_owned(), format!("team-{}", round % 2))]);
            burst(&mut engine, vec![Event::Namespace(Namespace::new("ns-0", labels))], &mut samples);
        }
        say("pods of a relabelled namespace", size, &samples);
    }
}

fn burst(engine: &mut Engine, events: Vec<Event>, samples: &mut Samples) {
    let plan = samples.time(|| {
        for event in events {
            engine.apply(event);
        }
        engine.commit()
    });
    black_box(plan);
}

fn all(c: &mut Criterion) {
    first(c);
    one_event();
    bursts();
}

criterion_group!(benches, all);
criterion_main!(benches);
