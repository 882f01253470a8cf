//! How far the agents are: which state of the cluster each has said to be in
//! the kernel.
//!
//! An agent says in its log how many policies the state has that it wrote. So
//! policies that select nothing make every state's number of policies its own.
//! With an API server there are states between those that were written, whose
//! numbers say nothing; so there only one number counts, which is none of theirs
//! ([`Progress::only_confirms`]). Where no log can be written, the agent is asked.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use npc_compiler::object::Objects;

use super::timeline::Timeline;
use crate::lab::{Doing as _, Error, Kind, Lab, Result};

/// Where the policies are that only count; no pod is there.
const NAMESPACE: &str = "npc-marks";

/// This many states can be distinguished.
const STATES: usize = 32;

/// The objects of a state, so that it differs from the states before.
pub(super) fn marked(objects: Objects, number: usize) -> Objects {
    let mut objects = unmarked(objects);
    let real = objects.policies.len();
    let wanted = (real / (2 * STATES) + 1) * 2 * STATES + number % STATES;
    let mark = |number: usize| {
        let name = Some(format!("mark-{number}"));
        let metadata = ObjectMeta { namespace: Some(NAMESPACE.to_owned()), name, ..ObjectMeta::default() };
        networking::NetworkPolicy { metadata, spec: Some(networking::NetworkPolicySpec::default()) }.into()
    };
    objects.policies.extend((real..wanted).map(mark));
    objects
}

/// The objects without what marks the state.
pub(super) fn unmarked(mut objects: Objects) -> Objects {
    objects.policies.retain(|policy| policy.namespace() != NAMESPACE);
    objects
}

/// The state, of these and those before, that has so many policies.
fn state(policies: usize, last: usize) -> Option<usize> {
    let mark = policies % (2 * STATES);
    let age = (last % STATES + STATES).checked_sub(mark)? % STATES;
    last.checked_sub(age)
}

/// Follows the logs of a lab's agents.
#[derive(Debug)]
pub(super) struct Progress {
    logs: Vec<Log>,
    inotify: Inotify,
    /// With an API server: the number that marks the last state.
    only: Option<usize>,
    /// Logs cannot be written.
    asks: bool,
}

/// How soon an agent is asked again.
const ASK: Duration = Duration::from_millis(50);

#[derive(Debug)]
struct Log {
    /// The node, as a place.
    place: usize,
    node: String,
    path: PathBuf,
    read: u64,
    /// The part of a line that was there.
    rest: String,
}

impl Progress {
    pub(super) fn follow(lab: &Lab) -> Result<Self> {
        let nodes = lab.places().iter().enumerate().filter(|(_, place)| place.kind == Kind::Node);
        let log = |(place, node): (usize, &crate::lab::Place)| {
            let node = node.name.trim_start_matches("node/").to_owned();
            Log { place, path: lab.folder().join(format!("{node}.log")), node, read: 0, rest: String::new() }
        };
        let watching = || format!("watch {}", lab.folder().display());
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).doing(watching)?;
        inotify.add_watch(lab.folder(), AddWatchFlags::IN_MODIFY).doing(watching)?;
        let only = lab.api_server().is_ok().then_some(usize::MAX);
        Ok(Self { logs: nodes.map(log).collect(), inotify, only, asks: false })
    }

    /// From now on a node with so many policies has the last state, and no other
    /// has.
    pub(super) fn only_confirms(&mut self, policies: usize) {
        self.only = Some(policies);
    }

    /// From now on agents are asked how far they are.
    pub(super) fn ask(&mut self) {
        self.asks = true;
    }

    /// Reads what the agents have said since the last time.
    pub(super) fn take_in(&mut self, lab: &Lab, timeline: &Mutex<Timeline>) -> Result<()> {
        for log in &mut self.logs {
            let states = if self.asks {
                // Flows that are denied may go on until then.
                let status = lab.status(&log.node)?;
                status.iter().filter(|status| status.flows_judged).map(|status| status.policies).collect()
            } else {
                log.new_states()?
            };
            for policies in states {
                let mut timeline = timeline.lock().unwrap_or_else(PoisonError::into_inner);
                let last = timeline.last();
                let state = match self.only {
                    Some(only) => (only == policies).then_some(last),
                    None => state(policies, last),
                };
                if let Some(state) = state
                    && state > timeline.confirmed(log.place)
                {
                    timeline.confirm(log.place, state);
                }
            }
        }
        Ok(())
    }

    /// Waits until an agent says something, at most so long.
    pub(super) fn wait(&self, time: Duration) -> Result<()> {
        let mut files = [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
        let time = if self.asks { time.min(ASK) } else { time };
        match poll(&mut files, PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).doing(|| "wait for a log".to_owned()),
        }
        // What happened does not matter: the caller checks.
        let _ = self.inotify.read_events();
        Ok(())
    }

    /// Waits until all agents that run have written the last state.
    pub(super) fn settle(&mut self, lab: &mut Lab, timeline: &Mutex<Timeline>, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            self.take_in(lab, timeline)?;
            let mut behind = None;
            for log in &self.logs {
                let timeline = timeline.lock().unwrap_or_else(PoisonError::into_inner);
                if lab.agent(&log.node)?.is_some() && timeline.confirmed(log.place) < timeline.last() {
                    behind = Some(log);
                }
            }
            let Some(log) = behind else { return Ok(()) };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let said = std::fs::read_to_string(&log.path).unwrap_or_default();
                let lines: Vec<&str> = said.lines().collect();
                return Err(Error::Agent {
                    node: log.node.clone(),
                    what: format!("has not followed within {} s", patience.as_secs()),
                    log: lines[lines.len().saturating_sub(20)..].join("\n"),
                });
            }
            self.wait(left)?;
        }
    }
}

