//! Whether the kernel has nf_tables.

use std::fs;

/// Whether nf_tables is loaded or built in, found out without loading it.
///
/// A kernel without modules has what it has, and asking loads nothing. In one
/// with modules, nf_tables is loaded or built in, or there are no nft rules.
pub(in super::super) fn nf_tables_is_loaded() -> bool {
    let Ok(modules) = fs::read_to_string("/proc/modules") else { return true };
    if modules.lines().any(|line| line.split(' ').next() == Some("nf_tables")) {
        return true;
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    match fs::read_to_string(format!("/lib/modules/{}/modules.builtin", release.trim())) {
        Ok(built_in) => built_in.lines().any(|line| line.ends_with("/nf_tables.ko")),
        // In a container without the host's /lib/modules: nft has been every
        // distribution's default for years, so asking is the smaller risk.
        Err(_) => true,
    }
}
