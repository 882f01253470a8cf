//! How far reading has come, on a terminal.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// How long nothing is shown, and how often it is renewed.
const PERIOD: Duration = Duration::from_secs(1);

/// Reads, and meanwhile says on a terminal how many objects were read.
pub(super) fn show<T>(read: impl FnOnce(&AtomicUsize) -> T) -> T {
    let count = AtomicUsize::new(0);
    if !io::stderr().is_terminal() {
        return read(&count);
    }
    let (done, ended) = mpsc::channel::<()>();
    let counted = &count;
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut shown = false;
            while ended.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                shown = true;
                // A terminal that does not take it is no reason to stop.
                let _ = write!(io::stderr(), "\rnpc: read {} objects", counted.load(Ordering::Relaxed));
            }
            if shown {
                let _ = write!(io::stderr(), "\r\x1b[K");
            }
        });
        let answer = read(counted);
        drop(done);
        answer
    })
}
