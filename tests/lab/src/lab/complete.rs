//! Makes a cluster whole: manifests leave out what a scheduler, a CNI plugin
//! and an API server would fill in (nodes, addresses, the pods of workloads).
//! What they do say stays as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use npc_compiler::object::{Family, Node, Objects, Pod};

use super::error::{Error, Result};

/// How many nodes a cluster gets where no object names one.
const NODES: usize = 3;
/// How many pods stand for a workload.
const REPLICAS: usize = 2;

/// A cluster that can be built: every endpoint has a node and an address,
/// every node both families.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// The completed objects: what the agents read.
    pub objects: Objects,
    /// Per node its own addresses in the pods' network, where bridged pods
    /// find their gateway.
    pub gateways: BTreeMap<String, (Ipv4Addr, Ipv6Addr)>,
}

impl Cluster {
    /// Completes objects.
    ///
    /// # Errors
    /// When two live pods or nodes claim one address: namespaces cannot be
    /// built so.
    pub fn complete(mut objects: Objects) -> Result<Self> {
        objects.declare_namespaces();
        name_nodes(&mut objects);
        let nodes: Vec<String> = objects.nodes.iter().map(|node| node.name.clone()).collect();
        objects.pods = objects.pods.into_iter().flat_map(|pod| replicas(pod, &nodes)).collect();
        schedule(&mut objects.pods, &nodes);
        let mut pool = Pool::of(&objects)?;
        for (index, node) in objects.nodes.iter_mut().enumerate() {
            complete_node(node, index, &mut pool);
        }
        let mut gateways = BTreeMap::new();
        for (index, node) in nodes.iter().enumerate() {
            gateways.insert(node.clone(), (pool.v4(pod_v4(index)), pool.v6(pod_v6(index))));
        }
        let numbers: BTreeMap<&str, usize> = nodes.iter().enumerate().map(|(n, name)| (name.as_str(), n)).collect();
        for pod in &mut objects.pods {
            let index = pod.node.as_deref().and_then(|name| numbers.get(name)).copied().unwrap_or_default();
            complete_pod(pod, &objects.nodes[index], index, &mut pool);
        }
        for service in &mut objects.services {
            if service.addresses.is_empty() {
                service.addresses.push(pool.v4(u32::from(Ipv4Addr::new(10, 96, 0, 1))).into());
                service.addresses.push(pool.v6(0xfd00_0096 << 96 | 1).into());
            }
        }
        Ok(Self { objects, gateways })
    }

    /// The endpoints: pods with a network of their own.
    pub fn endpoints(&self) -> impl Iterator<Item = &Pod> {
        self.objects.pods.iter().filter(|pod| pod.is_endpoint())
    }
}

/// `NAMESPACE/NAME`, as people and reports name a pod.
#[must_use]
pub fn pod_name(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

fn name_nodes(objects: &mut Objects) {
    let mut names: BTreeSet<String> = objects.pods.iter().filter_map(|pod| pod.node.clone()).collect();
    if names.is_empty() && objects.nodes.is_empty() {
        names = (1..=NODES).map(|n| format!("node-{n}")).collect();
    }
    for node in &objects.nodes {
        names.remove(&node.name);
    }
    objects.nodes.extend(names.into_iter().map(|name| Node { name, addresses: Vec::new(), pod_cidrs: Vec::new() }));
}

/// The pods of a workload; a pod that is one stays alone. A template has
/// neither UID nor address nor node, and bears its workload's name.
fn replicas(pod: Pod, nodes: &[String]) -> Vec<Pod> {
    let template = pod.uid.is_empty() && pod.node.is_none() && pod.addresses().next().is_none();
    let workload = pod.workload.as_ref().filter(|workload| template && workload.name == pod.name);
    match workload.map(|workload| workload.kind.as_str()) {
        None => vec![pod],
        Some("DaemonSet") => {
            let on = |(n, node): (usize, &String)| Pod { node: Some(node.clone()), ..numbered(&pod, n + 1) };
            nodes.iter().enumerate().map(on).collect()
        }
        Some("StatefulSet") => (0..REPLICAS).map(|n| numbered(&pod, n)).collect(),
        Some("Job" | "CronJob") => vec![numbered(&pod, 1)],
        Some(_) => (1..=REPLICAS).map(|n| numbered(&pod, n)).collect(),
    }
}

fn numbered(pod: &Pod, number: usize) -> Pod {
    Pod { name: format!("{}-{number}", pod.name), ..pod.clone() }
}

/// Spreads the pods without node: each goes where the fewest are.
fn schedule(pods: &mut [Pod], nodes: &[String]) {
    let mut load: Vec<usize> =
        nodes.iter().map(|n| pods.iter().filter(|p| p.node.as_ref() == Some(n)).count()).collect();
    for pod in pods.iter_mut().filter(|pod| pod.node.is_none() && !pod.finished) {
        let Some(index) = (0..nodes.len()).min_by_key(|index| load[*index]) else { return };
        load[index] += 1;
        pod.node = Some(nodes[index].clone());
    }
}

fn complete_node(node: &mut Node, index: usize, pool: &mut Pool) {
    if !node.addresses.iter().any(IpAddr::is_ipv4) {
        node.addresses.push(pool.v4(u32::from(Ipv4Addr::new(172, 30, 0, 10)) + number(index)).into());
    }
    if !node.addresses.iter().any(IpAddr::is_ipv6) {
        node.addresses.push(pool.v6((0xfd00_0030 << 96) + 0x10 + u128::from(number(index))).into());
    }
    node.addresses.sort_unstable();
}

fn complete_pod(pod: &mut Pod, node: &Node, index: usize, pool: &mut Pool) {
    let first = |family| node.addresses.iter().copied().find(|a| Family::of(a) == family);
    if pod.uid.is_empty() {
        pod.uid = format!("lab-{}-{}", pod.namespace, pod.name);
    }
    if pod.finished {
        return;
    }
    if pod.host_network {
        pod.ipv4 =
            Family::ALL.into_iter().filter_map(first).find_map(|a| if let IpAddr::V4(a) = a { Some(a) } else { None });
        pod.ipv6 =
            Family::ALL.into_iter().filter_map(first).find_map(|a| if let IpAddr::V6(a) = a { Some(a) } else { None });
    } else if pod.addresses().next().is_none() {
        pod.ipv4 = Some(pool.v4(pod_v4(index) + 4));
        pod.ipv6 = Some(pool.v6(pod_v6(index) + 4));
    }
    pod.host_addresses.clone_from(&node.addresses);
}

/// The first address of the pods' network of a node, where its gateway is.
fn pod_v4(node: usize) -> u32 {
    u32::from(Ipv4Addr::new(10, 244, 0, 1)) + (number(node) << 8)
}

fn pod_v6(node: usize) -> u128 {
    (0xfd00_0244 << 96) + (u128::from(number(node)) << 64) + 1
}

fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or_default()
}

