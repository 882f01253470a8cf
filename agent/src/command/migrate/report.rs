//! The answer as data: `MigrationReport`.

use npc_agent::finding::{Finding, Place};
use npc_agent::source::manifests::ObjectRef;
use npc_compiler::API_VERSION;
use npc_compiler::algebra::cidr::{self, Cidr};
use npc_compiler::algebra::traffic::Traffic;
use npc_compiler::azure::{AzureReason, FlowChange, FlowDifference, FlowEnds, Flows, Model, NOTES, Placement, Share};
use npc_compiler::object::Family;
use npc_compiler::policy::Direction;
use npc_compiler::verdict::matrix::protocols;
use serde::Serialize;

use super::node::NodeKernel;
use crate::command::input::Input;
use crate::command::warning;

/// What changes when npc takes Azure NPM's place.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MigrationReport<'a> {
    api_version: &'static str,
    kind: &'static str,
    /// Where Azure NPM's jump is taken to stand.
    placement: &'static str,
    pub(super) differences: Vec<ChangedFlows>,
    pub(super) notes: Vec<Note>,
    pub(super) node: Option<&'a NodeKernel>,
    /// What is wrong with the objects.
    findings: Vec<Finding>,
    /// For people.
    warnings: Vec<String>,
    /// What was not read and may change flows: the differences lack it.
    pub(super) unknowns: Vec<String>,
}

/// Flows that change for one reason at one place.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ChangedFlows {
    pub(super) code: &'static str,
    pub(super) change: &'static str,
    pub(super) family: Family,
    pub(super) direction: Option<&'static str>,
    pub(super) policies: Vec<PolicyRef>,
    pub(super) path: Option<String>,
    pub(super) service: Option<String>,
    pub(super) location: Option<Place>,
    pub(super) explanation: &'static str,
    /// What is wrong with the field, where that is why Azure NPM does not program the policy.
    pub(super) problem: Option<String>,
    pub(super) advice: &'static str,
    source: &'static str,
    pub(super) flows: Vec<Flow>,
}

#[derive(Debug, Serialize)]
pub(super) struct PolicyRef {
    kind: &'static str,
    pub(super) namespace: String,
    pub(super) name: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Flow {
    pub(super) from: FlowSide,
    pub(super) to: FlowSide,
    /// Each source sends to itself.
    pub(super) to_itself: bool,
    traffic: Vec<Ports>,
    #[serde(skip)]
    pub(super) text: Traffic,
}

/// One side: pods by workload, and prefixes whose addresses of no pod are meant.
#[derive(Debug, Serialize)]
pub(super) struct FlowSide {
    pub(super) workloads: Vec<Workload>,
    addresses: Vec<String>,
    #[serde(skip)]
    pub(super) prefixes: Vec<Cidr>,
}

#[derive(Debug, Serialize)]
pub(super) struct Workload {
    id: String,
    #[serde(skip)]
    namespace: String,
    /// As texts have it: `NAMESPACE/NAME`.
    #[serde(skip)]
    pub(super) name: String,
    kind: String,
    pub(super) pods: usize,
    pub(super) of: usize,
}

#[derive(Debug, Serialize)]
struct Ports {
    protocol: &'static str,
    ports: Option<Vec<[u16; 2]>>,
}

#[derive(Debug, Serialize)]
pub(super) struct Note {
    pub(super) code: &'static str,
    pub(super) text: &'static str,
}

impl<'a> MigrationReport<'a> {
    pub(super) fn new(
        input: &Input,
        (model, placement): (&Model<'_>, Placement),
        differences: &[FlowDifference],
        node: Option<&'a NodeKernel>,
    ) -> Self {
        let warnings = input.with_passed_over(input.warnings.clone());
        Self {
            api_version: API_VERSION,
            kind: "MigrationReport",
            placement: match placement {
                Placement::First => "first",
                Placement::BehindKubeProxy => "behind-kube-proxy",
            },
            differences: differences.iter().map(|difference| item(input, model, difference)).collect(),
            notes: NOTES.iter().map(|note| Note { code: note.code, text: note.text }).collect(),
            node,
            findings: input.findings_with(&warnings),
            warnings: warning::texts(&warnings),
            unknowns: input.unread_policies(),
        }
    }
}

impl MigrationReport<'_> {
    /// Leaves out flows without an end in this namespace, and findings about objects of other namespaces.
    pub(super) fn keep_only(&mut self, namespace: &str) {
        let is_there = |of: &Workload| of.namespace == namespace;
        for item in &mut self.differences {
            item.flows.retain(|flow| flow.from.workloads.iter().chain(&flow.to.workloads).any(is_there));
        }
        self.differences.retain(|item| !item.flows.is_empty());
        let is_meant = |of: &ObjectRef| of.namespace.is_empty() || of.namespace == namespace;
        self.findings.retain(|finding| finding.object.as_ref().is_none_or(is_meant));
    }
}

fn item(input: &Input, model: &Model<'_>, FlowDifference { cause, flows }: &FlowDifference) -> ChangedFlows {
    let policies: Vec<PolicyRef> = (cause.policies.iter())
        .map(|id| input.cluster.policy(*id))
        .map(|policy| PolicyRef {
            kind: "NetworkPolicy",
            namespace: policy.namespace.clone(),
            name: policy.name.clone(),
        })
        .collect();
    let locate = |kind: &str, namespace: &str, name: &str, path: &str| {
        input.loaded.positions.locate(kind, namespace, name, path).as_ref().map(Place::from)
    };
    let location = match (&cause.service, policies.as_slice()) {
        (Some(service), _) => service.split_once('/').and_then(|(ns, name)| locate("Service", ns, name, "")),
        (None, [policy, ..]) => {
            locate("NetworkPolicy", &policy.namespace, &policy.name, cause.path.as_deref().unwrap_or_default())
        }
        (None, []) => None,
    };
    let refused = cause.policies.first().filter(|_| cause.reason == AzureReason::PolicyRefused);
    let problem = refused.and_then(|policy| Some(model.translation(*policy).err()?.problem.clone()));
    ChangedFlows {
        code: cause.reason.code(),
        change: match cause.change {
            FlowChange::NewlyAllowed => "NewlyAllowed",
            FlowChange::NewlyDenied => "NewlyDenied",
        },
        family: cause.family,
        direction: cause.direction.map(Direction::as_str),
        policies,
        path: cause.path.clone(),
        service: cause.service.clone(),
        location,
        explanation: cause.reason.explanation(),
        problem,
        advice: cause.reason.advice(),
        source: cause.reason.source(),
        flows: flows.iter().map(|flows| flow(cause.family, flows)).collect(),
    }
}

fn flow(family: Family, flows: &Flows) -> Flow {
    Flow {
        from: side(family, &flows.from),
        to: side(family, &flows.to),
        to_itself: flows.to_itself,
        traffic: protocols(&flows.traffic).map(|(protocol, ports)| Ports { protocol, ports }).collect(),
        text: flows.traffic.clone(),
    }
}

fn side(family: Family, ends: &FlowEnds) -> FlowSide {
    let workload = |share: &Share| Workload {
        id: format!("{}/{}/{}", share.namespace, share.kind, share.name),
        namespace: share.namespace.clone(),
        name: format!("{}/{}", share.namespace, share.name),
        kind: share.kind.clone(),
        pods: share.pods,
        of: share.of,
    };
    let networks = cidr::prefixes(family, &ends.outside);
    FlowSide {
        workloads: ends.shares.iter().map(workload).collect(),
        addresses: networks.iter().map(ToString::to_string).collect(),
        prefixes: networks.iter().map(Cidr::of_network).collect(),
    }
}
