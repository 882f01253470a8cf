//! What large changes will make is found out beside the loop, one namespace after the other.
//!
//! ```text
//! pass ─▶ Preview ─▶ thread: reads policies, makes chains ─▶ Previewed ─▶ the next pass
//!                         └─ questions ─▶ loop: counts pods ─┘
//! ```
//!
//! The thread holds nothing of the engine. What it has to know of it, the loop answers between passes.

use npc_compiler::engine::{CountQuestion, Counts, Preview, Previewed};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{self, JoinError, JoinHandle};

/// A question of the thread.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) asked: CountQuestion,
    reply: oneshot::Sender<Counts>,
}

impl Question {
    /// Answers it.
    pub(super) fn answer(self, counts: Counts) {
        // A thread that broke off does not wait for it.
        let _ = self.reply.send(counts);
    }
}

/// What [`Previews::next`] has.
#[derive(Debug)]
pub(super) enum PreviewStep {
    Question(Question),
    /// Nothing is at work any more; what it found out, if it had all answers.
    Ended(Result<Option<Previewed>, JoinError>),
}

/// At most one is at work: what it makes may take a hundred megabytes.
#[derive(Debug)]
pub(super) struct Previews {
    questions: mpsc::Receiver<Question>,
    sender: mpsc::Sender<Question>,
    running: Option<JoinHandle<Option<Previewed>>>,
}

impl Previews {
    /// None yet.
    pub(super) fn new() -> Self {
        let (sender, questions) = mpsc::channel(1);
        Self { questions, sender, running: None }
    }

    /// Whether one is at work.
    pub(super) const fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Starts the next one. None is at work.
    pub(super) fn start(&mut self, preview: Preview) {
        let sender = self.sender.clone();
        self.running = Some(task::spawn_blocking(move || {
            preview.run(&mut |asked| {
                let (reply, counts) = oneshot::channel();
                sender.blocking_send(Question { asked, reply }).ok()?;
                counts.blocking_recv().ok()
            })
        }));
    }

    /// What comes next. Nothing is lost where this is not waited for to its end.
    pub(super) async fn next(&mut self) -> PreviewStep {
        let ended = async {
            match &mut self.running {
                Some(running) => running.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            ended = ended => {
                self.running = None;
                PreviewStep::Ended(ended)
            }
            Some(question) = self.questions.recv() => PreviewStep::Question(question),
        }
    }
}
