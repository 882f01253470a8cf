//! A pod's packets to itself: by a Service of its own, and forged by others.

use std::net::SocketAddr;
use std::time::Duration;

use npc_compiler::object::Family;

use super::packet::datagram;
use super::{DENIED, Shot, TO_DENIED, WAYS, address, any, arrived, bind, lab, netns, service_address};

#[test]
fn a_packet_from_its_own_destination_is_judged_by_policies() {
    for (mode, backend) in WAYS {
        let Some(lab) = lab(mode, backend) else { return };
        for from in ["n/a", "n/open", "n/far", "outside"] {
            let shots: Vec<Shot> = (Family::ALL.into_iter().zip(0..))
                .map(|(family, number)| {
                    let to = address(&lab, "n/b", family);
                    let [source, destination] = [4_000, DENIED].map(|port| SocketAddr::new(to, port));
                    Shot { what: family.to_string(), to, packet: datagram(source, destination, number) }
                })
                .collect();
            assert_eq!(
                arrived(&lab, (from, "n/b"), &shots, || {}),
                Vec::<String>::new(),
                "{from} {mode:?} {backend:?}"
            );
        }
    }
}

#[test]
fn an_isolated_pod_reaches_itself_by_its_service() {
    for (mode, backend) in WAYS {
        let Some(lab) = lab(mode, backend) else { return };
        for family in Family::ALL {
            let service = SocketAddr::new(service_address(&lab, "n/b", family), TO_DENIED);
            let exchange = || {
                let server = bind(SocketAddr::new(any(family), DENIED));
                let client = bind(SocketAddr::new(address(&lab, "n/b", family), 0));
                for socket in [&server, &client] {
                    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
                }
                let mut buffer = [0; 16];
                // A datagram can get lost on a busy machine.
                (0..5).any(|_| {
                    client.send_to(b"question", service).unwrap();
                    let Ok((_, from)) = server.recv_from(&mut buffer) else { return false };
                    server.send_to(b"answer", from).unwrap();
                    client.recv_from(&mut buffer).is_ok_and(|(_, from)| from == service)
                })
            };
            assert!(netns(&lab, "n/b").within(exchange).unwrap(), "{family} {mode:?} {backend:?}");
        }
    }
}
