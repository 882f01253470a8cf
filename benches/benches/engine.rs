//! What one event costs in a large cluster, and what the first program does.

use std::hint::black_box;
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use npc_benches as workload;
use npc_compiler::engine::{Engine, Event, PodKey};
use npc_compiler::layout::Options;
use npc_compiler::object::Objects;

fn load(objects: Objects, node: &str) -> Engine {
    let mut engine = Engine::new(node, Options::default());
    for namespace in objects.namespaces {
        engine.apply(Event::Namespace(namespace));
    }
    for policy in objects.policies {
        engine.apply(Event::Policy(Box::new(policy)));
    }
    for pod in objects.pods {
        engine.apply(Event::Pod(Box::new(pod)));
    }
    engine
}

fn first(c: &mut Criterion) {
    let mut group = c.benchmark_group("first program");
    group.sample_size(10);
    let shapes = [
        ("1: 100,000 pods, 75,000 policies, 1,000 nodes", "node-0", workload::many_namespaces(25_000, 1_000)),
        ("1: the same on one node", "node-0", workload::many_namespaces(25_000, 1)),
        ("2: 10,000 pods, 10,000 policies, all to all", "node", workload::all_to_all(10_000, 10_000)),
        ("3: 100,000 pods in 10,000 groups, 10,100 policies", "node-0", workload::label_groups(100, 1_000, 100)),
        ("4: 200 local and 250,000 remote pods, 10,000 policies", "local", workload::one_node(250_000, 10_000)),
        ("5: 1,000 ipBlocks with exceptions", "node", workload::many_blocks(1_000)),
    ];
    for (name, node, objects) in shapes {
        group.bench_function(name, |b| {
            b.iter_custom(|rounds| {
                (0..rounds)
                    .map(|_| {
                        let objects = objects.clone();
                        let begun = Instant::now();
                        let mut engine = load(objects, node);
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

fn event(c: &mut Criterion) {
    let mut group = c.benchmark_group("one remote pod goes and comes");
    for remote in [1_000, 10_000, 50_000, 250_000] {
        let objects = workload::one_node(remote, 10_000);
        let pod = objects.pods[objects.pods.len() - 1].clone();
        let mut engine = load(objects, "local");
        engine.commit();
        group.bench_function(format!("{remote} remote pods"), |b| {
            b.iter(|| {
                engine.apply(Event::PodGone(PodKey::of(&pod)));
                black_box(engine.commit());
                engine.apply(Event::Pod(Box::new(pod.clone())));
                black_box(engine.commit())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, first, event);
criterion_main!(benches);
