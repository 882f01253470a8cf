//! Numbers in the sets and rules that npc writes.

/// The greatest number of members that a set of ours may have. A limit costs
/// nothing until it is used, and the default of 65,536 is soon too small.
pub const MAXELEM: u32 = 1 << 24;

/// The group of NFLOG messages by which our rules report denied packets; a number that
/// no other program is known to use.
pub const NFLOG_GROUP: u16 = 28272;

/// The device group of the interfaces of pods, by which rules know them: the
/// letters "npc", a number that no other program is known to use.
///
/// A set could not hold them: one prefix, and so that of all addresses, goes
/// into a `hash:net,iface` with 64 interfaces at most. And a group goes with its
/// interface, where the next one of the same name would be taken for it.
pub const POD_GROUP: u32 = 0x6e_7063;
