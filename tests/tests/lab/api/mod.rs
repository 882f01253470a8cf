//! Real agents that watch a real HTTP API enforce policies on real packets, also while
//! the API server fails.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod burst;
mod contested;
mod credentials;
mod notices;
mod outages;
mod pages;
mod retained;
mod silence;
mod small;
mod why;

use npc_tests::apiserver::{Request, Resource, Server, Verb};
use npc_tests::lab::{Backend, Enforcer, Lab, Mode};

use crate::shop::{edits_are_followed, shop};

/// The shop, as it is and through changes of policies and labels.
fn agents_follow_an_api_server(mode: Mode, backend: Backend) {
    let Some(agents) = Enforcer::for_test() else { return };
    let lab = Lab::builder(shop()).mode(mode).backend(backend).enforcer(agents);
    let mut lab = lab.api_server(Server::in_process()).start().unwrap();
    edits_are_followed(&mut lab);
    let server = lab.api_server().unwrap();
    let watched = [Resource::Pods, Resource::Namespaces, Resource::NetworkPolicies, Resource::Nodes];
    let nodes = lab.cluster().objects.nodes.len();
    // An agent renews its watches; between two of them there is none.
    let all_watch = |server: &Server| watched.iter().all(|resource| server.watches(*resource) == nodes);
    server.wait("each agent watches", all_watch).unwrap();
    for resource in watched {
        assert_eq!(server.count(resource, Verb::StreamingList), nodes, "each agent reads everything once");
        assert_eq!(server.count(resource, Verb::List), 0);
    }
    let asked = server.requests();
    // A request without a code has no answer yet.
    let is_refused = |request: &Request| request.code.is_some_and(|code| code != 200);
    let outside = asked.iter().find(|request| request.resource == Some(Resource::Services) || is_refused(request));
    assert_eq!(outside, None, "an agent asks for what it may have and nothing else");
}

#[test]
fn agents_at_an_api_server_keep_the_shop_routed_by_nft() {
    agents_follow_an_api_server(Mode::Routed, Backend::Nft);
}

#[test]
fn agents_at_an_api_server_keep_the_shop_bridged_by_legacy() {
    agents_follow_an_api_server(Mode::Bridge, Backend::Legacy);
}
