//! Flows to a port of a node that is one of a pod's containers' `hostPort`.

use std::collections::BTreeSet;

use super::nodes::NodeEnd;
use crate::algebra::traffic::Traffic;
use crate::cluster::PodId;
use crate::cluster::backend::HostPortAt;
use crate::object::{Family, Protocol};
use crate::verdict::explain::answer::{WarningFact, Way};
use crate::verdict::explain::question::MissingFact;
use crate::verdict::explain::walk::ends::Unit;
use crate::verdict::explain::walk::{Destination, Route, Walk};

impl Walk<'_> {
    /// Flows to a host port at those addresses of a node that lead nowhere yet; where it leads to a pod, or may,
    /// they do then. `hostIP` binds it to one address, and the others are the node's own.
    pub(super) fn by_host_port(
        &mut self,
        sources: &[Unit],
        ends: &[NodeEnd],
        is_led: &mut [bool],
        only: Protocol,
        number: u16,
    ) {
        let cluster = self.ends.cluster;
        let (mut leads_to, mut elsewhere) = (Vec::new(), Vec::new());
        let mut is_bound = false;
        for (NodeEnd { address, .. }, is_led) in ends.iter().zip(is_led).filter(|(_, is_led)| !**is_led) {
            let (mut here, mut perhaps) = (Vec::new(), Vec::new());
            let ports = cluster.host_ports_at(*address);
            for (pod, port, at) in ports.filter(|(_, of, _)| (of.protocol, of.host_port) == (only, number)) {
                let mut unit = self.ends.pods(&[pod]).remove(0);
                unit.only = Some(Family::of(address));
                let destination = Destination::direct(unit, Traffic::ports(only, port.port, port.port));
                match at {
                    HostPortAt::Here => here.push((*address, destination, true)),
                    HostPortAt::Perhaps => perhaps.push((*address, destination, false)),
                    HostPortAt::OtherNode | HostPortAt::OtherAddress => {
                        is_bound |= at == HostPortAt::OtherAddress;
                        elsewhere.push((self.pod_name(pod), cluster.pod(pod).node.clone()));
                    }
                }
            }
            let found = if here.is_empty() { perhaps } else { here };
            *is_led = !found.is_empty();
            leads_to.extend(found);
        }
        if leads_to.is_empty() {
            if !elsewhere.is_empty() {
                elsewhere.sort();
                elsewhere.dedup();
                self.explanation.warn(WarningFact::HostPortElsewhere { port: number, pods: elsewhere, is_bound });
            }
            return;
        }
        let pods: BTreeSet<String> =
            leads_to.iter().filter_map(|(_, to, _)| Some(self.pod_name(to.unit.party.pod()?))).collect();
        self.explanation.warn(WarningFact::HostPort { port: number, pods: pods.into_iter().collect() });
        let way = Way::HostPort(number);
        for (address, destination, is_known) in leads_to {
            for (is_pod, mut sources) in self.by_node_of_source(sources) {
                let mut destinations = [destination.clone()];
                let mut missing = if is_known { Vec::new() } else { vec![MissingFact::HostPort(number)] };
                if is_pod {
                    let asked = (address, Traffic::ports(only, number, number));
                    missing.extend(self.judge_before(&mut sources, &mut destinations, asked));
                }
                // Where the pod is on another node, the packet is for the node itself.
                let route = Route { way: Some(&way), missing: &missing, may_pass: !is_known, ..Route::default() };
                self.between(&sources, &destinations, route);
            }
        }
    }

    pub(super) fn pod_name(&self, pod: PodId) -> String {
        let pod = self.ends.cluster.pod(pod);
        format!("{}/{}", pod.namespace, pod.name)
    }
}
