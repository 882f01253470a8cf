//! Endpoints as people name them ([`npc_agent::endpoint`]), and what they stand for in the input.

mod find;

pub(super) use find::names;
pub(super) use npc_agent::endpoint::short_kind;
use npc_agent::endpoint::{self, What};
use npc_compiler::verdict::explain::{Port, Target};

/// An endpoint as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    text: String,
    what: What,
    pub(super) port: Option<Port>,
}

/// What an endpoint stands for.
#[derive(Debug, Clone)]
pub(super) struct Resolved<'a> {
    /// Its name in one canonical form: `shop/deploy/api`.
    pub(super) name: String,
    /// What it is.
    pub(super) target: Target<'a>,
    /// The port that was asked for.
    pub(super) port: Option<Port>,
}

impl std::str::FromStr for Written {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (what, port) = endpoint::read(text)?;
        Ok(Self { text: text.to_owned(), what, port })
    }
}

/// A port alone, as the value of a flag.
pub(super) fn port(text: &str) -> Result<Port, String> {
    endpoint::read_port(text)
}

impl Written {
    /// The namespace, if it was said, and the name of a policy that is asked about.
    pub(super) fn policy(&self) -> Option<(Option<&str>, &str)> {
        match &self.what {
            What::Object(namespace, Some("NetworkPolicy"), name) => Some((namespace.as_deref(), name)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What an endpoint is made of, whole and in pieces.
    const TEXT: &str =
        "(\\PC|[\\[\\]:/.%0-9a-f-]|any|svc/|ns/|web|10\\.0\\.0\\.0|fd00::|::ffff:|/8|:53/udp|:1-2|:http){0,9}";

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn any_text_is_read_or_refused(text in TEXT) {
            let Ok(written) = text.parse::<Written>() else { return Ok(()) };
            match &written.port {
                Some(Port::Numbers(_, first, last)) => prop_assert!(0 < *first && first <= last),
                Some(Port::Name(name)) => prop_assert!((1..=15).contains(&name.len())),
                _ => {}
            }
            let again = match &written.what {
                What::Address(address) => format!("[{address}]"),
                What::Block(block) => format!("[{}]", block.network()),
                What::Object(namespace, _, name) => {
                    let parts = [namespace.as_deref().unwrap_or("-"), name];
                    prop_assert!(parts.iter().all(|part| !part.is_empty() && !part.contains([':', '/'])));
                    return Ok(());
                }
                _ => return Ok(()),
            };
            prop_assert_eq!(again.parse::<Written>().map(|again| again.what), Ok(written.what));
        }
    }

    fn read(text: &str) -> String {
        match text.parse::<Written>() {
            Ok(Written { what, port, .. }) => {
                let what = match what {
                    What::Any => "any".to_owned(),
                    What::Outside => "outside".to_owned(),
                    What::Address(address) => format!("address {address}"),
                    What::Block(cidr) => format!("block {}", cidr.network()),
                    What::Object(namespace, kind, name) => {
                        format!("{}/{}/{name}", namespace.as_deref().unwrap_or("-"), kind.unwrap_or("-"))
                    }
                };
                match port {
                    None => what,
                    Some(Port::Name(name)) => format!("{what} port {name}"),
                    Some(Port::Icmp) => format!("{what} ICMP"),
                    Some(Port::Numbers(protocol, first, last)) => {
                        format!("{what} {} {first}-{last}", protocol.map_or("-", |p| p.as_str()))
                    }
                }
            }
            Err(_) => "refused".to_owned(),
        }
    }

    #[test]
    fn endpoints_are_read_as_documented() {
        for (text, meaning) in [
            ("api", "-/-/api"),
            ("shop/api:8080", "shop/-/api - 8080-8080"),
            ("deploy/api:metrics", "-/Deployment/api port metrics"),
            ("shop/Deployment/api:53/udp", "shop/Deployment/api UDP 53-53"),
            ("svc/api:8000-8100", "-/Service/api - 8000-8100"),
            ("ns/shop", "-/Namespace/shop"),
            ("node/n1", "-/Node/n1"),
            ("any", "any"),
            ("outside:443", "outside - 443-443"),
            ("deployment.apps/web", "-/Deployment/web"),
            ("shop/statefulsets.v1.apps/db:tcp/5432", "shop/StatefulSet/db TCP 5432-5432"),
            ("api:icmp", "-/-/api ICMP"),
            ("api:udp/8000-8100", "-/-/api UDP 8000-8100"),
            ("api.shop.svc.cluster.local:80", "-/-/api.shop.svc.cluster.local - 80-80"),
            ("netpol/api", "-/NetworkPolicy/api"),
            ("203.0.113.7:443", "address 203.0.113.7 - 443-443"),
            ("[2001:db8::1]:443", "address 2001:db8::1 - 443-443"),
            ("2001:db8::1", "address 2001:db8::1"),
            ("10.0.0.0/8", "block 10.0.0.0/8"),
            ("10.0.0.0/8:53/udp", "block 10.0.0.0/8 UDP 53-53"),
            ("[2001:db8::/32]:443", "block 2001:db8::/32 - 443-443"),
            ("2001:db8::/32", "block 2001:db8::/32"),
            ("a/b/c/d", "refused"),
            ("shop/gadget/api", "refused"),
            ("api:", "refused"),
            ("api:0", "refused"),
            ("api:70000", "refused"),
            ("api:tcp/http", "refused"),
            ("api:ip/80", "refused"),
            ("api:90-80", "refused"),
            ("/api", "refused"),
            ("[2001:db8::1", "refused"),
        ] {
            assert_eq!(read(text), meaning, "{text}");
        }
    }
}
