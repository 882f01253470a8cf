//! Removal of what Azure NPM left in the kernel: it goes once it is
//! certain that it does not run any more, and nothing else goes.
//!
//! While it runs, both judge every packet, ours first, and the agent touches nothing of it.
//! It runs while its pod is on this node, or its process is visible from here. After that
//! its chains have to be unchanged for a while, and the kernel has to hold our rules, read
//! and compared. If its chains come back, a process that is not visible from here writes
//! them, and the agent leaves them alone for longer each time.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use npc_compiler::engine::{Event, PodKey};
use npc_compiler::object::Pod;
use tracing::{info, warn};

use crate::dataplane::{self, azure};
use crate::words::causes::with_causes;
use crate::words::rounded::rounded;

/// Its DaemonSet, and the value of the label `k8s-app` of its pods.
const NAME: &str = "azure-npm";

/// How long its chains have to be unchanged: longer than the time between two checks; less
/// long if the operator has said that it is off.
const QUIET: Duration = Duration::from_secs(60);
const QUIET_IF_OFF: Duration = Duration::from_secs(15);

/// The time between two checks. A check reads the whole table.
const CHECK_EVERY: Duration = Duration::from_secs(30);

/// The longest time that its chains have to be unchanged after they came back.
const LONGEST: Duration = Duration::from_secs(3600);

/// What to do about what Azure NPM left in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AzureNpm {
    /// Nothing.
    #[default]
    Keep,
    /// Remove it once no pod of it is on this node: the source knows all pods.
    WhenGone,
    /// Remove it as soon as no process of it is visible: the operator has switched it off.
    Remove,
}

/// Waits until what is left of Azure NPM can go, and removes it.
#[derive(Debug)]
pub(super) struct NpmRemoval {
    what: AzureNpm,
    node: String,
    /// Its pods on this node that are not finished.
    pods: BTreeSet<PodKey>,
    /// When the next check is due; `None` where there is nothing to check.
    due: Option<Instant>,
    /// What was found, and since when it is unchanged.
    seen: Option<(azure::AzureLeftovers, Instant)>,
    quiet: Duration,
    removed_before: bool,
    logged: Option<Logged>,
}

/// What was logged last, so that it is logged once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Logged {
    Running,
    Waiting,
    Differing,
    Failing,
}

impl NpmRemoval {
    pub(super) fn new(what: AzureNpm, node: &str) -> Self {
        Self {
            what,
            node: node.to_owned(),
            pods: BTreeSet::new(),
            due: (what != AzureNpm::Keep).then(Instant::now),
            seen: None,
            quiet: if what == AzureNpm::Remove { QUIET_IF_OFF } else { QUIET },
            removed_before: false,
            logged: None,
        }
    }

    /// Takes in what happened in the cluster.
    pub(super) fn take(&mut self, event: &Event) {
        let changed = match event {
            Event::Pod(pod) if self.is_its(pod) => self.pods.insert(PodKey::of(pod)),
            Event::Pod(pod) => self.pods.remove(&PodKey::of(pod)),
            Event::PodGone(key) => self.pods.remove(key),
            _ => false,
        };
        if changed && self.what != AzureNpm::Keep {
            self.due = Some(Instant::now());
        }
    }

    fn is_its(&self, pod: &Pod) -> bool {
        let named = pod.workload.as_ref().is_some_and(|workload| workload.name == NAME);
        let labelled = pod.labels.get("k8s-app").is_some_and(|value| value == NAME);
        (named || labelled) && !pod.finished && pod.node.as_ref() == Some(&self.node)
    }

    pub(super) fn is_due(&self) -> bool {
        self.due.is_some_and(|due| due <= Instant::now())
    }

    /// Checks, and removes what can go now. `holds` answers whether the kernel holds our
    /// rules; it blocks, and so does this.
    pub(super) fn step(&mut self, holds: impl FnOnce() -> Result<bool, dataplane::Error>) {
        if let Err(error) = self.try_step(holds) {
            self.due = Some(Instant::now() + CHECK_EVERY);
            if self.is_news(Logged::Failing) {
                warn!(error = %with_causes(&error), "cannot read what Azure NPM left in this kernel; it stays");
            }
        }
    }

