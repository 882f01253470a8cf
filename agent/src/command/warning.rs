//! Warnings: what an answer does not take into account, and what its reader should know beside it. Each is a
//! text for people, and findings as those of `npc lint` for programs: with a code, a place and an effect.

use std::fmt;

use npc_agent::finding::{Finding, Place};
use npc_agent::source::manifests::{Location, ObjectRef, Positions, ProblemCode, Severity};
use npc_compiler::verdict::explain::ReasonCode;
use npc_compiler::verdict::lint::MistakeCode;

/// A warning, and what it is as findings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Warning {
    /// Its code, as `npc reason` knows it.
    code: &'static str,
    /// For people.
    text: String,
    /// One for each object, file or kind that it is about; none where the findings of the input have them.
    findings: Vec<Finding>,
}

/// Kinds of warnings; stable codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum WarningCode {
    /// Policies of other kinds than NetworkPolicy.
    PoliciesNotJudged,
    /// Objects that make pods in a way that npc does not know.
    PodsNotInInput,
    /// Objects that may make pods and policies.
    ObjectsNotInInput,
    /// Objects that the reader may not list.
    RightMissing,
    /// A workload whose template stands for pods: it has none now in a cluster, or none that may be read, or one of
    /// its pods was asked for that files do not have.
    WorkloadWithoutPods,
    /// A file that another program has to fill in.
    TemplateNotRendered,
    /// A file that SOPS has encrypted.
    FileEncrypted,
    /// What kubectl printed for people.
    FileNotObjects,
    /// A kustomization or a patch, which `-f` does not apply.
    KustomizationNotApplied,
    /// An address that several pods list.
    AddressContested,
    /// A named port that one of several ends lacks.
    PortNameMissing,
    /// A port that a Service lacks.
    ServicePortUnknown,
    /// A Service that leads to no pod.
    ServiceNoBackends,
    /// Flows that are too many to list.
    FlowsNotListed,
    /// A headless Service, which translates no port.
    ServiceHeadless,
    /// The port of a Service, asked about at its pods.
    AskedServicePort,
    /// A Service to which nothing leads from outside the cluster.
    ServiceNotExposed,
    /// An address of the pod itself.
    AddressLoopback,
    /// A port of a node, which leads to a pod.
    HostPort,
    /// A port of a node, which leads to a pod elsewhere.
    HostPortElsewhere,
    /// Clients that cannot resolve the name of a Service.
    DnsBlocked,
    /// Ends of different address families.
    NoCommonFamily,
    /// An address that may be that of a pod's own node.
    OwnNodeUnknown,
    /// A Service's address as a source.
    SourceIsServiceAddress,
    /// A hostNetwork pod, for which the answer depends on the node.
    OtherNodesDiffer,
    /// What tunnels use, which agents drop.
    TunnelDropped,
    /// An address from or to which a node with isolated pods forwards nothing.
    AddressNotForwarded,
    /// An address of a matrix that leads to other ends.
    AddressLeadsElsewhere,
    /// A policy that selects no pod.
    SubjectEmpty,
    /// A policy that a later one of its name replaces.
    DuplicateName,
    /// A block that is a Service's address alone.
    IpBlockServiceAddress,
}

impl WarningCode {
    /// All of them, in the order in which they are listed.
    #[cfg(test)]
    pub(super) const ALL: [Self; 31] = [
        Self::PoliciesNotJudged,
        Self::PodsNotInInput,
        Self::ObjectsNotInInput,
        Self::RightMissing,
        Self::WorkloadWithoutPods,
        Self::TemplateNotRendered,
        Self::FileEncrypted,
        Self::FileNotObjects,
        Self::KustomizationNotApplied,
        Self::AddressContested,
        Self::PortNameMissing,
        Self::ServicePortUnknown,
        Self::ServiceNoBackends,
        Self::FlowsNotListed,
        Self::ServiceHeadless,
        Self::AskedServicePort,
        Self::ServiceNotExposed,
        Self::AddressLoopback,
        Self::HostPort,
        Self::HostPortElsewhere,
        Self::DnsBlocked,
        Self::NoCommonFamily,
        Self::OwnNodeUnknown,
        Self::SourceIsServiceAddress,
        Self::OtherNodesDiffer,
        Self::TunnelDropped,
        Self::AddressNotForwarded,
        Self::AddressLeadsElsewhere,
        Self::SubjectEmpty,
        Self::DuplicateName,
        Self::IpBlockServiceAddress,
    ];

