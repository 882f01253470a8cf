//! What the lab needs of this machine.

use std::path::{Path, PathBuf};

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
