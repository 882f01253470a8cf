//! Endpoints as people name them: `[NS/][TYPE/]NAME[:PORT]`, addresses and
//! prefixes, `svc/NAME`, `node/NAME`, `ns/NAME`, `any`, `outside`; and as DNS, URLs and kubectl
//! do: `NAME.NS`, `NAME.NS.svc.cluster.local`, `https://NAME.NS:8443/`, `deployment.apps/NAME`.
//!
//! This only reads the text. Commands look up what it names.

use std::net::IpAddr;

use npc_compiler::algebra::cidr::Cidr;
use npc_compiler::object::{Protocol, parse_address};
use npc_compiler::verdict::explain::Port;

/// What the text of an endpoint names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Every end.
    Any,
    /// All addresses that neither a pod nor a node has.
    Outside,
    /// One address.
    Address(IpAddr),
    /// A prefix.
    Block(Cidr),
    /// A host as URLs and resolvers name it: a Service first, where a workload has the name too.
    Host(String),
    /// Namespace, kind and name, as far as they were said. A type that npc does not know is the
    /// kind in lower case, without its API group: a Rollout makes pods too.
    Object(Option<String>, Option<String>, String),
}

/// The types of endpoints: their names for `TYPE/`, first the one that answers show, and the kind.
/// For pods and nodes that is not kubectl's shortest name, which reads like a word of the answer.
const TYPES: [(&[&str], &str); 13] = [
    (&["pod", "po", "pods"], "Pod"),
    (&["deploy", "deployment", "deployments"], "Deployment"),
    (&["sts", "statefulset", "statefulsets"], "StatefulSet"),
    (&["ds", "daemonset", "daemonsets"], "DaemonSet"),
    (&["rs", "replicaset", "replicasets"], "ReplicaSet"),
    (&["rc", "replicationcontroller", "replicationcontrollers"], "ReplicationController"),
    (&["job", "jobs"], "Job"),
    (&["cj", "cronjob", "cronjobs"], "CronJob"),
    (&["svc", "service", "services"], "Service"),
    (&["node", "no", "nodes"], "Node"),
    (&["ns", "namespace", "namespaces"], "Namespace"),
    (&["workload"], "Workload"),
    (&["netpol", "networkpolicy", "networkpolicies"], "NetworkPolicy"),
];

/// The kind of a type, which may have its API group behind it: `deployment.apps`.
fn kind_of_type(text: &str) -> Option<&'static str> {
    let lower = text.to_ascii_lowercase();
    let name = lower.split('.').next().unwrap_or_default();
    TYPES.iter().find(|(names, _)| names.contains(&name)).map(|(_, kind)| *kind)
}

/// Whether this is a kind that npc knows as a type of endpoint.
#[must_use]
pub fn is_type(kind: &str) -> bool {
    TYPES.iter().any(|(_, of)| *of == kind)
}

/// A kind as it is shown: `deploy`.
#[must_use]
pub fn short_kind(kind: &str) -> String {
    let known = TYPES.iter().find(|(_, of)| *of == kind);
    known.map_or_else(|| kind.to_lowercase(), |(names, _)| names[0].to_owned())
}

/// What a name may mean: a namespace, a kind, and a name in it.
pub type NameMeaning<'n> = (&'n str, Option<&'n str>, &'n str);

/// What an object as it was written may mean, in the order in which it is looked for.
#[must_use]
pub fn readings<'n>(
    namespace: Option<&'n str>,
    kind: Option<&'n str>,
    name: &'n str,
    default_namespace: &'n str,
) -> Vec<NameMeaning<'n>> {
    // An exact name wins over what DNS would make of it.
    let mut all = vec![(namespace.unwrap_or(default_namespace), kind, name)];
    if namespace.is_none() {
        all.extend(as_dns(name, kind));
    }
    all
}

/// What a name with dots may mean besides: `NAME.NS`, `NAME.NS.svc[.DOMAIN]` of a Service.
#[must_use]
pub fn as_dns<'a>(name: &'a str, kind: Option<&'a str>) -> Vec<NameMeaning<'a>> {
    let labels: Vec<&str> = name.trim_end_matches('.').split('.').collect();
    match labels.as_slice() {
        [name, namespace] => match kind {
            None => vec![(namespace, None, name), (namespace, Some("Service"), name)],
            kind => vec![(namespace, kind, name)],
        },
        [name, namespace, "svc", ..] => vec![(namespace, Some("Service"), name)],
        _ => Vec::new(),
    }
}

