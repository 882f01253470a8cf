//! The sets over netlink: what goes in comes out, as we read it and as
//! ipset(8) does, and what the kernel refuses is named.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use npc_agent::dataplane::ipset::{ActualSets, Error, Ipset, PATIENCE, Refusal, Sets};
use npc_compiler::object::{Family, Protocol};
use npc_compiler::plan::SetWrite;
use npc_compiler::ruleset::constants::MAXELEM;
use npc_compiler::ruleset::node::{InterfaceName, Member, SetKind, SetName};
use proptest::collection::btree_set;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::namespace::{Namespace, output, run};
use super::rulesets::{address, everything};

fn open() -> Ipset {
    Ipset::open().unwrap()
}

fn write(ipset: &mut Ipset, writes: &[SetWrite]) -> Result<(), Error> {
    ipset.write(&writes.iter().collect::<Vec<_>>())
}

fn create(name: &SetName, family: Family, kind: SetKind) -> SetWrite {
    SetWrite::Create(name.clone(), family, kind)
}

fn adds<'a>(name: &'a SetName, members: impl IntoIterator<Item = Member> + 'a) -> impl Iterator<Item = SetWrite> + 'a {
    members.into_iter().map(|member| SetWrite::Add(name.clone(), member))
}

fn deletes<'a>(
    name: &'a SetName,
    members: impl IntoIterator<Item = Member> + 'a,
) -> impl Iterator<Item = SetWrite> + 'a {
    members.into_iter().map(|member| SetWrite::Delete(name.clone(), member))
}

/// Everything that makes these sets.
fn making(sets: &Sets) -> Vec<SetWrite> {
    let each = |(name, (kind, members)): (&SetName, &(SetKind, BTreeSet<Member>))| {
        let mut writes = vec![create(name, name.family(), *kind)];
        writes.extend(adds(name, members.iter().cloned()));
        writes
    };
    sets.iter().flat_map(each).collect()
}

fn reading(v4: Sets, v6: Sets) -> ActualSets {
    ActualSets { v4, v6, odd: Vec::new() }
}

/// What `ipset save` prints of these sets, sorted, less what the kernel
/// chooses by itself.
fn saved() -> BTreeSet<String> {
    let save = output("ipset", &["save"]);
    let line = |line: &str| match line.split_once(" hashsize ") {
        Some((head, rest)) => {
            let maxelem = rest.split_once("maxelem ").unwrap().1.split(' ').next().unwrap();
            format!("{head} maxelem {maxelem}")
        }
        None => line.to_owned(),
    };
    save.lines().map(line).collect()
}

/// What it should print.
fn printed(sets: &Sets) -> BTreeSet<String> {
    let line = |write: SetWrite| match write {
        SetWrite::Add(name, Member::AddressPort(address, protocol, port)) => {
            format!("add {name} {address},{}:{port}", protocol.lower())
        }
        write => write.to_string(),
    };
    making(sets).into_iter().map(line).collect()
}

#[test]
fn every_kind_of_set_and_member_is_read_back_and_printed_by_ipset_as_written() {
    let _namespace = Namespace::enter();
    let mut ipset = open();
    let [v4, v6] = Family::ALL.map(|family| -> Sets {
        let sets = everything().family(family).sets.clone();
        sets.into_iter().map(|(name, set)| (name, (set.kind, set.members))).collect()
    });
    write(&mut ipset, &making(&v4)).unwrap();
    write(&mut ipset, &making(&v6)).unwrap();
    let all: Sets = v4.clone().into_iter().chain(v6.clone()).collect();
    assert_eq!(saved(), printed(&all));
    assert_eq!(ipset.names().unwrap().into_iter().collect::<BTreeSet<_>>(), all.keys().cloned().collect());
    assert_eq!(ipset.read().unwrap(), reading(v4, v6));
}

