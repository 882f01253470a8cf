//! Why there is no fix, in words.

use npc_compiler::object::Labels;
use npc_compiler::verdict::explain::{NotForwarded, ReasonCode};
use npc_compiler::verdict::fix::{NoFix, ObjectName, TemplateReach};

use super::MANY_PODS;
use super::service::{PORTS, declared_port};
use super::words::{object_name, until};
use crate::command::explain::warnings::not_forwarded;
use crate::command::words::shorten;

/// Why there is no fix, and what to do.
#[allow(clippy::too_many_lines, reason = "one arm for each reason")]
pub(super) fn why_not(reason: &NoFix) -> String {
    match reason {
        NoFix::TooManyPairs(most) => format!(
            "npc looks for a fix of at most {most} pairs of ends, and for none where there are so many that it answers by \
             classes of ends; ask about two of these ends"
        ),
        NoFix::TooManyPorts => {
            "ask about one port, and npc looks for the smallest fix; it proposes none for all ports".to_owned()
        }
        NoFix::TooManyRanges(most) => {
            format!("npc writes at most {most} ports and ranges of ports into a rule; ask about fewer of these")
        }
        NoFix::Icmp => {
            "no fix: only a rule without ports admits ICMP, and it admits every protocol and port".to_owned()
        }
        NoFix::NoAddress => {
            "no fix: only an ipBlock can admit the other end, and the input does not say its address".to_owned()
        }
        NoFix::NoLabel(namespace, name) => {
            format!("no fix: the pods of {namespace}/{name} have no label that a selector can ask for; give them one")
        }
        NoFix::PassingLabels(namespace, name) => format!(
            "no fix: the pods of {namespace}/{name} have only labels that their controller adds, and these change with every \
             Job or rollout; give them one of their own"
        ),
        NoFix::NodeAddress(service) => {
            let name = |(namespace, name): &(String, String)| format!("{namespace}/svc/{name}");
            let service = service.as_ref().map_or_else(|| "the Service".to_owned(), name);
            format!(
                "no fix in a policy: an ipBlock with the node's address would admit every client that comes by that \
                 node; with externalTrafficPolicy: Local in {service} the pod sees the client's address, and only the \
                 nodes of its pods lead to it"
            )
        }
        NoFix::ManyEnds => "no fix: no rule can name all these ends; ask about one of them".to_owned(),
        NoFix::ManyAddresses(most) => {
            format!("npc writes at most {most} addresses into a rule, and these are more; ask about fewer of them")
        }
        NoFix::ManyNodes(count) => format!(
            "no fix: the other end is a hostNetwork pod that may run on any of {count} nodes, so the address of one would \
             not do; admit the network that the nodes' addresses are from by an ipBlock"
        ),
        NoFix::NotForwarded(end, NotForwarded { is_source, address }) => {
            format!("no fix in a policy: {}", not_forwarded(end, *is_source, *address))
        }
        NoFix::EveryAddress => {
            "no fix: only a rule for every address admits this; ask about one address or a smaller prefix".to_owned()
        }
        NoFix::Finding { policy: (namespace, name), path } => format!(
            "no fix: networkpolicy {namespace}/{name} has a part at {path} that was not understood, and no rule can be \
             written for this flow; mend that part first (npc lint shows it)"
        ),
        NoFix::PolicyTooLarge(namespace, name) => format!(
            "no fix: networkpolicy {namespace}/{name} has rules that would allow this, and there is no room for them; npc \
             reason policy-too-large says how to make it smaller"
        ),
        NoFix::ServicePort { service: (namespace, name), port, of_pods } => format!(
            "no fix in a policy: the pods listen on {of_pods}, and {port} is the port of {namespace}/svc/{name}; ask about \
             {namespace}/svc/{name}:{port}, or, if they listen on {port} too, declare it as a containerPort"
        ),
        NoFix::HeadlessPort { service: (namespace, name), port, of_pods } => format!(
            "no fix in a policy: {namespace}/svc/{name} is headless, so nothing translates its port {port} to the targetPort \
             {of_pods}; let the client ask for {of_pods}, on which the pods listen"
        ),
        NoFix::NotTried(most) => {
            let flows = match most {
                1 => format!("1 flow at a time, where the input has more than {MANY_PODS} pods"),
                most => format!("{most} flows at a time"),
            };
            format!(
                "npc looks for the fixes of {flows}, and not for those of this flow and the others below; ask about one of them \
                 alone"
            )
        }
        NoFix::TargetPort { service: (namespace, name), port, target, declared, .. } => {
            let declared: Vec<String> = declared.iter().map(declared_port).collect();
            let declared = shorten(&declared, PORTS, ", ");
            format!(
                "no fix in a policy: targetPort of port {port} of {namespace}/svc/{name} is {target}, its pods declare \
                 {declared}, which policies admit; correct the targetPort, or, if the containers listen on {target} \
                 without declaring it, ask about port {target} of the pods"
            )
        }
        NoFix::PortWithoutName { object, name, protocol, port } => format!(
            "no fix in a policy, which is not the cause: its rule asks for a port named {name}, and \
             {} declares {protocol} {port} without a name; add name: {name} to that port of its container",
            object_name(object)
        ),
        NoFix::NewerTemplate { object, labels, reach } => newer_template(object, labels, *reach),
        NoFix::LabelOnWorkload { object, labels } => {
            let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!(
                "no fix in a policy: {} has {} itself, and its template, which cannot change, has not; create the {} \
                 anew, with the label in spec.template.metadata.labels too",
                object_name(object),
                labels.join(", "),
                object.kind
            )
        }
        NoFix::Service(ReasonCode::ServicePortUnknown) => {
            "no policy is the cause; ask for a port that the Service has, or add this one to it".to_owned()
        }
        NoFix::Service(ReasonCode::ServiceSourceRanges) => {
            "no policy is the cause; ask for the Service by its name or clusterIP, or add the client to \
             loadBalancerSourceRanges"
                .to_owned()
        }
        NoFix::Service(_) => "no policy is the cause; the note says what the Service lacks".to_owned(),
        NoFix::FactMissing => {
            "no fix makes it ALLOWED for certain: the answer depends on a fact too that the input lacks (unknown, below)"
                .to_owned()
        }
        NoFix::NothingFits => "no fix: no small change admits this flow without closing another".to_owned(),
        NoFix::OpensTooMuch(most) => format!(
            "no fix: what admits this flow without closing another opens or closes something between more than {most} pairs \
             of pods or addresses, and npc looks at no more; a label that only these pods have lets a rule name them alone"
        ),
        NoFix::AttemptsUsed(most) => format!(
            "no fix found: in {most} attempts the changes of both directions together did not admit this flow without closing \
             another, and npc tries no others"
        ),
    }
}

/// That pods are of an older template, and what brings the newer one to them.
fn newer_template(object: &ObjectName, labels: &Labels, reach: TemplateReach) -> String {
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    format!(
        "no change is needed: the template of {} has {} already, and its pods that lack it were made before; {}",
        object_name(object),
        labels.join(", "),
        until(object, reach)
    )
}
