//! The real kernel, by way of `iptables-restore` and netlink.

use std::path::Path;
use std::time::{Duration, Instant};

use npc_compiler::established::Tuple;
use npc_compiler::object::Family;
use npc_compiler::plan::{Held, KernelState, Plan, SetWrite, Step};
use npc_compiler::program::SetName;
use rustix::thread::{MembarrierCommand, membarrier};
use tracing::{debug, info, warn};

use super::backend::{self, Backend};
use super::ipset::{self, Ipset};
use super::iptables::{Hook, Iptables};
use super::probe::{self, Capabilities};
use super::{Error, Kernel, cleanup, conntrack};

/// Far longer than a packet takes through the rules.
const PACKET_TIME: Duration = Duration::from_millis(20);

/// The kernel of the network namespace in which it was opened, and in which
/// the calling threads have to be.
#[derive(Debug)]
pub struct Linux {
    backend: Backend,
    /// One for each family that the kernel has.
    tables: Vec<Iptables>,
    ipset: Ipset,
    /// No rules of ours are left in the other backend.
    alone: bool,
    /// That flows cannot be cut was said.
    said_uncut: bool,
}

impl Linux {
    /// Finds the backend, unless one is given. The kernel is only looked at.
    ///
    /// # Errors
    /// If there is no backend, or no ipset.
    pub fn open(backend: Option<Backend>) -> Result<Self, Error> {
        let (backend, reason) = match backend {
            Some(backend) => (backend, "as told".to_owned()),
            None => backend::detect()?,
        };
        let tables = Self::tables(backend)?;
        let families: Vec<String> = tables.iter().map(|table| table.family().to_string()).collect();
        info!(%backend, reason, families = families.join(" "), "found the packet filter");
        Ok(Self { backend, tables, ipset: Ipset::open()?, alone: false, said_uncut: false })
    }

    /// The packet filter that it writes to.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    fn tables(backend: Backend) -> Result<Vec<Iptables>, Error> {
        let mut tables = Vec::new();
        for family in Family::ALL {
            // Without IPv6 in the kernel there are no packets to judge, and
            // ip6tables would only fail.
            if family == Family::V6 && !Path::new("/proc/thread-self/net/if_inet6").exists() {
                info!("this kernel has no IPv6; only IPv4 is enforced");
                continue;
            }
            tables.push(Iptables::new(backend, family)?);
        }
        Ok(tables)
    }

    /// Removes what an agent left in the other backend: a packet meets both,
    /// and rules that nobody keeps up to date any more ask the very sets that
    /// we write.
    fn leave_other_backend(&mut self) {
        for other in Backend::ALL.into_iter().filter(|other| *other != self.backend) {
            let removed = cleanup::leave(other);
            if !removed.chains.is_empty() {
                let chains = removed.chains.len();
                warn!(backend = %other, chains, "removed the rules that an agent left in the other packet filter");
            }
            for error in removed.errors {
                warn!(backend = %other, %error, "cannot tell that no rules of ours are left in the other packet filter");
            }
        }
        self.alone = true;
    }

    fn table(&self, family: Family) -> Option<&Iptables> {
        self.tables.iter().find(|table| table.family() == family)
    }

    /// Sets are of use only in a family that the kernel has.
    fn concerns_us(&self, write: &SetWrite) -> bool {
        SetName::ours(write.set().as_str()).is_some_and(|(_, family)| self.table(family).is_some())
    }
}

impl Kernel for Linux {
    fn probe(&mut self) -> Result<Capabilities, Error> {
        let begun = Instant::now();
        let capabilities = probe::probe(&self.tables, &mut self.ipset)?;
        for missing in &capabilities.missing {
            warn!("this kernel lacks {missing}");
        }
        debug!(bpf = capabilities.bpf, took = ?begun.elapsed(), "asked the kernel what it can do");
        Ok(capabilities)
    }

