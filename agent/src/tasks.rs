//! The tasks and threads that an agent needs for as long as it runs.
//!
//! Nothing else notices the end of one of them: what it followed or served would stand still while the
//! agent goes on and is ready. So the agent ends with it, and is started again. The rules stay in the
//! kernel.

use std::any::Any;
use std::future;
use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// Tasks and threads that must not end. The tasks end with this value.
#[derive(Debug, Default)]
pub struct Tasks(JoinSet<TaskEnded>);

/// One of them has ended.
#[derive(Debug, thiserror::Error)]
#[error(
    "the part of the agent that {does} has ended{}. That is a fault of npc: please report it with this log. The agent \
     ends too, so that it is started again with all its parts; the rules in the kernel stay in force",
    .panic.as_ref().map(|words| format!(", because it panicked ({words})")).unwrap_or_default()
)]
pub struct TaskEnded {
    does: &'static str,
    panic: Option<String>,
}

/// A thread holds this for as long as it runs.
#[derive(Debug)]
pub struct ThreadGuard(oneshot::Sender<()>);

impl ThreadGuard {
    /// The thread ends, and the agent can do without it.
    pub fn may_end(self) {
        // Without a receiver the agent ends itself.
        let _ = self.0.send(());
    }
}

impl Tasks {
    /// Runs a task, which is the part of the agent that `does` something.
    pub fn spawn(&mut self, does: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(async move {
            let ended = AssertUnwindSafe(task).catch_unwind().await;
            TaskEnded { does, panic: ended.err().map(|panic| words(&*panic)) }
        });
    }

    /// Starts a thread, which is the part of the agent that `does` something. It holds what it is given for
    /// as long as it runs.
    ///
    /// # Errors
    /// That of `start`. Then there is no thread whose end would be found.
    pub fn thread<E>(&mut self, does: &'static str, start: impl FnOnce(ThreadGuard) -> Result<(), E>) -> Result<(), E> {
        let (guard, ended) = oneshot::channel();
        start(ThreadGuard(guard))?;
        self.0.spawn(async move {
            if ended.await.is_ok() {
                return future::pending().await;
            }
            // A thread's panic message is on standard error.
            TaskEnded { does, panic: None }
        });
        Ok(())
    }

    /// The first that ends. Never, while all run.
    pub async fn ended(&mut self) -> TaskEnded {
        loop {
            match self.0.join_next().await {
                Some(Ok(ended)) => return ended,
                // None is cancelled, and each catches its panic.
                Some(Err(_)) => {}
                None => future::pending().await,
            }
        }
    }
}

/// What a panic said.
fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word").to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time;

    use super::*;

    /// What is found within a minute, in which nothing happens.
    async fn found(tasks: &mut Tasks) -> Option<String> {
        time::timeout(Duration::from_secs(60), tasks.ended()).await.ok().map(|ended| ended.to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_is_found_whether_it_panics_or_not() {
        let mut tasks = Tasks::default();
        assert_eq!(found(&mut tasks).await, None);
        tasks.spawn("waits", future::pending());
        assert_eq!(found(&mut tasks).await, None);
        tasks.spawn("counts", async { panic!("at {}", 7) });
        let words = found(&mut tasks).await.expect("it has ended");
        assert!(words.contains("the part of the agent that counts has ended, because it panicked (at 7)"), "{words}");
        assert!(words.contains("stay in force"), "{words}");
        tasks.spawn("reads", async {});
        let words = found(&mut tasks).await.expect("it has ended");
        assert!(words.contains("that reads has ended. That is a fault of npc"), "{words}");
        assert_eq!(found(&mut tasks).await, None, "each once");
    }

    #[tokio::test]
    async fn a_thread_that_ends_is_found_unless_it_may() {
        let mut tasks = Tasks::default();
        let run = |thread: std::thread::JoinHandle<()>, is_well: bool| {
            assert_eq!(thread.join().is_ok(), is_well);
            Ok::<(), &str>(())
        };
        tasks.thread("may end", |guard| run(std::thread::spawn(move || guard.may_end()), true)).expect("it starts");
        // There is no thread whose end could be found.
        assert_eq!(tasks.thread("does not start", |_| Err("no process id")), Err("no process id"));
        let panics = |guard: ThreadGuard| {
            run(
                std::thread::spawn(move || {
                    let _guard = guard;
                    panic!("a test");
                }),
                false,
            )
        };
        tasks.thread("listens", panics).expect("it starts");
        assert!(tasks.ended().await.to_string().contains("that listens has ended."));
        assert_eq!(tasks.0.len(), 1, "only the one that may end is left");
    }
}
