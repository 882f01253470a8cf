//! The jump to our chains: found, put first and removed, beside any rule of others.

use npc_compiler::ruleset::text::{FORWARD, hook_check, hook_first, hook_restore};

use super::filter_table::Hook;
use super::{Error, Iptables, error, listing, native};
use crate::dataplane::nftables;
use crate::dataplane::programs::backend::Backend;

/// How often jumps are looked for again after some were removed.
const TRIES: u32 = 5;

impl Iptables {
    /// Where the jump to our chains stands.
    ///
    /// # Errors
    /// If FORWARD cannot be listed, or is not where it filters.
    pub fn hook(&self) -> Result<Hook, Error> {
        // With legacy to list FORWARD takes the lock, and a whole listing does not.
        match self.backend {
            Backend::Legacy => self.read()?.hook,
            Backend::Nft => {
                let mut native = self.native()?;
                if let Some(found) = native.misplaced().map_err(|source| self.of_kernel(source))? {
                    return Err(Error::ForeignForward { family: self.family, found });
                }
                let rules = native.rules(Some(FORWARD)).map_err(|source| self.of_kernel(source))?;
                Ok(Hook::of(rules.iter().map(native::NativeRule::is_our_jump)))
            }
        }
    }

    /// With legacy, where the jump to our chains stands although a rule of another program cannot be listed. How
    /// often the jump is there cannot be counted then: where it is first, a second
    /// one further down does nothing.
    pub(super) fn hook_without_others(&self) -> Result<Hook, Error> {
        match self.single(&hook_first()) {
            Ok(first) if listing::hook(&first) == Hook::First => return Ok(Hook::First),
            Ok(_) => {}
            // That rule is another program's.
            Err(Error::Command { message, .. }) if error::is_unreadable(&message) => {}
            Err(error) => return Err(error),
        }
        match self.single(&hook_check()) {
            Ok(_) => Ok(Hook::Displaced(1)),
            Err(Error::Command { message, .. }) if error::is_no_rule(&message) => Ok(Hook::Absent),
            Err(error) => Err(error),
        }
    }

    /// Puts the jump to our chains first in FORWARD, also if it was moved or removed, and answers
    /// where it was. There is never a moment without it, and nothing of others is touched.
    ///
    /// # Errors
    /// If FORWARD cannot be read or written, or our chains are not there.
    pub fn insert_hook(&self) -> Result<Hook, Error> {
        let found = self.hook()?;
        self.move_hook(found)?;
        Ok(found)
    }

    /// Puts the jump to our chains first in FORWARD, where it is known how it stands.
    ///
    /// # Errors
    /// If FORWARD cannot be written, or our chains are not there.
    pub fn move_hook(&self, found: Hook) -> Result<(), Error> {
        let copies = match found {
            Hook::First => return Ok(()),
            Hook::Absent => 0,
            Hook::Displaced(copies) => copies,
        };
        if self.backend == Backend::Nft {
            self.restore(&hook_restore(0, true))?;
            return if copies == 0 { Ok(()) } else { self.delete_jumps(1).map(drop) };
        }
        // By the rule and not by its number, which others' writes shift; so the
        // old ones go before the new one comes, in one commit.
        self.restore(&hook_restore(copies, true))
    }

    /// Removes the jump, as often as it is there. Returns whether it was there.
    ///
    /// # Errors
    /// If FORWARD cannot be read or written.
    pub fn unhook(&self) -> Result<bool, Error> {
        if self.backend == Backend::Nft {
            return self.delete_jumps(0);
        }
        let mut was_there = false;
        for _ in 0..TRIES {
            let copies = match self.hook()? {
                Hook::Absent => break,
                Hook::First => 1,
                Hook::Displaced(copies) => copies,
            };
            self.restore(&hook_restore(copies, false))?;
            // Where rules of others cannot be listed, there may be more.
            was_there = true;
        }
        Ok(was_there)
    }

    /// With nft, removes the jumps to our chains except the first `keep`. Returns whether there
    /// were any to remove. It deletes by handle, because iptables deletes by a rule only if it
    /// understands all rules before it.
    fn delete_jumps(&self, keep: usize) -> Result<bool, Error> {
        let mut native = self.native()?;
        let mut tried = 0;
        loop {
            let rules = native.rules(Some(FORWARD)).map_err(|source| self.of_kernel(source))?;
            let ours = rules.iter().filter(|rule| rule.is_our_jump());
            let handles: Vec<u64> = ours.skip(keep).map(|rule| rule.handle).collect();
            if handles.is_empty() {
                return Ok(tried > 0);
            }
            tried += 1;
            match native.delete_from_forward(&handles) {
                Ok(()) => return Ok(true),
                // Another program was faster with one of them.
                Err(error @ nftables::Error::Refused { .. }) if error.is_absent() && tried < TRIES => {}
                Err(source) => return Err(self.of_kernel(source)),
            }
        }
    }

    /// Removes these rules of FORWARD.
    ///
    /// # Errors
    /// If one is not there, or FORWARD cannot be written.
    pub(in super::super) fn delete_from_forward(&self, handles: &[u64]) -> Result<(), Error> {
        if handles.is_empty() {
            return Ok(());
        }
        self.native()?.delete_from_forward(handles).map_err(|source| self.of_kernel(source))
    }
}
