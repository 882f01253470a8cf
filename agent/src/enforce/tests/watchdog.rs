//! What an agent reports to systemd.

use std::os::unix::net::UnixDatagram;

use tokio::time;

use super::readiness::pass_seconds;
use super::*;
use crate::serve::BUSY;
use crate::service::ServiceManager;

/// How long this systemd waits for a sign of life.
const PATIENCE: Duration = Duration::from_secs(30);

/// A systemd, and what its agent has reported that was not read yet.
struct Systemd {
    socket: UnixDatagram,
    _folder: tempfile::TempDir,
}

impl Systemd {
    fn new() -> (Self, Settings) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_nonblocking(true).expect("it is open");
        let service = ServiceManager::connect(path.as_os_str(), Some(PATIENCE)).expect("it is there");
        (Self { socket, _folder: folder }, Settings { service, ..settings() })
    }

    fn reported(&self) -> Vec<String> {
        let mut reported = Vec::new();
        let mut buffer = [0; 64];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            reported.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        reported
    }
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_takes_events_is_alive_from_before_the_first_view() {
    let (systemd, settings) = Systemd::new();
    let world = World::new(settings, 0, vec![]);
    time::sleep(Duration::from_secs(1)).await;
    assert_eq!(systemd.reported(), ["READY=1", "WATCHDOG=1"]);
    for _ in 0..20 {
        // Less than systemd waits, however late it looks.
        time::sleep(PATIENCE / 2).await;
        assert!(systemd.reported().contains(&"WATCHDOG=1".to_owned()));
    }
    world.agent.abort();
}

#[tokio::test(start_paused = true)]
async fn a_pass_may_take_long_and_one_that_hangs_starves_the_watchdog() {
    let (systemd, settings) = Systemd::new();
    let mut world = World::new(settings, 0, vec![]);
    let (end, hangs) = std::sync::mpsc::channel::<()>();
    world.memory.lock().expect("no thread panicked").hangs = Some(hangs);
    world.send(Input::Network(Network::default())).await;
    world.send(Input::Objects(objects(&["10.0.0.1"]))).await;
    pass_seconds(1).await;
    systemd.reported();
    for _ in 0..(BUSY.as_secs() - 20) / PATIENCE.as_secs() {
        pass_seconds(PATIENCE.as_secs()).await;
        assert!(!systemd.reported().is_empty());
    }
    // One sign of life that was due before may come after.
    pass_seconds(60).await;
    systemd.reported();
    pass_seconds(2 * PATIENCE.as_secs()).await;
    assert_eq!(systemd.reported(), Vec::<String>::new());
    // It comes back.
    drop(end);
    pass_seconds(5).await;
    assert!(!systemd.reported().is_empty());
    world.agent.abort();
}
