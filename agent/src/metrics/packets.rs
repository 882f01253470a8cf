//! Denied packets, as the kernel counts them. The agent reads the counts when its metrics
//! are scraped, and not in between.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use npc_compiler::object::Family as IpFamily;
use npc_compiler::policy::Direction;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::{task, time};
use tracing::{info, warn};

use super::labels::{OfFamily, family_name};
use crate::dataplane::counters::{Count, DropReason};
use crate::dataplane::iptables::Error;
use crate::words::rounded::rounded;

/// How long a scrape waits for the kernel; then it gets the last reading.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfEnd {
    direction: &'static str,
    family: &'static str,
}

/// The counts of denied packets. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Packets {
    denied: Family<OfEnd, Counter>,
    stray: Family<OfFamily, Counter>,
    spoofed: Family<OfFamily, Counter>,
    reader: Arc<Mutex<CountReader>>,
}

/// Reads the counts in the kernel.
type Read = Box<dyn FnMut() -> Result<Vec<Count>, Error> + Send>;

/// Where the counts are from, and how far they were read.
#[derive(Default)]
struct CountReader {
    /// `None` before the kernel is open.
    read: Option<Read>,
    last: BTreeMap<(IpFamily, DropReason), u64>,
    asked: Option<Instant>,
    fails: bool,
}

impl fmt::Debug for CountReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CountReader").field("last", &self.last).field("fails", &self.fails).finish_non_exhaustive()
    }
}

impl Packets {
    /// How long a reading is new enough, so that many scrapes cost no more than one.
    pub(crate) const FRESH: Duration = Duration::from_secs(5);

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("denied_packets", "Packets that policies denied", self.denied.clone());
        registry.register(
            "stray_packets",
            "TCP segments of no known connection that were dropped at isolated pods",
            self.stray.clone(),
        );
        registry.register(
            "spoofed_packets",
            "Packets from pods' interfaces that were dropped because their sources are not the pods'",
            self.spoofed.clone(),
        );
    }

    /// From now on the counts are read in this way.
    pub fn are_read_by(&self, read: impl FnMut() -> Result<Vec<Count>, Error> + Send + 'static) {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner).read = Some(Box::new(read));
    }

    /// Brings them up to date as of now, if the kernel answers soon.
    pub(crate) async fn refresh(&self, now: Instant) {
        let packets = self.clone();
        let refreshed = time::timeout(PATIENCE, task::spawn_blocking(move || packets.refresh_now(now)));
        if refreshed.await.is_err() {
            warn!(waited = ?rounded(PATIENCE), "the kernel has not answered how many packets it denied; these metrics are older");
        }
    }

    fn refresh_now(&self, now: Instant) {
        let mut reader = match self.reader.try_lock() {
            Ok(reader) => reader,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Another scrape reads them; the next one has them.
            Err(TryLockError::WouldBlock) => return,
        };
        let is_fresh = reader.asked.is_some_and(|asked| now.saturating_duration_since(asked) < Self::FRESH);
        let Some(read) = reader.read.as_mut().filter(|_| !is_fresh) else { return };
        let counts = read();
        reader.asked = Some(now);
        match counts {
            Ok(counts) => {
                if std::mem::take(&mut reader.fails) {
                    info!("denied packets are counted in the metrics again");
                }
                for count in &counts {
                    self.count(&mut reader.last, count);
                }
            }
            Err(error) if !reader.fails => {
                reader.fails = true;
                let error = crate::words::causes::with_causes(&error);
                warn!(error, "cannot read denied-packet counts; metrics are stale, enforcement continues");
            }
            Err(_) => {}
        }
    }

    /// Adds what came since the last reading. The kernel begins anew where a
    /// chain is written again; a counter for Prometheus must not.
    fn count(&self, last: &mut BTreeMap<(IpFamily, DropReason), u64>, count: &Count) {
        let before = last.insert((count.family, count.reason), count.packets).unwrap_or_default();
        let new = count.packets.checked_sub(before).unwrap_or(count.packets);
        let family = family_name(count.family);
        match count.reason {
            DropReason::Denied(direction) => {
                let direction = match direction {
                    Direction::Ingress => "ingress",
                    Direction::Egress => "egress",
                };
                self.denied.get_or_create(&OfEnd { direction, family }).inc_by(new)
            }
            DropReason::Stray => self.stray.get_or_create(&OfFamily { family }).inc_by(new),
            DropReason::Spoofed => self.spoofed.get_or_create(&OfFamily { family }).inc_by(new),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::metrics::Metrics;

    const INGRESS: DropReason = DropReason::Denied(Direction::Ingress);

    fn value(metrics: &Metrics, line: &str) -> Option<u64> {
        let text = Metrics::text(&metrics.registry()).expect("a String takes it");
        let value = text.lines().find_map(|found| found.strip_prefix(line)).map(|value| value.trim().to_owned());
        value.map(|value| value.parse().expect("a number"))
    }

    #[test]
    fn a_count_never_goes_back_and_failures_leave_it_where_it_is() {
        let metrics = Metrics::default();
        let mut readings = [Some(5), Some(7), None, Some(3), Some(3), Some(10)].into_iter();
        metrics.packets().are_read_by(move || match readings.next().expect("no more than these") {
            Some(packets) => Ok(vec![Count { family: IpFamily::V4, reason: INGRESS, packets }]),
            None => Err(Error::Locked { waited: Duration::ZERO, holder: None }),
        });
        let begun = Instant::now();
        // 3 after 7: the chain was written again, and counted three since.
        for (reading, sum) in [5, 7, 7, 10, 10, 17].into_iter().enumerate() {
            let passed = Packets::FRESH * u32::try_from(reading).expect("few");
            metrics.packets().refresh_now(begun + passed);
            assert_eq!(value(&metrics, "npc_denied_packets_total{direction=\"ingress\",family=\"IPv4\"}"), Some(sum));
        }
    }

    #[test]
    fn the_kernel_is_asked_once_in_a_while_however_many_ask() {
        let metrics = Metrics::default();
        let asked = Arc::new(AtomicU64::new(0));
        metrics.packets().refresh_now(Instant::now());
        assert_eq!(value(&metrics, "npc_stray_packets_total{family=\"IPv6\"}"), None, "the kernel is not open yet");
        let counter = Arc::clone(&asked);
        metrics.packets().are_read_by(move || {
            let packets = counter.fetch_add(1, Ordering::Relaxed);
            Ok(vec![Count { family: IpFamily::V6, reason: DropReason::Stray, packets }])
        });
        let begun = Instant::now();
        for millis in [0, 1, 4_999] {
            metrics.packets().refresh_now(begun + Duration::from_millis(millis));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        metrics.packets().refresh_now(begun + Packets::FRESH);
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        assert_eq!(value(&metrics, "npc_stray_packets_total{family=\"IPv6\"}"), Some(1));
    }
}
