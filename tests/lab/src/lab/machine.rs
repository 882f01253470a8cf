//! What the lab needs of this machine.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use npc_compiler::object::Family;

use super::{Backend, Doing as _, Error, Result, netns};
use crate::skip::{self, Lack};

/// Whether this machine lets this process build a lab. If not, the calling test is
/// skipped, or fails in strict mode.
#[must_use]
pub fn can_run() -> bool {
    let lack = check_machine(Backend::Nft).and(check_machine(Backend::Legacy)).err();
    if let Some(lack) = &lack {
        skipped(lack);
    }
    lack.is_none()
}

/// Skips the calling test because the lab lacks something.
///
/// # Panics
/// In strict mode: see [`crate::skip`].
pub fn skipped(why: &Error) {
    skip::skipped(Lack::Lab, why);
}

/// Checks for what the lab needs before it begins, because it can say it better
/// than the first thing that fails.
pub(super) fn check_machine(backend: Backend) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    if netns::find_program("ip").is_none() {
        return Err(Error::Missing { what: "ip".to_owned(), remedy: "install iproute2".to_owned() });
    }
    for family in Family::ALL {
        backend.program(family, "-restore")?;
    }
    if !Path::new("/proc/sys/net/ipv6").exists() {
        let remedy = "boot without ipv6.disable=1, or load its module";
        return Err(Error::Missing { what: "IPv6 in this kernel".to_owned(), remedy: remedy.to_owned() });
    }
    Ok(())
}

/// Makes a file that can be run. Another process writes it: a descriptor of this process would live on
/// in the children that other threads start at this moment, and the kernel runs nothing that is open
/// for writing ("Text file busy").
///
/// # Errors
/// When it cannot be written.
pub fn write_program(path: &Path, text: &str) -> Result<()> {
    let what = || format!("write {}", path.display());
    let mut command = Command::new("install");
    command.args(["-m", "755", "/dev/stdin"]).arg(path).stdin(Stdio::piped());
    let mut child = command.spawn().doing(what)?;
    let written = child.stdin.take().map_or(Ok(()), |mut input| input.write_all(text.as_bytes()));
    let status = child.wait().doing(what)?;
    written.doing(what)?;
    let failed = || io::Error::other(format!("install has ended ({status})"));
    status.success().then_some(()).ok_or_else(failed).doing(what)
}

/// A binary of ours that lies beside this program, or beside the folder of this
/// program as for tests.
///
/// # Errors
/// When there is none; it says the remedy.
pub fn sibling(name: &str, remedy: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().doing(|| "find this program's own path".to_owned())?;
    let beside = own.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    beside
        .into_iter()
        .find(|file| file.is_file())
        .ok_or_else(|| Error::Missing { what: format!("{name} beside {}", own.display()), remedy: remedy.to_owned() })
}
