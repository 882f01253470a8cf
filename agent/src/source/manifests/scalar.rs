//! What an unquoted word of YAML stands for.
//!
//! kubectl and the API server read YAML 1.1 (`yes` is a boolean, `010` is
//! eight), most other tools YAML 1.2. Where the two agree a word is *sure*.
//! A lone `y` or `n` is text to nearly everyone, and to us.

/// A word without quotes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Plain {
    /// What kubectl takes it for.
    pub(super) value: Scalar,
    /// Whether YAML 1.2 takes it for the same, so that an author who
    /// meant text cannot have left out the quotes.
    pub(super) sure: bool,
}

/// The types of words.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scalar {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text,
}

impl Scalar {
    /// The type's name for people.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a boolean",
            Self::Int(_) | Self::Float(_) => "a number",
            Self::Text => "text",
        }
    }
}

/// Resolves a word as kubectl does (its YAML library is go-yaml 2).
pub(super) fn resolve(word: &str) -> Plain {
    let sure = |value| Plain { value, sure: true };
    let doubtful = |value| Plain { value, sure: false };
    match word {
        "" | "~" | "null" | "Null" | "NULL" => return sure(Scalar::Null),
        "true" | "True" | "TRUE" => return sure(Scalar::Bool(true)),
        "false" | "False" | "FALSE" => return sure(Scalar::Bool(false)),
        "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return doubtful(Scalar::Bool(true)),
        "no" | "No" | "NO" | "off" | "Off" | "OFF" => return doubtful(Scalar::Bool(false)),
        _ => {}
    }
    if !word.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return sure(Scalar::Text);
    }
    let digits = word.strip_prefix(['+', '-']).unwrap_or(word);
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0')) {
        return sure(word.parse().map_or_else(|_| Scalar::Float(word.parse().unwrap_or(f64::MAX)), Scalar::Int));
    }
    let joined: String = word.chars().filter(|c| *c != '_').collect();
    if let Some(value) = based(&joined) {
        return doubtful(Scalar::Int(value));
    }
    match decimal(&joined) {
        // `1.5` is a number to everyone; `1e3` and `080` are not.
        Some(value) if joined == word && !word.contains(['e', 'E']) && word.contains('.') && !word.starts_with('.') => {
            sure(Scalar::Float(value))
        }
        Some(value) => doubtful(Scalar::Float(value)),
        None => sure(Scalar::Text),
    }
}

/// An integer as Go's `ParseInt` with base 0 reads it: `0x`, `0o`, `0b`, a
/// leading zero for octal.
fn based(word: &str) -> Option<i64> {
    let (sign, digits) = match word.split_at_checked(1)? {
        ("-", digits) => ("-", digits),
        ("+", digits) => ("", digits),
        _ => ("", word),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, digits) = match lower.split_at_checked(2) {
        Some(("0x", digits)) => (16, digits),
        Some(("0o", digits)) => (8, digits),
        Some(("0b", digits)) => (2, digits),
        _ => match lower.strip_prefix('0') {
            Some("") => return Some(0),
            Some(digits) => (8, digits),
            None => (10, lower.as_str()),
        },
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    i64::from_str_radix(&format!("{sign}{digits}"), base).ok()
}

/// A decimal fraction: `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`.
fn decimal(word: &str) -> Option<f64> {
    let unsigned = word.strip_prefix(['+', '-']).unwrap_or(word);
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).map_or((unsigned, None), |(m, e)| (m, Some(e)));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let mantissa_fits = match mantissa.split_once('.') {
        Some((whole, fraction)) => digits(whole) && digits(fraction) && whole.len() + fraction.len() > 0,
        None => !mantissa.is_empty() && digits(mantissa),
    };
    let exponent_fits = exponent.is_none_or(|e| {
        let e = e.strip_prefix(['+', '-']).unwrap_or(e);
        !e.is_empty() && digits(e)
    });
    if mantissa_fits && exponent_fits { word.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_what_kubectl_takes_them_for() {
        let check = |word: &str, value: Scalar, sure: bool| {
            assert_eq!(resolve(word), Plain { value, sure }, "{word:?}");
        };
        check("", Scalar::Null, true);
        check("~", Scalar::Null, true);
        check("null", Scalar::Null, true);
        check("true", Scalar::Bool(true), true);
        check("FALSE", Scalar::Bool(false), true);
        check("yes", Scalar::Bool(true), false);
        check("Off", Scalar::Bool(false), false);
        check("y", Scalar::Text, true);
        check("N", Scalar::Text, true);
        check("yEs", Scalar::Text, true);
        check("80", Scalar::Int(80), true);
        check("-1", Scalar::Int(-1), true);
        check("+8", Scalar::Int(8), true);
        check("0", Scalar::Int(0), true);
        check("-0", Scalar::Int(0), true);
        check("010", Scalar::Int(8), false);
        check("080", Scalar::Float(80.0), false);
        check("0x1F", Scalar::Int(31), false);
        check("0o17", Scalar::Int(15), false);
        check("0b101", Scalar::Int(5), false);
        check("1_000", Scalar::Int(1000), false);
        check("99999999999999999999", Scalar::Float(1e20), true);
        check("1.5", Scalar::Float(1.5), true);
        check("80.0", Scalar::Float(80.0), true);
        check("1e3", Scalar::Float(1000.0), false);
        check(".5", Scalar::Float(0.5), false);
        check(".", Scalar::Text, true);
        check("-", Scalar::Text, true);
        check("+", Scalar::Text, true);
        check("0x", Scalar::Text, true);
        check("0xg", Scalar::Text, true);
        check("0-1", Scalar::Text, true);
        check("10.0.0.0/8", Scalar::Text, true);
        check("010.0.0.0/8", Scalar::Text, true);
        check("1.2.3.4", Scalar::Text, true);
        check("2026-11-03", Scalar::Text, true);
        check("1:30", Scalar::Text, true);
        check("8000-8100", Scalar::Text, true);
        check("::/0", Scalar::Text, true);
        check("http", Scalar::Text, true);
        check("1é", Scalar::Text, true);
        check("é", Scalar::Text, true);
    }
}