#[test]
fn a_set_outgrows_65_536_members_in_both_families() {
    let _namespace = Namespace::enter();
    let mut ipset = open();
    let mut sets = Family::ALL.map(|family| {
        let member = |n: u32| {
            Member::Address(match family {
                Family::V4 => std::net::Ipv4Addr::from(0x0a00_0000 + n).into(),
                Family::V6 => std::net::Ipv6Addr::from(0xfd << 120 | u128::from(n) << 32).into(),
            })
        };
        let members = (1..=100_000).map(member).collect::<BTreeSet<_>>();
        Sets::from([(SetName::new(family, "large"), (SetKind::HashIp, members))])
    });
    for sets in &sets {
        write(&mut ipset, &making(sets)).unwrap();
    }
    let [v4, v6] = sets.clone();
    assert_eq!(ipset.read().unwrap(), reading(v4, v6));
    // And most of it goes again.
    for sets in &mut sets {
        let (name, (_, members)) = sets.iter_mut().next().unwrap();
        let gone = members.split_off(&members.iter().nth(7).cloned().unwrap());
        write(&mut ipset, &deletes(name, gone).collect::<Vec<_>>()).unwrap();
    }
    let [v4, v6] = sets;
    assert_eq!(ipset.read().unwrap(), reading(v4, v6));
}

#[test]
fn a_refused_member_is_named_and_nothing_behind_it_is_written() {
    for family in Family::ALL {
        for (before, after) in [(0, 0), (0, 3), (300, 300), (5_000, 10)] {
            let _namespace = Namespace::enter();
            let mut ipset = open();
            let (blocks, next) = (SetName::new(family, "blocks"), SetName::new(family, "next"));
            let good = (1..=before + after).map(|n| Member::Address(address(family, n))).collect::<Vec<_>>();
            let (before, after) = good.split_at(before.into());
            let bad = IpNetwork::new(address(family, 0), 0).unwrap();
            let mut writes = vec![create(&blocks, family, SetKind::HashNet), create(&next, family, SetKind::HashIp)];
            writes.extend(adds(&blocks, before.iter().cloned()));
            writes.extend(adds(&blocks, [Member::Prefix(bad)]));
            writes.extend(adds(&blocks, after.iter().cloned()));
            writes.extend(adds(&next, [Member::Address(address(family, 1))]));
            let error = write(&mut ipset, &writes).unwrap_err().to_string();
            let named = format!("the kernel refused `add {blocks} {bad}`: no such prefix length (");
            assert!(error.starts_with(&named), "{error}");
            let mut held = ipset.read().unwrap();
            let sets = if family == Family::V4 { &mut held.v4 } else { &mut held.v6 };
            assert_eq!(sets[&blocks].1, before.iter().cloned().collect());
            assert_eq!(sets[&next].1, BTreeSet::new());
        }
    }
}

#[test]
fn a_set_that_is_full_or_gone_or_of_another_kind_has_an_error_of_its_own() {
    let _namespace = Namespace::enter();
    let mut ipset = open();
    let (full, gone) = (SetName::new(Family::V4, "full"), SetName::new(Family::V4, "gone"));
    run("ipset", &["create", full.as_str(), "hash:ip", "hashsize", "64", "maxelem", "4"]);
    let members = |count| (1..=count).map(|n| Member::Address(address(Family::V4, n)));
    let error = write(&mut ipset, &adds(&full, members(500)).collect::<Vec<_>>()).unwrap_err();
    let Error::Refused { write: line, refusal: Refusal(4352), .. } = &error else { panic!("{error}") };
    assert!(line.starts_with("add npc4-full 10.0."), "{line}");
    assert!(error.to_string().contains("the set is full"), "{error}");

    let error = write(&mut ipset, &adds(&gone, members(9)).collect::<Vec<_>>()).unwrap_err().to_string();
    let expected = "the kernel refused `add npc4-gone 10.0.0.1`: there is no set of that name (another program removed";
    assert!(error.starts_with(expected), "{error}");
    assert!(matches!(ipset.flush(&gone).unwrap_err(), Error::Refused { refusal: Refusal(2), .. }));

    let error = write(&mut ipset, &[create(&full, Family::V4, SetKind::HashIp)]).unwrap_err().to_string();
    assert!(error.contains("`create npc4-full hash:ip family inet maxelem 16777216`: a set of that name"), "{error}");
    ipset.flush(&full).unwrap();
    write(&mut ipset, &adds(&full, members(4)).collect::<Vec<_>>()).unwrap();
}

