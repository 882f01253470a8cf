//! Why a list or a watch ended before its time, and what that means for the next try.

use std::error::Error as _;
use std::time::Duration;

use kube::core::Status;

use crate::words::rounded::rounded;

/// Why a try ended before its time.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum Failure {
    /// The API server could not be asked, or it refused.
    #[error("{}", crate::source::kube::words(.0))]
    Request(#[from] kube::Error),
    /// The API server accepted, and refused inside its answer.
    #[error("{0}")]
    Refused(Box<Status>),
    /// The answer did not begin.
    #[error("the API server did not answer for {}", rounded(*.0))]
    NoAnswer(Duration),
    /// The watch ended at once.
    #[error("the API server ended the watch after {}", rounded(*.0))]
    Short(Duration),
    /// A streamed list ended before it was complete.
    #[error("the API server ended the list before it was complete")]
    Incomplete,
    /// A page leads to itself, or holds nothing and leads on.
    #[error("the API server's list has no end: a page without objects, or the same page again")]
    Endless,
    /// The answer is something else than a list.
    #[error("the API server did not send a list: {0}")]
    NoList(String),
    /// Nothing came for longer than a watch lasts.
    #[error("the connection was silent for {}", rounded(*.0))]
    Silent(Duration),
    /// Without it there is nothing to watch from.
    #[error("the API server sent a list or an object without metadata.resourceVersion")]
    NoVersion,
}

impl Failure {
    pub(in super::super) fn code(&self) -> Option<u16> {
        match self {
            Self::Request(kube::Error::Api(status)) | Self::Refused(status) => Some(status.code),
            _ => None,
        }
    }

    /// Whether the next try may go well: the server was not reached, broke off, has too much to do,
    /// or failed.
    pub(in super::super) fn is_passing(&self) -> bool {
        match self.code() {
            Some(code) => matches!(code, 408 | 410 | 429 | 500..),
            None => true,
        }
    }

    /// Whether the API server answered, and refused.
    pub(in super::super) fn is_refusal(&self) -> bool {
        matches!(self.code(), Some(401 | 403))
    }

    /// Whether the server has nothing from where the watch was to go on: the version is
    /// too long ago (410), no version to it (400), or of another store (504).
    pub(in super::super) fn asks_for_list(&self) -> bool {
        let is_too_large = || match self {
            Self::Request(kube::Error::Api(status)) | Self::Refused(status) => {
                status.message.contains("Too large resource version")
            }
            _ => false,
        };
        match self.code() {
            Some(400 | 410) => true,
            Some(504) => is_too_large(),
            _ => false,
        }
    }

    /// Whether no server answered at all.
    pub(in super::super) fn is_unreachable(&self) -> bool {
        match self {
            Self::Request(error) => !matches!(error, kube::Error::Api(_) | kube::Error::SerdeError(_)),
            Self::NoAnswer(_) => true,
            _ => false,
        }
    }

    /// Whether the API server did not do what it was asked: it did not answer, or it
    /// refused. An answer that broke off was one.
    pub(in super::super) fn is_unanswered(&self) -> bool {
        let broke_off = matches!(self, Self::Request(kube::Error::ReadEvents(_)));
        self.code().is_some() || (self.is_unreachable() && !broke_off)
    }

    /// Why the items of a list could not be read.
    pub(in super::super) fn of_list(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Self::Incomplete,
            std::io::ErrorKind::InvalidData if error.source().is_none() => Self::NoList(error.to_string()),
            _ => Self::Request(kube::Error::ReadEvents(error)),
        }
    }
}

/// Whether a body ended before its end: kube takes this for the end of a watch too.
pub(in super::super) fn is_end(error: &std::io::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let is_eof =
            error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::UnexpectedEof);
        if is_eof {
            return true;
        }
        cause = error.source();
    }
    error.to_string().contains("unexpected EOF during chunk")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_refuses_is_not_asked_again_and_one_that_fails_is() {
        let answer = |code| Failure::Refused(Status::failure("", "").with_code(code).boxed());
        for code in [408, 410, 429, 500, 502, 503, 504] {
            assert!(answer(code).is_passing(), "{code}");
        }
        for code in [400, 401, 403, 404] {
            assert!(!answer(code).is_passing(), "{code}");
        }
        assert!(Failure::Incomplete.is_passing() && Failure::NoAnswer(Duration::from_secs(1)).is_passing());
    }

    #[test]
    fn a_version_that_the_server_does_not_take_is_followed_by_a_list() {
        let answer = |code, message: &str| {
            Failure::Request(kube::Error::Api(Status::failure(message, "").with_code(code).boxed()))
        };
        assert!(answer(410, "too old resource version: 1 (7)").asks_for_list());
        assert!(answer(400, "invalid resource version").asks_for_list());
        assert!(answer(504, "Timeout: Too large resource version: 9, current: 1").asks_for_list());
        for code in [401, 403, 404, 429, 500, 503, 504] {
            assert!(!answer(code, "").asks_for_list(), "{code}");
        }
    }
}
