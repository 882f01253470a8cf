//! What one question costs in a loaded cluster, and one about everything.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use npc_benches::{objects, shape};
use npc_compiler::cluster::group::Groups;
use npc_compiler::cluster::{Cluster, PodId};
use npc_compiler::object::Objects;
use npc_compiler::verdict::explain::{Port, QuestionEnd, explain};

/// The pods that a question is about: the first of a namespace, and the first of another
/// app or namespace.
fn ends(cluster: &Cluster) -> [(&'static str, PodId, PodId); 2] {
    let pods: Vec<PodId> = cluster.endpoints().map(|(id, _)| id).collect();
    let of = |id: PodId| (&cluster.pod(id).namespace, &cluster.pod(id).labels);
    let first = pods[0];
    let alike = pods.iter().copied().find(|id| *id != first && of(*id) == of(first)).unwrap_or(first);
    let other = pods.iter().copied().find(|id| of(*id) != of(first)).unwrap_or(alike);
    [("of one app", alike, first), ("of two", other, first)]
}

fn shapes() -> [(&'static str, Objects); 3] {
    [
        ("2,500 namespaces, 10,000 pods, 7,500 policies", objects(shape::many_namespaces(2_500, 100))),
        ("100 namespaces, 10,000 pods, 10,100 policies", objects(shape::label_groups(100, 100, 100))),
        ("2: 10,000 pods, 10,000 policies, all to all", objects(shape::all_to_all(10_000, 10_000))),
    ]
}

fn single(c: &mut Criterion) {
    for (shape, objects) in shapes() {
        let mut group = c.benchmark_group(shape);
        let cluster = Cluster::new(&objects);
        let groups = Groups::of_cluster(&cluster);
        for (what, from, to) in ends(&cluster) {
            let port = Port::Numbers(None, 80, 80);
            group.bench_function(format!("explain pods {what}"), |b| {
                b.iter(|| {
                    explain(&cluster, &groups, &QuestionEnd::Pod(black_box(from)), &QuestionEnd::Pod(to), Some(&port))
                });
            });
        }
        group.finish();
    }
}

fn everything(c: &mut Criterion) {
    for (shape, objects) in [
        ("50 namespaces, 5,000 pods of 500 apps, 550 policies", objects(shape::label_groups(50, 100, 10))),
        ("1,250 namespaces, 5,000 pods of 2,500 apps, 3,750 policies", objects(shape::many_namespaces(1_250, 100))),
    ] {
        let mut group = c.benchmark_group(shape);
        group.sample_size(10);
        let cluster = Cluster::new(&objects);
        let groups = Groups::of_cluster(&cluster);
        group.bench_function("explain any any", |b| {
            b.iter(|| explain(black_box(&cluster), &groups, &QuestionEnd::Any, &QuestionEnd::Any, None));
        });
        group.finish();
    }
}

criterion_group!(benches, single, everything);
criterion_main!(benches);
