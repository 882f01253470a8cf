//! Endpoints as people name them: `[NS/][TYPE/]NAME[:PORT]`, addresses and
//! prefixes, `svc/NAME`, `node/NAME`, `ns/NAME`, `any`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use npc_compiler::algebra::cidr::Cidr;
use npc_compiler::cluster::PodId;
use npc_compiler::object::{Service, parse_address};
use npc_compiler::verdict::explain::{Port, Target};

use super::input::Input;
use super::{Exit, Stop};

/// An endpoint as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    text: String,
    what: What,
    pub(super) port: Option<Port>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Any,
    Address(IpAddr),
    Block(Cidr),
    /// Namespace, type and name, as far as they were said.
    Object(Option<String>, Option<&'static str>, String),
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

/// The types of endpoints: their names for `TYPE/`, short ones first, and the
/// kind.
const TYPES: [(&[&str], &str); 12] = [
    (&["po", "pod", "pods"], "Pod"),
    (&["deploy", "deployment", "deployments"], "Deployment"),
    (&["sts", "statefulset", "statefulsets"], "StatefulSet"),
    (&["ds", "daemonset", "daemonsets"], "DaemonSet"),
    (&["rs", "replicaset", "replicasets"], "ReplicaSet"),
    (&["rc", "replicationcontroller", "replicationcontrollers"], "ReplicationController"),
    (&["job", "jobs"], "Job"),
    (&["cj", "cronjob", "cronjobs"], "CronJob"),
    (&["svc", "service", "services"], "Service"),
    (&["no", "node", "nodes"], "Node"),
    (&["ns", "namespace", "namespaces"], "Namespace"),
    (&["workload"], "Workload"),
];

fn kind_of_type(text: &str) -> Option<&'static str> {
    TYPES.iter().find(|(names, _)| names.contains(&text.to_ascii_lowercase().as_str())).map(|(_, kind)| *kind)
}

/// A kind as it is shown: `deploy`.
pub(super) fn short_kind(kind: &str) -> String {
    match kind {
        "Pod" => "pod".to_owned(),
        _ => (TYPES.iter().find(|(_, of)| *of == kind))
            .map_or_else(|| kind.to_lowercase(), |(names, _)| names[0].to_owned()),
    }
}

impl std::str::FromStr for Written {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (what, port) = match addresses(text)? {
            Some((what, port)) => (what, port),
            None => {
                let (name, port) = match text.split_once(':') {
                    Some((name, port)) => (name, Some(port)),
                    None => (text, None),
                };
                (object(name)?, port)
            }
        };
        let port = port.map(read_port).transpose()?;
        Ok(Self { text: text.to_owned(), what, port })
    }
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
    if text == "any" {
        return Ok(What::Any);
    }
    let parts: Vec<&str> = text.split('/').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err(format!("{text:?} names no endpoint; write [NS/][TYPE/]NAME[:PORT], or an address"));
    }
    let unknown =
        |kind: &str| format!("{kind:?} is no type of endpoint; say deploy, sts, ds, job, pod, svc, node or ns");
    Ok(match *parts.as_slice() {
        [name] => What::Object(None, None, name.to_owned()),
        [first, name] => match kind_of_type(first) {
            Some(kind) => What::Object(None, Some(kind), name.to_owned()),
            None => What::Object(Some(first.to_owned()), None, name.to_owned()),
        },
        [namespace, kind, name] => {
            let kind = kind_of_type(kind).ok_or_else(|| unknown(kind))?;
            What::Object(Some(namespace.to_owned()), Some(kind), name.to_owned())
        }
        _ => return Err(format!("{text:?} has too many parts; write [NS/][TYPE/]NAME[:PORT]")),
    })
}

fn read_port(text: &str) -> Result<Port, String> {
    use npc_compiler::object::Protocol;
    let (numbers, protocol) = match text.split_once('/') {
        Some((numbers, protocol)) => {
            let protocol = Protocol::parse(&protocol.to_ascii_uppercase())
                .ok_or_else(|| format!("{protocol:?} is none of tcp, udp, sctp"))?;
            (numbers, Some(protocol))
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
        return Err(format!("{text:?} is no port; write 443, 53/udp, 8000-8100 or a port's name"));
    }
    Ok(Port::Name(numbers.to_owned()))
}

/// Something of the input that has the name that was written.
struct Found<'a> {
    kind: String,
    namespace: String,
    name: String,
    target: Target<'a>,
}

impl Found<'_> {
    fn shown(&self) -> String {
        match self.namespace.as_str() {
            "" => format!("{}/{}", short_kind(&self.kind), self.name),
            namespace => format!("{namespace}/{}/{}", short_kind(&self.kind), self.name),
        }
    }
}

