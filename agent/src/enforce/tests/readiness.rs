//! What makes an agent unready, and after how long, is what docs/operate.md says.

use npc_compiler::policy::Direction;
use npc_compiler::ruleset::layout::{Bounds, RulesetOptions};
use tokio::time;

use super::*;

/// One row of the table.
#[derive(Debug)]
struct Row {
    what: String,
    is_degraded: bool,
    /// After how many seconds the agent is unready.
    after: Option<u64>,
    metric: String,
    alerts: Vec<String>,
}

fn table() -> Vec<Row> {
    let text = read("docs/operate.md");
    let begin = text.find("## Ready, degraded, unready").expect("the section is there");
    let rows = text[begin..].lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let rows: Vec<Vec<&str>> =
        rows.map(|line| line.split(" | ").collect()).take_while(|cells: &Vec<_>| cells.len() == 5).collect();
    let code = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let row = |cells: &Vec<&str>| Row {
        what: cells[0].to_owned(),
        is_degraded: match cells[1] {
            "degraded" => true,
            "unready" => false,
            other => panic!("{other}"),
        },
        after: match cells[2] {
            "at once" => Some(0),
            "10 s" => Some(10),
            "never" => None,
            other => panic!("{other}"),
        },
        metric: code(cells[3]).remove(0),
        alerts: code(cells[4]),
    };
    let rows: Vec<Row> = rows.iter().skip(1).map(row).collect();
    assert!(rows.len() > 8, "{rows:?}");
    rows
}