    /// Its stable text. What lint or a denial names too has one code everywhere.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::PoliciesNotJudged => "policies-not-judged",
            Self::PodsNotInInput => "pods-not-in-input",
            Self::ObjectsNotInInput => "objects-not-in-input",
            Self::RightMissing => "right-missing",
            Self::WorkloadWithoutPods => "workload-without-pods",
            Self::TemplateNotRendered => "template-not-rendered",
            Self::FileEncrypted => "file-encrypted",
            Self::FileNotObjects => "file-not-objects",
            Self::KustomizationNotApplied => "kustomization-not-applied",
            Self::AddressContested => "address-contested",
            Self::PortNameMissing => "port-name-missing",
            Self::ServicePortUnknown => ReasonCode::ServicePortUnknown.as_str(),
            Self::ServiceNoBackends => ReasonCode::ServiceNoBackends.as_str(),
            Self::FlowsNotListed => "flows-not-listed",
            Self::ServiceHeadless => "service-headless",
            Self::AskedServicePort => "asked-service-port",
            Self::ServiceNotExposed => "service-not-exposed",
            Self::AddressLoopback => "address-loopback",
            Self::HostPort => "host-port",
            Self::HostPortElsewhere => "host-port-elsewhere",
            Self::DnsBlocked => MistakeCode::DnsBlocked.as_str(),
            Self::NoCommonFamily => "no-common-family",
            Self::OwnNodeUnknown => "own-node-unknown",
            Self::SourceIsServiceAddress => "source-is-service-address",
            Self::OtherNodesDiffer => "other-nodes-differ",
            Self::TunnelDropped => "tunnel-dropped",
            Self::AddressNotForwarded => "address-not-forwarded",
            Self::AddressLeadsElsewhere => "address-leads-elsewhere",
            Self::SubjectEmpty => MistakeCode::SubjectEmpty.as_str(),
            Self::DuplicateName => ProblemCode::DuplicateName.as_str(),
            Self::IpBlockServiceAddress => MistakeCode::IpBlockServiceAddress.as_str(),
        }
    }

    /// As lint has it where lint has the code.
    const fn severity(self) -> Severity {
        match self {
            Self::IpBlockServiceAddress => Severity::Error,
            _ => Severity::Warning,
        }
    }

    /// What happens now.
    pub(super) const fn effect(self) -> &'static str {
        match self {
            Self::PoliciesNotJudged => "the answer is what NetworkPolicies decide",
            Self::PodsNotInInput => "the answer lacks these pods",
            Self::ObjectsNotInInput => "the answer lacks these pods and policies",
            Self::RightMissing => "what depends on them is not known",
            Self::WorkloadWithoutPods => "the template is judged as a pod",
            Self::TemplateNotRendered | Self::FileEncrypted | Self::FileNotObjects => {
                "what depends on what the file may hold is not known"
            }
            Self::KustomizationNotApplied => "the files are judged as they stand",
            Self::AddressContested => "each node judges it as the pod that it takes it for",
            Self::PortNameMissing => "the answer is about the ends that have it",
            Self::ServicePortUnknown => "nothing passes by the Service",
            Self::ServiceNoBackends => "nothing passes by the Service, and no flow begins there",
            Self::FlowsNotListed => "the answer lists other flows only",
            Self::ServiceHeadless => "the answer is about the pods' ports",
            Self::AskedServicePort => "the answer is about the port as it was asked for",
            Self::ServiceNotExposed => "the answer is what policies say of such a client",
            Self::AddressLoopback => "no policy judges it",
            Self::HostPort => "the answer is what policies say of the client's own address",
            Self::HostPortElsewhere => "the answer is about the node itself",
            Self::DnsBlocked => MistakeCode::DnsBlocked.effect(),
            Self::NoCommonFamily => "nothing can pass",
            Self::OwnNodeUnknown => "if it is, everything between them is allowed",
            Self::SourceIsServiceAddress => "the answer is what policies would say of such a packet",
            Self::OtherNodesDiffer => "the answer is about one node",
            Self::TunnelDropped => "agents drop it without --allow-tunnels",
            Self::AddressNotForwarded => "nodes with isolated pods drop it",
            Self::AddressLeadsElsewhere => "the matrix judges the address itself",
            Self::SubjectEmpty => MistakeCode::SubjectEmpty.effect(),
            Self::DuplicateName => ProblemCode::DuplicateName.effect(),
            Self::IpBlockServiceAddress => MistakeCode::IpBlockServiceAddress.effect(),
        }
    }

    /// It as a finding about the input or the answer as a whole.
    pub(super) fn finding(self, problem: String) -> Finding {
        Finding {
            location: None,
            related: None,
            severity: self.severity(),
            code: self.as_str(),
            object: None,
            path: String::new(),
            problem,
            effect: self.effect().to_owned(),
            help: String::new(),
        }
    }

    /// It as a finding about an object, at its place if it is from a file.
    pub(super) fn of_object(self, problem: String, object: ObjectRef, place: Option<&Location>) -> Finding {
        Finding { location: place.map(Place::from), object: Some(object), ..self.finding(problem) }
    }

    /// It as a finding about a file as a whole.
    pub(super) fn of_file(self, problem: String, file: &str) -> Finding {
        let place = Place { file: file.to_owned(), line: None, column: None };
        Finding { location: Some(place), ..self.finding(problem) }
    }
}

