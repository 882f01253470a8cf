//! Why a cluster cannot be listed, and what its reader can do.

use kube::Resource;

use super::ListSettings;
use crate::source::kube::connection::failure::Failure;
use crate::source::kube::{unreachable, words};
use crate::words::rounded::rounded;

/// Why a cluster cannot be read. The text has the cause in it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    message: String,
}

impl Error {
    /// What happened and what to do, in one sentence.
    pub(super) fn of<K: Resource<DynamicType = ()>>(failure: &Failure, settings: &ListSettings) -> Self {
        let what = K::plural(&());
        let cause = words(failure);
        let message = match (failure, failure.code()) {
            (Failure::NoAnswer(timeout), _) => format!(
                "the API server did not answer within {}, when asked for {what}; ask again, or wait longer with \
                 --request-timeout",
                rounded(*timeout)
            ),
            (_, Some(401)) => {
                format!("the API server rejected your credentials: {cause}; log in again, as for kubectl")
            }
            (_, Some(403)) => {
                let names: Vec<&str> = settings.namespaces().collect();
                let noun = if names.len() == 1 { "namespace" } else { "any of the namespaces" };
                format!(
                    "cannot list {what} in all namespaces, nor in {noun} {}: {cause}; ask for the right to list \
                     them there, or name another namespace with -n",
                    names.join(", ")
                )
            }
            (Failure::Request(error), None) => match refused(error) {
                _ if unreachable::is_at_proxy(error) => format!("the API server cannot be reached: {cause}"),
                Some(kind) => format!("the API server cannot be reached: {kind}"),
                None => format!("cannot list {what}: {cause}"),
            },
            _ => format!("cannot list {what}: {cause}"),
        };
        Self { message }
    }
}

/// The error of the operating system at the end of a chain of causes, in its own words.
fn refused(error: &(dyn std::error::Error + 'static)) -> Option<std::io::ErrorKind> {
    let mut cause = Some(error);
    let mut kind = None;
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            kind = Some(error.kind());
        }
        cause = error.source();
    }
    // What it does not name is in the text of the error.
    kind.filter(|kind| !matches!(kind, std::io::ErrorKind::Other) && !format!("{kind}").contains("uncategorized"))
}
