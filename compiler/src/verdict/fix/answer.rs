//! What the search for a fix answers.

use super::change::{Change, ObjectName};
use super::difference::Opened;
use super::rollout::TemplateReach;
use crate::algebra::traffic::Traffic;
use crate::object::{Labels, Protocol};
use crate::verdict::explain::{EndName, NotForwarded, ReasonCode};

/// Changes that together turn a denied flow to ALLOWED.
#[derive(Debug, Clone)]
pub struct Fix {
    /// The changes, to be applied in this order; one for each direction that denies, but for a new policy for
    /// both.
    pub changes: Vec<Change>,
    /// Changes that mend what the denial names, and are not proposed because they close something.
    pub closing: Vec<Closing>,
    /// Changes that mend what the denial names, and are not proposed because they open much more.
    pub wider: Vec<Wider>,
    /// What they open besides, between two pods, or a pod and addresses.
    pub opens: Vec<Opened>,
    /// What they close: a label in its right place does, where policies select by it, and a port in whose place
    /// another one is put.
    pub closes: Vec<Opened>,
    /// The Services, by namespace and name, that get pods as backends by a label of the changes.
    pub backend_of: Vec<(String, String)>,
    /// A targetPort that no pod behind the Service declares: it may be wrong, and then nothing answers.
    pub undeclared_target: Option<UndeclaredTarget>,
}

impl Fix {
    /// Whether it closes nothing but ports on which nothing listens.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        closes_no_listener(&self.closes, self.changes.iter())
    }

    /// What its changes take from rules because nothing listens there.
    #[must_use]
    pub fn gives_up(&self) -> Traffic {
        given_up(self.changes.iter())
    }
}

/// Whether all that changes close is what they give up.
pub(super) fn closes_no_listener<'c>(closes: &[Opened], changes: impl Iterator<Item = &'c Change>) -> bool {
    closes.is_empty() || {
        let given_up = given_up(changes);
        closes.iter().all(|of| of.traffic.difference(&given_up).is_none())
    }
}

fn given_up<'c>(changes: impl Iterator<Item = &'c Change>) -> Traffic {
    changes.fold(Traffic::none(), |all, change| all.union(&change.adds.gives_up))
}

/// A change that would admit a flow, and what it would close.
#[derive(Debug, Clone)]
pub struct Closing {
    /// The change.
    pub change: Change,
    /// What it would close.
    pub closes: Vec<Opened>,
}

/// A change that would admit a flow, and what else it would open.
#[derive(Debug, Clone)]
pub struct Wider {
    /// The change.
    pub change: Change,
    /// What else it would open.
    pub opens: Vec<Opened>,
}

/// The answer for one flow, or for two that say the same of both families. The fixes of one answer are
/// applied in the order in which they stand: each was found and checked after those before it.
#[derive(Debug, Clone)]
pub struct FlowFix {
    /// The places of the flows among [`FlowExplanation::flows`](crate::verdict::explain::FlowExplanation::flows).
    pub flows: Vec<usize>,
    /// The fix, or why there is none.
    pub fix: Result<Fix, NoFix>,
}

