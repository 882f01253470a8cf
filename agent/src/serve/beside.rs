//! A thread for what must not hold up the agent.

use std::io;
use std::thread;

use rustix::process::setpriority_process;
use tokio::runtime::Builder;
use tracing::warn;

use crate::tasks::ThreadGuard;

/// As the kernel shows it, for `ps` and `top`.
const NAME: &str = "npc-metrics";

/// The least that there is. The kernel gives such a thread a hundredth of what it gives one of the agent's others,
/// and takes the processor from it as soon as one of those has something to do.
const NICE: i32 = 19;

/// Runs a task on a thread of its own, which gets a processor when none of the agent's other threads
/// wants it. The task must hold no lock for which they wait, and start no blocking work.
///
/// # Errors
/// If this node has no process id or no descriptor left for it.
pub fn run_beside(guard: ThreadGuard, task: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name(NAME.to_owned()).spawn(move || {
        let _guard = guard;
        // Of this thread only.
        if let Err(error) = setpriority_process(None, NICE) {
            warn!(%error, "cannot lower the priority of the thread that serves /metrics; many requests may slow policies down");
        }
        runtime.block_on(task);
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use rustix::process::getpriority_process;

    use super::*;
    use crate::tasks::Tasks;

    #[tokio::test]
    async fn the_thread_gives_way_to_all_others_and_its_end_is_found() {
        let before = getpriority_process(None).expect("there is one");
        let mut tasks = Tasks::default();
        let (sender, received) = mpsc::channel();
        let task = async move {
            let name = thread::current().name().map(str::to_owned);
            sender.send((getpriority_process(None), name)).expect("the test waits");
        };
        tasks.thread("serves", |guard| run_beside(guard, task)).expect("there are process ids");
        assert_eq!(received.recv().expect("it runs"), (Ok(NICE), Some(NAME.to_owned())));
        assert_eq!(getpriority_process(None).expect("there is one"), before, "this thread's own");
        assert!(tasks.ended().await.to_string().contains("that serves has ended"));
    }
}
