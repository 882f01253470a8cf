//! Why a Service leads nowhere, or why the input does not say where it leads.

use std::collections::BTreeSet;

use super::hints::WorkloadName;
use super::selection::{Selection, UnknownLabels};
use super::unread::Unread;
use super::{Cluster, PodId};
use crate::algebra::selector::{Requirement, Selector};
use crate::algebra::typo::is_slip;
use crate::object::{EndpointSlice, Family, Pod, Protocol, Service, ServicePort, TargetPort};

/// Why the input does not say where a service leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum WhyUnknown {
    /// It has no selector, and no EndpointSlice of it is in the input.
    NoSelector,
    /// EndpointSlices of its namespace cannot be read.
    SlicesUnread(Vec<Unread>),
    /// Pods that its selector may select were not read.
    PodsUnread(Vec<Unread>),
    /// Its selector selects no pod of the input, and these objects make pods that are not in it.
    PodMakers(Vec<String>),
    /// Its selector asks for labels that the controllers of these workloads add to their pods.
    LabelsOfControllers(Vec<String>),
    /// Nothing: its selector selects no pod, or those that it does.
    NoPod,
}

/// Why a port of a service has no backend.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum NoBackend {
    /// Its selector selects no pod, or its EndpointSlices list none.
    NoPod(NoPod),
    /// No pod that it selects has the port that its `targetPort` asks for.
    NoPort {
        /// The protocol of the Service's port.
        protocol: Protocol,
        /// The name that it asks for.
        name: String,
        /// The protocol of the port of this name that a pod has.
        other_protocol: Option<Protocol>,
    },
    /// This many endpoints were found, and none of them is ready.
    NotReady(usize),
    /// None of its backends has an address of the family of the address that was asked for.
    OtherFamily(Family),
    /// Its traffic policy is `Local`, and its backends are on these nodes only; on none that is
    /// known where the list is empty.
    OtherNode {
        /// The policy is `internalTrafficPolicy`, else it is `externalTrafficPolicy`.
        is_internal: bool,
        /// The nodes of its backends.
        nodes: Vec<String>,
    },
    /// Its traffic policy is `Local`, and its EndpointSlices name no node of any endpoint, so that each is
    /// local to none.
    NoNodeName {
        /// The policy is `internalTrafficPolicy`, else it is `externalTrafficPolicy`.
        is_internal: bool,
    },
}

/// Why a service has no pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum NoPod {
    /// Its EndpointSlices list no endpoint for the port.
    NoEndpoint,
    /// It has no selector and no EndpointSlice.
    NoSelector,
    /// A workload whose pods would have these labels is to have no pods.
    WorkloadWithoutPods(WorkloadName),
    /// All pods that its selector selects have finished.
    Finished,
    /// Its selector misses a pod by one label.
    Near {
        /// The pod.
        pod: PodId,
        /// The key of the label.
        key: String,
        /// The value that the pod has.
        value: Option<String>,
    },
    /// No pod has the labels; pods of these other namespaces do.
    OtherNamespaces(Vec<String>),
    /// No pod has the labels.
    NoPod,
}

impl Cluster {
    /// Why one port of a service has no backend.
    #[must_use]
    pub fn why_none(&self, service: &Service, port: &ServicePort) -> NoBackend {
        let slices = self.slices(service);
        let by_pods = || {
            let pods: Vec<&Pod> = self.selected_by(service).map(|(_, pod)| pod).collect();
            let has_port = |pod: &&&Pod| match &port.target {
                TargetPort::Number(_) => true,
                TargetPort::Name(name) => pod.ports.iter().any(|of| of.is_named(port.protocol, name)),
            };
            match (pods.len(), pods.iter().filter(has_port).count(), &port.target) {
                (0, ..) => NoBackend::NoPod(self.why_no_pod(service)),
                (_, 0, TargetPort::Name(name)) => {
                    let mut ports = pods.iter().flat_map(|pod| &pod.ports);
                    let other_protocol = ports.find(|of| of.name == *name).map(|of| of.protocol);
                    NoBackend::NoPort { protocol: port.protocol, name: name.clone(), other_protocol }
                }
                (_, count, _) => {
                    let has = |pod: &&Pod, family| pod.address(family).is_some() || pod.addresses().next().is_none();
                    let only = service.routing.only_family;
                    match only.filter(|only| !pods.iter().any(|pod| has(pod, *only))) {
                        Some(family) => NoBackend::OtherFamily(family),
                        None => NoBackend::NotReady(count),
                    }
                }
            }
        };
        if slices.is_empty() {
            return by_pods();
        }
        let has_port = |of: &&EndpointSlice| of.ports.iter().any(|of| of.is_of(port));
        let endpoints = slices.iter().filter(has_port).flat_map(|slice| &slice.endpoints);
        match endpoints.map(|of| of.address).collect::<BTreeSet<_>>().len() {
            // The controller leaves the port out of the slices of pods that have none of its name.
            0 => match by_pods() {
                without_port @ NoBackend::NoPort { .. } => without_port,
                _ => NoBackend::NoPod(self.why_no_pod(service)),
            },
            count => NoBackend::NotReady(count),
        }
    }

