//! Policies that say by their names that they are to deny something.

/// Parts of such names.
const DENYING: [&str; 6] = ["block", "deny", "drop", "forbid", "isolat", "restrict"];

/// Whether a policy says by its name that it is to deny something.
pub(in crate::verdict::explain) fn says_that_it_denies(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    DENYING.iter().any(|part| name.contains(part)) && !name.contains("allow")
}
