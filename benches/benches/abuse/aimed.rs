//! Policies whose names the tenant chooses so that their groups would share a list of the
//! dispatch tree with the next victim's, if names alone decided where groups stand.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use npc_benches::{app, engine, ingress};
use npc_compiler::engine::Event;
use npc_compiler::object::{Labels, Namespace};
use npc_compiler::policy::Direction;
use npc_compiler::ruleset::names::SetRole;
use npc_compiler::ruleset::set::Member;
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
    // By chance a list gets as many as others; some more, so that each gets enough.
    let tried = LISTS * (count + 4 * count.isqrt() + 4);
    let pod = |number: usize, namespace: &str| {
        Event::Pod(Box::new(npc_benches::pod(number, namespace, app(format!("app-{number}")), NODE)))
    };
    let namespaces = (0..VICTIMS).map(victim).chain([Scene::TENANT.to_owned()]);
    let mut events: Vec<Event> = namespaces.map(|name| Event::Namespace(Namespace::new(name, Labels::new()))).collect();
    for number in 0..VICTIMS {
        let namespace = victim(number);
        events.push(pod(number, &namespace));
        events.push(Event::Policy(Box::new(ingress(&namespace, Scene::DENY, Labels::new(), Vec::new()))));
    }
    for number in VICTIMS..VICTIMS + tried {
        events.push(pod(number, Scene::TENANT));
        let policy = ingress(Scene::TENANT, &name(number), app(format!("app-{number}")), Vec::new());
        events.push(Event::Policy(Box::new(policy)));
    }
    let mut engine = engine(NODE, events);
    engine.commit();
    // The turns that lead to a pod's list are the sets that it is in.
    let mut turns = BTreeMap::<IpAddr, Vec<usize>>::new();
    for (place, (name, (_, members))) in engine.state().v4.sets.iter().enumerate() {
        if name.role() == SetRole::Dispatch(Direction::Ingress) {
            for member in members {
                if let Member::Address(address) = member {
                    turns.entry(*address).or_default().push(place);
                }
            }
        }
    }
    let of = |number: usize| turns.get(&npc_benches::address(number).into()).cloned().unwrap_or_default();
    let mut lists = BTreeMap::<Vec<usize>, Vec<String>>::new();
    (VICTIMS..VICTIMS + tried).for_each(|number| lists.entry(of(number)).or_default().push(name(number)));
    lists.values_mut().for_each(|names| names.truncate(count));
    (0..VICTIMS).map(|number| lists.get(&of(number)).cloned().unwrap_or_default()).collect()
}

fn name(number: usize) -> String {
    format!("aimed-{number}")
}
