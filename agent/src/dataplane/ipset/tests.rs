//! Against bytes that ipset(8) 7.17 and Linux 6.18 exchanged, and against a
//! kernel that answers what a test wants.

use std::os::fd::OwnedFd;

use npc_compiler::object::Protocol;
use proptest::prelude::*;
use rtnetlink::packet_core::{NLM_F_DUMP_INTR, NetlinkBuffer};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

use super::*;

/// Bytes as strace writes them.
fn bytes(hex: &str) -> Vec<u8> {
    hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).expect("two digits")).collect()
}

/// The list of a set npc4-n with two members.
const LIST_V4: &str = "\
c0 00 00 00 07 06 02 00  19 02 04 6b d8 15 00 00  02 00 00 00 05 00 01 00  07 00 00 00 0b 00 02 00
6e 70 63 34 2d 6e 00 00  0d 00 03 00 68 61 73 68  3a 6e 65 74 00 00 00 00  05 00 05 00 02 00 00 00
05 00 04 00 07 00 00 00  06 00 0b 40 00 00 00 00  3c 00 07 80 08 00 12 40  00 00 04 00 08 00 13 40
01 00 00 00 05 00 15 00  0c 00 00 00 08 00 11 40  89 e3 96 7a 08 00 19 40  00 00 00 00 08 00 1a 40
00 00 02 28 08 00 18 40  00 00 00 02 34 00 08 80  18 00 07 80 0c 00 01 80  08 00 01 00 c0 00 02 01
05 00 03 00 20 00 00 00  18 00 07 80 0c 00 01 80  08 00 01 00 0a 00 00 00  05 00 03 00 08 00 00 00";

/// The list of a set npc6-p with one member.
const LIST_V6: &str = "\
c0 00 00 00 07 06 02 00  19 02 04 6b d8 15 00 00  02 00 00 00 05 00 01 00  07 00 00 00 0b 00 02 00
6e 70 63 36 2d 70 00 00  11 00 03 00 68 61 73 68  3a 69 70 2c 70 6f 72 74  00 00 00 00 05 00 05 00
0a 00 00 00 05 00 04 00  07 00 00 00 06 00 0b 40  00 01 00 00 3c 00 07 80  08 00 12 40 00 00 04 00
08 00 13 40 01 00 00 00  05 00 15 00 0c 00 00 00  08 00 11 40 5c 76 f8 ae  08 00 19 40 00 00 00 00
08 00 1a 40 00 00 01 30  08 00 18 40 00 00 00 01  30 00 08 80 2c 00 07 80  18 00 01 80 14 00 02 00
fd 00 00 00 00 00 00 00  00 00 00 00 00 00 00 01  06 00 04 40 00 50 00 00  05 00 07 00 84 00 00 00";

const LIST_END: &str = "14 00 00 00 03 00 02 00  19 02 04 6b d8 15 00 00  00 00 00 00";

const SPEAKS_6_TO_7: &str = "\
24 00 00 00 01 06 00 00  18 02 04 6b d8 15 00 00  02 00 00 00 05 00 01 00  07 00 00 00 05 00 0a 00
06 00 00 00";

/// `add npc4-n 10.0.0.0/8` and `add npc4-n 192.0.2.1` in one restore.
const ADDS_V4: &str = "\
6c 00 00 00 09 06 05 00  1b 02 04 6b 00 00 00 00  02 00 00 00 05 00 01 00  07 00 00 00 0b 00 02 00
6e 70 63 34 2d 6e 00 00  08 00 09 40 00 00 00 01  3c 00 08 80 20 00 07 80  0c 00 01 80 08 00 01 40
0a 00 00 00 05 00 03 00  08 00 00 00 08 00 09 40  00 00 00 01 18 00 07 80  0c 00 01 80 08 00 01 40
c0 00 02 01 08 00 09 40  00 00 00 02";

