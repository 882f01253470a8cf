//! What the writer knows of the kernel after each way in which a write ends.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use npc_compiler::cluster::Cluster;
use npc_compiler::plan::{KernelState, Plan};
use npc_compiler::ruleset::layout;
use tokio::sync::mpsc;

use super::kernel::{Call, Memory, Recording};
use super::objects;
use crate::dataplane::audit::AuditScope;
use crate::dataplane::iptables::Hook;
use crate::enforce::writer::Writer;

/// A writer that has written the ruleset of a pod, to a kernel that holds it.
fn written() -> (Writer<Recording>, Arc<Mutex<Memory>>, KernelState, mpsc::UnboundedReceiver<Call>) {
    let cluster = Cluster::new(&objects(&["10.0.0.1"]));
    let desired = KernelState::from(&layout::ruleset(&cluster, "node-1", &layout::RulesetOptions::default()));
    let memory = Arc::new(Mutex::new(Memory::default()));
    let (calls, received) = mpsc::unbounded_channel();
    let mut writer = Writer::new(Recording { memory: Arc::clone(&memory), calls });
    writer.write(Plan::between(&KernelState::default(), &desired), &desired).expect("the kernel takes it");
    (writer, memory, desired, received)
}

#[test]
fn a_jump_that_is_known_to_be_missing_stays_known_until_it_is_put_back() {
    let (mut writer, memory, desired, _calls) = written();
    let asked: BTreeSet<IpAddr> = ["10.0.0.1".parse().expect("an address")].into();
    {
        let mut memory = memory.lock().expect("no thread panicked");
        memory.hooks = [Hook::Absent; 2];
        memory.unhookable = true;
    }
    let _ = writer.audit(&desired, AuditScope::Full);
    assert!(writer.is_unhooked());
    // Whether or not a waiter has something to be asked about.
    assert_eq!(writer.in_force(&desired, &BTreeSet::new()), BTreeSet::new());
    assert!(writer.is_unhooked());
    assert_eq!(writer.in_force(&desired, &asked), BTreeSet::new(), "no packet meets its rules");
    assert!(writer.is_unhooked());
    memory.lock().expect("no thread panicked").unhookable = false;
    assert_eq!(writer.in_force(&desired, &asked), asked);
    assert!(!writer.is_unhooked(), "it was put back");
}

#[test]
fn a_jump_that_is_found_missing_beside_another_failure_is_known_to_be() {
    let (mut writer, memory, desired, _calls) = written();
    {
        let mut memory = memory.lock().expect("no thread panicked");
        memory.locked = true;
        memory.hooks = [Hook::Absent; 2];
        memory.unhookable = true;
        memory.state = KernelState::default();
    }
    let asked: BTreeSet<IpAddr> = ["10.0.0.1".parse().expect("an address")].into();
    let _ = writer.audit(&desired, AuditScope::Full);
    let _ = writer.in_force(&desired, &asked);
    assert!(writer.is_unhooked());
}
