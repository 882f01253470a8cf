//! A table of ours in nf_tables: what its messages, and the answers about it, have in common.
//!
//! Which sets, chains and rules it has, and what they are for, its own module knows.

use rtnetlink::packet_core::DecodeError;

use super::steps::Rule;
use super::{
    Attributes, Error, LIST_ELEMENT, Request, Socket, WriteAttributes, chain, data, description, elements, family,
    hook, message, nf_tables_is_loaded, rule, set, table, verdict,
};

/// A table by its name.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct OwnTable {
    /// See [`family`].
    pub(in super::super) family: u8,
    pub(in super::super) name: &'static str,
}

/// What is said of the table itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct TableHeader {
    pub(in super::super) flags: u32,
    /// Its number, which no later table has. Kernels before Linux 4.16 give none.
    pub(in super::super) handle: Option<u64>,
}

/// A chain: its name, and the number and the priority of its hook if packets enter it.
pub(in super::super) type BaseChain<'a> = (&'a str, Option<(u32, i32)>);

/// A set as it is made, or listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct TableSet {
    pub(in super::super) name: &'static str,
    /// For `nft`, which prints members by it. Not compared when the set is read back.
    pub(in super::super) key_type: u32,
    pub(in super::super) key_length: u32,
    pub(in super::super) flags: u32,
    /// How many members it has at most, if there is a bound. Not compared when the set is read back.
    pub(in super::super) size: Option<u32>,
    /// What only `nft` reads. Not compared when the set is read back.
    pub(in super::super) userdata: Option<&'static [u8]>,
}

/// A chain as it is listed: its name, its hook with its priority, and the verdict at its end, which is
/// 0 if it has no hook.
type ChainFound = (String, Option<(u32, i32)>, u32);

/// A set as it is listed: its name, the length of a member, its flags, and its number.
type SetFound = (String, u32, u32, u64);

impl OwnTable {
    /// What to call it in errors.
    fn title(self) -> String {
        let family = if self.family == family::BRIDGE { "bridge" } else { "inet" };
        format!("{family} {}", self.name)
    }

    /// The table itself, if it is there.
    pub(in super::super) fn head(self, socket: &mut Socket) -> Result<Option<TableHeader>, Error> {
        let what = format!("look for the table {}", self.title());
        let ask = Request::get(message::GET_TABLE, self.family, what, self.named(table::NAME));
        let heads = socket.ask(&ask, |attributes| {
            let flags = attributes.u32(table::FLAGS)?.unwrap_or_default();
            Ok(Some(TableHeader { flags, handle: attributes.u64(table::HANDLE)? }))
        });
        match heads {
            Ok(heads) => Ok(heads.first().copied()),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether it has these chains and no others. Each base chain has the policy ACCEPT.
    pub(in super::super) fn has_chains<'a>(
        self,
        socket: &mut Socket,
        chains: impl Iterator<Item = BaseChain<'a>>,
    ) -> Result<bool, Error> {
        // The kernel lists chains and sets of all tables of the family.
        let what = format!("list the chains of the table {}", self.title());
        let ask = Request::list(message::GET_CHAIN, self.family, what, self.named(chain::TABLE));
        let mut found = socket.ask(&ask, |attributes| self.in_it(attributes, chain::TABLE, as_chain))?;
        let mut desired: Vec<ChainFound> =
            chains.map(|(name, hook)| (name.to_owned(), hook, u32::from(hook.is_some()))).collect();
        desired.sort();
        found.sort();
        Ok(found == desired)
    }

    /// The numbers of its sets, in the order of their names; nothing if it has others than these.
    pub(in super::super) fn sets(self, socket: &mut Socket, sets: &[TableSet]) -> Result<Option<Vec<u64>>, Error> {
        let what = format!("list the sets of the table {}", self.title());
        let ask = Request::list(message::GET_SET, self.family, what, self.named(set::TABLE));
        let mut found = socket.ask(&ask, |attributes| self.in_it(attributes, set::TABLE, as_set))?;
        found.sort();
        let mut desired: Vec<_> = sets.iter().map(|set| (set.name, set.key_length, set.flags)).collect();
        desired.sort_unstable();
        let are_same = found.iter().map(|(name, length, flags, _)| (name.as_str(), *length, *flags)).eq(desired);
        Ok(are_same.then(|| found.iter().map(|(.., handle)| *handle).collect()))
    }

    /// The numbers of a chain's rules in their order; nothing if it has others than these.
    pub(in super::super) fn rules<'a>(
        self,
        socket: &mut Socket,
        chain: &str,
        rules: impl Iterator<Item = &'a Rule>,
    ) -> Result<Option<Vec<u64>>, Error> {
        let what = format!("list the rules of {chain} in the table {}", self.title());
        let ask = Request::list(message::GET_RULE, self.family, what, |bytes| {
            bytes.put_text(rule::TABLE, self.name);
            bytes.put_text(rule::CHAIN, chain);
        });
        let mut desired = rules;
        let found = socket.ask(&ask, |attributes| {
            // Old kernels list the rules of all chains.
            if attributes.text(rule::TABLE)? != Some(self.name) || attributes.text(rule::CHAIN)? != Some(chain) {
                return Ok(None);
            }
            let listed = attributes.nested(rule::EXPRESSIONS)?;
            let is_same = desired.next().is_some_and(|rule| rule.is(listed));
            Ok(Some((is_same, attributes.u64(rule::HANDLE)?.unwrap_or_default())))
        })?;
        let are_same = found.iter().all(|(is_same, _)| *is_same) && desired.next().is_none();
        Ok(are_same.then(|| found.into_iter().map(|(_, handle)| handle).collect()))
    }

