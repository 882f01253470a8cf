//! Whether the kernel still holds what was last written to it, found out as
//! cheaply as can be.
//!
//! | what | how | noticed within | costs |
//! |---|---|---|---|
//! | nft chains, the jump | notifications; then only what they name is listed | the wake of the loop, 0.1 s | nothing while no program touches them; 3 ms a chain |
//! | legacy chains, the jump | the table is listed when the xtables lock was used, and in turn | as nft, else 5 s; 8 s in large tables | 5 % of one processor; more where one listing takes over 0.4 s |
//! | sets: gone, emptied, of another kind, more or fewer members | the heads of all sets | 5 s | 2,000 sets with 100,000 members: 30 ms (ipset 7.17) |
//! | sets: as many members, others | members, 20,000 each time, in turn | 5 s for each 20,000 members | 100,000 members: 0.13 s (ipset 7.17) |
//!
//! For a while after drift was found, all of that except members is compared again every 0.1 s, in
//! at most a fifth of the time ([`AuditScope::Recheck`]).
//!
//! Where the kernel reports that notifications were lost, or sends none, nft chains are listed as
//! legacy ones are. They are also listed once in ten minutes, without any notification.
//!
//! Only our chains are listed, and of FORWARD only where our jump stands: what other
//! programs have in a table need not be understood. A table that cannot be read does
//! not keep the other family's from being compared.
//!
//! `notifications` says which program wrote to the filter table, `alias` which sets of ours have another
//! name, and `left_chains` which chains of ours cannot be deleted yet. `sets` compares sets, and this file
//! chains.

pub(super) mod alias;
mod left_chains;
pub mod notifications;
mod sets;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use npc_compiler::object::Family;
use npc_compiler::plan::{Delta, FamilyState, KernelState};
use npc_compiler::ruleset::node::{ChainName, ChainRole, Rule, SetName};
use tracing::{debug, info};

use self::alias::Aliases;
use self::left_chains::LeftChains;
use self::notifications::{Author, Notifications, ReportedChanges, Touched};
use super::Error;
use super::ipset::Ipset;
use super::iptables::{Hook, Iptables, Listing, lock_path};
use super::programs::backend::Backend;
use super::supported::spelling::{Differing, Others, PrintedForms};
use crate::words::rounded::rounded;

/// A listing of a whole table may take this part of the time, and comes neither
/// more often nor less often than these.
const SHARE: u32 = 20;
const OFTEN: Duration = Duration::from_secs(4);
const SELDOM: Duration = Duration::from_secs(8);

/// The same for a while after something was found, when the same program may do it
/// again.
const ALERT_SHARE: u32 = 4;

/// How often the agent has a round done.
pub(crate) const ROUND: Duration = Duration::from_secs(5);

/// The same where the kernel reports every change.
const NOTIFIED: Duration = Duration::from_secs(10 * 60);

/// How many members are compared each time.
const MEMBERS: usize = 20_000;

/// More chains than this are listed with all others at once.
const FEW: usize = 8;

/// How much an audit reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditScope {
    /// What the kernel notified of.
    Notified,
    /// That, and the heads of all sets, and tables without notifications: what a program that has
    /// just undone something of ours would undo again.
    Recheck,
    /// That, and what sends no notifications and is due.
    Periodic,
    /// Everything.
    Full,
}

/// What the kernel holds otherwise than it was written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Audit {
    /// What leads, in IPv4, from what was written to what is there.
    pub v4: Delta,
    /// What differs in IPv6.
    pub v6: Delta,
    /// Where the jump to our chains is, in the families where it is not first.
    pub hooks: Vec<(Family, Hook)>,
    /// Sets under our names that are none of ours, and whether they went.
    pub unneeded: Vec<(Family, SetName, bool)>,
    /// Sets of ours whose names other programs' sets of another kind have. What is
    /// there has to be read as a whole.
    pub replaced: Vec<(Family, SetName)>,
    /// The programs that did it, if that is known.
    pub authors: BTreeSet<Author>,
    /// The rules were not read, because they were a moment ago, and the kernel reports no
    /// changes.
    pub rules_unread: bool,
}

