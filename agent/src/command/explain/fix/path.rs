//! Paths of the operations of a JSON patch, as the API writes paths.

use json_patch::PatchOperation;
use json_patch::jsonptr::Token;

/// The path of an operation as the API writes it; without its last part, the path of the
/// list or map that it is in.
pub(super) fn path_of(operation: &PatchOperation, is_whole: bool) -> String {
    field_path(&tokens(operation, is_whole))
}

/// The keys and indexes of the path of an operation; without the last, those of the list or map that it is in.
pub(super) fn tokens(operation: &PatchOperation, is_whole: bool) -> Vec<String> {
    let mut tokens: Vec<String> = operation.path().tokens().map(|token| token.decoded().into_owned()).collect();
    tokens.truncate(if is_whole { tokens.len() } else { tokens.len().saturating_sub(1) });
    tokens
}

/// Keys and indexes as the API writes a path: `spec.ingress[0]`.
pub(super) fn field_path<T: AsRef<str>>(tokens: &[T]) -> String {
    tokens.iter().map(AsRef::as_ref).fold(String::new(), |path, token| {
        let is_index = !token.is_empty() && token.chars().all(|c| c.is_ascii_digit());
        match (path.is_empty(), is_index) {
            (true, _) => token.to_owned(),
            (_, true) => format!("{path}[{token}]"),
            (_, false) => format!("{path}.{token}"),
        }
    })
}

/// Whether the last token of a path means the end of a list.
pub(super) fn is_end(token: Option<&Token<'_>>) -> bool {
    token.is_some_and(|token| token.decoded() == "-")
}
