//! Errors as one line of a log or a command.

use std::error::Error;

/// An error with its causes, each after a colon.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// What a YAML parser says is wrong, with its place. It says more: it shows lines of the file, which
/// may have credentials, and gives advice to programmers.
#[must_use]
pub fn sentence_of_parser(text: &str) -> &str {
    let sentence = text.lines().next().unwrap_or_default();
    let sentence = sentence.strip_prefix("error: ").unwrap_or(sentence);
    [", set ", "; use "].iter().fold(sentence, |sentence, advice| sentence.split(advice).next().unwrap_or_default())
}