impl Log {
    /// The numbers of policies of the states that were written since the last
    /// time.
    fn new_states(&mut self) -> Result<Vec<usize>> {
        let reading = || format!("read {}", self.path.display());
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            opened => opened.doing(reading)?,
        };
        file.seek(SeekFrom::Start(self.read)).doing(reading)?;
        let mut fresh = Vec::new();
        self.read += file.read_to_end(&mut fresh).doing(reading)? as u64;
        self.rest.push_str(&String::from_utf8_lossy(&fresh));
        let whole = self.rest.rfind('\n').map_or(0, |end| end + 1);
        let lines: String = self.rest.drain(..whole).collect();
        Ok(lines.lines().filter_map(policies).collect())
    }
}

/// What an agent logs of a pass that succeeded; the last is of agents of earlier versions.
const PASSED: [&str; 3] = ["programmed ruleset", "ruleset unchanged", "the kernel is up to date"];

/// How many policies the state has that a line of the log says is in the kernel. It is not all there while
/// a large change is loaded.
fn policies(line: &str) -> Option<usize> {
    let (_, fields) = PASSED.iter().find_map(|message| line.split_once(message))?;
    if fields.contains(" loading=") {
        return None;
    }
    fields.split_whitespace().find_map(|word| word.strip_prefix("policies=")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_recognised_by_its_number_of_policies() {
        for real in [0, 63, 64, 10_000] {
            for number in [0, 1, 31, 32, 33, 77] {
                let mut objects = Objects::default();
                let policy = networking::NetworkPolicy::default();
                objects.policies = vec![policy.into(); real];
                let policies = marked(objects, number).policies.len();
                for later in 0..STATES {
                    assert_eq!(state(policies, number + later), Some(number));
                }
            }
        }
    }

    #[test]
    fn a_log_says_what_is_in_the_kernel() {
        for message in ["INFO programmed ruleset", "DEBUG ruleset unchanged", "INFO the kernel is up to date"] {
            let line = format!("2026-11-23T10:00:00Z {message} generation=3 policies=71 endpoints=4");
            assert_eq!(policies(&line), Some(71), "{message}");
            assert_eq!(policies(&format!("{line} loading=\"red, blue\" compiled=1ms")), None, "{message}");
        }
        for message in ["ERROR ruleset not programmed", "ERROR the kernel is not up to date", "INFO ready"] {
            assert_eq!(policies(&format!("2026-11-23T10:00:00Z {message} policies=71")), None, "{message}");
        }
    }
}
