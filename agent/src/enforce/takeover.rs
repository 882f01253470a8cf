//! Taking over from Azure NPM: what it left in the kernel goes once it is
//! certain that it does not run any more, and nothing else goes.
//!
//! While it runs, both judge every packet, ours first, and nothing of it is
//! touched. Whether it runs, its pod on this node tells, and its process where
//! processes of others can be seen. Then its chains have to be unchanged for a
//! while, and ours have to be in the kernel as they should be, read and
//! compared. If they come back, something that cannot be seen from here writes
//! them, and they are left alone for longer each time.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use npc_compiler::engine::{Event, PodKey};
use npc_compiler::object::Pod;
use tracing::{info, warn};

use crate::dataplane::{self, azure};

/// Its DaemonSet, and the value of the label `k8s-app` of its pods.
const NAME: &str = "azure-npm";

/// How long its chains have to be unchanged: longer than a look takes to come
/// by again, shorter where somebody has said that it is off.
const QUIET: Duration = Duration::from_secs(60);
const QUIET_AS_TOLD: Duration = Duration::from_secs(15);

/// How often it is looked for while it is there: the whole table is read.
const LOOK: Duration = Duration::from_secs(30);

/// The longest that is waited for after it came back.
const LONGEST: Duration = Duration::from_secs(3600);

/// What to do about what Azure NPM left in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AzureNpm {
    /// Nothing.
    #[default]
    Keep,
    /// Remove it once no pod of it is on this node: the source knows all pods.
    WhenGone,
    /// Remove it as soon as nothing of it is seen to run: whoever says so has
    /// switched it off.
    Remove,
}

/// Watches what is left of Azure NPM.
#[derive(Debug)]
pub(super) struct Takeover {
    what: AzureNpm,
    node: String,
    /// Its pods on this node that are not finished.
    pods: BTreeSet<PodKey>,
    /// When to look next; `None` where there is nothing to look for.
    due: Option<Instant>,
    /// What was found, and since when it has been so.
    seen: Option<(azure::Remains, Instant)>,
    quiet: Duration,
    removed_before: bool,
    said: Option<Said>,
}

/// What was logged last, so that it is logged once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Running,
    Waiting,
    Differing,
    Failing,
}

impl Takeover {
    pub(super) fn new(what: AzureNpm, node: &str) -> Self {
        Self {
            what,
            node: node.to_owned(),
            pods: BTreeSet::new(),
            due: (what != AzureNpm::Keep).then(Instant::now),
            seen: None,
            quiet: if what == AzureNpm::Remove { QUIET_AS_TOLD } else { QUIET },
            removed_before: false,
            said: None,
        }
    }

    /// Takes in what happened in the cluster.
    pub(super) fn hear(&mut self, event: &Event) {
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

    /// Looks, and removes what can go by now. `holds` says whether the kernel
    /// holds our rules as it should; it blocks, and so does this.
    pub(super) fn step(&mut self, holds: impl FnOnce() -> Result<bool, dataplane::Error>) {
        if let Err(error) = self.try_step(holds) {
            self.due = Some(Instant::now() + LOOK);
            if self.say(Said::Failing) {
                warn!(error = %super::agent::with_causes(&error), "cannot tell what Azure NPM left in this kernel");
            }
        }
    }

    fn try_step(&mut self, holds: impl FnOnce() -> Result<bool, dataplane::Error>) -> Result<(), dataplane::Error> {
        let remains = azure::look()?;
        let now = Instant::now();
        if remains.is_nothing() {
            // Its pod would tell if it came; after a removal what cannot be
            // seen might write again.
            self.due = self.removed_before.then(|| now + self.quiet.max(LOOK));
            (self.seen, self.said) = (None, None);
            return Ok(());
        }
        self.due = Some(now + LOOK);
        let processes = azure::processes();
        if !self.pods.is_empty() || !processes.is_empty() {
            self.seen = None;
            if self.say(Said::Running) {
                info!(
                    pods = self.pods.len(),
                    ?processes,
                    "Azure NPM enforces here too: both judge every packet, and nothing of it is touched while it runs"
                );
            }
            return Ok(());
        }
        let since = match &self.seen {
            Some((seen, since)) if *seen == remains => *since,
            _ => now,
        };
        let chains: usize = remains.tables.iter().map(|table| table.chains.len()).sum();
        let sets = remains.sets.len();
        self.seen = Some((remains, since));
        if now.duration_since(since) < self.quiet {
            self.due = Some(since + self.quiet);
            if self.say(Said::Waiting) {
                let back = if self.removed_before { "; they came back after they were removed" } else { "" };
                info!(
                    chains,
                    sets,
                    wait = ?self.quiet,
                    "no Azure NPM is seen to run here; what it left goes if nobody changes it for a while{back}"
                );
            }
            return Ok(());
        }
        if !holds()? {
            if self.say(Said::Differing) {
                warn!("what Azure NPM left stays: our own rules are not in the kernel as they should be");
            }
            return Ok(());
        }
        self.remove();
        Ok(())
    }

    fn remove(&mut self) {
        let Some((remains, _)) = self.seen.take() else { return };
        let azure::Removed { remains: gone, errors } = azure::remove(&remains);
        let jumps: usize = gone.tables.iter().map(|table| table.jumps.len()).sum();
        let chains: usize = gone.tables.iter().map(|table| table.chains.len()).sum();
        info!(jumps, chains, sets = gone.sets.len(), "removed what Azure NPM left in this kernel");
        for error in errors {
            warn!(error = %super::agent::with_causes(&error), "something that Azure NPM left cannot go");
        }
        // If it comes back, it is given longer to be seen.
        self.quiet = if self.removed_before { (self.quiet * 2).min(LONGEST) } else { self.quiet.max(QUIET) };
        (self.removed_before, self.said) = (true, None);
        self.due = Some(Instant::now() + LOOK);
    }

    /// Whether this was not the last thing that was said.
    fn say(&mut self, what: Said) -> bool {
        self.said.replace(what) != Some(what)
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
        let mut takeover = Takeover::new(AzureNpm::WhenGone, "here");
        let here = pod("azure-npm-1", "here", NAME);
        takeover.hear(&Event::Pod(Box::new(pod("azure-npm-2", "there", NAME))));
        takeover.hear(&Event::Pod(Box::new(pod("other", "here", "other"))));
        assert!(takeover.pods.is_empty());
        takeover.hear(&Event::Pod(Box::new(here.clone())));
        assert_eq!(takeover.pods.len(), 1);
        takeover.hear(&Event::Pod(Box::new(Pod { finished: true, ..here.clone() })));
        assert!(takeover.pods.is_empty());
        takeover.hear(&Event::Pod(Box::new(here.clone())));
        takeover.hear(&Event::PodGone(PodKey::of(&here)));
        assert!(takeover.pods.is_empty() && takeover.is_due());
    }

    #[test]
    fn who_is_to_keep_it_never_looks() {
        let mut takeover = Takeover::new(AzureNpm::Keep, "here");
        takeover.hear(&Event::Pod(Box::new(pod("azure-npm-1", "here", NAME))));
        assert!(!takeover.is_due());
    }
}
