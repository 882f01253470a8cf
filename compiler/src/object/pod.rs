//! A pod: what the compiler keeps of one, and how it is read.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::core::v1 as core;

use super::controller_label::{POD_INDEX_LABEL, POD_NAME_LABEL};
use super::workload::{POD_TEMPLATE_HASH, Workload};
use super::{Family, Labels, Protocol, parse_address};

/// A pod, or a pod that a workload would make.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of the API that is independent of the others")]
pub struct Pod {
    /// `metadata.uid`; it distinguishes a pod from its successor of the same name.
    /// Empty where a file has none.
    pub uid: String,
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`; of a workload's pod, the workload's name.
    pub name: String,
    /// `metadata.labels`
    pub labels: Labels,
    /// The workload it belongs to: the controlling owner (else the first), and
    /// for a Deployment's ReplicaSet the Deployment.
    pub workload: Option<Workload>,
    /// `spec.nodeName`: the node that it is bound to.
    pub node: Option<String>,
    /// Its IPv4 address, from `status.podIPs` or `status.podIP`.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Its IPv6 address is the first one that its status lists: the cluster's first family is IPv6.
    pub is_ipv6_first: bool,
    /// `status.hostIPs`: addresses of the node it runs on.
    pub host_addresses: Vec<IpAddr>,
    /// Ports of its containers and of its restartable init containers
    /// (sidecars) that have a name; policies can mean no others by name. Sorted by name and
    /// protocol; those that have both in common are in the order of the containers.
    pub ports: Vec<ContainerPort>,
    /// The ports that these containers declare without a name. They decide nothing and help to
    /// find mistakes; the agent does not keep them.
    pub unnamed_ports: Box<[(Protocol, u16)]>,
    /// The containers of these ports, where several declare any: which port a name or a number may mean
    /// is easier to see. They decide nothing; the agent does not keep them.
    pub containers_of_ports: Box<[ContainerOfPort]>,
    /// `status.phase` is `Succeeded` or `Failed`: it has no address any more, even if its status
    /// lists one.
    pub finished: bool,
    /// `metadata.deletionTimestamp` is set: it goes away, and keeps its
    /// network until it is gone.
    pub terminating: bool,
    /// It says that it is not ready: the condition `Ready` is not `True`, or it is pending and has no
    /// address. A pod of a file without a status counts as ready. Only Services ask; the agent does
    /// not keep it.
    pub not_ready: bool,
    /// `status.startTime`, in seconds since 1970: when kubelet took it on.
    pub started: Option<i64>,
    /// `spec.hostNetwork`: it has its node's network and is no endpoint.
    pub host_network: bool,
    /// `hostPort` of its containers: ports of its node that lead to it.
    pub host_ports: Box<[HostPort]>,
    /// Addresses of its node at which it listens, as its arguments say: those of `-localip` of a DNS cache
    /// (NodeLocal DNSCache). Only of a hostNetwork pod, and only questions ask; the agent does not keep them.
    pub local_addresses: Box<[IpAddr]>,
    /// Only an EndpointSlice names it: nothing is known of it but names and addresses.
    pub only_in_slice: bool,
    /// It stands for a workload that makes one pod (`replicas: 1`), and so for that pod alone.
    pub is_single: bool,
    /// It is the pod of this name that a workload of files would make. It has those labels of the controller that
    /// follow from the name.
    pub is_planned: bool,
    /// It stands for the pods of a Job without indexes (`completionMode: NonIndexed`).
    pub has_no_index: bool,
    /// It runs only on nodes with certain labels (`nodeSelector`, or a required node affinity). Only
    /// questions ask; the agent does not keep it.
    pub is_on_some_nodes: bool,
    /// `HOSTNAME.SUBDOMAIN` of its spec, by which DNS names it: the subdomain is the name of a headless Service.
    /// Only questions ask; the agent does not keep it.
    pub dns_name: Option<Box<str>>,
    /// The annotation [`CONFIG_HASH`]. Of the mirror of a static pod it is the UID that
    /// kubelet and container runtime give the pod.
    pub config_hash: Option<String>,
}

/// The annotation by which kubelet ties the mirror of a static pod to its manifest.
///
/// <https://kubernetes.io/docs/reference/labels-annotations-taints/#kubernetes-io-config-hash>
pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// A port that a container declares.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerPort {
    /// `name`
    pub name: String,
    /// `protocol`
    pub protocol: Protocol,
    /// `containerPort`, 1 to 65535
    pub port: u16,
}

impl ContainerPort {
    /// Whether a rule or a `targetPort` with this protocol and name means it.
    #[must_use]
    pub fn is_named(&self, protocol: Protocol, name: &str) -> bool {
        self.protocol == protocol && self.name == name
    }
}

/// The container that declares a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerOfPort {
    /// `name` of the container
    pub container: Box<str>,
    /// `protocol`
    pub protocol: Protocol,
    /// `containerPort`
    pub port: u16,
}

/// A port of a node that leads to a port of a pod on it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// `protocol`
    pub protocol: Protocol,
    /// `hostPort`, 1 to 65535
    pub host_port: u16,
    /// `containerPort`, 1 to 65535
    pub port: u16,
    /// `hostIP`: the only address of the node that leads there; all of them without it.
    pub address: Option<IpAddr>,
}

impl Pod {
    /// The pod's address of a family, if it has one and is not finished.
    #[must_use]
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        if self.finished {
            return None;
        }
        match family {
            Family::V4 => self.ipv4.map(IpAddr::V4),
            Family::V6 => self.ipv6.map(IpAddr::V6),
        }
    }

    /// Its addresses, IPv4 first; none once it is finished.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        Family::ALL.into_iter().filter_map(|family| self.address(family))
    }

    /// The kind and name of what it is a part of: its workload, or the pod itself.
    #[must_use]
    pub fn identity(&self) -> (&str, &str) {
        self.workload.as_ref().map_or(("Pod", &self.name), |of| (&of.kind, &of.name))
    }

    /// The kind and name of what it is shown as in answers by workload: a pod that was asked for before it exists is
    /// one of its own.
    #[must_use]
    pub fn shown_as(&self) -> (&str, &str) {
        if self.is_planned { ("Pod", &self.name) } else { self.identity() }
    }

    /// The ports of a protocol that its containers declare, with a name or without.
    pub fn declared_ports(&self, protocol: Protocol) -> impl Iterator<Item = u16> + '_ {
        let named = self.ports.iter().map(|port| (port.protocol, port.port));
        let all = named.chain(self.unnamed_ports.iter().copied());
        all.filter(move |(of, _)| *of == protocol).map(|(_, port)| port)
    }

    /// The container that declares a port, where several containers of the pod declare ports.
    #[must_use]
    pub fn container_of(&self, protocol: Protocol, port: u16) -> Option<&str> {
        let of_port = self.containers_of_ports.iter().find(|of| (of.protocol, of.port) == (protocol, port));
        of_port.map(|of| &*of.container)
    }

    /// The ReplicaSet that has made it for its Deployment: `NAME-HASH`, by the pod's hash label.
    #[must_use]
    pub fn replica_set(&self) -> Option<String> {
        let workload = self.workload.as_ref().filter(|workload| workload.kind == "Deployment")?;
        let hash = self.labels.get(POD_TEMPLATE_HASH).filter(|_| !self.is_template())?;
        Some(format!("{}-{hash}", workload.name))
    }

    /// Whether policies can apply to it: live, with a network of its own.
    #[must_use]
    pub fn is_endpoint(&self) -> bool {
        !self.finished && !self.host_network
    }

    /// Whether it is the pod that stands for a workload, and bears its name,
    /// not one that there is.
    #[must_use]
    pub fn is_template(&self) -> bool {
        self.uid.is_empty() && self.workload.as_ref().is_some_and(|workload| workload.name == self.name)
    }

    /// The pod with this ordinal that a StatefulSet would make after the template that stands for it
    /// (<https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#pod-name-label>).
    #[must_use]
    pub fn of_stateful_set(template: &Self, ordinal: u32) -> Self {
        let name = format!("{}-{ordinal}", template.name);
        let mut pod = Self { name, is_planned: true, is_single: false, ..template.clone() };
        pod.labels.insert(POD_NAME_LABEL.to_owned(), pod.name.clone());
        pod.labels.insert(POD_INDEX_LABEL.to_owned(), ordinal.to_string());
        pod
    }

    /// Whether it stands for the pods of a DaemonSet: there is one on each node.
    #[must_use]
    pub fn is_on_each_node(&self) -> bool {
        self.is_template() && self.workload.as_ref().is_some_and(|workload| workload.kind == "DaemonSet")
    }

    /// Whether it stands for the pods of a DaemonSet that runs on every node, without a selector that leaves a node
    /// out.
    #[must_use]
    pub fn is_on_every_node(&self) -> bool {
        self.is_on_each_node() && !self.is_on_some_nodes
    }
}

impl From<core::Pod> for Pod {
    fn from(pod: core::Pod) -> Self {
        let metadata = pod.metadata;
        let status = pod.status.unwrap_or_default();
        let mut made = Self::from_template(
            metadata.namespace.unwrap_or_else(|| "default".to_owned()),
            metadata.name.unwrap_or_default(),
            metadata.labels.unwrap_or_default(),
            pod.spec.unwrap_or_default(),
        );
        made.uid = metadata.uid.unwrap_or_default();
        made.config_hash = metadata.annotations.and_then(|mut annotations| annotations.remove(CONFIG_HASH));
        let owners = metadata.owner_references.unwrap_or_default();
        made.workload = (owners.iter().find(|owner| owner.controller == Some(true)))
            .or(owners.first())
            .filter(|owner| owner.kind != "Node")
            .map(|owner| Workload::of_owner(&owner.kind, &owner.name, &made.labels));
        let listed = status.pod_ips.unwrap_or_default().into_iter().map(|ip| ip.ip);
        let addresses = listed.chain(status.pod_ip).filter_map(|text| parse_address(&text));
        // No pod has the null address, and no set takes it.
        for ip in addresses.filter(|ip| !ip.is_unspecified()) {
            // The API has at most one of each family; the first one counts.
            match ip {
                IpAddr::V4(ip) => made.ipv4 = made.ipv4.or(Some(ip)),
                IpAddr::V6(ip) => {
                    made.is_ipv6_first |= made.ipv4.is_none();
                    made.ipv6 = made.ipv6.or(Some(ip));
                }
            }
        }
        let hosts = status.host_ips.unwrap_or_default().into_iter().map(|ip| ip.ip);
        made.host_addresses = hosts.chain(status.host_ip).filter_map(|text| parse_address(&text)).collect();
        made.host_addresses.sort_unstable();
        made.host_addresses.dedup();
        made.finished = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        made.terminating = metadata.deletion_timestamp.is_some();
        let mut conditions = status.conditions.into_iter().flatten();
        let is_pending = status.phase.as_deref() == Some("Pending") && made.addresses().next().is_none();
        made.not_ready = is_pending || conditions.any(|of| of.type_ == "Ready" && of.status != "True");
        made.started = status.start_time.map(|time| time.0.as_second());
        made
    }
}

impl Pod {
    /// The pod that a pod template would make: no address, no node unless the
    /// template names one.
    #[must_use]
    pub fn from_template(namespace: String, name: String, labels: Labels, spec: core::PodSpec) -> Self {
        let local_addresses = local_addresses(&spec);
        let sidecars = (spec.init_containers.unwrap_or_default().into_iter())
            .filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let listed = spec.containers.into_iter().chain(sidecars).flat_map(|c| {
            let ports = c.ports.unwrap_or_default().into_iter();
            ports.map(move |port| (port, c.name.clone()))
        });
        let number = |number: i32| u16::try_from(number).ok().filter(|p| *p > 0);
        let (mut ports, mut unnamed_ports, mut host_ports) = (Vec::new(), Vec::new(), Vec::new());
        let mut containers_of_ports: Vec<ContainerOfPort> = Vec::new();
        for (listed, container) in listed {
            let protocol = Protocol::parse(listed.protocol.as_deref().unwrap_or("TCP"));
            let Some((protocol, port)) = protocol.zip(number(listed.container_port)) else { continue };
            containers_of_ports.push(ContainerOfPort { container: container.into(), protocol, port });
            if let Some(host_port) = listed.host_port.and_then(number) {
                let address = listed.host_ip.as_deref().and_then(parse_address).filter(|ip| !ip.is_unspecified());
                host_ports.push(HostPort { protocol, host_port, port, address });
            }
            match listed.name {
                Some(name) => ports.push(ContainerPort { name, protocol, port }),
                None => unnamed_ports.push((protocol, port)),
            }
        }
        if containers_of_ports.windows(2).all(|pair| pair[0].container == pair[1].container) {
            containers_of_ports.clear();
        }
        // If several ports have one name and protocol, the one that is listed first stays first,
        // because a Service's named targetPort means that one.
        let mut seen = BTreeSet::new();
        ports.retain(|port| seen.insert(port.clone()));
        ports.sort_by(|a, b| (&a.name, a.protocol).cmp(&(&b.name, b.protocol)));
        // Every node that npc runs on has these.
        let is_of_all =
            |key: &str, value: &str| matches!(key, "kubernetes.io/os" | "beta.kubernetes.io/os") && value == "linux";
        let affinity = spec.affinity.and_then(|of| of.node_affinity);
        let is_on_some_nodes = (spec.node_selector)
            .is_some_and(|labels| labels.iter().any(|(key, value)| !is_of_all(key, value)))
            || affinity.is_some_and(|of| of.required_during_scheduling_ignored_during_execution.is_some());
        let (hostname, subdomain) = (spec.hostname.unwrap_or_default(), spec.subdomain.unwrap_or_default());
        let has_dns_name = !hostname.is_empty() && !subdomain.is_empty();
        let dns_name = has_dns_name.then(|| format!("{hostname}.{subdomain}").into());
        Self {
            uid: String::new(),
            namespace,
            name,
            labels,
            workload: None,
            node: spec.node_name.filter(|name| !name.is_empty()),
            ipv4: None,
            ipv6: None,
            is_ipv6_first: false,
            host_addresses: Vec::new(),
            ports,
            unnamed_ports: unnamed_ports.into(),
            containers_of_ports: containers_of_ports.into(),
            finished: false,
            terminating: false,
            not_ready: false,
            started: None,
            host_network: spec.host_network.unwrap_or(false),
            host_ports: host_ports.into(),
            local_addresses,
            only_in_slice: false,
            is_single: false,
            is_planned: false,
            has_no_index: false,
            is_on_some_nodes,
            dns_name,
            config_hash: None,
        }
    }
}

/// The addresses that the containers of a hostNetwork pod are told to give to their node: `-localip LIST`.
fn local_addresses(spec: &core::PodSpec) -> Box<[IpAddr]> {
    let containers = spec.containers.iter().filter(|_| spec.host_network == Some(true));
    let lists = containers.flat_map(|container| {
        let words = container.command.iter().chain(&container.args).flatten().map(String::as_str);
        let words: Vec<&str> = words.collect();
        let list = |(place, word): (usize, &&str)| {
            let flag = word.strip_prefix('-').map(|flag| flag.strip_prefix('-').unwrap_or(flag))?;
            match flag.strip_prefix("localip")? {
                "" => words.get(place + 1).map(|next| (*next).to_owned()),
                value => value.strip_prefix('=').map(str::to_owned),
            }
        };
        words.iter().enumerate().filter_map(list).collect::<Vec<String>>()
    });
    let addresses: BTreeSet<IpAddr> =
        lists.flat_map(|list| list.split(',').filter_map(parse_address).collect::<Vec<IpAddr>>()).collect();
    addresses.into_iter().collect()
}
