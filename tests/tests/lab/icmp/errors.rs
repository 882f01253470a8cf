//! ICMP errors about flows that the nodes know, forged and honest.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use npc_compiler::object::Family;
use npc_tests::lab::{Lab, Netns};

use super::packet::{Between, Icmp, quoted};
use super::{CLOSED, Shot, TO_CLOSED, WAYS, address, any, arrived, bind, lab, netns, service_address};

const SHORT: usize = 300;
const LONG: usize = 1_400;

/// Ports of the flow that errors are about.
const FLOW: (u16, u16) = (4_001, 4_000);

/// A datagram makes a flow known to all nodes on its way.
fn make_known(lab: &Lab, from: &str, to: &str, family: Family, port: u16) {
    let own = SocketAddr::new(any(family), FLOW.0);
    let to = SocketAddr::new(address(lab, to, family), port);
    let send = || bind(own).send_to(b"known", to).map(drop);
    // An answer to the one before may be an error.
    let outcome = netns(lab, from).within(send).unwrap();
    assert!(outcome.is_ok() || outcome.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused));
}

/// An error that `from` sends to `to`, about a datagram from `to` to `about`: that
/// the host or network is not reachable, or that there is a better way.
struct Error<'a> {
    ends: (&'a str, &'a str, &'a str),
    port: u16,
    is_redirect: bool,
}

impl Error<'_> {
    fn build(&self, lab: &Lab, family: Family, between: Between, length: usize, number: u8) -> Shot {
        let (from, to, about) = self.ends;
        let [source, destination, about] = [from, to, about].map(|name| address(lab, name, family));
        let quote = quoted(SocketAddr::new(destination, FLOW.0), SocketAddr::new(about, self.port));
        let body = [&[0; 4], &quote[..]].concat();
        let kind = match family {
            Family::V4 if self.is_redirect => 5,
            Family::V4 => 3,
            Family::V6 => 1,
        };
        let message = Icmp { source, destination, hop_limit: 64, kind, body: &body, between, length };
        let how = if between == Between::Nothing { "" } else { " behind more" };
        Shot { what: format!("{family}{how} {length}"), to: destination, packet: message.build(number) }
    }
}

/// What arrives of errors of both lengths, in words: family and length.
fn errors(lab: &Lab, ends: (&str, &str, &str), port: u16) -> Vec<String> {
    let error = Error { ends, port, is_redirect: false };
    let mut shots = Vec::new();
    for family in Family::ALL {
        let extra = match family {
            Family::V4 => Between::Options,
            Family::V6 => Between::Extension(address(lab, ends.0, family)),
        };
        for (between, length) in
            [Between::Nothing, extra].into_iter().flat_map(|between| [(between, SHORT), (between, LONG)])
        {
            shots.push(error.build(lab, family, between, length, u8::try_from(shots.len()).unwrap()));
        }
    }
    let known = || Family::ALL.into_iter().for_each(|family| make_known(lab, ends.1, ends.2, family, port));
    arrived(lab, (ends.0, ends.1), &shots, known)
}

#[test]
fn an_error_from_a_pod_is_about_what_was_sent_to_it_and_short() {
    for (mode, backend) in WAYS {
        let Some(lab) = lab(mode, backend) else { return };
        let none: &[&str] = &[];
        // The receiver has a flow with its node, or with another pod.
        for ends in [
            ("n/a", "n/b", "node/node-1"),
            ("n/open", "n/b", "node/node-1"),
            ("n/a", "n/open", "node/node-1"),
            ("n/a", "outside", "node/node-1"),
            ("n/a", "n/far", "n/open"),
        ] {
            assert_eq!(errors(&lab, ends, FLOW.1), none, "{ends:?} {mode:?} {backend:?}");
        }
        // The receiver sent this one to the pod, as policies let it.
        let own = ["IPv4 300", "IPv4 behind more 300", "IPv6 300"];
        for ends in [("n/a", "n/open", "n/a"), ("n/open", "n/b", "n/open"), ("n/a", "n/far", "n/a")] {
            assert_eq!(errors(&lab, ends, CLOSED), own, "{ends:?} {mode:?} {backend:?}");
        }
        // A pod that tells others to go another way is no router.
        for (from, arrives) in [("n/a", false), ("outside", true)] {
            let ends = (from, "n/open", from);
            let redirect = Error { ends, port: CLOSED, is_redirect: true };
            let shot = redirect.build(&lab, Family::V4, Between::Nothing, SHORT, 0);
            let known = || make_known(&lab, "n/open", from, Family::V4, CLOSED);
            assert_eq!(arrived(&lab, (from, "n/open"), &[shot], known).len(), usize::from(arrives), "{from} {mode:?}");
        }
        // From beyond the node any that is short, since any router may send one.
        let any = ["IPv4 300", "IPv4 behind more 300", "IPv6 300", "IPv6 behind more 300"];
        let ends = ("outside", "n/b", "node/node-1");
        assert_eq!(errors(&lab, ends, FLOW.1), any, "{ends:?} {mode:?} {backend:?}");
    }
}

/// Whether the sender learns that a closed port refused its datagram.
fn is_refused(from: &Netns, to: SocketAddr) -> bool {
    let ask = || {
        let socket = bind(SocketAddr::new(any(Family::of(&to.ip())), 0));
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        // A datagram or its answer can get lost on a busy machine.
        (0..5).any(|_| {
            let refused = |error: &std::io::Error| error.kind() == ErrorKind::ConnectionRefused;
            match socket.send(b"is there one?") {
                Err(error) => refused(&error),
                Ok(_) => socket.recv(&mut [0; 8]).is_err_and(|error| refused(&error)),
            }
        })
    };
    from.within(ask).unwrap()
}

#[test]
fn a_client_learns_that_no_socket_listens_by_a_pods_own_address_and_by_its_service() {
    for (mode, backend) in WAYS {
        let Some(lab) = lab(mode, backend) else { return };
        for family in Family::ALL {
            let own = SocketAddr::new(address(&lab, "n/b", family), CLOSED);
            let service = SocketAddr::new(service_address(&lab, "n/b", family), TO_CLOSED);
            for from in ["n/a", "n/open", "n/far", "outside"] {
                assert!(is_refused(netns(&lab, from), own), "{from} {own} {mode:?} {backend:?}");
                if from != "outside" {
                    assert!(is_refused(netns(&lab, from), service), "{from} {service} {mode:?} {backend:?}");
                }
            }
        }
    }
}