/// Why there is no fix.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum NoFix {
    /// The flow stands for more pairs of ends than this, or is answered by classes of ends.
    TooManyPairs(usize),
    /// All ports of a protocol were asked about, so that a rule for them is no small change.
    TooManyPorts,
    /// More ports and ranges were asked about than this.
    TooManyRanges(usize),
    /// Only a rule without ports admits ICMP, and it admits everything else too.
    Icmp,
    /// The input does not say the other end's address.
    NoAddress,
    /// The pods of this end have no label in common that a selector could ask for: their
    /// namespace, and the name of one.
    NoLabel(String, String),
    /// The same, and they have labels that their controller adds, which change with every Job or rollout.
    PassingLabels(String, String),
    /// One rule cannot name all ends that are meant.
    ManyEnds,
    /// A node with isolated pods forwards nothing from or to this end. Policies cannot change that.
    NotForwarded(Box<EndName>, NotForwarded),
    /// The other ends are addresses, more than this.
    ManyAddresses(usize),
    /// Every address was asked about; a rule for them admits everyone.
    EveryAddress,
    /// The other end is a hostNetwork pod, and may be on any of this many, which are too many to
    /// name.
    ManyNodes(usize),
    /// A node puts its own address in place of the client's, so that a rule with this address
    /// would admit every client: the namespace and name of the Service.
    NodeAddress(Option<(String, String)>),
    /// The rule, or the policy, that denies has a part that was not understood. It has to be mended
    /// first; the API server refuses a patch of an object with such a part.
    Finding {
        /// The policy: its namespace and name.
        policy: (String, String),
        /// As in [`Finding::path`].
        ///
        /// [`Finding::path`]: crate::policy::finding::Finding::path
        path: String,
    },
    /// The policy that denies has rules that would admit the flow, and there is no room for them: its
    /// namespace and name.
    PolicyTooLarge(String, String),
    /// The port that was asked for is that of a Service; the pods listen on another one.
    ServicePort {
        /// The Service: its namespace and name.
        service: (String, String),
        /// Its port.
        port: u16,
        /// The port of its pods.
        of_pods: u16,
    },
    /// A headless Service was asked by a port that its pods do not listen on, and it translates none.
    HeadlessPort {
        /// The Service: its namespace and name.
        service: (String, String),
        /// The port that was asked for.
        port: u16,
        /// The port of its pods, which its targetPort names.
        of_pods: u16,
    },
    /// Fixes of this many other flows of the same answer were looked for, and not this one.
    NotTried(usize),
    /// The targetPort of the Service seems to be wrong.
    TargetPort {
        /// The Service: its namespace and name.
        service: (String, String),
        /// The protocol of its port.
        protocol: Protocol,
        /// Its port.
        port: u16,
        /// The targetPort, which none of its pods declares.
        target: u16,
        /// The ports that its pods declare and policies admit, sorted.
        declared: Vec<DeclaredPort>,
    },
    /// The rule asks for a port by a name, and the pods declare the port that was asked for without one.
    PortWithoutName {
        /// The workload, or the pod.
        object: ObjectName,
        /// The name.
        name: String,
        /// The protocol of the port.
        protocol: Protocol,
        /// Its number.
        port: u16,
    },
    /// The template of the workload has the labels already, and its pods were made after an older one.
    NewerTemplate {
        /// The workload.
        object: ObjectName,
        /// The labels of the template that the pods lack.
        labels: Labels,
        /// What brings the template to the pods.
        reach: TemplateReach,
    },
    /// The label that the rule asks for stands on the workload and not in its template, which
    /// cannot change: that of a Job.
    LabelOnWorkload {
        /// The workload.
        object: ObjectName,
        /// The labels that its pods lack.
        labels: Labels,
    },
    /// The Service leads nowhere. Policies cannot change that.
    Service(ReasonCode),
    /// The input lacks a fact, without which no change can be judged.
    FactMissing,
    /// Every change of one object that admits the flow closes another.
    NothingFits,
    /// The same, or it opens or closes something between more pairs of ends than this.
    OpensTooMuch(usize),
    /// The changes of both directions together do not admit the flow, or close another, and after this many
    /// attempts no others were tried.
    AttemptsUsed(usize),
}

impl NoFix {
    /// Whether changes were tried.
    pub(super) const fn is_after_search(&self) -> bool {
        matches!(self, Self::NothingFits | Self::OpensTooMuch(_) | Self::AttemptsUsed(_))
    }
}

/// A port that pods declare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredPort {
    /// Its number.
    pub port: u16,
    /// Its container, where several containers of the pods declare ports: a sidecar's port is not what
    /// a Service means.
    pub container: Option<String>,
}

/// A targetPort that none of a Service's pods declares, where all of them declare other ports. A declaration
/// proves nothing: a container may listen on a port that it does not declare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UndeclaredTarget {
    /// The Service: its namespace and name.
    pub service: (String, String),
    /// The protocol of its port.
    pub protocol: Protocol,
    /// Its port.
    pub port: u16,
    /// The targetPort.
    pub target: u16,
    /// The ports that all its pods declare, sorted; at least one.
    pub declared: Vec<DeclaredPort>,
}
