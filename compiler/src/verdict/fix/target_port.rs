//! A port that is the fault: the targetPort of a Service, whose pods declare another port, which policies
//! admit; or the port of a Service that was asked for at its pods.

use std::collections::BTreeSet;

use super::answer::{DeclaredPort, NoFix, UndeclaredTarget};
use super::changed::View;
use crate::algebra::traffic::Traffic;
use crate::object::TargetPort;
use crate::policy::Direction;
use crate::verdict::bounds::Verdict;
use crate::verdict::explain::{Flow, Pair, Party};
use crate::verdict::flow::End;

/// The fault, if the port that was asked for is that of a Service of the pods, which leads to another
/// port of theirs, and none of them declares it. A rule for it would admit what nothing answers.
pub(super) fn service_port(view: View<'_>, flow: &Flow, pairs: &[Pair]) -> Option<NoFix> {
    let (protocol, port, last) = flow.traffic.single().filter(|_| flow.via.is_none() && flow.way.is_none())?;
    let of_pair = |pair: &Pair| {
        let Party::End(End::Pod(pod)) = pair.question.to else { return None };
        let (service, _, of_pods) = view.cluster.service_with_port(pod, protocol, port).filter(|_| port == last)?;
        Some((service, of_pods))
    };
    let (service, of_pods) = pairs.first().and_then(of_pair)?;
    let is_headless = service.routing.is_headless;
    let service = (service.namespace.clone(), service.name.clone());
    pairs.iter().all(|pair| of_pair(pair).is_some()).then_some(if is_headless {
        NoFix::HeadlessPort { service, port, of_pods }
    } else {
        NoFix::ServicePort { service, port, of_pods }
    })
}

/// The targetPort of the Service by which a flow comes, if none of its pods declares it and all declare others.
pub(super) fn undeclared_target(view: View<'_>, flow: &Flow, pairs: &[Pair]) -> Option<UndeclaredTarget> {
    let via = flow.via.as_ref()?;
    let (port, Some(TargetPort::Number(target))) = (via.port?, &via.target) else { return None };
    let (protocol, first, last) = flow.traffic.single()?;
    if (first, last) != (*target, *target) {
        return None;
    }
    let mut all_declare: Option<BTreeSet<u16>> = None;
    for pair in pairs {
        let Party::End(End::Pod(pod)) = pair.question.to else { return None };
        let declared: BTreeSet<u16> = view.cluster.pod(pod).declared_ports(protocol).collect();
        if declared.contains(target) {
            return None;
        }
        all_declare = Some(match all_declare {
            None => declared,
            Some(before) => before.intersection(&declared).copied().collect(),
        });
    }
    let container = |port: u16| {
        let pod = pairs.first().and_then(|pair| pair.question.to.pod())?;
        view.cluster.pod(pod).container_of(protocol, port).map(str::to_owned)
    };
    let declared: Vec<DeclaredPort> =
        all_declare?.into_iter().map(|port| DeclaredPort { port, container: container(port) }).collect();
    let service = (via.namespace.clone(), via.name.clone());
    (!declared.is_empty()).then_some(UndeclaredTarget { service, protocol, port, target: *target, declared })
}

/// The fault, if no pod behind the Service declares the port that its targetPort leads to, and a direction that
/// denies this port admits another one that all the pods declare.
pub(super) fn wrong_target_port(view: View<'_>, flow: &Flow, pairs: &[Pair]) -> Option<NoFix> {
    let UndeclaredTarget { service, protocol, port, target, declared } = undeclared_target(view, flow, pairs)?;
    let is_admitted = |of: &DeclaredPort| {
        Direction::ALL.into_iter().filter(|direction| !view.admits(pairs, *direction)).any(|direction| {
            let other = Traffic::ports(protocol, of.port, of.port);
            pairs.iter().all(|pair| {
                // A node port has another number than the pods' port.
                let is_of_pods = direction == Direction::Ingress || pair.egress.is_none();
                let bounds = pair.question(direction).bounds(view.cluster, view.groups, direction);
                is_of_pods && bounds.verdict(&other) == Verdict::Allowed
            })
        })
    };
    let declared: Vec<DeclaredPort> = declared.into_iter().filter(is_admitted).collect();
    (!declared.is_empty()).then_some(NoFix::TargetPort { service, protocol, port, target, declared })
}
