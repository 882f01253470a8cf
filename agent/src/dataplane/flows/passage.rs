//! Waiting until packets that had entered the rules have left them.
//!
//! The kernel forwards a packet in an RCU read section, so a global memory barrier waits for all
//! packets (membarrier(2)). That takes some ticks of the clock, also on an idle machine. There is a
//! shorter wait: the kernel forwards a packet in a softirq, and no thread preempts a softirq. So
//! when a thread of ours has run on each processor, every packet that was among the rules before
//! has left them. On an idle machine that takes a fraction of a millisecond, and on a busy one it
//! can take longer than the barrier. Both are done at once, and the first one counts.
//!
//! The shorter wait is not for kernels with PREEMPT_RT, which preempt softirqs, not for a process
//! that may not run on all processors or does not know all, and not where some are isolated: what
//! runs there is not to be interrupted.

use std::fs;
use std::io::{self, Read as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::fs::fstatfs;
use rustix::thread::{CpuSet, MembarrierCommand, membarrier, sched_getcpu, sched_setaffinity};
use tracing::debug;

/// Far longer than a packet takes through the rules.
const PACKET_TIME: Duration = Duration::from_millis(20);

/// The processors that the kernel uses, as ranges of numbers.
const ONLINE: &str = "/sys/devices/system/cpu/online";

/// Those that are kept for programs of their own.
const ISOLATED: [&str; 2] = ["/sys/devices/system/cpu/isolated", "/sys/devices/system/cpu/nohz_full"];

/// How the kernel was built, as `uname -v` says.
const BUILD: &str = "/proc/sys/kernel/version";

/// SYSFS_MAGIC of linux/magic.h. A container may have another file system at these paths (lxcfs
/// has), which says what the container is to use, not what the kernel uses.
const SYSFS: rustix::fs::FsWord = 0x6265_6572;

/// Whether a thread is visiting all processors. While it waits for its turn, no second one must
/// start.
static VISITING: AtomicBool = AtomicBool::new(false);

/// Waits for a grace period: after it no packet, and no other reader in the kernel, still uses what
/// was there before. The kernel frees nothing before such a time either.
pub(in super::super) fn grace() {
    if let Err(error) = membarrier(MembarrierCommand::Global) {
        // A kernel with isolated cores (nohz_full) refuses.
        debug!(%error, "membarrier is not available; sleeping for the grace period instead");
        thread::sleep(PACKET_TIME);
    }
}

/// Waits until no packet that was among the rules before is still there.
pub(in super::super) fn packets_passed() {
    let (sender, first) = mpsc::channel();
    let visitor = sender.clone();
    // The kernel gives each thread affinity of its own, and this one ends with it.
    let visits = move || {
        if VISITING.swap(true, Ordering::Relaxed) {
            return;
        }
        if visited_each_processor().is_some() {
            // The other wait was faster.
            let _ = visitor.send(());
        }
        VISITING.store(false, Ordering::Relaxed);
    };
    let barrier = move || {
        grace();
        let _ = sender.send(());
    };
    let spawned = [spawn("npc-visit", visits), spawn("npc-barrier", barrier)];
    if !spawned[1] || first.recv().is_err() {
        grace();
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> bool {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(work);
    spawned.inspect_err(|error| debug!(%error, name, "cannot start a thread")).is_ok()
}

/// Runs the calling thread on each processor; nothing if it may not run on one of them, or if
/// that says nothing about packets. The thread's affinity is lost.
fn visited_each_processor() -> Option<()> {
    if is_real_time() || ISOLATED.iter().any(|path| has_processors(path)) {
        return None;
    }
    // A processor that comes later forwards packets that come later.
    let online = processors(&of_sysfs(ONLINE).ok()?)?;
    for processor in online {
        let mut one = CpuSet::new();
        one.set(processor);
        // It has run there when this returns. The kernel refuses a processor that is not in the
        // cpuset of the process, or that went offline meanwhile.
        sched_setaffinity(None, &one).ok()?;
        if sched_getcpu() != processor {
            return None;
        }
    }
    Some(())
}

/// Whether the kernel may preempt softirqs; also if that is not known.
fn is_real_time() -> bool {
    fs::read_to_string(BUILD).map_or(true, |build| build.contains("PREEMPT_RT"))
}

/// Whether a list of processors names one. Kernels differ in what they write if none is there.
fn has_processors(path: &str) -> bool {
    of_sysfs(path).is_ok_and(|text| processors(&text).is_some())
}

/// What a file says, if it is the kernel's own.
fn of_sysfs(path: &str) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    if fstatfs(&file)?.f_type != SYSFS {
        return Err(io::Error::other("it is not in sysfs"));
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// Reads ranges of numbers, as `0-3,8`. Nothing if they are not such.
fn processors(text: &str) -> Option<Vec<usize>> {
    let mut all = Vec::new();
    for range in text.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last >= CpuSet::MAX_CPU {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_of_processors_is_read_and_another_text_is_not() {
        assert_eq!(processors("0\n"), Some(vec![0]));
        assert_eq!(processors("0-2,5,7-8\n"), Some(vec![0, 1, 2, 5, 7, 8]));
        for wrong in ["", "0-", "a", "0,,1", "0-99999999"] {
            assert_eq!(processors(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_thread_visits_each_processor_unless_it_may_not_run_on_one() {
        let online = processors(&fs::read_to_string(ONLINE).expect("sysfs")).expect("ranges");
        let run = || {
            let may_run = |processor: &usize| {
                let mut one = CpuSet::new();
                one.set(*processor);
                sched_setaffinity(None, &one).is_ok()
            };
            let may_run_on_all = online.iter().all(may_run);
            (may_run_on_all, visited_each_processor().is_some(), sched_getcpu())
        };
        let (may_run_on_all, has_visited, last) = thread::scope(|scope| scope.spawn(run).join().expect("no panic"));
        let is_isolated = ISOLATED.iter().any(|path| has_processors(path));
        assert_eq!(has_visited, may_run_on_all && !is_real_time() && !is_isolated);
        assert!(!has_visited || Some(&last) == online.last());
    }

    #[test]
    fn only_the_kernels_own_list_counts() {
        assert!(of_sysfs(ONLINE).is_ok());
        let other = tempfile::NamedTempFile::new().expect("a file");
        fs::write(other.path(), "0").expect("it can be written");
        assert!(of_sysfs(other.path().to_str().expect("UTF-8")).is_err());
    }

    #[test]
    fn a_wait_for_packets_ends() {
        packets_passed();
        packets_passed();
    }
}
