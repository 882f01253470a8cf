//! What nf_tables itself says of the tables that iptables keeps in it.
//!
//! iptables refuses to print a chain that holds a rule which is not in its
//! language, and `iptables-save` then leaves out the whole table and exits with
//! 0. The kernel lists every table, and of a rule of another program we need to
//! know at most where it leads. So chains are found, and the jump to ours is
//! found and removed, over netlink.

use std::fmt;

use npc_compiler::object::Family;
use npc_compiler::ruleset::node::FORWARD_CHAIN;
use npc_compiler::ruleset::text::FORWARD;

use super::super::nftables::{
    Attributes, Error, LIST_ELEMENT, Request, Socket, WriteAttributes, chain, data, expression, family, hook, message,
    rule, table, verdict,
};

/// The table that holds our chains.
pub(super) const FILTER: &str = "filter";

/// The tables of iptables.
const TABLES: [&str; 5] = [FILTER, "nat", "mangle", "raw", "security"];

/// The hook of packets that are forwarded (`NF_INET_FORWARD`), and the priority
/// at which iptables filters (`NF_IP_PRI_FILTER`).
const FORWARD_HOOK: u32 = 2;
const FILTER_PRIORITY: i32 = 0;

/// A table whose chains are not asked (`NFT_TABLE_F_DORMANT`).
const DORMANT: u32 = 1;

/// The verdict of a base chain at its end: `NF_DROP`.
const POLICY_DROP: u32 = 0;

/// Attributes of an immediate expression (`NFTA_IMMEDIATE_…`).
mod immediate {
    pub(super) const DATA: u16 = 2;
}

/// A chain of one of the tables of iptables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct NativeChain {
    /// The table that it is in.
    pub(in super::super) table: String,
    /// Its name.
    pub(in super::super) name: String,
    /// Where packets enter it, if they do: the hook, the priority, the type.
    base: Option<(u32, i32, String)>,
    /// Packets that none of its rules decides about are dropped.
    pub(in super::super) drops: bool,
}

/// A rule of one of the tables of iptables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct NativeRule {
    /// The table that it is in.
    pub(in super::super) table: String,
    /// The chain that it is in.
    pub(in super::super) chain: String,
    /// Its number in the table.
    pub(in super::super) handle: u64,
    /// The chain that it leads to, if it leads to one.
    pub(in super::super) leads_to: Option<String>,
    /// Every packet goes there, and comes back.
    is_plain_jump: bool,
}

impl NativeRule {
    /// Whether it is the jump to our chains.
    pub(in super::super) fn is_our_jump(&self) -> bool {
        self.is_plain_jump && self.leads_to.as_deref() == Some(FORWARD_CHAIN)
    }
}

/// Why packets that are forwarded do not meet the rules of FORWARD where those of
/// iptables belong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForeignForward {
    /// It is a chain that no packet enters by itself.
    NoHook,
    /// It is elsewhere: its type, its hook and its priority.
    Elsewhere(String, u32, i32),
    /// The table is dormant.
    Dormant,
}

impl fmt::Display for ForeignForward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHook => f.write_str(
                "the chain FORWARD of its table filter has no hook, so no packet meets it: another program made it with nft",
            ),
            Self::Elsewhere(kind, hook, priority) => write!(
                f,
                "the chain FORWARD of its table filter has the type {kind}, the hook {} and the priority {priority} \
                 instead of filter, forward and {FILTER_PRIORITY}: another program made it with nft",
                hook_name(*hook)
            ),
            Self::Dormant => f.write_str("its table filter is dormant, so no packet meets any rule of it"),
        }
    }
}

fn hook_name(number: u32) -> String {
    let names = ["prerouting", "input", "forward", "output", "postrouting"];
    let name = usize::try_from(number).ok().and_then(|number| names.get(number));
    name.map_or_else(|| number.to_string(), |name| (*name).to_owned())
}

/// nf_tables of one family, in the network namespace of the calling thread.
pub(in super::super) struct Native {
    socket: Socket,
    family: Family,
}

impl Native {
    /// Opens a socket.
    ///
    /// # Errors
    /// If there is none.
    pub(in super::super) fn open(family: Family) -> Result<Self, Error> {
        Ok(Self { socket: Socket::open()?, family })
    }

    const fn number(&self) -> u8 {
        family::of(self.family)
    }

