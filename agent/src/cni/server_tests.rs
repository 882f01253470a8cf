//! The socket, as plugins and other clients use it.

#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use npc_cni::protocol::Attachment;
use proptest::prelude::*;

use super::*;

/// A server before a registry that answers each DEL at once, and nothing else.
struct Served {
    socket: PathBuf,
    folder: tempfile::TempDir,
}

impl Served {
    fn start() -> Self {
        Self::start_at_most(WAITING)
    }

    /// Starts a server at which at most `waiting` requests may wait for their answer.
    fn start_at_most(waiting: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("npc/cni.sock");
        let listener = bind(&socket).unwrap();
        let (sender, mut requests) = mpsc::channel(1);
        tokio::spawn(serve_at_most(waiting, listener, sender));
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Some(PendingRequest { command, answer, .. }) = requests.recv().await {
                match command {
                    Command::Delete { .. } => drop(answer.send(Answer::done())),
                    _ => kept.push(answer),
                }
            }
        });
        Self { socket, folder }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).await.unwrap()
    }

    /// What comes back for these bytes. They may not all be taken.
    async fn send(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect().await;
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        answer
    }

    async fn is_alive(&self) -> bool {
        let attachment = Attachment { container_id: "c1".to_owned(), interface: "eth0".to_owned() };
        let mut line = serde_json::to_vec(&Request::new(Command::Delete { attachment })).unwrap();
        line.push(b'\n');
        let mut stream = self.connect().await;
        stream.write_all(&line).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        serde_json::from_slice::<Answer>(&answer).unwrap() == Answer::done()
    }
}

fn kind(answer: &[u8]) -> Option<Reason> {
    serde_json::from_slice::<Answer>(answer).unwrap().error.map(|error| error.kind)
}

#[tokio::test]
async fn bad_requests_are_refused_and_the_next_is_answered() {
    let served = Served::start();
    for line in [
        "\n",
        "{\n",
        "null\n",
        "[]\n",
        "{}\n",
        "{\"version\":1}\n",
        "{\"version\":1,\"command\":\"dance\"}\n",
        "{\"version\":-1,\"command\":\"gc\",\"network\":\"n\",\"valid\":[]}\n",
        "{\"version\":1,\"command\":\"add\",\"containerId\":\"c\",\"interface\":\"e\",\"namespace\":\"a\",\"name\":\"b\",\"addresses\":[\"10.0.0.300\"]}\n",
        "{\"version\":1,\"command\":\"add\",\"containerId\":\"c\",\"interface\":\"e\",\"namespace\":\"a\",\"name\":\"b\",\"addresses\":[\"0.0.0.0\"]}\n",
        "{\"version\":1,\"command\":\"delete\",\"containerId\":\"/etc/c\",\"interface\":\"e\"}\n",
        "{\"version\":1,\"command\":\"delete\",\"containerId\":\"c\",\"interface\":\"../../e\"}\n",
    ] {
        assert_eq!(kind(&served.send(line.as_bytes()).await), Some(Reason::Malformed), "{line}");
    }
    // A request that is right but for its length, and the same without what makes it too long.
    let request = |pad: usize| {
        let pad = "x".repeat(pad);
        format!(
            "{{\"version\":1,\"command\":\"delete\",\"containerId\":\"c\",\"interface\":\"e\",\"pad\":\"{pad}\"}}\n"
        )
    };
    assert_eq!(kind(&served.send(request(1_000).as_bytes()).await), None);
    let answer = served.send(request(LONGEST_REQUEST).as_bytes()).await;
    // It may have gone on writing when the server closed.
    assert!(answer.is_empty() || kind(&answer) == Some(Reason::Malformed));
    assert!(served.is_alive().await);
}

/// The clock stands while the server has something to do, and it goes on only where all wait. So
/// what takes no time at this clock waited for no other.
#[tokio::test(start_paused = true)]
async fn connections_that_hang_delay_no_other() {
    let served = Served::start();
    let mut hanging = Vec::new();
    let begun = time::Instant::now();
    for n in 0..READING + 8 {
        let mut stream = served.connect().await;
        if n % 2 == 0 {
            // The server may have closed it.
            let _ = stream.write_all(b"{\"version\":").await;
        }
        hanging.push(stream);
        // The server accepts it now.
        tokio::task::yield_now().await;
    }
    assert!(served.is_alive().await);
    assert!(begun.elapsed() < PATIENCE, "it waited for one that hangs to end: {:?}", begun.elapsed());
    // They are closed after their time.
    let mut last = hanging.pop().unwrap();
    assert_eq!(last.read(&mut [0]).await.unwrap_or_default(), 0);
}

