//! Another program does damage in the real kernel after any single step of a plan, at the start and
//! later. For each kind of damage and each step, the kernel holds the policies after a few tries.

use std::process::Command;
use std::time::Instant;

use npc_agent::dataplane::audit::{Audit, AuditScope};
use npc_agent::dataplane::backend::Backend;
use npc_agent::dataplane::iptables::Hook;
use npc_agent::dataplane::network::Network;
use npc_agent::dataplane::probe::Supported;
use npc_agent::dataplane::{Error, Failures, Flows, Kernel, Linux};
use npc_agent::enforce::Enforcer;
use npc_agent::source::difference::LastObjects;
use npc_compiler::object::{Family, Objects};
use npc_compiler::plan::{KernelState, Plan};

use super::enforce::groups;
use super::namespace::Namespace;
use super::on_both_backends;

on_both_backends!(a_fault_after_any_step_at_the_start_heals, a_fault_after_any_step_in_life_heals);

/// What another program does, at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    FlushChains,
    DropChains,
    DropHook,
    FlushSets,
    DropAll,
}

const FAULTS: [Fault; 5] = [Fault::FlushChains, Fault::DropChains, Fault::DropHook, Fault::FlushSets, Fault::DropAll];

/// More steps than any of these plans has.
const STEPS: usize = 30;

/// This many tries are enough: one that fails, one that reads everything and repairs.
const TRIES: usize = 4;

impl Fault {
    fn befall(self, backend: Backend) {
        // What there is nothing of cannot be removed.
        let run = |program: &str, arguments: &[&str]| drop(Command::new(program).args(arguments).output().unwrap());
        for tool in ["iptables", "ip6tables"] {
            let iptables = format!("{tool}-{backend}");
            match self {
                Self::FlushChains => run(&iptables, &["-F"]),
                Self::DropChains | Self::DropAll => {
                    run(&iptables, &["-F"]);
                    run(&iptables, &["-X"]);
                }
                Self::DropHook => run(&iptables, &["-D", "FORWARD", "-j", "NPC-FORWARD"]),
                Self::FlushSets => {}
            }
        }
        match self {
            Self::FlushSets => run("ipset", &["flush"]),
            Self::DropAll => run("ipset", &["destroy"]),
            _ => {}
        }
    }
}

/// The real kernel, and another program beside us that waits for its step.
struct Faulty {
    linux: Linux,
    fault: Option<(usize, Fault)>,
}

impl Faulty {
    fn open(backend: Backend) -> Self {
        Self { linux: Linux::open(Some(backend)).unwrap(), fault: None }
    }

    fn stepped(&mut self) {
        match &mut self.fault {
            Some((0, fault)) => {
                fault.befall(self.linux.backend());
                self.fault = None;
            }
            Some((steps, _)) => *steps -= 1,
            None => {}
        }
    }
}

/// So that a test can set the fault of a kernel that an enforcer owns.
#[derive(Clone)]
struct Shared(std::sync::Arc<std::sync::Mutex<Faulty>>);

impl Shared {
    fn with<T>(&self, what: impl FnOnce(&mut Faulty) -> T) -> T {
        what(&mut self.0.lock().unwrap())
    }
}

impl Kernel for Shared {
    fn probe_each(&mut self, failed: &mut Failures) -> Option<Supported> {
        self.with(|faulty| faulty.linux.probe_each(failed))
    }

    fn read_each(&mut self, desired: &KernelState, failed: &mut Failures) -> Result<KernelState, Error> {
        self.with(|faulty| {
            let read = faulty.linux.read_each(desired, failed);
            faulty.stepped();
            read
        })
    }

    fn apply_each(&mut self, plan: &Plan, failed: &mut Failures) -> Instant {
        self.with(|faulty| {
            for step in &plan.steps {
                faulty.linux.apply_each(&Plan { steps: vec![step.clone()] }, failed);
                faulty.stepped();
            }
        });
        Instant::now()
    }

    fn hook_each(&mut self, failed: &mut Failures) -> Vec<(Family, Hook)> {
        self.with(|faulty| {
            let found = faulty.linux.hook_each(failed);
            faulty.stepped();
            found
        })
    }