/// Reads an endpoint, and its port where one is there.
///
/// # Errors
/// What is wrong with the text, for the operator who wrote it.
pub fn read(text: &str) -> Result<(What, Option<Port>), String> {
    if let Some((scheme, rest)) = text.split_once("://") {
        return url(scheme, rest);
    }
    let (what, port) = match addresses(text)? {
        Some((what, port)) => (what, port),
        None => {
            if let Some((address, _)) = text.split_once('/')
                && parse_address(address).is_some()
                && let Err(why) = Cidr::parse(text)
            {
                return Err(format!("{text:?} is no prefix: {why}"));
            }
            let (name, port) = match text.split_once(':') {
                Some((name, port)) => (name, Some(port)),
                None => (text, None),
            };
            (object(name)?, port)
        }
    };
    Ok((what, port.map(read_port).transpose()?))
}

/// The ports that schemes of URLs mean.
const SCHEMES: [(&str, u16); 11] = [
    ("http", 80),
    ("ws", 80),
    ("https", 443),
    ("wss", 443),
    ("postgres", 5432),
    ("postgresql", 5432),
    ("mysql", 3306),
    ("redis", 6379),
    ("mongodb", 27017),
    ("amqp", 5672),
    ("ldap", 389),
];

/// Reads the host and port of a URL, as a client is configured with it.
fn url(scheme: &str, rest: &str) -> Result<(What, Option<Port>), String> {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (what, port) = match addresses(host)? {
        Some((what @ What::Address(_), port)) => (what, port),
        Some(_) => return Err(format!("\"{host}\" is no host of a URL")),
        None => {
            let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
            (self::host(name)?, port)
        }
    };
    let by_scheme = SCHEMES.iter().find(|(name, _)| scheme.eq_ignore_ascii_case(name));
    let by_scheme = by_scheme.map(|(_, port)| Port::Numbers(None, *port, *port));
    Ok((what, port.filter(|port| !port.is_empty()).map(read_port).transpose()?.or(by_scheme)))
}

/// The name of a host, as DNS takes it.
fn host(name: &str) -> Result<What, String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_name = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if !name.split('.').all(is_name) {
        return Err(format!("{name:?} is no name of a host"));
    }
    Ok(What::Host(name.to_ascii_lowercase()))
}

/// Reads an address or prefix, and the text of the port behind it.
fn addresses(text: &str) -> Result<Option<(What, Option<&str>)>, String> {
    let one = |text: &str| -> Option<What> {
        parse_address(text).map(What::Address).or_else(|| Cidr::parse(text).ok().map(What::Block))
    };
    if let Some(rest) = text.strip_prefix('[') {
        let (inside, rest) = rest.split_once(']').ok_or("a \"]\" is missing")?;
        let what = one(inside).ok_or_else(|| format!("{inside:?} is neither an address nor a prefix"))?;
        // `[2001:db8::]/32` is how some write a prefix.
        let port = match rest.strip_prefix(':') {
            Some(port) => Some(port),
            None if rest.is_empty() => None,
            None => return Err(format!("{rest:?} after \"]\" is not a port, as in \":443\"")),
        };
        return Ok(Some((what, port)));
    }
    if let Some(what) = one(text) {
        return Ok(Some((what, None)));
    }
    Ok(text.rsplit_once(':').and_then(|(before, port)| Some((one(before)?, Some(port)))))
}

fn object(text: &str) -> Result<What, String> {
    match text {
        "any" => return Ok(What::Any),
        "outside" => return Ok(What::Outside),
        _ => {}
    }
    let parts: Vec<&str> = text.split('/').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err(format!("{text:?} names no endpoint; write [NS/][TYPE/]NAME[:PORT], or an address"));
    }
    let is_number = |label: &str| !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_digit());
    let first: Vec<&str> = parts[0].split('.').collect();
    if first.len() == 4 && first.iter().all(|label| is_number(label)) {
        return Err(format!("{text:?} is no address: each of its numbers is 0 to 255, without zeros before it"));
    }
    Ok(match *parts.as_slice() {
        // Only DNS writes the dot behind a name.
        [name] if name.ends_with('.') => host(name)?,
        [name] => What::Object(None, None, name.to_owned()),
        [first, name] => match kind_of_type(first) {
            Some(kind) => What::Object(None, Some(kind.to_owned()), name.to_owned()),
            // No namespace has a dot.
            None if first.contains('.') => What::Object(None, Some(other_kind(first)), name.to_owned()),
            None => What::Object(Some(first.to_owned()), None, name.to_owned()),
        },
        [namespace, kind, name] => {
            let is_first = kind_of_type(kind).is_none() && kind_of_type(namespace).is_some();
            if is_first {
                return Err(format!("the namespace stands before the type: write {kind}/{namespace}/{name}"));
            }
            let kind = kind_of_type(kind).map_or_else(|| other_kind(kind), str::to_owned);
            What::Object(Some(namespace.to_owned()), Some(kind), name.to_owned())
        }
        _ => return Err(format!("{text:?} has too many parts; write [NS/][TYPE/]NAME[:PORT]")),
    })
}