    fn try_step(&mut self, holds: impl FnOnce() -> Result<bool, dataplane::Error>) -> Result<(), dataplane::Error> {
        let leftovers = azure::find_leftovers()?;
        let now = Instant::now();
        if leftovers.is_nothing() {
            // If its pod comes, that is an event. After a removal, a process that is not visible
            // may write again.
            self.due = self.removed_before.then(|| now + self.quiet.max(CHECK_EVERY));
            (self.seen, self.logged) = (None, None);
            return Ok(());
        }
        self.due = Some(now + CHECK_EVERY);
        let processes = azure::processes();
        if !self.pods.is_empty() || !processes.is_empty() {
            self.seen = None;
            if self.is_news(Logged::Running) {
                let processes = processes.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
                let processes = (!processes.is_empty()).then_some(processes);
                info!(pods = self.pods.len(), processes, "Azure NPM is running; a packet must pass both engines");
            }
            return Ok(());
        }
        let since = match &self.seen {
            Some((seen, since)) if *seen == leftovers => *since,
            _ => now,
        };
        let chains: usize = leftovers.tables.iter().map(|table| table.chains.len()).sum();
        let sets = leftovers.sets.len();
        self.seen = Some((leftovers, since));
        if now.duration_since(since) < self.quiet {
            self.due = Some(since + self.quiet);
            if self.is_news(Logged::Waiting) {
                let back = if self.removed_before { "; they came back after they were removed" } else { "" };
                info!(
                    chains,
                    sets,
                    wait = ?rounded(self.quiet),
                    "Azure NPM not running; its chains and sets will be removed if they stay unchanged that long{back}"
                );
            }
            return Ok(());
        }
        if !holds()? {
            if self.is_news(Logged::Differing) {
                warn!("what Azure NPM left stays: the kernel does not hold npc's rules as it should");
            }
            return Ok(());
        }
        self.remove();
        Ok(())
    }

    fn remove(&mut self) {
        let Some((leftovers, _)) = self.seen.take() else { return };
        let azure::AzureRemoved { gone, errors } = azure::remove(&leftovers);
        let jumps: usize = gone.tables.iter().map(|table| table.jumps.len()).sum();
        let chains: usize = gone.tables.iter().map(|table| table.chains.len()).sum();
        info!(jumps, chains, sets = gone.sets.len(), "removed what Azure NPM left in this kernel");
        for error in errors {
            warn!(error = %with_causes(&error), "cannot remove a part of what Azure NPM left");
        }
        // If it comes back, it has to be unchanged for longer.
        self.quiet = if self.removed_before { (self.quiet * 2).min(LONGEST) } else { self.quiet.max(QUIET) };
        (self.removed_before, self.logged) = (true, None);
        self.due = Some(Instant::now() + CHECK_EVERY);
    }

    /// Whether this is not what was logged last.
    fn is_news(&mut self, what: Logged) -> bool {
        self.logged.replace(what) != Some(what)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodSpec;
    use npc_compiler::object::Labels;

    use super::*;

    fn pod(name: &str, node: &str, app: &str) -> Pod {
        let labels = Labels::from([("k8s-app".to_owned(), app.to_owned())]);
        let mut pod = Pod::from_template("kube-system".to_owned(), name.to_owned(), labels, PodSpec::default());
        (pod.node, pod.host_network) = (Some(node.to_owned()), true);
        pod
    }

    #[test]
    fn its_pods_of_this_node_are_known_until_they_end() {
        let mut removal = NpmRemoval::new(AzureNpm::WhenGone, "here");
        let here = pod("azure-npm-1", "here", NAME);
        removal.take(&Event::Pod(Box::new(pod("azure-npm-2", "there", NAME))));
        removal.take(&Event::Pod(Box::new(pod("other", "here", "other"))));
        assert!(removal.pods.is_empty());
        removal.take(&Event::Pod(Box::new(here.clone())));
        assert_eq!(removal.pods.len(), 1);
        removal.take(&Event::Pod(Box::new(Pod { finished: true, ..here.clone() })));
        assert!(removal.pods.is_empty());
        removal.take(&Event::Pod(Box::new(here.clone())));
        removal.take(&Event::PodGone(PodKey::of(&here)));
        assert!(removal.pods.is_empty() && removal.is_due());
    }

    #[test]
    fn an_agent_that_is_to_keep_it_never_reads_it() {
        let mut removal = NpmRemoval::new(AzureNpm::Keep, "here");
        removal.take(&Event::Pod(Box::new(pod("azure-npm-1", "here", NAME))));
        assert!(!removal.is_due());
    }
}