#[test]
fn what_is_there_already_and_what_is_gone_already_are_no_failures() {
    let _namespace = Namespace::enter();
    let mut ipset = open();
    let all: Sets = everything().v4.sets.into_iter().map(|(name, set)| (name, (set.kind, set.members))).collect();
    // ipset(8) makes its own of the newest revision, as earlier agents did.
    for (name, (kind, _)) in &all {
        run("ipset", &["create", name.as_str(), kind.as_str(), "maxelem", &MAXELEM.to_string()]);
    }
    for _ in 0..2 {
        write(&mut ipset, &making(&all)).unwrap();
        assert_eq!(ipset.read().unwrap(), reading(all.clone(), Sets::new()));
    }
    let emptying: Vec<SetWrite> = all.iter().flat_map(|(name, (_, members))| deletes(name, members.clone())).collect();
    let empty: Sets = all.iter().map(|(name, (kind, _))| (name.clone(), (*kind, BTreeSet::new()))).collect();
    for _ in 0..2 {
        write(&mut ipset, &emptying).unwrap();
        assert_eq!(ipset.read().unwrap(), reading(empty.clone(), Sets::new()));
    }
    let destroying: Vec<SetWrite> = all.keys().cloned().map(SetWrite::Destroy).collect();
    for _ in 0..2 {
        write(&mut ipset, &destroying).unwrap();
        assert_eq!(ipset.destroy(&[SetName::new(Family::V6, "never")], Duration::ZERO).unwrap().len(), 0);
        assert_eq!(ipset.read().unwrap(), ActualSets::default());
    }
}

#[test]
fn writes_are_carried_out_in_the_order_given() {
    let _namespace = Namespace::enter();
    let mut ipset = open();
    let [a, b] = ["a", "b"].map(|name| SetName::new(Family::V6, name));
    let [one, two] = [1, 2].map(|n| Member::Address(address(Family::V6, n)));
    let (add, delete) = (SetWrite::Add, SetWrite::Delete);
    let writes = [
        create(&a, Family::V6, SetKind::HashIp),
        add(a.clone(), one.clone()),
        delete(a.clone(), one.clone()),
        add(a.clone(), two.clone()),
        delete(a.clone(), two.clone()),
        add(a.clone(), two.clone()),
        create(&b, Family::V6, SetKind::HashIp),
        add(b.clone(), one.clone()),
        SetWrite::Destroy(b.clone()),
        create(&b, Family::V6, SetKind::HashNet),
        add(b.clone(), two.clone()),
        add(a.clone(), one.clone()),
        delete(a.clone(), two.clone()),
    ];
    write(&mut ipset, &writes).unwrap();
    let held = Sets::from([(a, (SetKind::HashIp, [one].into())), (b, (SetKind::HashNet, [two].into()))]);
    assert_eq!(ipset.read().unwrap(), reading(Sets::new(), held));
}