    /// The members of a set.
    pub(in super::super) fn members(self, socket: &mut Socket, set: &str) -> Result<Vec<Vec<u8>>, Error> {
        let what = format!("list the set {set} of the table {}", self.title());
        let ask = Request::list(message::GET_ELEMENTS, self.family, what, |bytes| {
            bytes.put_text(elements::TABLE, self.name);
            bytes.put_text(elements::SET, set);
        });
        Ok(socket.ask(&ask, |attributes| keys(attributes).map(Some))?.into_iter().flatten().collect())
    }

    /// Whether a set has a member.
    pub(in super::super) fn has(self, socket: &mut Socket, set: &str, member: &[u8]) -> Result<bool, Error> {
        let what = format!("look a member up in the set {set} of the table {}", self.title());
        let ask =
            Request::get(message::GET_ELEMENTS, self.family, what, |bytes| self.put_members(bytes, set, [member]));
        match socket.ask(&ask, |_| Ok(Some(()))) {
            Ok(_) => Ok(true),
            Err(error) if error.is_absent() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Adds members to a set.
    pub(in super::super) fn add(self, set: &str, members: impl IntoIterator<Item: AsRef<[u8]>>) -> Request {
        let what = format!("add members to the set {set} of the table {}", self.title());
        Request::create(message::NEW_ELEMENTS, self.family, what, |bytes| self.put_members(bytes, set, members))
    }

    /// Removes members from a set, which it must have.
    pub(in super::super) fn remove_members(self, set: &str, members: impl IntoIterator<Item: AsRef<[u8]>>) -> Request {
        let what = format!("remove members from the set {set} of the table {}", self.title());
        Request::delete(message::DELETE_ELEMENTS, self.family, what, |bytes| self.put_members(bytes, set, members))
    }

    fn put_members(self, bytes: &mut Vec<u8>, set: &str, members: impl IntoIterator<Item: AsRef<[u8]>>) {
        bytes.put_text(elements::TABLE, self.name);
        bytes.put_text(elements::SET, set);
        bytes.put_nested(elements::ELEMENTS, |list| {
            for member in members {
                list.put_nested(LIST_ELEMENT, |element| {
                    element.put_nested(elements::KEY, |value| value.put(data::VALUE, member.as_ref()));
                });
            }
        });
    }

    /// Makes the table itself, unless it is there.
    pub(in super::super) fn make(self) -> Request {
        let what = format!("make the table {}", self.title());
        Request::create(message::NEW_TABLE, self.family, what, |bytes| {
            bytes.put_text(table::NAME, self.name);
            bytes.put_u32(table::FLAGS, 0);
        })
    }

    /// Removes the table, whether it is there or not. To delete a table that is not there is an error, so it is made
    /// first.
    pub(in super::super) fn removal(self) -> Vec<Request> {
        let what = format!("remove the table {}", self.title());
        let named = self.named(table::NAME);
        // Without flags, so that one that is dormant does not wake.
        let make = format!("make the table {}", self.title());
        vec![
            Request::create(message::NEW_TABLE, self.family, make, named),
            Request::delete(message::DELETE_TABLE, self.family, what, named),
        ]
    }

    /// Makes a set. The number is its own within the batch.
    pub(in super::super) fn make_set(self, number: u32, one: &TableSet) -> Request {
        let what = format!("make the set {} of the table {}", one.name, self.title());
        Request::create(message::NEW_SET, self.family, what, |bytes| {
            bytes.put_text(set::TABLE, self.name);
            bytes.put_text(set::NAME, one.name);
            bytes.put_u32(set::FLAGS, one.flags);
            bytes.put_u32(set::KEY_TYPE, one.key_type);
            bytes.put_u32(set::KEY_LENGTH, one.key_length);
            bytes.put_u32(set::ID, number);
            if let Some(size) = one.size {
                bytes.put_nested(set::DESCRIPTION, |inside| inside.put_u32(description::SIZE, size));
            }
            if let Some(userdata) = one.userdata {
                bytes.put(set::USERDATA, userdata);
            }
        })
    }

    /// Makes a chain.
    pub(in super::super) fn make_chain(self, (name, place): BaseChain<'_>) -> Request {
        let what = format!("make the chain {name} of the table {}", self.title());
        Request::create(message::NEW_CHAIN, self.family, what, |bytes| {
            bytes.put_text(chain::TABLE, self.name);
            bytes.put_text(chain::NAME, name);
            let Some((number, priority)) = place else { return };
            bytes.put_nested(chain::HOOK, |place| {
                place.put_u32(hook::NUMBER, number);
                place.put(hook::PRIORITY, &priority.to_be_bytes());
            });
            bytes.put(chain::POLICY, &verdict::ACCEPT.to_be_bytes());
            bytes.put_text(chain::TYPE, "filter");
        })
    }

    /// Puts a rule at the end of a chain.
    pub(in super::super) fn make_rule(self, chain: &str, one: &Rule) -> Request {
        let what = format!("make a rule of {chain} in the table {}", self.title());
        Request::create(message::NEW_RULE, self.family, what, |bytes| {
            bytes.put_text(rule::TABLE, self.name);
            bytes.put_text(rule::CHAIN, chain);
            one.put(bytes);
        })
    }

    /// Removes the table from the kernel. Returns whether it was there.
    pub(in super::super) fn remove(self) -> Result<bool, Error> {
        if !nf_tables_is_loaded() {
            // To ask would load the module.
            return Ok(false);
        }
        let mut socket = Socket::open()?;
        match self.head(&mut socket) {
            Ok(Some(_)) => socket.commit(&self.removal()).map(|()| true),
            Ok(None) => Ok(false),
            Err(error) if error.is_unsupported() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn named(self, attribute: u16) -> impl Fn(&mut Vec<u8>) + Copy {
        move |bytes: &mut Vec<u8>| bytes.put_text(attribute, self.name)
    }

    /// What is in the table, of what is listed.
    fn in_it<T>(
        self,
        attributes: Attributes<'_>,
        table: u16,
        read: impl FnOnce(Attributes<'_>) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if attributes.text(table)? == Some(self.name) { read(attributes).map(Some) } else { Ok(None) }
    }

    /// Reads what may be an answer of the kernel about the table. Answers the members in it. For fuzzing.
    pub(in super::super) fn fuzz(self, attributes: Attributes<'_>, rules: &[&Rule]) -> Vec<Vec<u8>> {
        let _ = self.in_it(attributes, chain::TABLE, as_chain);
        let _ = self.in_it(attributes, set::TABLE, as_set);
        if let Ok(listed) = attributes.nested(rule::EXPRESSIONS) {
            let _ = rules.iter().any(|rule| rule.is(listed));
        }
        keys(attributes).unwrap_or_default()
    }
}

fn as_chain(attributes: Attributes<'_>) -> Result<ChainFound, DecodeError> {
    let name = attributes.text(chain::NAME)?.unwrap_or_default().to_owned();
    let place = attributes.nested(chain::HOOK)?;
    let hook = place.u32(hook::NUMBER)?.zip(place.i32(hook::PRIORITY)?);
    Ok((name, hook, attributes.u32(chain::POLICY)?.unwrap_or_default()))
}

fn as_set(attributes: Attributes<'_>) -> Result<SetFound, DecodeError> {
    let name = attributes.text(set::NAME)?.unwrap_or_default().to_owned();
    let flags = attributes.u32(set::FLAGS)?.unwrap_or_default();
    let length = attributes.u32(set::KEY_LENGTH)?.unwrap_or_default();
    Ok((name, length, flags, attributes.u64(set::HANDLE)?.unwrap_or_default()))
}

/// The members of an answer.
fn keys(attributes: Attributes<'_>) -> Result<Vec<Vec<u8>>, DecodeError> {
    let mut keys = Vec::new();
    for element in attributes.nested(elements::ELEMENTS)?.each() {
        let key = Attributes(element?.1).nested(elements::KEY)?;
        keys.push(key.get(data::VALUE)?.unwrap_or_default().to_vec());
    }
    Ok(keys)
}
