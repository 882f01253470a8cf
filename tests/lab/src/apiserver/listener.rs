//! The sockets of a server, which can be stopped and started again.

use std::fmt;
use std::io;
use std::net::TcpListener;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::Router;
use axum::serve::ListenerExt as _;
use tokio::sync::oneshot;

/// How long a port may be held by a process that is being started.
const HELD: Duration = Duration::from_secs(5);

/// Binds a socket to a port; 0 for any.
pub(crate) type Bind = Box<dyn Fn(u16) -> io::Result<TcpListener> + Send>;

/// Where a server listens, and the thread that serves while it does.
#[derive(Default)]
pub(crate) struct Listening {
    places: Vec<Bind>,
    port: u16,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    // Sending or dropping it ends the thread.
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listening").field("port", &self.port).field("running", &self.running).finish_non_exhaustive()
    }
}

impl Listening {
    /// The port; 0 before the first start.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn add(&mut self, bind: Bind) {
        self.places.push(bind);
    }

    /// Binds everywhere and serves.
    pub(crate) fn start(&mut self, router: &Router) -> io::Result<()> {
        if self.running.is_some() {
            return Ok(());
        }
        let mut sockets = Vec::new();
        for bind in &self.places {
            let socket = self.bind(bind)?;
            socket.set_nonblocking(true)?;
            self.port = socket.local_addr()?.port();
            sockets.push(socket);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let router = router.clone();
        let serve = move || {
            runtime.block_on(async {
                for socket in sockets {
                    let Ok(socket) = tokio::net::TcpListener::from_std(socket) else { continue };
                    // A watch's events are small and must not wait for each other.
                    let socket = socket.tap_io(|connection| drop(connection.set_nodelay(true)));
                    tokio::spawn(axum::serve(socket, router.clone()).into_future());
                }
                // An error is the drop of the other end, which means the same.
                drop(stopped.await);
            });
            // With the runtime go all tasks, and with them their sockets.
        };
        let thread = std::thread::Builder::new().name("apiserver".to_owned()).spawn(serve)?;
        self.running = Some(Running { stop, thread });
        Ok(())
    }

    /// Binds in one place. A process that another thread has just begun to start
    /// holds the sockets that were closed here until it runs its program, and
    /// nothing shows when; so a port that was ours is asked for again.
    fn bind(&self, bind: &Bind) -> io::Result<TcpListener> {
        let begun = Instant::now();
        loop {
            match bind(self.port) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && self.port != 0 && begun.elapsed() < HELD => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                bound => return bound,
            }
        }
    }

    /// Closes everything; answers whether there was anything to close.
    pub(crate) fn stop(&mut self) -> bool {
        let Some(running) = self.running.take() else { return false };
        // A thread that has ended already does not need it.
        let _ = running.stop.send(());
        // A panic in it was printed on standard error.
        let _ = running.thread.join();
        true
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop();
    }
}