    /// Why a service has no endpoint at all.
    #[must_use]
    pub fn why_no_pod(&self, service: &Service) -> NoPod {
        // A cluster has an EndpointSlice of every selector, also of one that selects nothing.
        let is_by_selector = service.selector.is_some() && self.selected_by(service).next().is_none();
        if !self.slices(service).is_empty() && !is_by_selector {
            return NoPod::NoEndpoint;
        }
        let Some(labels) = &service.selector else { return NoPod::NoSelector };
        if let Some(name) = self.hints().workload_without_pods(&service.namespace, |has| service.asks_for(has)) {
            return NoPod::WorkloadWithoutPods(name.clone());
        }
        if self.pods().any(|(_, pod)| service.selects(pod)) {
            return NoPod::Finished;
        }
        let running = || self.pods().filter(|(_, pod)| !pod.finished);
        let selector = Selector::of_labels(labels);
        let near = |(id, pod): (PodId, &Pod)| {
            let failing = missed_by_one(&selector, labels.len(), pod)?;
            Some(NoPod::Near { pod: id, key: failing.key.clone(), value: pod.labels.get(&failing.key).cloned() })
        };
        if let Some(near) = running().filter(|(_, pod)| pod.namespace == service.namespace).find_map(near) {
            return near;
        }
        let elsewhere =
            running().filter(|(_, pod)| service.asks_for(&pod.labels)).map(|(_, pod)| pod.namespace.clone());
        let elsewhere: BTreeSet<String> = elsewhere.collect();
        if elsewhere.is_empty() { NoPod::NoPod } else { NoPod::OtherNamespaces(elsewhere.into_iter().collect()) }
    }

    /// The pods that a service's selector may select. The input does not decide it: their
    /// controller adds a label that the selector asks for.
    fn possibly_behind<'a>(&'a self, service: &'a Service, selector: &'a Selector) -> impl Iterator<Item = &'a Pod> {
        let is_possible = |pod: &&Pod| {
            pod.namespace == service.namespace
                && pod.is_template()
                && UnknownLabels::of(pod).selects(selector, &pod.labels) == Selection::Possible
        };
        self.inventory.pods.iter().filter(is_possible)
    }

    /// Why the input does not say where a service leads.
    #[must_use]
    pub fn why_unknown(&self, service: &Service) -> WhyUnknown {
        let namespace = service.namespace.as_str();
        let slices: Vec<Unread> = self.unread_slices(service).cloned().collect();
        if !slices.is_empty() {
            return WhyUnknown::SlicesUnread(slices);
        }
        let Some(labels) = &service.selector else { return WhyUnknown::NoSelector };
        let unread_if =
            |is: &dyn Fn(&&Unread) -> bool| -> Vec<Unread> { self.unread.iter().filter(is).cloned().collect() };
        let unread = unread_if(&|unread| unread.may_hold("Pod", namespace));
        if !unread.is_empty() {
            return WhyUnknown::PodsUnread(unread);
        }
        let selector = Selector::of_labels(labels);
        let workloads: BTreeSet<String> = self
            .possibly_behind(service, &selector)
            .filter_map(|pod| pod.workload.as_ref())
            .map(|workload| workload.name.clone())
            .collect();
        if !workloads.is_empty() {
            return WhyUnknown::LabelsOfControllers(workloads.into_iter().collect());
        }
        if self.selected_by(service).next().is_some() {
            return WhyUnknown::NoPod;
        }
        let unread = unread_if(&|unread| unread.may_make_pods(namespace));
        match (unread.is_empty(), self.pod_makers.is_empty()) {
            (false, _) => WhyUnknown::PodsUnread(unread),
            (true, false) => WhyUnknown::PodMakers(self.pod_makers.to_vec()),
            (true, true) => WhyUnknown::NoPod,
        }
    }

    /// EndpointSlices of a service's namespace that are there and cannot be read.
    pub(super) fn unread_slices(&self, service: &Service) -> impl Iterator<Item = &Unread> {
        let may_be = |unread: &&Unread| {
            let kinds = ["EndpointSlice", "Endpoints"];
            !unread.is_refused() && kinds.iter().any(|kind| unread.may_hold(kind, &service.namespace))
        };
        self.unread.iter().filter(may_be)
    }
}

/// The one requirement by which a selector of so many labels misses a pod. A selector of one label means
/// the pod only if the pod's label differs from it by little.
fn missed_by_one<'s>(selector: &'s Selector, labels: usize, pod: &Pod) -> Option<&'s Requirement> {
    let mut failing = selector.requirements().filter(|of| !of.matches(&pod.labels));
    let (first, None) = (failing.next()?, failing.next()) else { return None };
    (labels > 1 || is_slip(first, &pod.labels)).then_some(first)
}

#[cfg(test)]
mod tests;
