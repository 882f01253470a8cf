//! What the kernel refuses is reported so that one can act on it.

use std::fs::File;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use npc_agent::dataplane::audit::AuditScope;
use npc_agent::dataplane::backend::Backend;
use npc_agent::dataplane::ipset::{self, Ipset};
use npc_agent::dataplane::iptables::{Error, Iptables};
use npc_agent::dataplane::{Kernel, Linux};
use npc_compiler::object::Family;
use npc_compiler::plan::KernelState;
use npc_compiler::ruleset::node::{ChainName, SetName};

use super::by_hand::ByHand;
use super::namespace::{Namespace, run};
use super::on_both_backends;
use super::rulesets::{dropping, everything};

on_both_backends!(
    a_refused_line_is_quoted_and_nothing_of_the_restore_is_there,
    a_chain_that_is_not_there_is_blamed_on_the_line_that_leads_to_it,
    after_a_refusal_the_kernel_is_read_again,
    what_another_program_uses_of_ours_is_emptied_and_holds_nothing_up,
);

fn a_refused_line_is_quoted_and_nothing_of_the_restore_is_there(backend: Backend) {
    let _namespace = Namespace::enter();
    let table = Iptables::new(backend, Family::V4).unwrap();
    let bad = "-A NPC-X -m set --match-set npc4-nowhere dst -j DROP";
    let error = table.restore(&format!("*filter\n:NPC-X - [0:0]\n-A NPC-X -j RETURN\n{bad}\nCOMMIT\n")).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&format!("refused line 4 (`{bad}`)")), "{text}");
    assert!(text.contains("npc4-nowhere doesn't exist") && text.contains("another program removed the set"), "{text}");
    assert!(table.chains().unwrap().is_empty());
}

fn a_chain_that_is_not_there_is_blamed_on_the_line_that_leads_to_it(backend: Backend) {
    let _namespace = Namespace::enter();
    let table = Iptables::new(backend, Family::V6).unwrap();
    let text = "*filter\n:NPC-X - [0:0]\n-A NPC-X -j NPC-NOWHERE\n-A NPC-X -j RETURN\nCOMMIT\n";
    let error = table.restore(text).unwrap_err().to_string();
    assert!(error.contains("refused line 3 (`-A NPC-X -j NPC-NOWHERE`)"), "{error}");
}

fn after_a_refusal_the_kernel_is_read_again(backend: Backend) {
    let _namespace = Namespace::enter();
    let mut enforcer = ByHand::new(backend);
    enforcer.enforce(&dropping(&[1])).unwrap();
    // Another program destroys the set meanwhile.
    for iptables in [format!("iptables-{backend}"), format!("ip6tables-{backend}")] {
        run(&iptables, &["-F", "NPC-FORWARD"]);
    }
    // nft lets go of it a little later, and cleanup waits for that.
    let mut ipset = Ipset::open().unwrap();
    let names = ipset.names().unwrap();
    let stuck = ipset.destroy(&names, ipset::PATIENCE).unwrap();
    assert!(stuck.is_empty(), "{stuck:?}");
    let error = enforcer.enforce(&dropping(&[1, 2])).unwrap_err().to_string();
    assert!(error.contains("refused `add npc4-dropped 10.0.0.2`: there is no set of that name"), "{error}");
    enforcer.enforce(&dropping(&[1, 2])).unwrap();
    let actual = Linux::open(Some(backend)).unwrap().read().unwrap();
    assert_eq!(actual, KernelState::from(&dropping(&[1, 2])));
}

fn what_another_program_uses_of_ours_is_emptied_and_holds_nothing_up(backend: Backend) {
    let _namespace = Namespace::enter();
    let mut enforcer = ByHand::new(backend);
    enforcer.enforce(&everything()).unwrap();
    let iptables = format!("iptables-{backend}");
    run(&iptables, &["-A", "OUTPUT", "-j", "NPC-INGRESS"]);
    run(&iptables, &["-A", "OUTPUT", "-m", "set", "--match-set", "npc4-peers", "dst", "-j", "DROP"]);
    enforcer.enforce(&dropping(&[1])).unwrap();
    let mut actual = Linux::open(Some(backend)).unwrap().read().unwrap();
    let left = actual.v4.chains.remove(&ChainName::ours("NPC-INGRESS").unwrap()).unwrap();
    assert!(left.is_empty(), "{left:?}");
    let (_, left) = actual.v4.sets.remove(&SetName::new(Family::V4, "peers")).unwrap();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(actual, KernelState::from(&dropping(&[1])));
    // And back: what is left over becomes what is desired.
    enforcer.enforce(&everything()).unwrap();
    let actual = Linux::open(Some(backend)).unwrap().read().unwrap();
    assert_eq!(actual, KernelState::from(&everything()));
    // What is unused now goes with the next periodic audit.
    enforcer.enforce(&dropping(&[1])).unwrap();
    run(&iptables, &["-F", "OUTPUT"]);
    assert_eq!(enforcer.audit(AuditScope::Periodic), [""; 0]);
    let actual = Linux::open(Some(backend)).unwrap().read().unwrap();
    assert_eq!(actual, KernelState::from(&dropping(&[1])));
}

/// The name of this process, as the kernel has it.
fn program() -> String {
    std::fs::read_to_string(format!("/proc/{}/comm", std::process::id())).unwrap().trim().to_owned()
}

#[test]
fn a_lock_that_is_never_released_is_given_up_in_words() {
    let _namespace = Namespace::enter();
    let lock = File::create("/run/xtables.lock").unwrap();
    let _held = Flock::lock(lock, FlockArg::LockExclusive).unwrap();
    let table = Iptables::new(Backend::Legacy, Family::V4).unwrap().with_lock_wait(Duration::from_secs(1));
    for error in [table.restore("*filter\nCOMMIT\n").unwrap_err(), table.insert_hook().unwrap_err()] {
        assert!(matches!(error, Error::Locked { .. }), "{error}");
        let holder = format!("which {} (process {}) holds", program(), std::process::id());
        assert!(error.to_string().contains(&holder), "{error}");
    }
}
