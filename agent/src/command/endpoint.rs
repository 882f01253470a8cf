//! Endpoints as people name them ([`npc_agent::endpoint`]), and what they stand for in the input.

mod find;
mod missing;
mod named_target;
mod operated;

pub(super) use missing::{check_namespace, no_namespace};
pub(super) use named_target::names;
pub(super) use npc_agent::endpoint::short_kind;
use npc_agent::endpoint::{self, What};
use npc_compiler::cluster::{Cluster, PodId};
use npc_compiler::verdict::explain::{Port, QuestionEnd};

use super::input::{NamedEnds, NamedObject};

/// An endpoint as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EndpointText {
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
    pub(super) target: QuestionEnd<'a>,
    /// The port that was asked for.
    pub(super) port: Option<Port>,
}

impl std::str::FromStr for EndpointText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (what, port) = endpoint::read(text)?;
        Ok(Self { text: text.to_owned(), what, port })
    }
}

/// Whether a target stands for hostNetwork pods alone.
pub(super) fn is_of_hosts(cluster: &Cluster, target: &QuestionEnd<'_>) -> bool {
    let is_host = |pod: &PodId| cluster.pod(*pod).host_network;
    match target {
        QuestionEnd::Pod(pod) => is_host(pod),
        QuestionEnd::Pods(pods) | QuestionEnd::Namespace { pods, .. } => !pods.is_empty() && pods.iter().all(is_host),
        _ => false,
    }
}

/// A port alone, as the value of a flag.
pub(super) fn port(text: &str) -> Result<Port, String> {
    endpoint::read_port(text)
}

impl EndpointText {
    /// As it was written.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// What these ends name.
    pub(super) fn names<'a>(ends: impl IntoIterator<Item = &'a Self>) -> NamedEnds<'a> {
        let mut named = NamedEnds::default();
        for end in ends {
            match &end.what {
                What::Object(namespace, kind, name) => {
                    let (namespace, kind) = (namespace.as_deref(), kind.as_deref());
                    named.objects.push(NamedObject { namespace, kind, name });
                }
                What::Host(name) => named.hosts.push(name),
                What::Any | What::Outside | What::Address(_) | What::Block(_) => {}
            }
        }
        named
    }

    /// That pods were meant by a name such as `api.shop` that is a Service's too, and how to mean that.
    pub(super) fn beside_service(&self, cluster: &Cluster, resolved: &Resolved<'_>) -> Option<String> {
        let What::Object(None, None, name) = &self.what else { return None };
        let (service, namespace) = name.split_once('.')?;
        let is_of_pods = matches!(resolved.target, QuestionEnd::Pod(_) | QuestionEnd::Pods(_));
        cluster.service(namespace, service).filter(|_| is_of_pods)?;
        Some(format!("{name} stands for {} here; svc/{name} is the Service of this name", resolved.name))
    }

    /// The namespace, if it was said, and the name of a policy that is asked about.
    pub(super) fn policy(&self) -> Option<(Option<&str>, &str)> {
        match &self.what {
            What::Object(namespace, Some(kind), name) if kind == "NetworkPolicy" => Some((namespace.as_deref(), name)),
            _ => None,
        }
    }
}
