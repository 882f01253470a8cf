//! Renewals: what they forget, and what they may not miss.

use std::collections::BTreeSet;
use std::fs;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use npc_agent::dataplane::conntrack::sweep;
use npc_agent::dataplane::flow_index::Forget;
use npc_agent::dataplane::{CutRequest, Kernel as _};
use npc_compiler::object::Family;
use npc_compiler::plan::conntrack::{FlowKey, FlowScope};

use super::{Node, address, set};
use crate::namespace::run;

#[test]
fn what_has_no_flow_any_more_is_forgotten_and_what_has_one_is_not() {
    let node = Node::new();
    node.renew(&[]);
    let all = ["10.1.0.3", "10.1.0.4", "10.1.0.5", "fd01::3", "fd01::4"];
    for to in all {
        node.send_to(to);
    }
    assert_eq!(node.free(&all), [""; 0]);
    let forget = |addresses: &[&str]| {
        sweep(Family::V4, &mut |flow| addresses.iter().any(|text| flow.destination == address(text))).unwrap();
        sweep(Family::V6, &mut |flow| addresses.iter().any(|text| flow.destination == address(text))).unwrap();
    };
    forget(&["10.1.0.3", "10.1.0.4", "fd01::3"]);
    // Pods have two of them, and one has a flow still.
    node.renew(&["10.1.0.4"]);
    assert_eq!(node.free(&all), ["10.1.0.3", "fd01::3"]);
    // Some alone; one of them has a flow.
    forget(&["fd01::4"]);
    let some = set(&["10.1.0.4", "10.1.0.5", "10.1.0.77", "fd01::4"]);
    node.sweep(FlowScope::Of(some.clone()), Node::request(1, Forget::Only(some)));
    assert_eq!(node.free(&all), ["10.1.0.3", "10.1.0.4", "fd01::3", "fd01::4"]);
    // Of a sweep that could not judge all, nothing is forgotten.
    forget(&["10.1.0.5"]);
    node.send_to("10.1.0.4");
    for forget in [Forget::Only(set(&["10.1.0.5"])), Forget::AllBut(BTreeSet::new())] {
        let cut = CutRequest {
            scope: FlowScope::All,
            new: BTreeSet::new(),
            index_epoch: None,
            renewal: Some(Node::request(1, forget)),
        };
        node.kernel.flows().cut(&cut, &mut |_| None).unwrap_err();
        assert_eq!(node.free(&all), ["10.1.0.3", "fd01::3", "fd01::4"]);
    }
    node.renew(&[]);
    assert_eq!(node.free(&all), ["10.1.0.3", "10.1.0.5", "fd01::3", "fd01::4"]);
}

/// A packet in a queue of another program was noted, and its flow is in no list before the program
/// lets it go on.
#[test]
fn nothing_is_forgotten_while_packets_wait_in_queues() {
    let node = Node::new();
    node.renew(&[]);
    node.send_to("10.1.0.3");
    sweep(Family::V4, &mut |_| true).unwrap();
    let queue = Queue::bind();
    node.renew(&[]);
    assert_eq!(node.free(&["10.1.0.3"]), [""; 0]);
    queue.unbind();
    node.renew(&[]);
    assert_eq!(node.free(&["10.1.0.3"]), ["10.1.0.3"]);
}

/// A queue of packets that a program has bound.
struct Queue {
    _socket: rtnetlink::sys::Socket,
}

impl Queue {
    fn bind() -> Self {
        let socket = rtnetlink::sys::Socket::new(rtnetlink::sys::protocols::NETLINK_NETFILTER).unwrap();
        socket.connect(&rtnetlink::sys::SocketAddr::new(0, 0)).unwrap();
        // NFQNL_MSG_CONFIG of queue 7, with NFQA_CFG_CMD: bind, for IPv4.
        let mut message = vec![0; 16];
        message.extend([2, 0, 0, 7, 8, 0, 1, 0, 1, 0, 0, 2]);
        let length = u32::try_from(message.len()).unwrap();
        message[..4].copy_from_slice(&length.to_ne_bytes());
        message[4..6].copy_from_slice(&0x0302_u16.to_ne_bytes());
        // NLM_F_REQUEST and NLM_F_ACK.
        message[6..8].copy_from_slice(&5_u16.to_ne_bytes());
        socket.send(&message, 0).unwrap();
        let mut answer = vec![0; 4096];
        socket.recv(&mut &mut answer[..], 0).unwrap();
        assert!(Self::is_bound());
        Self { _socket: socket }
    }

