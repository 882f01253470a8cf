//! What the API server's validation takes as names and labels, where an object from a file
//! may have something else.
//!
//! Source: `staging/src/k8s.io/apimachinery/pkg/util/validation/validation.go` of Kubernetes.

/// What is wrong with a port's name, and what may have been meant.
#[must_use]
pub fn wrong_port_name(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("the name is empty; write a number, or leave the port out for all ports".to_owned());
    }
    if name.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(format!("\"{name}\" in quotes is a port's name, and no valid one; write {name} without quotes"));
    }
    if let Some((first, last)) = name.split_once('-')
        && let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>())
    {
        return Some(format!("\"{name}\" is no range of ports; write port: {first} and endPort: {last}"));
    }
    if name.len() > 15 {
        return Some(format!("\"{name}\" is no port's name: a name has at most 15 characters"));
    }
    let is_ok = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_name = name.bytes().all(is_ok)
        && name.bytes().any(|byte| byte.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--");
    (!is_name).then(|| {
        format!(
            "\"{name}\" is no port's name: it has lower-case letters, digits and single \"-\" inside, at least one letter"
        )
    })
}

/// What is wrong with the key of a label.
#[must_use]
pub fn wrong_label_key(key: &str) -> Option<String> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let is_ok = prefix.is_none_or(is_subdomain) && !name.is_empty() && is_label_text(name);
    (!is_ok).then(|| {
        format!(
            "\"{key}\" is no label key: a name of at most 63 letters, digits, \"-\", \"_\" and \".\", after an optional \
             DNS name and \"/\""
        )
    })
}

/// What is wrong with the value of a label.
#[must_use]
pub fn wrong_label_value(value: &str) -> Option<String> {
    (!is_label_text(value)).then(|| {
        format!(
            "\"{value}\" is no label value: at most 63 letters, digits, \"-\", \"_\" and \".\", with a letter or digit at \
             both ends"
        )
    })
}

/// What is wrong with the name of an object that is a DNS name.
#[must_use]
pub fn wrong_name(name: &str) -> Option<String> {
    (!is_subdomain(name)).then(|| {
        format!(
            "\"{name}\" is no name: lower-case letters, digits, \"-\" and \".\", with a letter or digit at both ends"
        )
    })
}

/// What is wrong with the beginning of a name, to which the API server adds letters and digits
/// (`metadata.generateName`).
#[must_use]
pub fn wrong_name_prefix(prefix: &str) -> Option<String> {
    (!is_subdomain(&format!("{prefix}a"))).then(|| {
        format!("names that begin with \"{prefix}\" are none: lower-case letters, digits, \"-\" and \".\", with a letter or digit first")
    })
}

/// What is wrong with the name of a namespace, which is a DNS label.
#[must_use]
pub fn wrong_namespace(name: &str) -> Option<String> {
    let is_ok = name.len() <= 63 && !name.contains('.') && is_subdomain(name);
    (!is_ok).then(|| {
        format!(
            "\"{name}\" is no name of a namespace: at most 63 lower-case letters, digits and \"-\", with a letter or digit \
             at both ends"
        )
    })
}

/// Whether a text may be the value of a label; the empty one may.
fn is_label_text(text: &str) -> bool {
    let is_end = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
        && is_end(bytes.first())
        && is_end(bytes.last())
}

fn is_subdomain(text: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_no_name_is_said_with_what_was_meant() {
        for (name, part) in [
            ("8080", "write 8080 without quotes"),
            ("", "empty"),
            ("8000-8100", "port: 8000 and endPort: 8100"),
            ("sixteen-letters-", "at most 15"),
            ("HTTP", "lower-case"),
            ("-a", "lower-case"),
            ("a--b", "lower-case"),
            ("1-", "lower-case"),
        ] {
            assert!(wrong_port_name(name).is_some_and(|text| text.contains(part)), "{name}");
        }
        for name in ["http", "a", "8080-tcp", "fifteen-letters"] {
            assert_eq!(wrong_port_name(name), None);
        }
    }

    #[test]
    fn labels_are_what_the_api_server_takes() {
        for value in ["", "a", "A_b.c-1", &"x".repeat(63)] {
            assert_eq!(wrong_label_value(value), None, "{value}");
        }
        for value in ["not a value", "-a", "a.", &"x".repeat(64), "ä"] {
            assert!(wrong_label_value(value).is_some(), "{value}");
        }
        for key in ["app", "app.kubernetes.io/name", "a/B_c"] {
            assert_eq!(wrong_label_key(key), None, "{key}");
        }
        for key in ["", "a/b/c", "/a", "a/", "A.b/c", "with space"] {
            assert!(wrong_label_key(key).is_some(), "{key}");
        }
        for name in ["shop.eu", "Shop", "-a", &"x".repeat(64)] {
            assert!(wrong_namespace(name).is_some(), "{name}");
        }
        assert_eq!(wrong_namespace("shop-1"), None);
        assert!(wrong_name("Default Deny").is_some() && wrong_name("default-deny.v1").is_none());
    }
}