impl Warning {
    /// A warning about the input or the answer as a whole.
    pub(super) fn new(code: WarningCode, text: String) -> Self {
        let findings = vec![code.finding(text.clone())];
        Self { code: code.as_str(), text, findings }
    }

    /// A warning about one object.
    pub(super) fn about(code: WarningCode, text: String, object: &ObjectRef, positions: &Positions) -> Self {
        Self::about_each(code, text, std::slice::from_ref(object), positions)
    }

    /// A warning about objects, or about the answer as a whole where it is about none: a finding for each, so that a
    /// program that shows them at their places misses none.
    pub(super) fn about_each(code: WarningCode, text: String, objects: &[ObjectRef], positions: &Positions) -> Self {
        if objects.is_empty() {
            return Self::new(code, text);
        }
        let finding = |object: &ObjectRef| {
            code.of_object(text.clone(), object.clone(), positions.locate_object(object, "").as_ref())
        };
        let findings = objects.iter().map(finding).collect();
        Self { code: code.as_str(), text, findings }
    }

    /// A warning about several things.
    pub(super) fn of_each(code: WarningCode, text: String, findings: Vec<Finding>) -> Self {
        Self { code: code.as_str(), text, findings }
    }

    /// What another list of findings has already.
    pub(super) fn of_finding(code: &'static str, text: String) -> Self {
        Self { code, text, findings: Vec::new() }
    }

    /// The findings.
    pub(super) fn findings(&self) -> &[Finding] {
        &self.findings
    }
}

/// The texts of warnings, as JSON has them for people.
pub(super) fn texts(warnings: &[Warning]) -> Vec<String> {
    warnings.iter().map(|warning| warning.text.clone()).collect()
}

/// With its code, so that its reader can look it up.
impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]: {}", Severity::Warning.as_str(), self.code, self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_that_lint_has_too_has_the_severity_and_the_effect_of_lint() {
        for of_lint in MistakeCode::ALL {
            for code in WarningCode::ALL.into_iter().filter(|code| code.as_str() == of_lint.as_str()) {
                assert_eq!(code.effect(), of_lint.effect());
                assert_eq!(code.severity() == Severity::Error, of_lint.is_harmful());
            }
        }
        for of_files in ProblemCode::ALL {
            for code in WarningCode::ALL.into_iter().filter(|code| code.as_str() == of_files.as_str()) {
                assert_eq!((code.effect(), code.severity()), (of_files.effect(), of_files.severity()));
            }
        }
    }
}