impl Written {
    /// What it stands for in the input.
    pub(super) fn resolve<'a>(&self, input: &'a Input, default_namespace: &str) -> anyhow::Result<Resolved<'a>> {
        let port = self.port.clone();
        let (name, target) = match &self.what {
            What::Any => ("any".to_owned(), Target::Any),
            What::Address(address) => match service_at(input, *address) {
                Some(service) => (format!("{}/svc/{}", service.namespace, service.name), Target::Service(service)),
                None => (address.to_string(), Target::Address(*address)),
            },
            What::Block(cidr) => (cidr.network().to_string(), Target::Blocks(vec![*cidr])),
            What::Object(namespace, kind, name) => {
                let found = self.find(input, namespace.as_deref().unwrap_or(default_namespace), *kind, name)?;
                (found.shown(), found.target)
            }
        };
        Ok(Resolved { name, target, port })
    }

    /// The one object that is meant, or why there is none.
    fn find<'a>(
        &self,
        input: &'a Input,
        namespace: &str,
        kind: Option<&'static str>,
        name: &str,
    ) -> Result<Found<'a>, Stop> {
        let everything = everything(input);
        let is_scoped = |found: &Found<'_>| !found.namespace.is_empty();
        let fits = |found: &Found<'_>| match kind {
            // Without a type, what runs: a service or namespace is asked for
            // by its type.
            None => !matches!(found.kind.as_str(), "Service" | "Node" | "Namespace"),
            Some("Workload") => !matches!(found.kind.as_str(), "Service" | "Node" | "Namespace" | "Pod"),
            Some(kind) => found.kind == kind,
        };
        let here = |found: &Found<'_>| !is_scoped(found) || found.namespace == namespace;
        let (mut found, others): (Vec<Found<'_>>, Vec<Found<'_>>) =
            everything.into_iter().partition(|found| found.name == name && here(found) && fits(found));
        if found.len() == 1 {
            return Ok(found.swap_remove(0));
        }
        let ambiguous = !found.is_empty();
        let fits_idle = |of: &str| kind.is_none_or(|kind| kind == "Workload" || kind == of);
        let mut idle = input.loaded.idle.iter();
        if !ambiguous
            && let Some(idle) = idle.find(|o| o.namespace == namespace && o.name == name && fits_idle(&o.kind))
        {
            let number = if idle.kind == "Job" { "parallelism" } else { "replicas" };
            let shown = format!("{namespace}/{}/{name}", short_kind(&idle.kind));
            let message = format!("{shown} has no pods to ask about: its {number} is 0");
            return Err(Stop::new(Exit::NotFound, message));
        }
        let candidates: BTreeSet<String> = if ambiguous {
            found.iter().map(Found::shown).collect()
        } else {
            let same = others.iter().filter(|other| other.name == name);
            let close = others.iter().filter(|other| here(other) && fits(other) && similar(&other.name, name));
            same.chain(close).map(Found::shown).collect()
        };
        let mut message = if ambiguous {
            format!("{:?} is ambiguous; say which", self.text)
        } else {
            let kind = kind.map_or("workload or pod".to_owned(), str::to_lowercase);
            let scope = if matches!(kind.as_str(), "node" | "namespace") {
                String::new()
            } else {
                format!(" in namespace {namespace}")
            };
            let no = format!("there is no {kind} {name:?}{scope}");
            if candidates.is_empty() { no } else { format!("{no}; did you mean") }
        };
        for (i, candidate) in candidates.iter().take(8).enumerate() {
            message.push_str(if i == 0 { ": " } else { ", " });
            message.push_str(candidate);
        }
        Err(Stop::new(Exit::NotFound, message))
    }
}

fn service_at(input: &Input, address: IpAddr) -> Option<&Service> {
    input.loaded.objects.services.iter().find(|service| service.addresses.contains(&address))
}

/// All that can be an endpoint.
fn everything(input: &Input) -> Vec<Found<'_>> {
    let cluster = &input.cluster;
    let mut all: Vec<Found<'_>> = Vec::new();
    let mut workloads = std::collections::BTreeMap::<(String, String, String), Vec<PodId>>::new();
    let mut namespaces = std::collections::BTreeMap::<String, Vec<PodId>>::new();
    for (id, pod) in cluster.named() {
        namespaces.entry(pod.namespace.clone()).or_default().push(id);
        if let Some(workload) = &pod.workload {
            let key = (pod.namespace.clone(), workload.kind.clone(), workload.name.clone());
            workloads.entry(key).or_default().push(id);
        }
        if !pod.is_template() {
            let (namespace, name) = (pod.namespace.clone(), pod.name.clone());
            all.push(Found { kind: "Pod".to_owned(), namespace, name, target: Target::Pod(id) });
        }
    }
    all.extend(workloads.into_iter().map(|((namespace, kind, name), pods)| Found {
        kind,
        namespace,
        name,
        target: Target::Pods(pods),
    }));
    all.extend(input.loaded.objects.services.iter().map(|service| Found {
        kind: "Service".to_owned(),
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        target: Target::Service(service),
    }));
    all.extend(namespaces.into_iter().map(|(name, pods)| Found {
        kind: "Namespace".to_owned(),
        namespace: String::new(),
        name,
        target: Target::Pods(pods),
    }));
    all.extend(cluster.nodes().iter().map(|(name, addresses)| Found {
        kind: "Node".to_owned(),
        namespace: String::new(),
        name: name.clone(),
        target: Target::Node { name: name.clone(), addresses: addresses.iter().copied().collect() },
    }));
    all
}

/// Whether two names are a slip or two apart.
fn similar(a: &str, b: &str) -> bool {
    if a.starts_with(b) || b.starts_with(a) {
        return true;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()] <= 2
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
                    What::Address(address) => format!("address {address}"),
                    What::Block(cidr) => format!("block {}", cidr.network()),
                    What::Object(namespace, kind, name) => {
                        format!("{}/{}/{name}", namespace.as_deref().unwrap_or("-"), kind.unwrap_or("-"))
                    }
                };
                match port {
                    None => what,
                    Some(Port::Name(name)) => format!("{what} port {name}"),
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
            ("api:90-80", "refused"),
            ("/api", "refused"),
            ("[2001:db8::1", "refused"),
        ] {
            assert_eq!(read(text), meaning, "{text}");
        }
    }
}
