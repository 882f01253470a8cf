//! Faults of what an agent depends on: programs and netlink that fail, a lock that
//! another process holds, a full disk.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::error::{Doing, Result, read};
use super::machine::write_program;
use super::netns::find_program;
use super::{Builder, sibling};

/// The programs that an agent may start.
const PROGRAMS: [&str; 3] = ["", "-save", "-restore"];

/// Fills a folder with iptables programs that fail in so many of a hundred calls: half of the time
/// before they have done anything, half of the time after. Answers the `PATH` with the folder in
/// front.
///
/// # Errors
/// When they cannot be written.
pub fn failing_programs(folder: &Path, percent: usize) -> Result<OsString> {
    for family in ["iptables", "ip6tables"] {
        for backend in ["", "-nft", "-legacy"] {
            for what in PROGRAMS {
                let name = format!("{family}{backend}{what}");
                let Some(real) = find_program(&name) else { continue };
                let text = format!(
                    "#!/bin/bash\n\
                     dice=$((RANDOM % 200))\n\
                     if [ $dice -lt {percent} ]; then echo '{name}: injected fault before' >&2; exit 1; fi\n\
                     {real} \"$@\"\n\
                     code=$?\n\
                     if [ $dice -lt {twice} ]; then echo '{name}: injected fault after' >&2; exit 1; fi\n\
                     exit $code\n",
                    twice = 2 * percent,
                    real = real.display(),
                );
                let file = folder.join(&name);
                write_program(&file, &text)?;
            }
        }
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&path));
    std::env::join_paths(folders).map_err(io::Error::other).doing(|| "join the PATH".to_owned())
}

/// Agents whose netlink messages to ipset and conntrack fail at random, as in a
/// kernel short of memory: not sent, carried out in part, or carried out
/// without an answer. `npc-failing-netlink` does it, and for the agents only.
#[derive(Debug)]
pub struct NetlinkFaults {
    percent: PathBuf,
    told: PathBuf,
}

impl NetlinkFaults {
    /// Makes the requests of a lab's agents fail, none before
    /// [`NetlinkFaults::set_percent`]. Its files are in this folder.
    ///
    /// # Errors
    /// When `npc-failing-netlink` has not been built.
    pub fn inject(builder: Builder, folder: &Path, seed: u64) -> Result<(Self, Builder)> {
        let program = sibling("npc-failing-netlink", "cargo build --workspace --bins")?;
        let faults = Self { percent: folder.join("percent"), told: folder.join("told") };
        let builder = builder
            .agent_through(program)
            .agent_variable("NPC_NETLINK_FAULTS_PERCENT", &faults.percent)
            .agent_variable("NPC_NETLINK_FAULTS_SEED", seed.to_string())
            .agent_variable("NPC_NETLINK_FAULTS_LOG", &faults.told);
        Ok((faults, builder))
    }

    /// From now on so many of a hundred requests meet a fault.
    ///
    /// # Errors
    /// When that cannot be written down.
    pub fn set_percent(&self, percent: u32) -> Result<()> {
        let fresh = self.percent.with_extension("new");
        fs::write(&fresh, percent.to_string()).doing(|| format!("write {}", fresh.display()))?;
        fs::rename(&fresh, &self.percent).doing(|| format!("put {} in place", self.percent.display()))
    }

    /// How often each fault was met, by its name and what was asked for.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn met(&self) -> Result<BTreeMap<String, usize>> {
        let mut met = BTreeMap::new();
        for line in read(&self.told)?.lines() {
            // The process comes first.
            let what = line.split_once(' ').map_or(line, |(_, what)| what);
            *met.entry(what.to_owned()).or_default() += 1;
        }
        Ok(met)
    }
}

/// The xtables lock, held by another process until this is dropped. The file is
/// the one that `XTABLES_LOCKFILE` names, so that only this lab waits.
#[derive(Debug)]
pub struct LockHeld {
    _lock: Flock<File>,
}

impl LockHeld {
    /// Takes the lock as soon as it is free.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn take(file: &Path) -> Result<Self> {
        let taking = || format!("lock {}", file.display());
        let open = File::options().create(true).truncate(false).write(true).open(file).doing(taking)?;
        let lock = Flock::lock(open, FlockArg::LockExclusive).map_err(|(_, error)| error).doing(taking)?;
        Ok(Self { _lock: lock })
    }
}

/// A disk of 256 KiB. Dropping it takes it away.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one at an empty folder.
    ///
    /// # Errors
    /// When this process may not mount.
    pub fn mount(path: PathBuf) -> Result<Self> {
        let size = Some("size=256k");
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), size).doing(|| "mount a small disk".to_owned())?;
        Ok(Self { path })
    }

    /// The path at which it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fills it to the last byte, once more if room has been made.
    ///
    /// # Errors
    /// When that fails otherwise than by its being full.
    pub fn fill(&self) -> Result<()> {
        let filling = || "fill a disk".to_owned();
        let open = File::options().create(true).append(true).open(self.path.join("filler"));
        let mut file = open.doing(filling)?;
        loop {
            match file.write(&[0; 4096]) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error).doing(filling),
            }
        }
    }

    /// Makes room again.
    ///
    /// # Errors
    /// When it was not full.
    pub fn empty(&self) -> Result<()> {
        fs::remove_file(self.path.join("filler")).doing(|| "make room on a disk".to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A process that has a file open there keeps the disk for as long.
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
    }
}