/// `add npc6-p fd00::1,sctp:80` and `add npc6-p fd00::2,udp:53`.
const ADDS_V6: &str = "\
9c 00 00 00 09 06 05 00  1b 02 04 6b 00 00 00 00  02 00 00 00 05 00 01 00  07 00 00 00 0b 00 02 00
6e 70 63 36 2d 70 00 00  08 00 09 40 00 00 00 01  6c 00 08 80 34 00 07 80  18 00 01 80 14 00 02 40
fd 00 00 00 00 00 00 00  00 00 00 00 00 00 00 01  06 00 04 40 00 50 00 00  05 00 07 00 84 00 00 00
08 00 09 40 00 00 00 01  34 00 07 80 18 00 01 80  14 00 02 40 fd 00 00 00  00 00 00 00 00 00 00 00
00 00 00 02 06 00 04 40  00 35 00 00 05 00 07 00  11 00 00 00 08 00 09 40  00 00 00 02";

const SEQUENCE: u32 = 0x6b04_021b;

fn member(text: &str) -> Member {
    let address = text.parse().map(Member::Address);
    address.unwrap_or_else(|_| Member::Prefix(text.parse().expect("a prefix")))
}

fn with_port(address: &str, protocol: Protocol, port: u16) -> Member {
    Member::AddressPort(address.parse().expect("an address"), protocol, port)
}

fn members_v4() -> [Member; 2] {
    [member("10.0.0.0/8"), member("192.0.2.1")]
}

#[test]
fn members_are_written_as_ipset_writes_them() {
    let name = SetName::new(Family::V4, "n");
    let (mut request, count) = Request::members(7, SetCommand::Add, &name, &members_v4());
    assert_eq!((request.numbered(SEQUENCE), count), (&bytes(ADDS_V4)[..], 2));
    let name = SetName::new(Family::V6, "p");
    let members = [with_port("fd00::1", Protocol::Sctp, 80), with_port("fd00::2", Protocol::Udp, 53)];
    let (mut request, count) = Request::members(7, SetCommand::Add, &name, &members);
    assert_eq!((request.numbered(SEQUENCE), count), (&bytes(ADDS_V6)[..], 2));
}

#[test]
fn a_message_ends_before_its_lengths_overflow() {
    let name = SetName::new(Family::V6, "p");
    let member = with_port("fd00::1", Protocol::Tcp, 1);
    let (mut request, count) = Request::members(7, SetCommand::Add, &name, std::iter::repeat_n(&member, 100_000));
    let length = request.numbered(0).len();
    assert!(count > 200 && length < 1 << 15, "{count} members in {length} bytes");
    assert_eq!(NetlinkBuffer::new(request.numbered(0)).length() as usize, length);
}

/// A kernel that gives these answers, each to the request of that number, and
/// its end of the line.
fn kernel(answers: &[(u32, Vec<u8>)]) -> (Socket, OwnedFd) {
    let (ours, its) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a pair");
    for (number, answer) in answers {
        let mut answer = answer.clone();
        let mut at = 0;
        while let Ok(mut message) = NetlinkBuffer::new_checked(answer.get_mut(at..).unwrap_or_default()) {
            message.set_sequence_number(*number);
            at += message.length() as usize;
        }
        send(&its, &answer, SendFlags::empty()).expect("it is read later");
    }
    (Socket::over(ours, Duration::from_millis(20)).expect("a socket"), its)
}

/// Sets in such a kernel, and the kernel, which must not go first.
fn ipset(answers: &[(u32, Vec<u8>)]) -> (Ipset, OwnedFd) {
    let (socket, kernel) = kernel(answers);
    (Ipset { socket, version: 7, revisions: BTreeMap::new() }, kernel)
}

fn acknowledged(code: i32) -> Vec<u8> {
    let mut answer = bytes("24 00 00 00 02 00 00 01  00 00 00 00 00 00 00 00");
    answer.extend((-code).to_ne_bytes());
    answer.extend(bytes("6c 00 00 00 09 06 05 00  00 00 00 00 00 00 00 00"));
    answer
}

