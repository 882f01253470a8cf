//! The agent's threads, on a node that may have no process id left for one.
//!
//! tokio panics if it gets no thread for its workers, or none for the first blocking work. If it
//! gets none later, it leaves that work to a thread that it has. So the agent starts all threads
//! that it needs at its start, and keeps them.

use std::panic;
use std::process;
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::{Builder, Runtime};

use crate::command::Exit;

/// The work is one blocking pass at a time and little beside it.
const WORKERS: usize = 2;

/// Longer than an agent runs. A thread that waits for work costs a few kilobytes of memory.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// What is wrong, and what an operator can do.
pub(super) const NO_THREAD: &str = "cannot start a thread; has this node, or this container or service, no process id \
                                    left (kernel.pid_max, pids.max of the cgroup, TasksMax)?";

/// The runtime, with a thread for blocking work that stays. If there is no process id for its
/// threads, this process ends in words.
///
/// # Errors
/// If it cannot be made for another reason.
pub(super) fn runtime() -> anyhow::Result<Runtime> {
    let usual = panic::take_hook();
    // To unwind would wait for ever for the threads that there are.
    panic::set_hook(Box::new(|panic| {
        let reason = panic.payload().downcast_ref::<String>().map_or("no reason is given", String::as_str);
        eprintln!("npc: {NO_THREAD} ({reason})");
        process::exit(Exit::Not as i32);
    }));
    let runtime =
        Builder::new_multi_thread().worker_threads(WORKERS).thread_keep_alive(FOR_EVER).enable_all().build()?;
    let first = runtime.spawn_blocking(|| ());
    panic::set_hook(usual);
    runtime.block_on(first).context(NO_THREAD)?;
    Ok(runtime)
}