#[test]
fn a_set_in_use_is_waited_for_so_long_and_the_others_go() {
    let _namespace = Namespace::enter();
    let mut ipset = open();
    let names = ["used", "unused"].map(|name| SetName::new(Family::V4, name));
    let making = names.iter().map(|name| create(name, Family::V4, SetKind::HashIp)).collect::<Vec<_>>();
    let rule = "OUTPUT -m set --match-set npc4-used dst -j DROP";
    let iptables = |verb: &str| format!("iptables-nft {verb} {rule}");
    let shell = |script: &str| run("sh", &["-c", script]);
    write(&mut ipset, &making).unwrap();
    shell(&iptables("-A"));
    let begun = Instant::now();
    let stuck = ipset.destroy(&names, Duration::from_millis(300)).unwrap();
    assert!((300..1500).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    let [(name, error)] = &stuck[..] else { panic!("{stuck:?}") };
    assert_eq!(*name, names[0]);
    let expected = "the kernel refused `destroy npc4-used`: the set is in use (a rule of another program";
    assert!(error.to_string().starts_with(expected), "{error}");
    assert_eq!(ipset.names().unwrap(), names[..1]);

    // Let go of while it is waited for, in one write with what comes after.
    let mut later = Command::new("sh").args(["-c", &format!("sleep 0.3; {}", iptables("-D"))]).spawn().unwrap();
    let begun = Instant::now();
    let writes = [SetWrite::Destroy(names[0].clone()), create(&names[1], Family::V4, SetKind::HashNet)];
    write(&mut ipset, &writes).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(300) && begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    assert!(later.wait().unwrap().success());
    assert_eq!(ipset.names().unwrap(), names[1..]);
}

#[test]
fn sets_of_others_are_skipped_and_odd_ones_under_our_names_are_reported() {
    let _namespace = Namespace::enter();
    let foreign = [
        "KUBE-LOOP hash:ip timeout 1000 counters comment skbinfo",
        "KUBE-CLUSTER hash:ip,port,net family inet6",
        "cali-list list:set",
        "ports bitmap:port range 0-65535",
        "macs hash:mac",
        "npc5-x hash:net",
    ];
    let odd = [
        ("npc4-a", "hash:ip timeout 30", "hash:ip family inet maxelem 65536 with a timeout"),
        ("npc4-b", "hash:ip family inet6 maxelem 16777216", "hash:ip family inet6 maxelem 16777216"),
        ("npc6-c", "hash:ip family inet6 maxelem 7", "hash:ip family inet6 maxelem 7"),
        (
            "npc6-d",
            "hash:net family inet6 counters maxelem 16777216",
            "hash:net family inet6 maxelem 16777216 with counters, comments, skbinfo or forceadd",
        ),
        ("npc4-e", "hash:ip netmask 24 maxelem 16777216", "hash:ip family inet maxelem 16777216 with a netmask"),
        ("npc4-f", "hash:mac", "hash:mac maxelem 65536"),
    ];
    let mut made = 0;
    for set in foreign.into_iter().map(str::to_owned).chain(odd.map(|(name, header, _)| format!("{name} {header}"))) {
        let arguments: Vec<&str> = ["create"].into_iter().chain(set.split(' ')).collect();
        let output = Command::new("ipset").args(&arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // Not every kernel has every type.
        assert!(output.status.success() || said.contains("set type not supported"), "{set}: {said}");
        made += usize::from(output.status.success());
    }
    assert!(made >= 6, "this kernel lacks too many set types to test with");
    run("ipset", &["add", "KUBE-LOOP", "10.0.0.1", "timeout", "7", "comment", "strange"]);
    run("ipset", &["add", "npc4-a", "10.0.0.1", "timeout", "9"]);
    let mut ipset = open();
    let there: BTreeSet<String> = output("ipset", &["list", "-name"]).lines().map(str::to_owned).collect();
    let expected = odd.iter().filter(|(name, ..)| there.contains(*name));
    let expected: BTreeSet<(&str, &str)> = expected.map(|(name, _, header)| (*name, *header)).collect();
    let read = ipset.read().unwrap();
    let reported = read.odd.iter().map(|odd| (odd.name.as_str(), odd.header.as_str())).collect::<BTreeSet<_>>();
    assert_eq!(reported, expected);
    assert_eq!((read.v4, read.v6), (Sets::new(), Sets::new()));

    // A set as ours with a member that is none that we would write.
    run("ipset", &["create", "npc4-ours", "hash:net", "maxelem", "16777216"]);
    run("ipset", &["add", "npc4-ours", "10.0.0.0/8", "nomatch"]);
    let read = ipset.read().unwrap();
    let header =
        "hash:net family inet maxelem 16777216 with the member `10.0.0.0/8 with an option (nomatch, timeout, …)`";
    assert!(read.odd.iter().any(|odd| odd.header == header), "{:?}", read.odd);
    assert!(read.v4.is_empty());
    run("ipset", &["flush", "npc4-ours"]);
    assert_eq!(ipset.read().unwrap().v4.len(), 1);
}

#[test]
fn a_socket_stays_in_the_namespace_in_which_it_was_opened() {
    let outer = Namespace::enter();
    let mut ipset = open();
    let inner = Namespace::enter();
    let name = SetName::new(Family::V4, "here");
    write(&mut ipset, &[create(&name, Family::V4, SetKind::HashIp)]).unwrap();
    assert_eq!(open().names().unwrap(), []);
    drop(inner);
    assert_eq!(open().names().unwrap(), [name]);
    drop(outer);
}

fn any_member(family: Family, kind: SetKind) -> impl Strategy<Value = Member> {
    let bits = if family == Family::V4 { 32 } else { 128 };
    // Few distinct addresses, so that sets overlap, and all lengths.
    let any_address = prop_oneof![any::<u128>(), (0..40_u128).prop_map(|n| 0xfd << 120 | n)];
    let any_address = any_address.prop_map(move |n| match family {
        Family::V4 => std::net::Ipv4Addr::from(u32::try_from(n & 0xffff_ffff).unwrap().max(1)).into(),
        Family::V6 => std::net::IpAddr::from(std::net::Ipv6Addr::from(n.max(1))),
    });
    (any_address, 1..=bits, 0..3_usize, any::<u16>()).prop_map(move |(address, length, protocol, port)| match kind {
        SetKind::HashIp => Member::Address(address),
        SetKind::HashNet if length == bits => Member::Address(address),
        SetKind::HashNet => {
            let network = IpNetwork::new(address, length).unwrap().network();
            Member::Prefix(IpNetwork::new(network, length).unwrap())
        }
        SetKind::HashIpPort => Member::AddressPort(address, Protocol::ALL[protocol], port),
        SetKind::HashNetIface => {
            // The kernel takes length 0, and few interfaces with one prefix.
            let length = if port % 2 == 0 { length - 1 } else { length };
            let network = IpNetwork::new(address, length).unwrap().network();
            let interface = InterfaceName::new(&format!("veth{}", port % 30)).unwrap();
            Member::of_interface(IpNetwork::new(network, length).unwrap(), interface)
        }
    })
}

/// Sets of every kind and family.
fn any_sets() -> impl Strategy<Value = ActualSets> {
    let of = |family: Family| {
        let each = SetKind::ALL.map(|kind| {
            let name = SetName::new(family, &kind.as_str().replace([':', ','], "-"));
            btree_set(any_member(family, kind), 0..700).prop_map(move |members| (name.clone(), (kind, members)))
        });
        each.prop_map(Sets::from)
    };
    (of(Family::V4), of(Family::V6)).prop_map(|(v4, v6)| reading(v4, v6))
}

fn all(reading: &ActualSets) -> Sets {
    reading.v4.clone().into_iter().chain(reading.v6.clone()).collect()
}

#[test]
fn random_sets_are_read_back_as_written_and_as_changed() {
    let _namespace = Namespace::enter();
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new(config);
    let check = |(before, after): (ActualSets, ActualSets)| {
        let mut ipset = open();
        write(&mut ipset, &making(&all(&before))).unwrap();
        prop_assert_eq!(ipset.read().unwrap(), before.clone());
        let mut changes = Vec::new();
        for ((name, (_, before)), (_, after)) in all(&before).iter().zip(all(&after).values()) {
            changes.extend(adds(name, after.difference(before).cloned()));
            changes.extend(deletes(name, before.difference(after).cloned()));
        }
        write(&mut ipset, &changes).unwrap();
        prop_assert_eq!(saved(), printed(&all(&after)));
        prop_assert_eq!(ipset.read().unwrap(), after);
        let names = ipset.names().unwrap();
        prop_assert!(ipset.destroy(&names, Duration::ZERO).unwrap().is_empty());
        Ok(())
    };
    runner.run(&(any_sets(), any_sets()), check).unwrap();
}