#[test]
fn a_list_is_read_as_the_sets_that_it_shows() {
    let small = |list: &str| {
        let at = bytes(list).windows(4).position(|bytes| bytes == [8, 0, 0x13, 0x40]).expect("a limit") + 4;
        let mut small = bytes(list);
        small[at..at + 4].copy_from_slice(&65_536_u32.to_be_bytes());
        small
    };
    let answers = [(1, bytes(LIST_V4)), (1, bytes(LIST_V6)), (1, bytes(LIST_END))];
    let v4 = Sets::from([(SetName::new(Family::V4, "n"), (SetKind::HashNet, members_v4().into()))]);
    let port = with_port("fd00::1", Protocol::Sctp, 80);
    let v6 = Sets::from([(SetName::new(Family::V6, "p"), (SetKind::HashIpPort, [port].into()))]);
    let both = ActualSets { v4: v4.clone(), v6, odd: Vec::new() };
    assert_eq!(ipset(&answers).0.read().expect("it reads"), both);

    // Several messages at once, as names come; and a set with another limit.
    let together = [bytes(LIST_V4), small(LIST_V6), bytes(LIST_END)].concat();
    let header = "hash:ip,port family inet6 maxelem 65536".to_owned();
    let odd = vec![OddSet { name: SetName::new(Family::V6, "p"), header }];
    assert_eq!(ipset(&[(1, together)]).0.read().expect("it reads"), ActualSets { v4, v6: Sets::new(), odd });
}

#[test]
fn a_list_that_changed_while_it_was_read_is_asked_for_again_but_not_for_ever() {
    let mut changed = bytes(LIST_V6);
    NetlinkBuffer::new(&mut changed).set_flags(2 | NLM_F_DUMP_INTR);
    let answers = [(1, changed.clone()), (1, bytes(LIST_END)), (2, bytes(LIST_V4)), (2, bytes(LIST_END))];
    let reading = ipset(&answers).0.read().expect("the second time");
    assert_eq!((reading.v4.len(), reading.v6.len()), (1, 0));

    let always: Vec<_> = (1..=TRIES).flat_map(|n| [(n, changed.clone()), (n, bytes(LIST_END))]).collect();
    assert!(matches!(ipset(&always).0.read(), Err(Error::Interrupted(TRIES))));
}

#[test]
fn a_late_answer_to_another_request_is_passed_over() {
    let answers = [(7, acknowledged(4100)), (7, bytes(LIST_V6)), (1, bytes(LIST_V4)), (1, bytes(LIST_END))];
    let reading = ipset(&answers).0.read().expect("its own answer");
    assert_eq!((reading.v4.len(), reading.v6.len()), (1, 0));
}

#[test]
fn a_kernel_that_says_nothing_is_not_waited_for_for_ever() {
    let error = ipset(&[]).0.names().expect_err("silence");
    assert_eq!(error.to_string(), "the kernel's ipset has not answered for 20 ms");
}

#[test]
fn the_newest_version_that_both_speak_is_spoken() {
    let open = |answer: Vec<u8>| Ipset::over(kernel(&[(1, answer), (1, acknowledged(0))]).0);
    let speaks = |newest: u8, oldest: u8| {
        let mut answer = bytes(SPEAKS_6_TO_7);
        (answer[24], answer[32]) = (newest, oldest);
        open(answer)
    };
    assert_eq!(speaks(7, 6).expect("today's").version, 7);
    assert_eq!(speaks(9, 7).expect("tomorrow's").version, 7);
    // Before 4.20 there was one version, and no word of an oldest.
    let mut old = bytes(SPEAKS_6_TO_7)[..28].to_vec();
    (old[0], old[24]) = (28, 6);
    assert_eq!(open(old).expect("an old one").version, 6);
    let error = speaks(9, 8).expect_err("too new").to_string();
    assert_eq!(error, "this kernel speaks ipset's protocol versions 8 to 9, and npc speaks 6 and 7");
}

