//! Two pods with one address, one of them of a node that is lost: agents do not
//! watch all Nodes, so they look the two up.

use k8s_openapi::api::core::v1::PodSpec;
use npc_compiler::object::{Labels, Node, Pod, Protocol};
use npc_tests::apiserver::{Resource, Server, Verb};
use npc_tests::lab::{Backend, Enforcer, Lab, Payload, Probe, Seen};

use super::small::objects;

/// Whether the client on the other node reaches the API.
fn reaches(lab: &mut Lab) -> bool {
    let [client, api] = ["shop/web", "shop/api"].map(|name| lab.find(name).unwrap());
    let address = lab.places()[api].addresses[0];
    let probe = Probe::new(client, api, address, Payload::Port(Protocol::Tcp, 8080));
    lab.probe(&[probe]).unwrap() == [Seen::Arrived]
}

#[test]
fn the_nodes_of_pods_with_one_address_are_looked_up() {
    let Some(agents) = Enforcer::for_test() else { return };
    let mut cluster = objects("web");
    for pod in cluster.pods.iter_mut().filter(|pod| pod.name != "api") {
        pod.node = Some("node-2".to_owned());
    }
    let node = |name: &str, cidrs: &[&str]| Node {
        name: name.to_owned(),
        addresses: Vec::new(),
        pod_cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
    };
    cluster.nodes = vec![node("node-1", &[]), node("node-2", &["10.244.1.0/24", "fd00:244:0:1::/64"])];
    let builder = Lab::builder(cluster).backend(Backend::Nft).enforcer(agents);
    let mut lab = builder.api_server(Server::in_process()).start().unwrap();
    assert!(reaches(&mut lab));
    let gets = |lab: &Lab| lab.api_server().unwrap().count(Resource::Nodes, Verb::Get);
    assert_eq!(gets(&lab), 0, "where nothing is contested, no Node is asked for");

    // What is left of a lost node lists the address of the client, and is none.
    let with_client = lab.cluster().objects.clone();
    let mut contested = with_client.clone();
    let client = contested.pods.iter().find(|pod| pod.name == "web").unwrap().clone();
    let stale = Pod::from_template("shop".to_owned(), "stale".to_owned(), Labels::new(), PodSpec::default());
    let (ipv4, ipv6) = (client.ipv4, client.ipv6);
    let stale = Pod { node: Some("lost".to_owned()), uid: "zz".to_owned(), ipv4, ipv6, ..stale };
    contested.pods.push(stale);
    lab.apply(contested).unwrap();
    // Until the agent knows, the client waits; that it comes back shows that it
    // was asked about both.
    let asked = |server: &Server| server.count(Resource::Nodes, Verb::Get) >= 2;
    lab.api_server().unwrap().wait("the Nodes are looked up", asked).unwrap();
    let begin = std::time::Instant::now();
    while !reaches(&mut lab) {
        assert!(begin.elapsed() < std::time::Duration::from_secs(60), "the client is still not admitted");
    }
    lab.apply(with_client).unwrap();
    assert!(reaches(&mut lab));
}
