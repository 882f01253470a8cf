//! What it takes to compile: from objects to groups and programs.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use npc_benches::{everything, objects, shape};
use npc_compiler::cluster::Cluster;
use npc_compiler::object::Objects;
use npc_compiler::plan::{KernelState, Plan, Step};
use npc_compiler::ruleset::layout::{self, RulesetOptions};

fn shapes() -> Vec<(&'static str, &'static str, Objects)> {
    vec![
        (
            "1: 25,000 namespaces, 100,000 pods, 75,000 policies",
            "node-0",
            objects(shape::many_namespaces(25_000, 1_000)),
        ),
        ("2: 10,000 pods, 10,000 policies, all to all", "node", objects(shape::all_to_all(10_000, 10_000))),
        ("3: 100,000 pods in 10,000 groups, 10,100 policies", "node-0", objects(shape::label_groups(100, 1_000, 100))),
        ("4: 200 local and 250,000 remote pods, 10,000 policies", "local", objects(shape::one_node(250_000, 10_000))),
        ("5: 1,000 ipBlocks with exceptions", "node", objects(shape::many_blocks(1_000))),
    ]
}

fn compile(c: &mut Criterion) {
    for (shape, node, objects) in shapes() {
        let mut group = c.benchmark_group(shape);
        group.sample_size(10);
        group.bench_function("cluster", |b| b.iter(|| Cluster::new(black_box(&objects))));
        group.bench_function("everything", |b| b.iter(|| everything(black_box(&objects))));
        let cluster = Cluster::new(&objects);
        group.bench_function("program of one node", |b| {
            b.iter(|| layout::ruleset(black_box(&cluster), node, &RulesetOptions::default()));
        });
        let program = layout::ruleset(&cluster, node, &RulesetOptions::default());
        let written = |plan: Plan| -> usize {
            let text = |step: &Step| match step {
                Step::Chains(family, writes) => writes.restore_text(*family).len(),
                Step::Sets(_) | Step::Grace => 0,
            };
            plan.steps.iter().map(text).sum()
        };
        group.bench_function("rule text", |b| {
            b.iter_batched(
                KernelState::default,
                |held| written(Plan::new(&held, black_box(&program))),
                BatchSize::LargeInput,
            );
        });
        group.finish();
    }
}

criterion_group!(benches, compile);
criterion_main!(benches);