#[test]
fn a_kernel_without_ipset_differs_from_one_that_refuses() {
    let open = |code| Ipset::over(kernel(&[(1, acknowledged(code))]).0).expect_err("it refuses").to_string();
    assert_eq!(open(22), "this kernel has no ipset (the module ip_set): Invalid argument (os error 22)");
    assert!(open(1).ends_with("operation not permitted (npc needs root, or CAP_NET_ADMIN)"), "{}", open(1));
}

#[test]
fn the_line_that_the_kernel_quotes_names_the_member() {
    let name = SetName::new(Family::V4, "n");
    let writes = members_v4().map(|member| SetWrite::Add(name.clone(), member));
    // The answer quotes the request, with the line written into it.
    let mut quoted = bytes(ADDS_V4);
    quoted[47] = 2;
    let mut answer = bytes("80 00 00 00 02 00 00 00  00 00 00 00 00 00 00 00");
    answer.extend((-4352_i32).to_ne_bytes());
    answer.extend(quoted);
    let error = |answer| ipset(&[(1, answer)]).0.write(&writes.each_ref()).expect_err("refused").to_string();
    let full = "the set is full (it was made with a smaller limit; `npc cleanup` removes it)";
    assert_eq!(error(answer), format!("the kernel refused `add npc4-n 192.0.2.1`: {full}"));
    assert_eq!(error(acknowledged(4352)), format!("the kernel refused `add npc4-n 10.0.0.0/8`: {full}"));
    assert_eq!(error(acknowledged(4999)), "the kernel refused `add npc4-n 10.0.0.0/8`: ipset's error 4999");
}

#[test]
fn nothing_is_sent_behind_a_write_that_is_refused() {
    let (mut ipset, kernel) = ipset(&[(1, acknowledged(0)), (2, acknowledged(2)), (3, acknowledged(0))]);
    let writes = ["a", "b", "c"].map(|set| SetWrite::Add(SetName::new(Family::V4, set), member("10.0.0.1")));
    let error = ipset.write(&writes.each_ref()).expect_err("the second").to_string();
    assert!(error.contains("`add npc4-b 10.0.0.1`"), "{error}");
    let mut buffer = [0; 200];
    let sent = || recv(&kernel, &mut buffer[..], RecvFlags::DONTWAIT).is_ok();
    assert_eq!(std::iter::repeat_with(sent).take_while(|sent| *sent).count(), 2);
}

proptest! {
    #[test]
    fn no_answer_makes_it_panic_or_go_on_for_ever(
        at in 16..192_usize,
        noise in proptest::collection::vec(any::<u8>(), 1..16),
        list in prop_oneof![Just(LIST_V4), Just(LIST_V6), Just(SPEAKS_6_TO_7)],
        length in 1..193_usize,
    ) {
        let mut answer = bytes(list);
        for (byte, noise) in answer.iter_mut().skip(at).zip(noise) {
            *byte = noise;
        }
        answer.truncate(length);
        // Any outcome will do.
        let _ = ipset(&[(1, answer), (1, bytes(LIST_END))]).0.read();
    }
}

#[test]
fn a_prefix_with_host_bits_is_no_member_of_ours() {
    let entry = |address: &str, length: u8| {
        let mut bytes = Vec::new();
        request::put_parts(&mut bytes, &member(address));
        attribute::WriteAttributes::put(&mut bytes, attribute::member::PREFIX_LENGTH, &[length]);
        let mut listed = Vec::new();
        attribute::WriteAttributes::put_nested(&mut listed, message::MEMBERS, |members| {
            attribute::WriteAttributes::put_nested(members, message::DATA, |one| one.extend_from_slice(&bytes));
        });
        let mut members = Attributes(&listed).members().expect("a list");
        members.next().expect("a member").expect("attributes").member(SetKind::HashNet)
    };
    assert_eq!(entry("192.0.2.0", 24), Some(member("192.0.2.0/24")));
    assert_eq!(entry("192.0.2.1", 24), None);
    assert_eq!(entry("fd00::", 64), Some(member("fd00::/64")));
    assert_eq!(entry("fd00::1", 64), None);
}
