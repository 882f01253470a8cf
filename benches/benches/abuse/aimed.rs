//! Policies whose names the tenant chooses so that their groups would share a list of the
//! dispatch tree with the next victim's, if names alone decided where groups stand.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use npc_benches::{engine, ingress};
use npc_compiler::engine::Event;
use npc_compiler::object::{Labels, Namespace};
use npc_compiler::policy::Direction;
use npc_compiler::ruleset::names::ChainRole;
use npc_lab::apiserver::Resource;
use serde_json::json;

use crate::Result;
use crate::agent::NODE;
use crate::scene::{Scene, VICTIMS, policy, victim};

/// How many lists a full tree has.
const LISTS: usize = 512;

/// How many small objects a tenant writes in a second.
const WRITES: f64 = 400.0;

pub(crate) fn abuse(scene: &Scene, count: usize) -> Result<()> {
    let aims = aims(count);
    let mut standing: Vec<String> = Vec::new();
    scene.put_local(count);
    let mut aimed = 0;
    let begun = Instant::now();
    while !scene.is_over() {
        // That which is measured now has its list already, so the next one.
        let names = aims.get(scene.next_victim()).ok_or("as many aims as victims")?;
        for name in standing.drain(..) {
            scene.server.delete(Resource::NetworkPolicies, Scene::TENANT, &name);
        }
        for (number, name) in names.iter().enumerate() {
            let selector = json!({"matchLabels": {"app": format!("local-{number}")}});
            let spec = json!({"podSelector": selector, "policyTypes": ["Ingress"]});
            scene.server.put(&policy(Scene::TENANT, name, &spec));
            standing.push(name.clone());
        }
        aimed += 1;
        scene.round();
        let due = f64::from(u32::try_from(2 * count)? * aimed) / WRITES;
        thread::sleep(Duration::from_secs_f64(due).saturating_sub(begun.elapsed()));
    }
    scene.note(format!("the tenant aimed {aimed} times"));
    Ok(())
}

/// For each victim, names of policies whose groups stand in its list by their names.
fn aims(count: usize) -> Vec<Vec<String>> {
    let mut lists = BTreeMap::<String, Vec<String>>::new();
    // By chance a list gets as many as others; some more, so that each gets enough.
    for number in 0..LISTS * (count + 4 * count.isqrt() + 4) {
        let name = format!("aimed-{number}");
        let list = lists.entry(list(Scene::TENANT, &name)).or_default();
        if list.len() < count {
            list.push(name);
        }
    }
    let of = |number| lists.get(&list(&victim(number), Scene::DENY)).cloned().unwrap_or_default();
    (0..VICTIMS).map(of).collect()
}

/// The list in which a policy's group stands by its name: the bits that the tree distinguishes.
fn list(namespace: &str, policy: &str) -> String {
    let mut engine = engine(
        NODE,
        [
            Event::Namespace(Namespace::new(namespace, Labels::new())),
            Event::Pod(Box::new(npc_benches::pod(0, namespace, Labels::new(), NODE))),
            Event::Policy(Box::new(ingress(namespace, policy, Labels::new(), Vec::new()))),
        ],
    );
    engine.commit();
    let mut chains = engine.state().v4.chains.keys();
    let chain = chains.find(|chain| chain.role() == ChainRole::Group(Direction::Ingress));
    let hash = chain.map(|chain| chain.as_str().rsplit('-').next().unwrap_or_default()).unwrap_or_default();
    // Five bits of its hash are a letter or digit, and the tree distinguishes nine.
    let mut bits = hash.chars().take(2).map(|letter| match letter {
        'a'..='z' => u32::from(letter) - u32::from('a'),
        digit => 26 + digit.to_digit(10).unwrap_or(2) - 2,
    });
    let (first, second) = (bits.next().unwrap_or_default(), bits.next().unwrap_or_default());
    format!("{:09b}", first << 4 | second >> 1)
}
