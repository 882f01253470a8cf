//! Errors as the CNI specification has them: a number and a text on standard output.

use serde::Serialize;

/// What kind of error it is, by the numbers of the specification.
///
/// <https://github.com/containernetworking/cni/blob/v1.1.0/SPEC.md#error>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The version of the configuration is none that this plugin speaks.
    IncompatibleVersion = 1,
    /// The container is not known, or has other addresses.
    UnknownContainer = 3,
    /// A variable of the environment is missing or wrong.
    InvalidEnvironment = 4,
    /// The configuration could not be read.
    Io = 5,
    /// The configuration is not the JSON that is expected.
    Decode = 6,
    /// The configuration has a wrong value.
    InvalidConfiguration = 7,
    /// It may work later: the runtime is to try again.
    TryAgain = 11,
}

/// An error for the runtime, and by it for the operator: kubelet shows it as an Event
/// of the pod.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Its number.
    pub code: Code,
    /// What was wrong, what happens now and what to do.
    pub message: String,
}

impl Error {
    /// An error.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// An error with the version of the specification that the runtime speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The version in the configuration; the newest where it is not known.
    pub version: String,
    /// The error.
    pub error: Error,
}

impl Failure {
    /// The JSON that the specification wants on standard output.
    #[must_use]
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Json<'a> {
            cni_version: &'a str,
            code: u8,
            msg: &'a str,
        }
        let json = Json { cni_version: &self.version, code: self.error.code as u8, msg: &self.error.message };
        serde_json::to_string(&json).unwrap_or_default()
    }
}
