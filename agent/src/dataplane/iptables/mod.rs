//! The filter table of one backend and family: written by `iptables-restore`,
//! all at once or not at all, and read chain by chain.
//!
//! ```text
//! lock ─▶ Iptables ─▶ reading   our chains, others' as far as they matter
//!            │           ├───▶ listing   what iptables prints
//!            │           └───▶ native    what nf_tables says itself
//!            ├──────▶ hook      the jump to our chains
//!            ├──────▶ counters  how many packets our chains have denied
//!            └──────▶ error     why not, in words
//! ```
//!
//! Nothing here needs to understand a rule of another program. iptables does: it
//! prints nothing of a table in which one rule is not in its language (nft), or
//! stops at a rule whose extension is not installed (legacy). So only our own
//! chains are ever listed by their rules.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use npc_compiler::object::Family;
use npc_compiler::plan::ChainWrites;
use npc_compiler::ruleset::node::ChainName;
use npc_compiler::ruleset::text::Restore;

use super::programs::backend::{self, Backend, Commands};
use super::programs::process;

pub mod counters;
mod error;
mod filter_table;
mod hook;
mod listing;
mod lock;
mod native;
mod reading;

pub use error::{Error, RefusedLine};
pub use filter_table::{Hook, Jump};
pub use listing::Listing;
pub(super) use listing::fuzz as fuzz_listing;
pub use lock::Holder;
pub(super) use lock::path as lock_path;
pub(crate) use lock::process_with_lock;
pub use native::ForeignForward;
pub(super) use native::fuzz as fuzz_native;

pub(super) use filter_table::Overview;
pub(super) use native::{Native, NativeChain, NativeRule};
pub(super) use reading::native_residents;

/// How long a command waits for the xtables lock before it gives up.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// The filter table of one backend and family in the network namespace of the
/// calling thread.
#[derive(Debug, Clone)]
pub struct Iptables {
    backend: Backend,
    family: Family,
    commands: Commands,
    lock_wait: Duration,
    restores: RefCell<Vec<Restored>>,
}

/// One `iptables-restore` of ours, for metrics, and to know our own notifications from
/// other programs'.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The family.
    pub family: Family,
    /// The process, as this one sees it.
    pub process: u32,
    /// How long the xtables lock was waited for before.
    pub waited: Duration,
    /// How long it took from then on.
    pub took: Duration,
    /// Whether it is in the kernel.
    pub done: bool,
}

impl Iptables {
    /// The filter table behind the installed commands of a backend.
    ///
    /// # Errors
    /// If they are not installed.
    pub fn new(backend: Backend, family: Family) -> Result<Self, Error> {
        let commands = Commands::find(backend, family)?;
        Ok(Self { backend, family, commands, lock_wait: LOCK_WAIT, restores: RefCell::default() })
    }

    /// The filter tables of all backends and families in which a program has rules, as far as
    /// commands for them are installed.
    ///
    /// # Errors
    /// If the legacy commands are missing, though there are tables for them.
    pub fn in_use() -> Result<Vec<Self>, Error> {
        Backend::ALL.into_iter().flat_map(Self::in_use_of).collect()
    }

    /// The tables of a backend; for each, the table or why its commands cannot be used.
    pub(super) fn in_use_of(backend: Backend) -> impl Iterator<Item = Result<Self, Error>> {
        // A legacy command would create the tables that it reads.
        let families = Family::ALL.into_iter().filter(move |family| backend::has_filter(backend, *family));
        families.filter_map(move |family| match Self::new(backend, family) {
            // That nft is there is a guess, and what has no commands was not written by us. That
            // legacy tables are there is certain.
            Err(Error::Backend(backend::Error::Missing { .. })) if backend == Backend::Nft => None,
            table => Some(table),
        })
    }

    /// The same table, with another wait for the xtables lock.
    #[must_use]
    pub fn with_lock_wait(self, patience: Duration) -> Self {
        Self { lock_wait: patience, ..self }
    }

    /// The backend.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// The family.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    /// The restores since this was asked last, those that failed among them.
    #[must_use]
    pub fn take_restores(&self) -> Vec<Restored> {
        self.restores.take()
    }

