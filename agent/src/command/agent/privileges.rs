//! The privileges that an agent keeps: those to change the network, and no
//! other. What it starts (iptables) has no more than it.

use caps::{CapSet, Capability, CapsHashSet};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::set_no_new_privs;
use tracing::warn;

/// To write rules and sets and to read connections; and raw sockets, by which
/// the legacy tables are written.
const KEPT: [Capability; 2] = [Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW];

/// How many files may be open, where the system admits as many. More is of no use, and
/// a program that the agent starts may walk through all numbers.
const DESCRIPTORS: u64 = 65_536;

/// Gives up, for good, all that is not needed. Has to be called while the
/// process has one thread: each has privileges of its own.
///
/// A process that has few to begin with may be unable to give some up. That is logged, and
/// nothing else follows.
pub(super) fn drop_all_others() {
    if let Err(error) = drop_capabilities() {
        warn!(%error, "cannot give up the capabilities that the agent does not need");
    }
    if let Err(error) = set_no_new_privs(true) {
        warn!(%error, "cannot forbid the programs that the agent starts to gain privileges");
    }
}

/// Raises the soft limit of open files. A hundred do for the agent's work;
/// its listeners' connections are bounded, and the rest is a reserve.
pub(super) fn raise_descriptors() {
    let now = getrlimit(Resource::Nofile);
    let most = now.maximum.unwrap_or(DESCRIPTORS).min(DESCRIPTORS);
    let wanted = now.current.map_or(DESCRIPTORS, |current| current.max(most));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..now });
    if let Err(error) = raised {
        warn!(%error, "cannot raise the limit of open files (ulimit -n); the agent goes on with the one it has");
    }
}

fn drop_capabilities() -> Result<(), caps::errors::CapsError> {
    let kept: CapsHashSet = KEPT.into_iter().collect();
    let has = caps::read(None, CapSet::Permitted)?;
    // A process that may not change the bounding set has nothing to gain by it either:
    // with no_new_privs, no program that is started gets more.
    if has.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::read(None, CapSet::Bounding)?.difference(&kept) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    let left: CapsHashSet = has.intersection(&kept).copied().collect();
    caps::clear(None, CapSet::Ambient)?;
    caps::set(None, CapSet::Effective, &left)?;
    caps::set(None, CapSet::Permitted, &left)?;
    caps::set(None, CapSet::Inheritable, &left)
}
