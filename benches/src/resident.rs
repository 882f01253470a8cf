//! How much memory and processor a process has, as the kernel counts them.

use std::{fs, io};

/// The memory of a process, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Resident {
    /// What is resident now.
    pub now: u64,
    /// What of that is the process's own, and no pages of files.
    pub own: u64,
    /// The most that ever was resident.
    pub peak: u64,
}

impl Resident {
    /// Reads the resident memory of a process.
    ///
    /// # Errors
    /// If there is none of this number.
    pub fn of(process: u32) -> io::Result<Self> {
        Ok(Self::read(&fs::read_to_string(format!("/proc/{process}/status"))?))
    }

    fn read(status: &str) -> Self {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let kilobytes = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
            kilobytes.unwrap_or_default() * 1024
        };
        Self { now: field("VmRSS"), own: field("RssAnon"), peak: field("VmHWM") }
    }
}

fn of_this() -> Resident {
    Resident::read(&fs::read_to_string("/proc/self/status").unwrap_or_default())
}

/// What is resident of this process now.
#[must_use]
pub fn now() -> u64 {
    of_this().now
}

/// The most that ever was of this process.
#[must_use]
pub fn peak() -> u64 {
    of_this().peak
}

/// The time that a process and those that it waited for were on a processor, in seconds. The
/// kernel counts in hundredths.
///
/// # Errors
/// If there is none of this number.
pub fn cpu_seconds(process: u32) -> io::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields = stat.rsplit_once(") ").map(|(_, fields)| fields).unwrap_or_default();
    let ticks: u32 = fields.split(' ').skip(11).take(4).filter_map(|field| field.parse::<u32>().ok()).sum();
    // USER_HZ is always 100; the kernel's own clock does not change it.
    Ok(f64::from(ticks) / 100.0)
}