/// A type that npc does not know, without its API group.
fn other_kind(text: &str) -> String {
    text.split('.').next().unwrap_or_default().to_ascii_lowercase()
}

/// Reads a port: `443`, `53/udp`, `tcp/8080`, `8000-8100`, `icmp`, or a name.
///
/// # Errors
/// What is wrong with the text.
pub fn read_port(text: &str) -> Result<Port, String> {
    let protocol = |text: &str| Protocol::parse(&text.to_ascii_uppercase());
    if text.eq_ignore_ascii_case("icmp") {
        return Ok(Port::Icmp);
    }
    let (numbers, protocol) = match text.split_once('/') {
        // `tcp/8080`, as firewalls write it.
        Some((first, numbers)) if protocol(first).is_some() => (numbers, protocol(first)),
        Some((numbers, last)) => {
            (numbers, Some(protocol(last).ok_or_else(|| format!("{last:?} is none of tcp, udp, sctp"))?))
        }
        None => (text, None),
    };
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    if let Some(port) = number(numbers) {
        return Ok(Port::Numbers(protocol, port, port));
    }
    if let Some((first, last)) = numbers.split_once('-')
        && let (Some(first), Some(last)) = (number(first), number(last))
    {
        if last < first {
            return Err(format!("{first} to {last} is no range of ports"));
        }
        return Ok(Port::Numbers(protocol, first, last));
    }
    // As the API: at most 15 of these, with a letter among them.
    let is_name = numbers.len() <= 15
        && numbers.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && numbers.bytes().any(|b| b.is_ascii_lowercase());
    if !is_name || protocol.is_some() {
        return Err(format!("{text:?} is no port; write 443, 53/udp, 8000-8100, icmp or a port's name"));
    }
    Ok(Port::Name(numbers.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a text means, in words.
    fn meaning(text: &str) -> String {
        match read(text) {
            Ok((what, port)) => {
                let what = match what {
                    What::Any => "any".to_owned(),
                    What::Outside => "outside".to_owned(),
                    What::Address(address) => format!("address {address}"),
                    What::Block(cidr) => format!("block {}", cidr.network()),
                    What::Host(name) => format!("host {name}"),
                    What::Object(namespace, kind, name) => {
                        format!("{}/{}/{name}", namespace.as_deref().unwrap_or("-"), kind.as_deref().unwrap_or("-"))
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
        for (text, expected) in [
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
            ("http://api.shop/", "host api.shop - 80-80"),
            ("https://api.shop:8443/path?a=b", "host api.shop - 8443-8443"),
            ("https://user:word@api#top", "host api - 443-443"),
            ("grpc://API.shop", "host api.shop"),
            ("http://10.0.0.1:8080/", "address 10.0.0.1 - 8080-8080"),
            ("https://[2001:db8::1]/", "address 2001:db8::1 - 443-443"),
            ("api.shop.:80", "host api.shop - 80-80"),
            ("http://", "refused"),
            ("http://a b/", "refused"),
            ("http://10.0.0.0/8:80/", "address 10.0.0.0 - 80-80"),
            (".", "refused"),
            ("a/b/c/d", "refused"),
            ("shop/Rollouts.argoproj.io/api", "shop/rollouts/api"),
            ("kafkas.kafka.strimzi.io/x:9092", "-/kafkas/x - 9092-9092"),
            ("10.0.0.0/33", "refused"),
            ("010.0.0.1:80", "refused"),
            ("10.0.0.256", "refused"),
            ("1.2.3.4.example.com", "-/-/1.2.3.4.example.com"),
            ("api:", "refused"),
            ("api:0", "refused"),
            ("api:70000", "refused"),
            ("api:tcp/http", "refused"),
            ("api:ip/80", "refused"),
            ("api:90-80", "refused"),
            ("/api", "refused"),
            ("[2001:db8::1", "refused"),
        ] {
            assert_eq!(meaning(text), expected, "{text}");
        }
    }
}
