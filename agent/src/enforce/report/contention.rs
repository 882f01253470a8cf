//! When the log says that the rules wait for the xtables lock. Each try fails anew while another
//! program holds it, so a line for each would say one thing many times.

use std::time::Duration;

use tokio::time::Instant;

use crate::dataplane;
use crate::dataplane::iptables::Holder;

/// How long after a warning the next one of the same holder comes.
const AGAIN: Duration = Duration::from_secs(60);

/// The last warning of a lock that has been held since.
#[derive(Debug, Default)]
pub(super) struct Contention(Option<(Option<Holder>, Instant)>);

impl Contention {
    /// Rules could not be written because the lock is held. Answers whether that is to be a
    /// warning: at first, if another process holds it, and once a minute.
    pub(super) fn is_news(&mut self, error: &dataplane::Error, now: Instant) -> bool {
        let holder = error.lock_holder();
        let is_known = self
            .0
            .as_ref()
            .is_some_and(|(known, since)| known.as_ref() == holder && now.saturating_duration_since(*since) < AGAIN);
        if !is_known {
            self.0 = Some((holder.cloned(), now));
        }
        !is_known
    }

    /// Rules were written.
    pub(super) fn ended(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::iptables;

    #[tokio::test(start_paused = true)]
    async fn one_holder_is_warned_of_once_a_minute() {
        let mut contention = Contention::default();
        let mut waited = Duration::ZERO;
        let mut is_news = |contention: &mut Contention, process: Option<u32>| {
            // Each try waits for another time.
            waited += Duration::from_millis(7);
            let holder = process.map(|process| Holder { process, program: None });
            contention.is_news(&iptables::Error::Locked { waited, holder }.into(), Instant::now())
        };
        assert!(is_news(&mut contention, Some(7)) && !is_news(&mut contention, Some(7)));
        assert!(is_news(&mut contention, Some(8)) && !is_news(&mut contention, Some(8)), "another process");
        tokio::time::advance(AGAIN).await;
        assert!(is_news(&mut contention, Some(8)) && !is_news(&mut contention, Some(8)), "a minute later");
        contention.ended();
        assert!(is_news(&mut contention, Some(8)), "anew");
        assert!(is_news(&mut contention, None) && !is_news(&mut contention, None), "an unknown one");
    }
}