    /// Waits until no process holds the xtables lock; how long that was. The nft
    /// backend has no such lock.
    ///
    /// # Errors
    /// If it is held for too long, with the name of the process if that is known.
    pub fn wait_for_lock(&self) -> Result<Duration, Error> {
        if self.backend == Backend::Nft {
            return Ok(Duration::ZERO);
        }
        let begun = Instant::now();
        match lock::wait(self.lock_wait) {
            Ok(()) => Ok(begun.elapsed()),
            Err(holder) => Err(Error::Locked { waited: begun.elapsed(), holder }),
        }
    }

    /// Writes text of `iptables-save`'s form over what is there, all at once or
    /// not at all; chains that the text does not declare are left alone.
    ///
    /// # Errors
    /// If it is refused, with the line that was, or the lock is kept too long.
    pub fn restore(&self, text: &str) -> Result<(), Error> {
        let waited = self.wait_for_lock()?;
        let begun = Instant::now();
        let command = self.commands.restore;
        let output = process::run(command, &["--noflush", "--wait", &self.lock_seconds()], text)?;
        self.restores.borrow_mut().push(Restored {
            family: self.family,
            process: output.process,
            waited,
            took: begun.elapsed(),
            done: output.code == Some(0),
        });
        if output.code == Some(0) {
            return Ok(());
        }
        if output.code == Some(error::RESOURCE_PROBLEM) && output.stderr.contains(error::LOCK_WORDS) {
            return Err(Error::Locked { waited: waited + begun.elapsed(), holder: lock::holder() });
        }
        let (place, message) = (error::place(text, &output.stderr), error::message(&output.stderr));
        Err(Error::Restore { command, place, message })
    }

    /// Writes and deletes chains, all in one commit. A chain that a rule of
    /// another program leads to cannot be deleted, and must not hold up the rest:
    /// it is emptied, which does as little, and answered with the reason.
    ///
    /// # Errors
    /// As [`Iptables::restore`].
    pub fn write(&self, writes: &ChainWrites) -> Result<Vec<(ChainName, Error)>, Error> {
        match self.restore(&writes.restore_text(self.family)) {
            Err(Error::Restore { .. }) if !writes.delete.is_empty() => {}
            answer => return answer.map(|()| Vec::new()),
        }
        let mut emptied = ChainWrites { delete: BTreeSet::new(), ..writes.clone() };
        emptied.replace.extend(writes.delete.iter().map(|chain| (chain.clone(), Vec::new())));
        self.restore(&emptied.restore_text(self.family))?;
        let mut stuck = Vec::new();
        for chain in &writes.delete {
            let one = ChainWrites { delete: BTreeSet::from([chain.clone()]), ..ChainWrites::default() };
            match self.restore(&one.restore_text(self.family)) {
                Ok(()) => {}
                Err(error @ Error::Restore { .. }) => stuck.push((chain.clone(), error)),
                Err(error) => return Err(error),
            }
        }
        Ok(stuck)
    }

    /// Deletes an empty chain.
    ///
    /// # Errors
    /// If it has rules or some rule leads to it, if it is not there, or if the
    /// table cannot be written.
    pub fn delete_empty(&self, chain: &ChainName) -> Result<(), Error> {
        let mut restore = Restore::of(self.family, []);
        restore.delete(chain);
        self.restore(&restore.finish())
    }

    /// What one command of plain `iptables` prints. Only to look: what writes
    /// goes by a restore, which its process shows to be ours.
    fn single(&self, arguments: &str) -> Result<String, Error> {
        self.wait_for_lock()?;
        // Made by hand: the crate's own constructor knows the name `iptables`
        // only, which may be the other backend. The wait that it would add has
        // no bound, so it goes with the command's text.
        let command = self.commands.iptables;
        let tool = ::iptables::IPTables { cmd: command, has_check: true, has_wait: false, is_numeric: false };
        let begun = Instant::now();
        let text = format!("-w {} {arguments}", self.lock_seconds());
        let refused = |message: &str| Error::Command {
            command,
            arguments: arguments.to_owned(),
            message: error::message(message),
        };
        let run = move || tool.execute("filter", &text).map_err(|error| error.to_string());
        let output = process::bounded(command, run)?.map_err(|error| refused(&error))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let words = String::from_utf8_lossy(&output.stderr);
        if words.contains(error::LOCK_WORDS) {
            return Err(Error::Locked { waited: begun.elapsed(), holder: lock::holder() });
        }
        Err(refused(&words))
    }

    /// As the commands take it: whole seconds, and zero is no wait at all.
    fn lock_seconds(&self) -> String {
        self.lock_wait.as_secs().max(1).to_string()
    }
}