    /// The chains of the tables of iptables. Where nothing has used nf_tables yet
    /// there are none.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub(in super::super) fn chains(&mut self) -> Result<Vec<NativeChain>, Error> {
        let what = format!("list the chains of {}", self.family);
        let request = Request::list(message::GET_CHAIN, self.number(), what, |_| {});
        self.socket.ask(&request, |attributes| Ok(read_chain(attributes)))
    }

    /// The rules of the tables of iptables, or of one chain of the filter table, in
    /// their order.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub(in super::super) fn rules(&mut self, of: Option<&str>) -> Result<Vec<NativeRule>, Error> {
        let what = format!("list rules of {}", self.family);
        let request = Request::list(message::GET_RULE, self.number(), what, |attributes| {
            if let Some(name) = of {
                attributes.put_text(rule::TABLE, FILTER);
                attributes.put_text(rule::CHAIN, name);
            }
        });
        // A kernel that does not look at what was asked for lists all.
        let is_asked = |rule: &NativeRule| of.is_none_or(|name| rule.table == FILTER && rule.chain == name);
        self.socket.ask(&request, |attributes| Ok(read_rule(attributes).filter(is_asked)))
    }

    /// Why the rules of FORWARD would not filter, if so. A FORWARD that is not
    /// there yet is made by iptables as it should be.
    ///
    /// # Errors
    /// If it cannot be asked about.
    pub(in super::super) fn misplaced(&mut self) -> Result<Option<ForeignForward>, Error> {
        let what = format!("list the table filter of {}", self.family);
        let request = Request::get(message::GET_TABLE, self.number(), what, |attributes| {
            attributes.put_text(table::NAME, FILTER);
        });
        let flags = self.socket.ask(&request, |attributes| attributes.u32(table::FLAGS));
        match flags {
            Ok(flags) if flags.iter().any(|flags| flags & DORMANT != 0) => return Ok(Some(ForeignForward::Dormant)),
            Ok(_) => {}
            Err(error) if error.is_absent() => return Ok(None),
            Err(error) => return Err(error),
        }
        let what = format!("list the chain FORWARD of {}", self.family);
        let request = Request::get(message::GET_CHAIN, self.number(), what, |attributes| {
            attributes.put_text(chain::TABLE, FILTER);
            attributes.put_text(chain::NAME, FORWARD);
        });
        match self.socket.ask(&request, |attributes| Ok(read_chain(attributes))) {
            Ok(chains) => Ok(chains.first().and_then(|forward| match &forward.base {
                Some((FORWARD_HOOK, FILTER_PRIORITY, kind)) if kind == "filter" => None,
                Some((hook, priority, kind)) => Some(ForeignForward::Elsewhere(kind.clone(), *hook, *priority)),
                None => Some(ForeignForward::NoHook),
            })),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes rules of FORWARD, all at once or none.
    ///
    /// # Errors
    /// If one of them is not there any more, or the kernel refuses.
    pub(in super::super) fn delete_from_forward(&mut self, handles: &[u64]) -> Result<(), Error> {
        let delete = |handle: &u64| {
            let what = format!("remove rule {handle} from the chain FORWARD of {}", self.family);
            Request::delete(message::DELETE_RULE, self.number(), what, |attributes| {
                attributes.put_text(rule::TABLE, FILTER);
                attributes.put_text(rule::CHAIN, FORWARD);
                attributes.put_u64(rule::HANDLE, *handle);
            })
        };
        let requests: Vec<Request> = handles.iter().map(delete).collect();
        self.socket.commit(&requests)
    }
}

fn is_of_iptables(table: &str) -> bool {
    TABLES.contains(&table)
}

/// A chain, if it is one of a table of iptables. What cannot be understood is of
/// another program.
fn read_chain(attributes: Attributes<'_>) -> Option<NativeChain> {
    let table = text(attributes, chain::TABLE).filter(|table| is_of_iptables(table))?;
    let hooked = attributes.nested(chain::HOOK).ok();
    let base = hooked.and_then(|hooked| {
        let (number, priority) = (hooked.u32(hook::NUMBER).ok()??, hooked.i32(hook::PRIORITY).ok()??);
        Some((number, priority, text(attributes, chain::TYPE).unwrap_or_default()))
    });
    let drops = attributes.u32(chain::POLICY).ok().flatten() == Some(POLICY_DROP);
    Some(NativeChain { table, name: text(attributes, chain::NAME)?, base, drops })
}

fn read_rule(attributes: Attributes<'_>) -> Option<NativeRule> {
    let table = text(attributes, rule::TABLE).filter(|table| is_of_iptables(table))?;
    let handle = attributes.u64(rule::HANDLE).ok()??;
    let (mut leads_to, mut is_plain, mut is_jump) = (None, true, false);
    for listed in attributes.nested(rule::EXPRESSIONS).ok()?.each().map_while(Result::ok) {
        let (kind, value) = listed;
        let one = Attributes(value);
        match text(one, expression::NAME).as_deref() {
            // Counts, and decides nothing.
            Some("counter") if kind == LIST_ELEMENT => {}
            Some("immediate") => match verdict_of(one) {
                Some((code, Some(target))) => {
                    is_jump = code == verdict::JUMP;
                    leads_to = Some(target);
                }
                _ => is_plain = false,
            },
            _ => is_plain = false,
        }
    }
    let is_plain_jump = is_plain && is_jump;
    Some(NativeRule { table, chain: text(attributes, rule::CHAIN)?, handle, leads_to, is_plain_jump })
}

/// The verdict that an immediate expression gives, and the chain that it names.
fn verdict_of(one: Attributes<'_>) -> Option<(i32, Option<String>)> {
    let verdict = one.nested(expression::DATA).ok()?.nested(immediate::DATA).ok()?.nested(data::VERDICT).ok()?;
    Some((verdict.i32(verdict::CODE).ok()??, text(verdict, verdict::CHAIN)))
}

fn text(attributes: Attributes<'_>, kind: u16) -> Option<String> {
    attributes.text(kind).ok()?.map(str::to_owned)
}

/// Reads what may be answers of the kernel: for fuzzing.
pub(in super::super) fn fuzz(data: &[u8]) {
    for attributes in crate::dataplane::netlink::fuzz_input::attributes(data) {
        let _ = (read_chain(Attributes(attributes)), read_rule(Attributes(attributes)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A verdict and the chain that it leads to, if any.
    type Verdict<'a> = (i32, Option<&'a str>);

    /// A rule of these expressions: its name and, for an immediate one, its verdict.
    fn leads(expressions: &[(&str, Option<Verdict<'_>>)]) -> (Option<String>, bool) {
        let mut bytes = Vec::new();
        bytes.put_text(rule::TABLE, FILTER);
        bytes.put_text(rule::CHAIN, FORWARD);
        bytes.put_u64(rule::HANDLE, 7);
        bytes.put_nested(rule::EXPRESSIONS, |list| {
            for (name, verdict) in expressions {
                list.put_nested(LIST_ELEMENT, |one| {
                    one.put_text(expression::NAME, name);
                    one.put_nested(expression::DATA, |inside| {
                        let Some((code, target)) = verdict else { return };
                        inside.put_nested(immediate::DATA, |value| {
                            value.put_nested(data::VERDICT, |verdict| {
                                verdict.put(verdict::CODE, &code.to_be_bytes());
                                if let Some(target) = target {
                                    verdict.put_text(verdict::CHAIN, target);
                                }
                            });
                        });
                    });
                });
            }
        });
        let read = read_rule(Attributes(&bytes)).expect("a rule of the filter table");
        assert_eq!(read.handle, 7);
        let is_ours = read.is_our_jump();
        (read.leads_to, is_ours)
    }

    #[test]
    fn only_a_jump_of_every_packet_is_ours() {
        let jump = |chain| ("immediate", Some((verdict::JUMP, Some(chain))));
        let to = |chain: &str, is_ours| (Some(chain.to_owned()), is_ours);
        assert_eq!(leads(&[("counter", None), jump("NPC-FORWARD")]), to("NPC-FORWARD", true));
        assert_eq!(leads(&[jump("NPC-FORWARD")]), to("NPC-FORWARD", true));
        assert_eq!(leads(&[("counter", None), jump("NPC-FORWARDER")]), to("NPC-FORWARDER", false));
        assert_eq!(leads(&[("ct", None), ("counter", None), jump("NPC-FORWARD")]), to("NPC-FORWARD", false));
        let goto = ("immediate", Some((verdict::GOTO, Some("NPC-FORWARD"))));
        assert_eq!(leads(&[("counter", None), goto]), to("NPC-FORWARD", false));
        let accept = ("immediate", Some((verdict::ACCEPT, None)));
        assert_eq!(leads(&[("counter", None), accept, jump("NPC-FORWARD")]), to("NPC-FORWARD", false));
        assert_eq!(leads(&[("something new", None)]), (None, false));
    }

    #[test]
    fn tables_of_others_are_passed_over() {
        let mut bytes = Vec::new();
        bytes.put_text(chain::TABLE, "kube-proxy");
        bytes.put_text(chain::NAME, "NPC-X");
        assert_eq!(read_chain(Attributes(&bytes)), None);
    }
}