/// Addresses that are taken.
struct Pool {
    taken: BTreeSet<IpAddr>,
}

impl Pool {
    /// All addresses that objects list; two owners of one are an error.
    fn of(objects: &Objects) -> Result<Self> {
        let mut owners: BTreeMap<IpAddr, String> = BTreeMap::new();
        let mut own = |address: IpAddr, owner: String| match owners.insert(address, owner.clone()) {
            Some(other) if other != owner => {
                Err(Error::Cluster(format!("{other} and {owner} both have the address {address}")))
            }
            _ => Ok(()),
        };
        for node in &objects.nodes {
            for address in &node.addresses {
                own(*address, format!("node {}", node.name))?;
            }
        }
        for pod in objects.pods.iter().filter(|pod| pod.is_endpoint()) {
            for address in pod.addresses() {
                own(address, format!("pod {}", pod_name(pod)))?;
            }
        }
        for service in &objects.services {
            for address in &service.addresses {
                own(*address, format!("service {}/{}", service.namespace, service.name))?;
            }
        }
        Ok(Self { taken: owners.into_keys().collect() })
    }

    /// The first free address from here on, which is then taken.
    fn v4(&mut self, mut from: u32) -> Ipv4Addr {
        while !self.taken.insert(Ipv4Addr::from(from).into()) {
            from += 1;
        }
        from.into()
    }

    fn v6(&mut self, mut from: u128) -> Ipv6Addr {
        while !self.taken.insert(Ipv6Addr::from(from).into()) {
            from += 1;
        }
        from.into()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use k8s_openapi::api::core::v1::PodSpec;
    use npc_compiler::object::{Labels, Workload};

    use super::*;

    fn pod(name: &str) -> Pod {
        Pod::from_template("shop".to_owned(), name.to_owned(), Labels::new(), PodSpec::default())
    }

    fn names(cluster: &Cluster) -> Vec<String> {
        cluster.objects.pods.iter().map(|p| format!("{} on {}", p.name, p.node.as_deref().unwrap_or("-"))).collect()
    }

    #[test]
    fn workloads_become_pods_spread_over_three_nodes() {
        let workload = Some(Workload { kind: "Deployment".to_owned(), name: "web".to_owned() });
        let web = Pod { workload, ..pod("web") };
        let cluster = Cluster::complete(Objects { pods: vec![web, pod("db")], ..Objects::default() }).unwrap();
        assert_eq!(names(&cluster), ["web-1 on node-1", "web-2 on node-2", "db on node-3"]);
        assert!(cluster.endpoints().all(|p| p.ipv4.is_some() && p.ipv6.is_some()));
        assert_eq!(cluster.objects.namespaces.len(), 1);
    }

    #[test]
    fn what_the_manifests_say_stays() {
        let there = Pod { node: Some("b".to_owned()), ipv4: Some([10, 0, 0, 7].into()), ..pod("there") };
        let cluster = Cluster::complete(Objects { pods: vec![there, pod("other")], ..Objects::default() }).unwrap();
        let there = &cluster.objects.pods[0];
        assert_eq!((there.ipv4, there.ipv6), (Some([10, 0, 0, 7].into()), None));
        assert_eq!(names(&cluster), ["there on b", "other on b"]);
    }

    #[test]
    fn two_pods_with_one_address_are_refused() {
        let twin = |name| Pod { ipv4: Some([10, 0, 0, 7].into()), ..pod(name) };
        let error = Cluster::complete(Objects { pods: vec![twin("a"), twin("b")], ..Objects::default() }).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot build this cluster: pod shop/a and pod shop/b both have the address 10.0.0.7"
        );
    }
}
