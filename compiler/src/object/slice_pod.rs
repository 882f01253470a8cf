//! Pods that the input has in another form: named by an EndpointSlice, or as the workload
//! that makes them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;

use super::{Labels, Objects, Pod};

impl Objects {
    /// Adds a pod for each that an EndpointSlice names and that is not in the input, with the
    /// address and nothing else of it. A pod that the template of a workload stands for, a
    /// pod of an address that another object has, and a node are not added.
    pub fn declare_slice_pods(&mut self) {
        let names: BTreeSet<(&str, &str)> =
            self.pods.iter().map(|pod| (pod.namespace.as_str(), pod.name.as_str())).collect();
        let mut taken: BTreeSet<IpAddr> = self.pods.iter().flat_map(Pod::addresses).collect();
        taken.extend(self.pods.iter().flat_map(|pod| &pod.host_addresses));
        taken.extend(self.nodes.iter().flat_map(|node| &node.addresses));
        let mut made = BTreeMap::<(String, String), Pod>::new();
        for endpoint in self.endpoint_slices.iter().flat_map(|slice| &slice.endpoints) {
            let Some((namespace, name)) = &endpoint.pod else { continue };
            let is_known = names.contains(&(namespace.as_str(), name.as_str()))
                || taken.contains(&endpoint.address)
                || self.pods.iter().any(|pod| pod.namespace == *namespace && pod.stands_for(name));
            if is_known {
                continue;
            }
            let pod = made.entry((namespace.clone(), name.clone())).or_insert_with(|| Pod {
                only_in_slice: true,
                node: endpoint.node.clone(),
                ..Pod::from_template(namespace.clone(), name.clone(), Labels::new(), core::PodSpec::default())
            });
            match endpoint.address {
                IpAddr::V4(address) => pod.ipv4 = Some(address),
                IpAddr::V6(address) => pod.ipv6 = Some(address),
            }
        }
        self.pods.extend(made.into_values());
    }
}

impl Pod {
    /// Whether it is the pod that stands for a workload that would name one of its pods so.
    #[must_use]
    pub fn stands_for(&self, pod: &str) -> bool {
        let rest = pod.strip_prefix(self.name.as_str()).and_then(|rest| rest.strip_prefix('-'));
        let Some((rest, workload)) = rest.zip(self.workload.as_ref()).filter(|_| self.is_template()) else {
            return false;
        };
        // `NAME-HASH-SUFFIX` of a Deployment, an ordinal of a StatefulSet, else `NAME-SUFFIX`.
        match workload.kind.as_str() {
            "Deployment" | "CronJob" => rest.split('-').count() == 2,
            "StatefulSet" => !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()),
            _ => !rest.contains('-'),
        }
    }
}
