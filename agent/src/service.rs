//! What an agent reports to systemd, by the protocol of `sd_notify(3)`: that it has started,
//! that its loop is alive, and that it ends. Without systemd nothing is reported.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// systemd, if it started this process and wants to know. All clones are one.
#[derive(Debug, Clone, Default)]
pub struct ServiceManager(Option<Arc<NotifySocket>>);

#[derive(Debug)]
struct NotifySocket {
    socket: UnixDatagram,
    /// How long systemd waits for a sign of life before it ends this process.
    patience: Option<Duration>,
}

impl ServiceManager {
    /// The service manager that the environment names in `NOTIFY_SOCKET` and `WATCHDOG_USEC`.
    ///
    /// # Errors
    /// If the socket cannot be connected to. Then systemd does not learn that the agent has
    /// started, and ends it.
    pub fn from_environment() -> io::Result<Self> {
        let Some(address) = env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty()) else {
            return Ok(Self::default());
        };
        let number = |text: Result<String, env::VarError>| text.ok().and_then(|text| text.parse::<u64>().ok());
        let process = number(env::var("WATCHDOG_PID"));
        let is_meant = process.is_none_or(|process| process == u64::from(std::process::id()));
        let patience =
            number(env::var("WATCHDOG_USEC")).filter(|micros| is_meant && *micros > 0).map(Duration::from_micros);
        Self::connect(&address, patience)
    }

    /// The service manager behind a socket. A name that begins with `@` is an abstract one.
    ///
    /// # Errors
    /// If the socket cannot be connected to.
    pub fn connect(address: &OsStr, patience: Option<Duration>) -> io::Result<Self> {
        let address = match address.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(OsString::from(address))?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        // If systemd is stuck, the agent must not wait for it.
        socket.set_nonblocking(true)?;
        Ok(Self(Some(Arc::new(NotifySocket { socket, patience }))))
    }

    /// Notifies systemd that the agent has started: it is the only one, has read the kernel, and
    /// takes events. It may not be ready for long, as while the API server is away.
    pub fn started(&self) {
        self.send("READY=1");
    }

    /// Notifies systemd that the agent ends.
    pub fn ending(&self) {
        self.send("STOPPING=1");
    }

    fn send(&self, what: &str) {
        if let Some(connection) = &self.0 {
            // It has gone, or has no room: it will end this process, and nothing better can
            // be done here.
            let _ = connection.socket.send(what.as_bytes());
        }
    }
}

/// Shows systemd that a loop is alive, no more often than it has to be.
#[derive(Debug)]
pub(crate) struct Watchdog {
    service: ServiceManager,
    /// When the next sign of life is due, if there is a watchdog.
    due: Option<Instant>,
}

impl Watchdog {
    pub(crate) fn new(service: ServiceManager) -> Self {
        let has_watchdog = service.0.as_ref().is_some_and(|connection| connection.patience.is_some());
        Self { service, due: has_watchdog.then(Instant::now) }
    }

    /// When [`Watchdog::feed`] has to be called, if at all.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The loop is alive.
    pub(crate) fn feed(&mut self) {
        let now = Instant::now();
        if self.due.is_none_or(|due| now < due) {
            return;
        }
        self.service.send("WATCHDOG=1");
        let patience = self.service.0.as_ref().and_then(|connection| connection.patience);
        // So that one that is late by half of the time is in time.
        self.due = patience.map(|patience| now + patience / 3);
    }
}
