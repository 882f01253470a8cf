//! The filter table of one backend and family: written by `iptables-restore`,
//! all at once or not at all, and read chain by chain or as a whole.
//!
//! ```text
//! lock ─▶ Iptables ─▶ listing   what is ours in it
//!            └──────▶ error     why not, in words
//! ```

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use npc_compiler::object::Family;
use npc_compiler::plan::ChainWrites;
use npc_compiler::program::ChainName;

use super::backend::{self, Backend, Commands};
use super::process;

mod error;
mod listing;
mod lock;

pub use error::{Error, Place};
pub use listing::{Hook, Listing};
pub use lock::Holder;
pub(super) use lock::path as lock_path;

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

/// One `iptables-restore` of ours, for who measures them and for who has to
/// tell them from others'.
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

    /// Those of all backends and families in which somebody has rules, as far as
    /// commands for them are installed.
    ///
    /// # Errors
    /// If the legacy commands are missing, though there are tables for them.
    pub fn live() -> Result<Vec<Self>, Error> {
        let mut tables = Vec::new();
        for backend in Backend::ALL {
            // A legacy command would create the tables that it looks into.
            for family in Family::ALL.into_iter().filter(|family| backend::is_live(backend, *family)) {
                match Self::new(backend, family) {
                    Ok(table) => tables.push(table),
                    // That nft is there is a guess; see `cleanup`.
                    Err(Error::Backend(backend::Error::Missing { .. })) if backend == Backend::Nft => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(tables)
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

    /// Waits until nobody holds the xtables lock; how long that was. The nft
    /// backend has no such lock.
    ///
    /// # Errors
    /// If it is held for too long, with the name of who does where it can be
    /// told.
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
    /// somebody else leads to cannot be deleted, and must not hold up the rest:
    /// it is emptied, which does as little, and answered with the reason.
    ///
    /// # Errors
    /// As [`Iptables::restore`].
    pub fn write(&self, writes: &ChainWrites) -> Result<Vec<(ChainName, Error)>, Error> {
        match self.restore(&writes.restore_text()) {
            Err(Error::Restore { .. }) if !writes.delete.is_empty() => {}
            answer => return answer.map(|()| Vec::new()),
        }
        let mut emptied = ChainWrites { delete: BTreeSet::new(), ..writes.clone() };
        emptied.replace.extend(writes.delete.iter().map(|chain| (chain.clone(), Vec::new())));
        self.restore(&emptied.restore_text())?;
        let mut stuck = Vec::new();
        for chain in &writes.delete {
            let one = ChainWrites { delete: BTreeSet::from([chain.clone()]), ..ChainWrites::default() };
            match self.restore(&one.restore_text()) {
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
        self.restore(&format!("*filter\n-X {chain}\nCOMMIT\n"))
    }

    /// What of the table is ours, in the words of `iptables-save`. It takes no
    /// lock, and as long as the table is large, with others' rules in it.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub fn read(&self) -> Result<Listing, Error> {
        Ok(Listing::of_save(&self.save()?))
    }

    /// The whole table, of whomever, as `iptables-save` prints it.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub fn save(&self) -> Result<String, Error> {
        self.save_with(&["-t", "filter"])
    }

    fn save_with(&self, arguments: &[&str]) -> Result<String, Error> {
        let output = process::run(self.commands.save, arguments, "")?;
        if output.code != Some(0) {
            return Err(Error::Command {
                command: self.commands.save,
                arguments: arguments.join(" "),
                message: error::message(&output.stderr),
            });
        }
        Ok(output.stdout)
    }

    /// As [`Iptables::read`], our chains alone.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub fn chains(&self) -> Result<BTreeMap<ChainName, Vec<String>>, Error> {
        Ok(self.read()?.chains)
    }

    /// The rules of one chain of ours, in the same words; `None` if it is not
    /// there. With nft it takes as long as the chain is long.
    ///
    /// # Errors
    /// If it cannot be listed.
    pub fn chain(&self, name: &ChainName) -> Result<Option<Vec<String>>, Error> {
        match self.single(&format!("-S {name}")) {
            Ok(listed) => Ok(Listing::of_save(&listed).chains.remove(name)),
            Err(Error::Command { message, .. }) if error::is_no_chain(&message) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How many packets the rules of these chains have dropped, each since the
    /// chain was written last. One that is not
    /// there, or not as we made it, has no number.
    ///
    /// With nft each chain is listed, which takes as long as it is long; with
    /// legacy the whole table, but without the xtables lock, and at once.
    ///
    /// # Errors
    /// If the table cannot be listed.
    pub fn packets(&self, chains: &[ChainName]) -> Result<BTreeMap<ChainName, u64>, Error> {
        let mut packets = match self.backend {
            Backend::Legacy => listing::dropped(&self.save_with(&["-c", "-t", "filter"])?),
            Backend::Nft => {
                let mut all = BTreeMap::new();
                for chain in chains {
                    match self.single(&format!("-S {chain} -v")) {
                        Ok(listed) => all.extend(listing::dropped(&listed)),
                        Err(Error::Command { message, .. })
                            if error::is_no_chain(&message) || error::is_incompatible(&message) => {}
                        Err(error) => return Err(error),
                    }
                }
                all
            }
        };
        packets.retain(|chain, _| chains.contains(chain));
        Ok(packets)
    }

    /// Where the jump to our chains stands.
    ///
    /// # Errors
    /// If FORWARD cannot be listed.
    pub fn hook(&self) -> Result<Hook, Error> {
        // With legacy that takes the lock, and a whole listing does not.
        match self.backend {
            Backend::Nft => Ok(listing::hook(&self.single("-S FORWARD")?)),
            Backend::Legacy => Ok(self.read()?.hook),
        }
    }

    /// Puts the jump to our chains first in FORWARD, whatever became of it, and
    /// answers where it was. There is never a moment without it, and nothing of
    /// others is touched.
    ///
    /// # Errors
    /// If FORWARD cannot be read or written, or our chains are not there.
    pub fn put_hook_first(&self) -> Result<Hook, Error> {
        let found = self.hook()?;
        self.move_hook(found)?;
        Ok(found)
    }

    /// The same, where it is known how the jump stands.
    ///
    /// # Errors
    /// If FORWARD cannot be written, or our chains are not there.
    pub fn move_hook(&self, found: Hook) -> Result<(), Error> {
        let copies = match found {
            Hook::First => return Ok(()),
            Hook::Absent => 0,
            Hook::Displaced(copies) => copies,
        };
        // By the rule and not by its number, which others' writes shift; so
        // the old ones go before the new one comes, in one commit.
        let rule = listing::hook_rule();
        let delete = format!("-D FORWARD {rule}\n").repeat(copies);
        self.restore(&format!("*filter\n{delete}-I FORWARD 1 {rule}\nCOMMIT\n"))
    }

    /// Removes the jump, as often as it is there; whether it was.
    ///
    /// # Errors
    /// If FORWARD cannot be read or written.
    pub fn unhook(&self) -> Result<bool, Error> {
        let copies = match self.hook()? {
            Hook::Absent => return Ok(false),
            Hook::First => 1,
            Hook::Displaced(copies) => copies,
        };
        let delete = format!("-D FORWARD {}\n", listing::hook_rule()).repeat(copies);
        self.restore(&format!("*filter\n{delete}COMMIT\n"))?;
        Ok(true)
    }

    /// What one command of plain `iptables` prints. Only to look: what writes
    /// goes by a restore, which is told as ours by its process.
    fn single(&self, arguments: &str) -> Result<String, Error> {
        self.wait_for_lock()?;
        let begun = Instant::now();
        let wait = self.lock_seconds();
        let mut words = vec!["-t", "filter", "-w", &wait];
        words.extend(arguments.split(' '));
        let output = process::run(self.commands.iptables, &words, "")?;
        if output.code == Some(0) {
            return Ok(output.stdout);
        }
        if output.stderr.contains(error::LOCK_WORDS) {
            return Err(Error::Locked { waited: begun.elapsed(), holder: lock::holder() });
        }
        Err(Error::Command {
            command: self.commands.iptables,
            arguments: arguments.to_owned(),
            message: error::message(&output.stderr),
        })
    }

    /// As the commands take it: whole seconds, and zero is no wait at all.
    fn lock_seconds(&self) -> String {
        self.lock_wait.as_secs().max(1).to_string()
    }
}