impl Audit {
    /// Whether everything is as it was written.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let Self { v4, v6, hooks, unneeded, replaced, authors: _, rules_unread: _ } = self;
        v4.is_empty() && v6.is_empty() && hooks.is_empty() && unneeded.is_empty() && replaced.is_empty()
    }

    /// What differs in one family.
    #[must_use]
    pub fn family(&self, family: Family) -> &Delta {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    fn family_mut(&mut self, family: Family) -> &mut Delta {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

/// What goes on from one audit to the next.
#[derive(Debug)]
pub(super) struct Auditor {
    notifications: Option<Notifications>,
    /// Notifications were lost, so everything has to be read.
    unsure: bool,
    /// Whether others wrote what is being compared.
    by_others: Others,
    /// When the tables may and have to be read as a whole next; both at once,
    /// because a program that flushes one flushes the other.
    reading: Option<PeriodicRead>,
    /// The set behind which the round goes on.
    behind: Option<(Family, SetName)>,
    /// What is not needed any more and could not go.
    pub(super) left_sets: BTreeSet<SetName>,
    pub(super) left_chains: LeftChains,
    /// How iptables prints our rules.
    pub(super) spellings: PrintedForms,
}

#[derive(Debug, Clone, Copy)]
struct PeriodicRead {
    not_before: Instant,
    at_last: Instant,
    /// The same while the agent is alert, where the kernel reports no changes.
    alert: Option<Instant>,
}

impl Auditor {
    /// Receives a backend's reports of changes; where there are none, it reads the
    /// tables periodically.
    pub(super) fn new(backend: Backend) -> Self {
        let notifications = Notifications::open(backend)
            .inspect_err(|error| match backend {
                Backend::Nft => info!(
                    %error,
                    "the kernel sends no notifications of rule changes; reading npc's chains periodically"
                ),
                Backend::Legacy => info!(
                    %error,
                    "cannot watch {}; reading npc's chains periodically", lock_path().display()
                ),
            })
            .ok();
        Self {
            notifications,
            unsure: false,
            by_others: Others::MayHaveWritten,
            reading: None,
            behind: None,
            left_sets: BTreeSet::new(),
            left_chains: LeftChains::default(),
            spellings: PrintedForms::default(),
        }
    }

    pub(super) fn notifications(&mut self) -> Option<&mut Notifications> {
        self.notifications.as_mut()
    }

    /// Our chains in a table were read or written just now by other means.
    pub(super) fn is_known(&mut self) {
        let now = Instant::now();
        self.reading = Some(PeriodicRead { not_before: now, at_last: now + self.first(), alert: None });
        self.unsure = false;
    }

    /// Whether the kernel reports every change of rules, with its place.
    fn is_notified(&self) -> bool {
        self.notifications.as_ref().is_some_and(Notifications::are_detailed)
    }

    /// How long after a reading the next one is due at last, where it took no time.
    fn first(&self) -> Duration {
        if self.is_notified() { NOTIFIED } else { OFTEN }
    }

    /// Compares what is due with what was written.
    pub(super) fn audit(
        &mut self,
        (tables, ipset, aliases): (&[Iptables], &mut Ipset, &Aliases),
        ours: &BTreeSet<u32>,
        desired: &KernelState,
        depth: AuditScope,
    ) -> Result<Audit, Error> {
        let mut audit = Audit::default();
        let mut changes = self.notifications.as_mut().map(|notifications| notifications.take(ours)).unwrap_or_default();
        self.unsure |= changes.unsure;
        audit.authors = std::mem::take(&mut changes.authors);
        self.tables(tables, aliases, &changes, desired, depth, &mut audit)?;
        if depth != AuditScope::Notified {
            let families: Vec<Family> = tables.iter().map(Iptables::family).collect();
            let most = match depth {
                AuditScope::Full => usize::MAX,
                AuditScope::Periodic => MEMBERS,
                AuditScope::Notified | AuditScope::Recheck => 0,
            };
            self.sets(ipset, aliases, (&families, most), desired, &mut audit)?;
        }
        Ok(audit)
    }

    /// Compares the tables as far as they are due.
    fn tables(
        &mut self,
        tables: &[Iptables],
        aliases: &Aliases,
        changes: &ReportedChanges,
        desired: &KernelState,
        depth: AuditScope,
        audit: &mut Audit,
    ) -> Result<(), Error> {
        let (is_notified, now, first) = (self.is_notified(), Instant::now(), self.first());
        let reading = *self.reading.get_or_insert(PeriodicRead { not_before: now, at_last: now + first, alert: None });
        let is_much = changes.touched.values().any(|touched| touched.table || touched.chains.len() > FEW);
        let is_alert = depth == AuditScope::Recheck && !is_notified && reading.alert.is_none_or(|alert| now >= alert);
        let is_allowed = is_much || is_alert || self.unsure && now >= reading.not_before;
        self.by_others = match (is_notified && !self.unsure, audit.authors.is_empty()) {
            (_, false) => Others::Wrote,
            (true, true) => Others::WroteNothing,
            (false, true) => Others::MayHaveWritten,
        };
        // The next round may be too late.
        let is_due =
            depth == AuditScope::Periodic && now + if is_notified { Duration::ZERO } else { ROUND } >= reading.at_last;
        let mut failed = None;
        if is_allowed || depth == AuditScope::Full || is_due {
            for table in tables {
                if let Err(error) = self.whole(table, aliases, desired.family(table.family()), audit) {
                    failed.get_or_insert(error);
                }
            }
            let took = now.elapsed();
            debug!(took = ?rounded(took), "read npc's chains for the audit");
            let pause = took * SHARE;
            let at_last = now + if is_notified { NOTIFIED.max(pause) } else { pause.clamp(OFTEN, SELDOM) };
            let alert = Some(now + took * (ALERT_SHARE + 1));
            self.reading = Some(PeriodicRead { not_before: now + pause.min(SELDOM), at_last, alert });
            self.unsure = failed.is_some();
            return failed.map_or(Ok(()), Err);
        }
        audit.rules_unread = !is_notified || self.unsure;
        for (family, touched) in &changes.touched {
            if let Some(table) = tables.iter().find(|table| table.family() == *family)
                && let Err(error) = self.touched(table, aliases, touched, desired.family(*family), audit)
            {
                // The other changes are compared all the same.
                self.unsure = true;
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Compares what was touched of a table.
    fn touched(
        &mut self,
        table: &Iptables,
        aliases: &Aliases,
        touched: &Touched,
        desired: &FamilyState,
        audit: &mut Audit,
    ) -> Result<(), Error> {
        let family = table.family();
        let names: Vec<ChainName> = touched.chains.iter().cloned().collect();
        let mut chains = table.listed_chains(&names)?;
        aliases.swap(&mut chains);
        self.record_printed_forms(table, aliases, desired, &chains);
        for name in &touched.chains {
            self.chain(family, desired, name.clone(), chains.remove(name), audit);
        }
        if touched.forward {
            let hook = table.hook()?;
            if hook != Hook::First {
                audit.hooks.push((family, hook));
            }
        }
        Ok(())
    }

    /// Reads what of a table is ours, to prove that what was just written is there, and the jump
    /// that leads to it.
    pub(super) fn prove(&mut self, table: &Iptables, aliases: &Aliases, desired: &FamilyState) -> Result<(), Error> {
        let mut audit = Audit::default();
        self.whole(table, aliases, desired, &mut audit)?;
        let mut missing: Vec<String> = audit.family(table.family()).chains.keys().map(ToString::to_string).collect();
        if !audit.hooks.is_empty() {
            missing.push("the jump from FORWARD".to_owned());
        }
        if missing.is_empty() { Ok(()) } else { Err(Error::Unproven(missing)) }
    }

    /// Compares a table as a whole.
    fn whole(
        &mut self,
        table: &Iptables,
        aliases: &Aliases,
        desired: &FamilyState,
        audit: &mut Audit,
    ) -> Result<(), Error> {
        let family = table.family();
        let Listing { hook, mut chains } = table.read()?;
        aliases.swap(&mut chains);
        self.record_printed_forms(table, aliases, desired, &chains);
        for name in desired.chains.keys().filter(|name| !chains.contains_key(*name)) {
            audit.family_mut(family).chains.insert(name.clone(), None);
        }
        for (name, rules) in chains {
            self.chain(family, desired, name, Some(rules), audit);
        }
        let hook = hook?;
        if hook != Hook::First {
            audit.hooks.push((family, hook));
        }
        Ok(())
    }

    /// Puts what was written in the place of what iptables prints for it, where that
    /// is known or can be found out.
    pub(super) fn as_written(
        &mut self,
        table: &Iptables,
        aliases: &Aliases,
        desired: &FamilyState,
        found: &mut BTreeMap<ChainName, Vec<Rule>>,
    ) {
        self.record_printed_forms(table, aliases, desired, found);
        self.spellings.translate(table.family(), desired, found);
    }

    /// Finds out how iptables prints the rules that are not found as they were
    /// written.
    fn record_printed_forms(
        &mut self,
        table: &Iptables,
        aliases: &Aliases,
        desired: &FamilyState,
        found: &BTreeMap<ChainName, Vec<Rule>>,
    ) {
        // With other names for sets, rules are not written as they are desired.
        if !aliases.is_empty() {
            return;
        }
        let pairs = found.iter().filter_map(|(name, found)| Some((name, desired.chains.get(name)?, found)));
        let differing = pairs.filter(|(_, desired, found)| desired != found);
        let differing: Vec<_> = differing.map(|(name, desired, found)| Differing { name, desired, found }).collect();
        if !differing.is_empty() {
            self.spellings.record_printed_forms(table, &differing);
        }
    }

    fn chain(
        &mut self,
        family: Family,
        desired: &FamilyState,
        name: ChainName,
        found: Option<Vec<Rule>>,
        audit: &mut Audit,
    ) {
        let is_left = || found.as_ref().is_none_or(Vec::is_empty) && self.left_chains.contains(family, &name);
        let same = match (desired.chains.get(&name), &found) {
            (Some(desired), Some(found)) if self.spellings.is_same(family, &name, desired, found) => {
                self.spellings.is_as_written(family, &name);
                true
            }
            (Some(desired), Some(found)) => {
                let chain = Differing { name: &name, desired, found };
                let by_others = self.by_others;
                !self.spellings.must_repair(family, &chain, by_others)
            }
            (Some(_), None) => false,
            (None, found) => found.is_none() || is_left() || name.role() == ChainRole::Probe,
        };
        if !same {
            audit.family_mut(family).chains.insert(name, found);
        }
    }
}