    fn prove(&mut self, desired: &KernelState, failed: &mut Failures) {
        self.with(|faulty| faulty.linux.prove(desired, failed));
    }

    fn audit(&mut self, desired: &KernelState, depth: AuditScope) -> Result<Audit, Error> {
        self.with(|faulty| faulty.linux.audit(desired, depth))
    }

    fn set_group(&mut self, links: &[u32], group: u32) -> Result<(), Error> {
        self.with(|faulty| faulty.linux.set_group(links, group))
    }

    fn wait_for_lock(&mut self) -> Result<(), Error> {
        self.with(|faulty| faulty.linux.wait_for_lock())
    }

    fn flows(&self) -> Box<dyn Flows> {
        self.with(|faulty| faulty.linux.flows())
    }
}

/// An agent's enforcer, and what befalls its kernel.
struct World {
    kernel: Shared,
    enforcer: Enforcer<Shared>,
    known: LastObjects,
    _namespace: Namespace,
}

impl World {
    fn new(backend: Backend) -> Self {
        let namespace = Namespace::enter();
        let kernel = Shared(std::sync::Arc::new(std::sync::Mutex::new(Faulty::open(backend))));
        let enforcer = Enforcer::new(kernel.clone(), "node-1");
        Self { kernel, enforcer, known: LastObjects::default(), _namespace: namespace }
    }

    fn receive(&mut self, objects: &Objects) {
        let changes = self.known.changes(objects, "node-1").changes;
        self.enforcer.take(changes.into_iter().map(|change| change.event));
    }

    fn fault_after(&self, steps: usize, fault: Fault) {
        self.kernel.with(|faulty| faulty.fault = Some((steps, fault)));
    }

    /// Whether the fault has happened. It does not, if the plans have fewer steps.
    fn has_happened(&self) -> bool {
        self.kernel.with(|faulty| faulty.fault.take()).is_none()
    }

    /// Tries as the agent's loop does.
    fn heals(&mut self, when: &str) {
        let mut said = Vec::new();
        for _ in 0..TRIES {
            match self.enforcer.pass(&Network::default()) {
                Ok(pass) => said.push(format!("wrote {}", pass.writes)),
                Err(error) => said.push(error.to_string()),
            }
            match self.enforcer.audit(AuditScope::Full) {
                Ok(None) => {}
                Ok(Some(repair)) => said.push(format!("{} found, {:?}", repair.found.len(), repair.repaired)),
                Err(error) => said.push(error.to_string()),
            }
            let hooks = self.kernel.with(|faulty| faulty.linux.hooks());
            let is_hooked = hooks.iter().all(|(_, hook)| matches!(hook, Ok(Hook::First)));
            if is_hooked && self.enforcer.holds().unwrap() {
                return;
            }
            said.push(format!("{hooks:?}"));
        }
        panic!("{when}: {said:#?}");
    }
}

fn a_fault_after_any_step_at_the_start_heals(backend: Backend) {
    for fault in FAULTS {
        let mut happened = 0;
        for steps in 0..STEPS {
            let mut world = World::new(backend);
            world.fault_after(steps, fault);
            world.receive(&groups(2));
            world.heals(&format!("{fault:?} after {steps} steps at the start"));
            if !world.has_happened() {
                break;
            }
            happened += 1;
        }
        // After the first read, sets, chains of each family, and the jump.
        assert!((5..STEPS).contains(&happened), "{fault:?} happened {happened} times");
    }
}

fn a_fault_after_any_step_in_life_heals(backend: Backend) {
    // One pod goes, two come, and a policy isolates in one direction only.
    let mut edited = groups(4);
    edited.pods.remove(0);
    edited.policies[1].object.spec.as_mut().unwrap().policy_types = Some(vec!["Ingress".to_owned()]);
    for fault in FAULTS {
        let mut happened = 0;
        for steps in 0..STEPS {
            let mut world = World::new(backend);
            world.receive(&groups(2));
            world.enforcer.pass(&Network::default()).unwrap();
            world.fault_after(steps, fault);
            world.receive(&edited);
            world.heals(&format!("{fault:?} after {steps} steps of an edit"));
            if !world.has_happened() {
                break;
            }
            happened += 1;
        }
        assert!((6..STEPS).contains(&happened), "{fault:?} happened {happened} times");
    }
}