/// Asks about this many pods that do not come.
async fn wait_for_pods(served: &Served, count: usize) -> Vec<UnixStream> {
    let mut waiting = Vec::new();
    for n in 0..count {
        let mut stream = served.connect().await;
        let line = format!(
            "{{\"version\":1,\"command\":\"add\",\"containerId\":\"c{n}\",\"interface\":\"eth0\",\"namespace\":\"a\",\"name\":\"b\",\"addresses\":[]}}\n"
        );
        stream.write_all(line.as_bytes()).await.unwrap();
        waiting.push(stream);
        tokio::task::yield_now().await;
    }
    waiting
}

#[tokio::test(start_paused = true)]
async fn requests_that_wait_delay_no_other() {
    let served = Served::start();
    let waiting = wait_for_pods(&served, READING + 8).await;
    assert!(time::timeout(PATIENCE, served.is_alive()).await.expect("it waits for another's answer"));
    // None of them has lost its place.
    for stream in &waiting {
        assert_eq!(stream.try_read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}

#[tokio::test]
async fn of_too_many_requests_that_wait_the_oldest_give_way() {
    let served = Served::start_at_most(9);
    let old = wait_for_pods(&served, 8).await;
    // One that is answered keeps no place.
    for _ in 0..16 {
        assert!(served.is_alive().await);
    }
    let wait = |streams: &[UnixStream]| {
        for stream in streams {
            assert_eq!(stream.try_read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
    };
    wait(&old);
    let new = wait_for_pods(&served, 9).await;
    for mut stream in old {
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(kind(&answer), Some(Reason::Timeout));
    }
    wait(&new);
    assert!(served.is_alive().await);
}

#[tokio::test]
async fn a_socket_that_was_left_is_replaced_and_is_roots_alone() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("npc/cni.sock");
    for _ in 0..2 {
        drop(bind(&socket).unwrap());
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!([mode(&socket), mode(socket.parent().unwrap())], [0o600, 0o700]);
}

#[tokio::test]
async fn a_folder_that_has_other_files_is_refused_and_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let shared = folder.path().join("run");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, Permissions::from_mode(0o755)).unwrap();
    fs::write(shared.join("xtables.lock"), "").unwrap();
    let socket = shared.join("npc.sock");
    let error = bind(&socket).unwrap_err().to_string();
    assert!(error.contains("xtables.lock") && error.contains("a folder of its own"), "{error}");
    assert_eq!(fs::metadata(&shared).unwrap().permissions().mode() & 0o777, 0o755);
    assert!(!socket.exists());
    // Its own files are no others.
    fs::remove_file(shared.join("xtables.lock")).unwrap();
    fs::create_dir(shared.join("notes")).unwrap();
    for name in ["npc.sock", "sandboxes.json", "sandboxes.half", "ready", "ready.new"] {
        fs::write(shared.join(name), "").unwrap();
    }
    drop(bind(&socket).unwrap());
    assert_eq!(fs::metadata(&shared).unwrap().permissions().mode() & 0o777, 0o700);
}

/// The folder keeps others out. If it did not, the server would.
#[tokio::test]
async fn root_only_is_answered() {
    let served = Served::start();
    for path in [served.folder.path(), served.socket.parent().unwrap(), &served.socket] {
        fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    }
    let socket = served.socket.clone();
    let asking = std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        // Of this thread alone, which ends.
        let without_rights = rustix::process::Uid::from_raw(65534);
        rustix::thread::set_thread_res_uid(without_rights, without_rights, without_rights).unwrap();
        let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
        let _ = stream.write_all(b"{}\n");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    });
    let answer = tokio::task::spawn_blocking(|| asking.join().unwrap()).await.unwrap();
    assert_eq!(answer, "");
    assert!(served.is_alive().await);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// For any bytes, the server answers or closes the connection, and goes on.
    #[test]
    fn no_bytes_end_the_server(bytes in prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..512),
        "\\{\"version\":[0-9]{1,20},\"command\":\"(add|delete|check|gc)\"[ -~]{0,80}\\}\n".prop_map(String::into_bytes),
    ]) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let served = Served::start();
            served.send(&bytes).await;
            assert!(served.is_alive().await);
        });
    }
}
