//! Another program does damage after any single step of any plan. For each kind of damage and each
//! step, the kernel holds the policies soon after, and the agent is ready.

use tokio::time;

use super::*;

/// What another program does, at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// `iptables -F`.
    FlushChains,
    /// `iptables -F; iptables -X`.
    DropChains,
    /// `iptables -D FORWARD -j NPC-FORWARD`.
    DropHook,
    /// `ipset flush`.
    FlushSets,
    /// All of it goes, the sets too.
    DropAll,
}

const FAULTS: [Fault; 5] = [Fault::FlushChains, Fault::DropChains, Fault::DropHook, Fault::FlushSets, Fault::DropAll];

/// More steps than any of these plans has.
const STEPS: usize = 40;

/// Two everyday audits, and what a repair takes.
const SOON: Duration = Duration::from_secs(12);

impl Fault {
    pub(super) fn befall(self, memory: &mut Memory) {
        for actual in [&mut memory.state.v4, &mut memory.state.v6] {
            match self {
                Self::FlushChains => actual.chains.values_mut().for_each(Vec::clear),
                Self::DropChains => actual.chains.clear(),
                Self::DropHook => {}
                Self::FlushSets => actual.sets.values_mut().for_each(|(_, members)| members.clear()),
                Self::DropAll => *actual = FamilyState::default(),
            }
        }
        if self != Self::FlushSets {
            memory.hooks = [Hook::Absent; 2];
        }
    }
}

/// What these objects ask for.
fn desired(objects: &Objects) -> KernelState {
    KernelState::from(&layout::ruleset(&Cluster::new(objects), "node-1", &layout::RulesetOptions::default()))
}

/// A policy of another kind comes, the first goes, and so does a pod.
fn edited() -> Objects {
    let mut edited = objects(&["10.0.0.2", "10.0.0.3"]);
    edited.policies[0].object.metadata.name = Some("another".to_owned());
    let spec = edited.policies[0].object.spec.as_mut().expect("it has one");
    spec.policy_types = Some(vec!["Ingress".to_owned(), "Egress".to_owned()]);
    edited
}

impl World {
    fn fault_after(&self, steps: usize, fault: Fault) {
        self.memory.lock().expect("no thread panicked").fault = Some((steps, fault));
    }

    /// Whether the fault has happened. It does not, if the plan has fewer steps.
    fn has_happened(&self) -> bool {
        self.memory.lock().expect("no thread panicked").fault.is_none()
    }

