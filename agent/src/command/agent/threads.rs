//! The agent's threads, on a node that may have no process id left for one.
//!
//! tokio panics if it gets no thread for its workers, or none for the first blocking work. If it
//! gets none later, it leaves that work to a thread that it has. A sweep keeps its thread while
//! it waits for a pass, so a pass that waits for that thread would never begin. So the agent
//! starts all threads that it needs at its start, and keeps them. Only the two of each wait for
//! packets (`dataplane::flows::passage`) come and go: without them the agent waits in the thread that it has.

use std::panic;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::runtime::{Builder, Runtime};

use crate::command::Exit;

const WORKERS: usize = 2;

/// The blocking work that can be there at once: a pass, two sweeps, what is found out about a large change, the
/// packet counts, and the look-up of a name.
const BLOCKING: usize = 6;

/// How long the threads may take to start. A node without process ids starts none.
const STARTS: Duration = Duration::from_secs(3);

/// Longer than an agent runs. A thread that waits for work costs a few kilobytes of memory.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// What is wrong, and what an operator can do.
pub(super) const NO_THREAD: &str = "cannot start a thread; has this node, or this container or service, no process id \
                                    left (kernel.pid_max, pids.max of the cgroup, TasksMax)?";

/// The runtime, with threads for blocking work that stay. If there is no process id for its
/// threads, this process ends in words.
///
/// # Errors
/// If it cannot be made for another reason.
pub(super) fn runtime() -> anyhow::Result<Runtime> {
    let usual = panic::take_hook();
    // To unwind would wait for ever for the threads that there are.
    panic::set_hook(Box::new(|panic| {
        let reason = panic.payload().downcast_ref::<String>().map_or("no reason is given", String::as_str);
        say!("npc: {NO_THREAD} ({reason})");
        process::exit(Exit::Not as i32);
    }));
    let runtime = builder().build()?;
    let started = start_blocking(&runtime);
    panic::set_hook(usual);
    started?;
    Ok(runtime)
}

fn builder() -> Builder {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(WORKERS).thread_keep_alive(FOR_EVER).enable_all();
    builder
}

/// Starts the threads for blocking work.
fn start_blocking(runtime: &Runtime) -> anyhow::Result<()> {
    let here = Arc::new(AtomicUsize::new(0));
    let until = Instant::now() + STARTS;
    let all: Vec<_> = (0..BLOCKING)
        .map(|_| {
            let here = Arc::clone(&here);
            // Each keeps its thread until all are there, so none has two of them.
            runtime.spawn_blocking(move || {
                here.fetch_add(1, Ordering::SeqCst);
                while here.load(Ordering::SeqCst) < BLOCKING && Instant::now() < until {
                    thread::sleep(Duration::from_millis(1));
                }
                here.load(Ordering::SeqCst) >= BLOCKING
            })
        })
        .collect();
    for one in all {
        anyhow::ensure!(runtime.block_on(one).context(NO_THREAD)?, NO_THREAD);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn all_blocking_work_has_a_thread_from_the_start() {
        let started = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&started);
        let count = move || {
            counter.fetch_add(1, Ordering::SeqCst);
        };
        // A thread whose work has just ended counts as busy for a moment, and tokio would start
        // another one beside it. With this bound the work waits for that moment instead.
        let runtime = builder().max_blocking_threads(BLOCKING).on_thread_start(count).build().expect("a runtime");
        start_blocking(&runtime).expect("there are process ids");
        let workers = Arc::new(Barrier::new(WORKERS + 1));
        for _ in 0..WORKERS {
            let workers = Arc::clone(&workers);
            runtime.spawn(async move { workers.wait() });
        }
        workers.wait();
        assert_eq!(started.load(Ordering::SeqCst), WORKERS + BLOCKING);
        // All of it at once: none waits for another.
        let barrier = Arc::new(Barrier::new(BLOCKING));
        let all: Vec<_> = (0..BLOCKING)
            .map(|_| {
                let barrier = Arc::clone(&barrier);
                runtime.spawn_blocking(move || barrier.wait())
            })
            .collect();
        for one in all {
            runtime.block_on(one).expect("it does not panic");
        }
    }
}