/// A file of the repository.
fn read(path: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// An agent and how ready it says it is.
struct ObservedAgent {
    world: World,
    settings: Settings,
    /// What a write waits for that does not end.
    hangs: Option<std::sync::mpsc::Sender<()>>,
    _folder: tempfile::TempDir,
}

impl ObservedAgent {
    async fn start(queued: Vec<Input>) -> Self {
        Self::with_options(RulesetOptions::default(), queued).await
    }

    async fn with_options(options: RulesetOptions, queued: Vec<Input>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = Settings { ready_file: Some(folder.path().join("ready")), ..settings() };
        let world = World::with_options(settings.clone(), options, 0, queued);
        let watched = Self { world, settings, hangs: None, _folder: folder };
        time::sleep(Duration::from_secs(1)).await;
        watched
    }

    /// One that has enforced for a while.
    async fn enforcing() -> Self {
        let watched = Self::start(vec![network(), Input::Objects(objects(&["10.0.0.1"]))]).await;
        time::sleep(Duration::from_secs(60)).await;
        assert!(watched.is_ready());
        watched
    }

    /// As the ready file, the status (and so `/readyz`), and the metric say.
    fn is_ready(&self) -> bool {
        let file = self.settings.ready_file.as_ref().is_some_and(|path| path.exists());
        let status = self.settings.status.now();
        let metrics = Metrics::text(&self.settings.metrics.registry()).expect("a String takes it");
        let metric = metrics.lines().any(|line| line == "npc_ready 1");
        assert_eq!((file, metric), (status.ready, status.ready), "{:?}", status.reason);
        assert_eq!(status.ready, status.reason.is_none());
        status.ready
    }

    fn memory(&self, change: impl FnOnce(&mut Memory)) {
        change(&mut self.world.memory.lock().expect("no thread panicked"));
    }

    async fn edit(&mut self) {
        self.world.send(Input::Objects(objects(&["10.0.0.1", "10.0.0.9"]))).await;
        let mut edited = objects(&["10.0.0.1"]);
        edited.policies[0].object.metadata.name = Some("another".to_owned());
        self.world.send(Input::Objects(edited)).await;
    }
}

/// A policy that admits so many addresses that it needs a set with more than one member.
fn many_peers() -> Objects {
    let mut many = objects(&["10.0.0.1"]);
    let block = |last: u8| networking::v1::NetworkPolicyPeer {
        ip_block: Some(networking::v1::IPBlock { cidr: format!("10.1.0.{last}/32"), except: None }),
        ..Default::default()
    };
    let rule = networking::v1::NetworkPolicyIngressRule { from: Some([1, 3, 5].map(block).into()), ports: None };
    many.policies[0].object.spec.as_mut().expect("it has one").ingress = Some(vec![rule]);
    many
}

/// Brings it about in an agent that is ready if anything can make it so.
async fn comes_about(what: &str) -> ObservedAgent {
    let network_with = |change: fn(&mut Network)| {
        let mut network = Network::default();
        change(&mut network);
        Input::Network(network)
    };
    if what == "The agent does not know the whole cluster yet" {
        return ObservedAgent::start(vec![network()]).await;
    }
    if what == "A policy is over a bound" {
        let options = RulesetOptions { bounds: Bounds::of_members(1), ..RulesetOptions::default() };
        let watched = ObservedAgent::with_options(options, vec![network(), Input::Objects(many_peers())]).await;
        let rejected = watched.settings.status.now().rejected;
        assert!(rejected.iter().any(|part| part.code == "policy-too-large"), "{rejected:?}");
        return watched;
    }
    let mut watched = ObservedAgent::enforcing().await;
    match what {
        "A write is refused" => {
            watched.memory(|memory| memory.refusals = usize::MAX);
            watched.edit().await;
        }
        "A write does not end" => {
            let (sender, hangs) = std::sync::mpsc::channel();
            watched.memory(|memory| memory.hangs = Some(hangs));
            watched.edit().await;
            watched.hangs = Some(sender);
        }
        "A write is said to be done, and is not in the kernel" => {
            watched.memory(|memory| memory.lies = true);
            watched.edit().await;
        }
        "The hook is not first in FORWARD, and cannot be put there" => {
            watched.memory(|memory| {
                memory.unhookable = true;
                memory.hooks = [Hook::Absent; 2];
            });
            // Until that is found.
            time::sleep(Duration::from_secs(6)).await;
        }
        "Established flows that policies deny cannot be cut" => {
            watched.memory(|memory| memory.uncut = usize::MAX);
            watched.edit().await;
        }
        "IPVS delivers Services" => watched.world.send(network_with(|network| network.ipvs = true)).await,
        // In both cases the source reports what is new and no removal, which is all that the
        // agent sees of it.
        "The API server is away" | "A list lacks much, and is [not believed yet](#a-list-that-lacks-much)" => {}
        "A policy is understood in part" => {
            let mut odd = objects(&["10.0.0.1"]);
            let spec = odd.policies[0].object.spec.as_mut().expect("it has one");
            let peer = networking::v1::NetworkPolicyPeer {
                ip_block: Some(networking::v1::IPBlock { cidr: "10.0.0.300/8".to_owned(), except: None }),
                ..Default::default()
            };
            let rule = networking::v1::NetworkPolicyIngressRule { from: Some(vec![peer]), ports: None };
            spec.ingress = Some(vec![rule]);
            watched.world.send(Input::Objects(odd)).await;
        }
        "Another program changed npc's rules or sets, and the agent repaired them" => {
            watched.memory(|memory| memory.state = KernelState::default());
        }
        other => panic!("nothing brings this about: {other}"),
    }
    watched
}

/// Lets time pass, also while something hangs.
pub(super) async fn pass_seconds(seconds: u64) {
    for _ in 0..seconds * 10 {
        // What blocks lets no time pass by itself.
        time::advance(Duration::from_millis(100)).await;
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[tokio::test(start_paused = true)]
async fn ready_and_unready_are_as_the_table_says() {
    for row in table() {
        assert_eq!(row.is_degraded, row.after.is_none(), "{row:?}");
        // The real kernel is asked about this (tests/kernel/proof.rs).
        if row.what == "Isolated pods reach each other over a bridge past iptables" {
            continue;
        }
        let watched = comes_about(&row.what).await;
        match row.after {
            None => {
                pass_seconds(30).await;
                assert!(watched.is_ready(), "{row:?}: {:?}", watched.settings.status.now().reason);
            }
            Some(0) => {
                pass_seconds(1).await;
                assert!(!watched.is_ready(), "{row:?}");
            }
            Some(after) => {
                pass_seconds(after - 2).await;
                assert!(watched.is_ready(), "{row:?}: {:?}", watched.settings.status.now().reason);
                pass_seconds(3).await;
                assert!(!watched.is_ready(), "{row:?}");
            }
        }
        watched.world.agent.abort();
    }
}

#[test]
fn every_row_has_a_metric_and_an_alert_that_there_are() {
    let (metrics, alerts) = (read("docs/operate.md"), read("deploy/chart/files/alerts.yaml"));
    for row in table() {
        assert!(metrics.contains(&format!("| `{}", row.metric)), "{row:?}");
        assert!(!row.alerts.is_empty(), "{row:?}");
        for alert in &row.alerts {
            assert!(alerts.contains(&format!("- alert: {alert}\n")), "{row:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_ready_file_counts_only_changes_that_are_in_the_kernel() {
    let mut watched = ObservedAgent::enforcing().await;
    let file = watched.settings.ready_file.clone().expect("there is one");
    let counted = || fs::read_to_string(&file).ok();
    assert_eq!(counted().as_deref(), Some("1\n"));
    watched.memory(|memory| memory.refusals = usize::MAX);
    watched.edit().await;
    time::sleep(Duration::from_secs(5)).await;
    assert!(watched.is_ready());
    assert_eq!(counted().as_deref(), Some("1\n"));
    watched.memory(|memory| memory.refusals = 0);
    time::sleep(Duration::from_secs(6)).await;
    assert_eq!(counted().as_deref(), Some("3\n"));
    watched.world.agent.abort();
}

#[tokio::test(start_paused = true)]
async fn a_kernel_that_lost_our_rules_and_takes_none_back_is_unready_within_10_s() {
    // At any moment between two audits.
    for tenth in 0..50 {
        let watched = ObservedAgent::enforcing().await;
        time::sleep(Duration::from_millis(tenth * 100)).await;
        watched.memory(|memory| {
            *memory = Memory { refusals: usize::MAX, ..Memory::default() };
        });
        time::sleep(Duration::from_secs(10)).await;
        assert!(!watched.is_ready(), "{tenth}");
        watched.memory(|memory| memory.refusals = 0);
        time::sleep(Duration::from_secs(6)).await;
        assert!(watched.is_ready(), "{tenth}");
        let ingress = SetName::isolated(Family::V4, Direction::Ingress);
        watched.memory(|memory| assert!(memory.state.v4.sets.contains_key(&ingress)));
        watched.world.agent.abort();
    }
}
