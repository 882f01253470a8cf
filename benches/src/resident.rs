//! How much memory this process has, as the kernel counts it.

use std::fs;

/// The value of a field of `/proc/self/status`, in bytes.
fn field(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kilobytes = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kilobytes.unwrap_or_default() * 1024
}

/// What is resident now.
#[must_use]
pub fn now() -> u64 {
    field("VmRSS")
}

/// The most that ever was.
#[must_use]
pub fn peak() -> u64 {
    field("VmHWM")
}