    async fn heals(&self, objects: &Objects, ready: &std::path::Path, when: &str) {
        let desired = desired(objects);
        let begun = Instant::now();
        loop {
            {
                let memory = self.memory.lock().expect("no thread panicked");
                if memory.hooks == [Hook::First; 2] && memory.state == desired && ready.exists() {
                    return;
                }
                assert!(begun.elapsed() < SOON, "{when}: {:?} {:#?} for {desired:#?}", memory.hooks, memory.state);
            }
            time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_fault_after_any_step_at_the_start_heals() {
    let before = objects(&["10.0.0.1", "10.0.0.2"]);
    for fault in FAULTS {
        let mut happened = 0;
        for steps in 0..STEPS {
            let folder = tempfile::tempdir().expect("a folder");
            let ready = folder.path().join("ready");
            let settings = Settings { ready_file: Some(ready.clone()), ..settings() };
            let mut world = World::new(settings, 0, Vec::new());
            world.fault_after(steps, fault);
            world.send(network()).await;
            world.send(Input::Objects(before.clone())).await;
            let when = format!("{fault:?} after {steps} steps at the start");
            world.heals(&before, &ready, &when).await;
            happened += usize::from(world.has_happened());
        }
        // It was read, sets, chains and jumps were written.
        assert!((6..STEPS).contains(&happened), "{fault:?} happened {happened} times");
    }
}

#[tokio::test(start_paused = true)]
async fn a_fault_after_any_step_in_life_heals() {
    for fault in FAULTS {
        let mut happened = 0;
        for steps in 0..STEPS {
            let folder = tempfile::tempdir().expect("a folder");
            let ready = folder.path().join("ready");
            let settings = Settings { ready_file: Some(ready.clone()), ..settings() };
            let before = objects(&["10.0.0.1", "10.0.0.2"]);
            let mut world = World::new(settings, 0, vec![network(), Input::Objects(before.clone())]);
            world.heals(&before, &ready, "undisturbed").await;
            world.fault_after(steps, fault);
            world.send(Input::Objects(edited())).await;
            let when = format!("{fault:?} after {steps} steps of an edit");
            // Groups that lost their endpoints are kept for a while.
            time::sleep(SOON).await;
            let again = edited();
            {
                let memory = world.memory.lock().expect("no thread panicked");
                assert_eq!(memory.hooks, [Hook::First; 2], "{when}");
                for family in Family::ALL {
                    let (actual, desired) = (memory.state.family(family), desired(&again));
                    let desired = desired.family(family);
                    assert_eq!(actual.chains, desired.chains, "{when}");
                    assert_eq!(actual.sets, desired.sets, "{when}");
                }
            }
            assert!(ready.exists(), "{when}");
            happened += usize::from(world.has_happened());
        }
        assert!((4..STEPS).contains(&happened), "{fault:?} happened {happened} times");
    }
}

#[tokio::test(start_paused = true)]
async fn sets_that_are_flushed_each_second_are_full_most_of_the_time() {
    let before = objects(&["10.0.0.1", "10.0.0.2"]);
    let folder = tempfile::tempdir().expect("a folder");
    let ready = folder.path().join("ready");
    let settings = Settings { ready_file: Some(ready.clone()), ..settings() };
    let world = World::new(settings, 0, vec![network(), Input::Objects(before.clone())]);
    world.heals(&before, &ready, "undisturbed").await;
    let (desired, mut open, mut seen) = (desired(&before), 0, 0);
    for second in 0..60 {
        world.memory.lock().expect("no thread panicked").state.v4.sets.values_mut().for_each(|(_, all)| all.clear());
        for _ in 0..100 {
            time::sleep(Duration::from_millis(10)).await;
            let is_open = world.memory.lock().expect("no thread panicked").state != desired;
            // The first is found by an everyday audit.
            if second >= 10 {
                seen += 1;
                open += usize::from(is_open);
            }
        }
    }
    assert!(open * 5 < seen, "open {open} of {seen} times");
}

#[tokio::test(start_paused = true)]
async fn sets_that_are_flushed_while_rules_wait_for_the_lock_are_filled_again() {
    let before = objects(&["10.0.0.1", "10.0.0.2"]);
    let mut world = World::new(settings(), 0, vec![network(), Input::Objects(before.clone())]);
    time::sleep(Duration::from_secs(1)).await;
    let isolated = world.ingress();
    assert_eq!(isolated, ["10.0.0.1", "10.0.0.2"]);
    world.memory.lock().expect("no thread panicked").locked = true;
    // Rules of the other direction: those of this one do not wait.
    let mut edited = before;
    let mut egress = edited.policies[0].clone();
    egress.object.metadata.name = Some("egress".to_owned());
    let spec = egress.object.spec.as_mut().expect("it has one");
    spec.policy_types = Some(vec!["Egress".to_owned()]);
    edited.policies.push(egress);
    world.send(Input::Objects(edited.clone())).await;
    time::sleep(SOON).await;
    assert_ne!(world.memory.lock().expect("no thread panicked").state, desired(&edited));
    Fault::FlushSets.befall(&mut world.memory.lock().expect("no thread panicked"));
    time::sleep(SOON).await;
    assert_eq!(world.ingress(), isolated);
    world.memory.lock().expect("no thread panicked").locked = false;
    time::sleep(SOON).await;
    let memory = world.memory.lock().expect("no thread panicked");
    assert_eq!((&memory.state, memory.hooks), (&desired(&edited), [Hook::First; 2]));
}
