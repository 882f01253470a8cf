//! Why a Service leads nowhere, or why the input does not say where it leads.

use std::collections::BTreeSet;

use super::Cluster;
use super::selection::{Selection, UnknownLabels};
use super::unread::Unread;
use crate::algebra::selector::Selector;
use crate::object::{EndpointSlice, Family, Pod, Protocol, Service, ServicePort, TargetPort};

/// Why the input does not say where a service leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum WhyUnknown {
    /// It has no selector, and no EndpointSlice of it is in the input.
    NoSelector,
    /// EndpointSlices of its namespace cannot be read; why, in words.
    SlicesUnread(Vec<String>),
    /// Pods that its selector may select were not read; why, in words.
    PodsUnread(Vec<String>),
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
    NoPod,
    /// No pod that it selects has a port of this protocol and of the name that its `targetPort` asks for.
    NoPort(Protocol, String),
    /// So many endpoints were found and none of them is ready.
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
                (0, ..) => NoBackend::NoPod,
                (_, 0, TargetPort::Name(name)) => NoBackend::NoPort(port.protocol, name.clone()),
                (_, count, _) => NoBackend::NotReady(count),
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
                without_port @ NoBackend::NoPort(..) => without_port,
                _ => NoBackend::NoPod,
            },
            count => NoBackend::NotReady(count),
        }
    }

    /// The pods of which the input does not say whether a service's selector selects them: their
    /// controller adds a label that it asks for.
    pub(super) fn possibly_behind<'a>(
        &'a self,
        service: &'a Service,
        selector: &'a Selector,
    ) -> impl Iterator<Item = &'a Pod> {
        let is_possible = |pod: &&Pod| {
            pod.namespace == service.namespace
                && pod.is_template()
                && UnknownLabels::of(pod).selects(selector, &pod.labels) == Selection::Possible
        };
        self.pods.iter().filter(is_possible)
    }

    /// Why the input does not say where a service leads.
    #[must_use]
    pub fn why_unknown(&self, service: &Service) -> WhyUnknown {
        let namespace = service.namespace.as_str();
        let slices: Vec<String> = self.unread_slices(service).map(ToString::to_string).collect();
        if !slices.is_empty() {
            return WhyUnknown::SlicesUnread(slices);
        }
        let Some(labels) = &service.selector else { return WhyUnknown::NoSelector };
        let words = |is: &dyn Fn(&&Unread) -> bool| -> Vec<String> {
            self.unread.iter().filter(is).map(ToString::to_string).collect()
        };
        let unread = words(&|unread| unread.may_hold("Pod", namespace));
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
        let unread = words(&|unread| unread.may_make_pods(namespace));
        match (unread.is_empty(), self.pod_makers.is_empty()) {
            (false, _) => WhyUnknown::PodsUnread(unread),
            (true, false) => WhyUnknown::PodMakers(self.pod_makers.clone()),
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
