//! What the agent logs of a pass and of pod CIDRs, and which policies count as rejected.

use std::io;

use tracing::subscriber;

use super::super::flow_index::FlowIndex;
use super::super::report::Reporter;
use super::*;

/// Held by a test while agents run in it: tracing may lose the lines of a place in the code that
/// one thread without a subscriber reaches for the first time, while another sets one.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The lines of the log.
#[derive(Debug, Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no thread panicked").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// Waits until one has this part, for a minute by the machine's clock: tokio's is paused.
    async fn until(&self, part: &str) {
        let has = || String::from_utf8_lossy(&self.0.lock().expect("no thread panicked")).contains(part);
        let begun = std::time::Instant::now();
        while !has() {
            assert!(begun.elapsed() < Duration::from_secs(60), "no line has {part}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Those of a level and above since the last call.
    fn take(&self) -> Vec<String> {
        let bytes = std::mem::take(&mut *self.0.lock().expect("no thread panicked"));
        String::from_utf8(bytes).expect("it is text").lines().map(str::to_owned).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_pass_that_wrote_nothing_is_not_logged_at_info() {
    let _alone = ALONE.lock().await;
    let (lines, _guard) = collect();
    let mut world = World::new(settings(), 0, vec![network(), Input::Objects(objects(&["10.0.0.1"]))]);
    // A pass is in the log after its sweeps, which take the machine's time.
    lines.until(" ready generation=1").await;
    lines.until(" programmed ruleset generation=1 policies=1 endpoints=1").await;
    let first = lines.take();
    let place = |part: &str| first.iter().position(|line| line.contains(part));
    assert!(place(" programmed ruleset ") < place(" ready "), "ready comes of what was programmed: {first:#?}");
    // A pod that no policy selects, because it has no address.
    let mut more = objects(&["10.0.0.1"]);
    more.pods.push(Pod { ipv4: None, name: "another".to_owned(), ..more.pods[0].clone() });
    world.send(Input::Objects(more)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    // One that is isolated.
    world.send(Input::Objects(objects(&["10.0.0.1", "10.0.0.2"]))).await;
    lines.until("generation=3").await;
    let later = lines.take();
    assert!(later.len() == 1 && later[0].contains(" INFO "), "of the second nothing: {later:#?}");
    world.agent.abort();
}

/// Collects the lines of the log that this thread writes.
fn collect() -> (Lines, subscriber::DefaultGuard) {
    // Where a thread without a subscriber is the first that reaches a place in the code, tracing notes that nothing asks
    // for its lines. So each thread has one.
    static OF_OTHERS: std::sync::Once = std::sync::Once::new();
    OF_OTHERS.call_once(|| {
        let nothing = tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_writer(io::sink).finish();
        // If there is one already, it does as well.
        let _ = subscriber::set_global_default(nothing);
    });
    let lines = Lines::default();
    let writer = lines.clone();
    let log = tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_ansi(false);
    let guard = subscriber::set_default(log.with_writer(move || writer.clone()).finish());
    (lines, guard)
}

#[tokio::test]
async fn an_agent_that_is_unready_again_does_not_log_that_it_is_ready() {
    let _alone = ALONE.lock().await;
    let (lines, _guard) = collect();
    let mut report = Reporter::new(settings()).expect("no file is asked for");
    let logs_ready = || lines.take().iter().any(|line| line.contains(" ready"));
    report.readiness_is(None, Some(1));
    report.log_passes(None);
    assert!(logs_ready());
    report.readiness_is(Some("a bridge"), Some(1));
    report.readiness_is(None, Some(1));
    // Before a pass or a sweep has come to the log.
    report.readiness_is(Some("a bridge"), Some(1));
    lines.take();
    report.log_passes(None);
    assert!(!logs_ready());
}

#[tokio::test]
async fn a_pod_cidr_that_the_flow_index_leaves_out_is_logged_when_it_comes() {
    let _alone = ALONE.lock().await;
    let (lines, _guard) = collect();
    let address = ["10.0.0.2".parse().expect("an address")].into();
    let mut index = FlowIndex::default();
    index.turn_on();
    let mut logged = |texts: &[&str]| {
        let networks: Vec<_> = texts.iter().map(|text| text.parse().expect("a network")).collect();
        index.use_networks_of_node(&networks);
        (lines.take(), index.asked_by(&address))
    };
    let (first, epoch) = logged(&["::1/64", "10.0.0.0/24"]);
    assert!(first.len() == 1 && first[0].contains("pod_cidrs=\"::1/64, 10.0.0.0/24\""), "{first:#?}");
    assert!(epoch.is_some() && first[0].contains("used=\"10.0.0.0/24\""), "{first:#?}");
    // The addresses that are noted stay the same, and so does the epoch.
    let (added, same) = logged(&["::1/64", "10.0.0.0/24", "0.0.0.0/0"]);
    assert!(added.len() == 1 && added[0].contains("pod_cidrs=\"::1/64, 10.0.0.0/24, 0.0.0.0/0\""), "{added:#?}");
    assert!(same == epoch && added[0].contains("used=\"10.0.0.0/24\""), "{added:#?}");
    // Each pass says which there are.
    assert_eq!(logged(&["::1/64", "10.0.0.0/24", "0.0.0.0/0"]), (Vec::new(), epoch));
    assert_eq!(logged(&["10.0.0.0/24"]), (Vec::new(), epoch));
}

/// The policies of a cluster with one that admits a prefix without another, as they are
/// written.
fn admitting(cidr: &str, except: Option<&str>) -> Objects {
    let mut objects = objects(&["10.0.0.1"]);
    let spec = objects.policies[0].object.spec.as_mut().expect("it has one");
    let except = except.map(|except| vec![except.to_owned()]);
    let block = networking::v1::IPBlock { cidr: cidr.to_owned(), except };
    let peer = networking::v1::NetworkPolicyPeer { ip_block: Some(block), ..Default::default() };
    spec.ingress = Some(vec![networking::v1::NetworkPolicyIngressRule { from: Some(vec![peer]), ports: None }]);
    objects
}

#[tokio::test(start_paused = true)]
async fn only_what_was_not_understood_is_rejected() {
    let _alone = ALONE.lock().await;
    let settings = settings();
    let (metrics, status) = (settings.metrics.clone(), settings.status.clone());
    let rejected = move || {
        let text = Metrics::text(&metrics.registry()).expect("a String takes it");
        text.lines().find_map(|line| line.strip_prefix("npc_rejected_policies ").map(str::to_owned))
    };
    let mut world = World::new(settings, 0, vec![network()]);
    // What the policy's author meant is enforced: that counts as to be corrected.
    for (cidr, except, is_rejected, is_deprecated) in [
        ("192.0.2.7/24", None, false, true),
        ("192.0.2.0/240", None, true, false),
        ("192.0.2.0/24", None, false, false),
        ("192.0.2.0/24", Some("198.51.100.0/24"), false, true),
        ("192.0.2.0/24", Some("192.0.2.0/240"), true, false),
        ("192.0.2.0/24", Some("192.0.2.0/28"), false, false),
    ] {
        world.send(Input::Objects(admitting(cidr, except))).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = status.now();
        assert_eq!(
            (rejected().as_deref(), now.rejected.len(), now.deprecated.len()),
            (Some(if is_rejected { "1" } else { "0" }), usize::from(is_rejected), usize::from(is_deprecated)),
            "{cidr} {except:?}"
        );
    }
    world.agent.abort();
}