    fn read(&mut self) -> Result<KernelState, Error> {
        let begun = Instant::now();
        let sets = self.ipset.read()?;
        for odd in &sets.odd {
            warn!(set = %odd.name, header = odd.header, "a set under our name is not as we make them; if nothing uses it, it goes");
        }
        let odd: Vec<SetName> = sets.odd.into_iter().map(|odd| odd.name).collect();
        for (_, error) in self.ipset.destroy(&odd, Duration::ZERO)? {
            warn!("{error}");
        }
        let mut state = KernelState {
            v4: Held { sets: sets.v4, ..Held::default() },
            v6: Held { sets: sets.v6, ..Held::default() },
        };
        for table in &self.tables {
            let chains = table.chains()?;
            match table.family() {
                Family::V4 => state.v4.chains = chains,
                Family::V6 => state.v6.chains = chains,
            }
        }
        debug!(took = ?begun.elapsed(), "read what the kernel holds");
        Ok(state)
    }

    fn apply(&mut self, plan: &Plan) -> Result<(), Error> {
        for step in &plan.steps {
            let begun = Instant::now();
            match step {
                Step::Sets(writes) => {
                    let writes: Vec<&SetWrite> = writes.iter().filter(|write| self.concerns_us(write)).collect();
                    write_sets(&mut self.ipset, &writes)?;
                    debug!(writes = writes.len(), took = ?begun.elapsed(), "wrote sets");
                }
                Step::Chains(family, writes) => {
                    let Some(table) = self.table(*family) else { continue };
                    for (chain, error) in table.write(writes)? {
                        warn!(%family, %chain, %error, "a chain that is not needed any more cannot go; it is empty");
                    }
                    let (replaced, deleted) = (writes.replace.len(), writes.delete.len());
                    debug!(%family, replaced, deleted, took = ?begun.elapsed(), "wrote chains");
                }
                Step::Grace => grace(),
            }
        }
        Ok(())
    }

    fn put_hook_first(&mut self) -> Result<Vec<(Family, Hook)>, Error> {
        let put = self.tables.iter().map(|table| Ok((table.family(), table.put_hook_first()?)));
        let found: Result<_, Error> = put.collect();
        if found.is_ok() && !self.alone {
            self.leave_other_backend();
        }
        found
    }

    fn cut(&mut self, forbids: &mut dyn FnMut(&Tuple) -> bool) -> Result<conntrack::Swept, Error> {
        let begun = Instant::now();
        // The kernel lists a flow once its first packet has passed the last
        // hook; one that met the rules of before may still be on its way there.
        grace();
        let mut all = conntrack::Swept::default();
        for table in &self.tables {
            match conntrack::sweep(table.family(), forbids) {
                Ok(swept) => all += swept,
                Err(error @ conntrack::Error::Unsupported(_)) => {
                    if !std::mem::replace(&mut self.said_uncut, true) {
                        warn!("{error}");
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        debug!(judged = all.judged, cut = all.cut, stuck = all.stuck, took = ?begun.elapsed(), "judged the flows");
        Ok(all)
    }
}

/// Writes to sets; one that somebody else's rule uses cannot be destroyed, and
/// must not hold up the rest. Empty, it is as good as one that is created later.
fn write_sets(ipset: &mut Ipset, writes: &[&SetWrite]) -> Result<(), Error> {
    let is_destruction = |write: &SetWrite| matches!(write, SetWrite::Destroy(_));
    for writes in writes.chunk_by(|a, b| is_destruction(a) == is_destruction(b)) {
        if !writes.iter().any(|write| is_destruction(write)) {
            ipset.write(writes)?;
            continue;
        }
        let gone: Vec<SetName> = writes.iter().map(|write| write.set().clone()).collect();
        for (set, error) in ipset.destroy(&gone, ipset::PATIENCE)? {
            ipset.flush(&set)?;
            warn!(%set, %error, "a set that is not needed any more cannot go; it is empty");
        }
    }
    Ok(())
}

/// Waits until no packet that was on its way before is still among the rules:
/// packets pass them in an RCU read section, and a global memory barrier waits
/// for all of these (membarrier(2)).
fn grace() {
    if let Err(error) = membarrier(MembarrierCommand::Global) {
        // A kernel with isolated cores (nohz_full) refuses.
        debug!(%error, "no memory barrier; waiting a moment instead");
        std::thread::sleep(PACKET_TIME);
    }
}