    fn is_bound() -> bool {
        let queues = fs::read_to_string("/proc/thread-self/net/netfilter/nfnetlink_queue").unwrap();
        queues.trim_start().starts_with('7')
    }

    /// A child of another test has the socket too from its fork to its exec, and the kernel unbinds the queue when the
    /// last one closes it.
    fn unbind(self) {
        drop(self);
        let since = Instant::now();
        while Self::is_bound() {
            assert!(since.elapsed() < Duration::from_secs(30), "the queue is still bound");
            thread::yield_now();
        }
    }
}

/// Ends what goes on until this is set.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A renewal forgets addresses while packets come. After it, each address with a flow is in the index.
#[test]
fn no_flow_is_missed_while_renewals_forget_addresses_under_a_flood() {
    let node = Node::new();
    let to: Vec<String> = (16..80).flat_map(|n| [format!("10.1.0.{n}"), format!("fd01::{n:x}")]).collect();
    let is_over = AtomicBool::new(false);
    let listed = thread::scope(|scope| {
        // Also where an assertion fails.
        let _stop = Stop(&is_over);
        let flood = || {
            node.others.within(|| {
                let sockets = ["0.0.0.0:0", "[::]:0"].map(|any| UdpSocket::bind(any).unwrap());
                while !is_over.load(Ordering::Relaxed) {
                    for to in &to {
                        // An ICMP error that came for an earlier one is no failure.
                        let _ = sockets[usize::from(to.contains(':'))].send_to(b"hello", (address(to), 99));
                    }
                    thread::yield_now();
                }
            });
        };
        scope.spawn(flood);
        let mut listed = 0;
        for _ in 0..12 {
            // All may be forgotten, and begins anew.
            for family in Family::ALL {
                sweep(family, &mut |_| true).unwrap();
            }
            node.renew(&[]);
            let mut with_flows = BTreeSet::new();
            for family in Family::ALL {
                let see = &mut |flow: &FlowKey| {
                    with_flows.insert(flow.destination.to_string());
                    false
                };
                sweep(family, see).unwrap();
            }
            with_flows.retain(|text| to.contains(text));
            listed += with_flows.len();
            let with_flows: Vec<&str> = with_flows.iter().map(String::as_str).collect();
            assert_eq!(node.free(&with_flows), [""; 0], "they have flows");
        }
        listed
    });
    assert!(listed > 100, "{listed} flows: too few to show anything");
    // And it did count.
    assert_eq!(node.free(&["10.1.0.200"]), ["10.1.0.200"]);
}

#[test]
fn a_renewal_whose_table_goes_meanwhile_fails_and_the_next_one_does_not() {
    let node = Node::new();
    node.renew(&[]);
    node.send_to("10.1.0.3");
    node.send_to("10.1.0.4");
    let renewal = || Some(Node::request(1, Forget::AllBut(BTreeSet::new())));
    let cut = || CutRequest { scope: FlowScope::All, new: BTreeSet::new(), index_epoch: None, renewal: renewal() };
    // A set of one family that was emptied says nothing about the other one.
    let damages =
        [("delete table inet npc", false), ("flush set inet npc flows4", true), ("flush chain inet npc to-ip", false)];
    for (damage, is_renewed) in damages {
        let mut was_damaged = false;
        let result = node.kernel.flows().cut(&cut(), &mut |flows| {
            if !std::mem::replace(&mut was_damaged, true) {
                run("nft", &damage.split(' ').collect::<Vec<_>>());
            }
            // One flow goes, so its address is to be forgotten.
            Some(flows.iter().map(|flow| flow.destination == address("10.1.0.4")).collect())
        });
        assert_eq!((was_damaged, result.unwrap().index.is_renewed), (true, is_renewed), "{damage}");
        assert_eq!(node.free(&["10.1.0.3", "10.1.0.4", "10.1.0.9"]), [""; 0], "{damage}");
        assert!(node.kernel.flows().cut(&cut(), &mut |all| Some(vec![false; all.len()])).unwrap().index.is_renewed);
        assert_eq!(node.free(&["10.1.0.3", "10.1.0.4", "10.1.0.9"]), ["10.1.0.4", "10.1.0.9"], "{damage}");
        node.send_to("10.1.0.4");
    }
}
