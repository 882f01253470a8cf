//! What a denial says of the ends in their own names.

use npc_compiler::policy::Direction;
use npc_compiler::verdict::explain::{Candidate, Code, Conjunct, Flow};

use super::headline::headline as of_code;
use super::words::shown;

/// A longer name of an end is left out.
const LONGEST: usize = 80;

/// A headline that names the other end, and says in which way addresses of Services fail.
pub(super) fn named(headline: &str, nearest: Option<&Candidate>, flow: &Flow, direction: Direction) -> String {
    let (role, other) = match direction {
        Direction::Ingress => ("source", shown(&flow.from)),
        Direction::Egress => ("destination", shown(&flow.to)),
    };
    let is_service = |of: &&Conjunct| of.code == Code::IpBlockIsServiceAddress;
    let service = nearest.and_then(|nearest| nearest.conjuncts.iter().find(is_service));
    let headline = match service {
        Some(_) if direction == Direction::Ingress => headline.replace(
            of_code(Code::IpBlockIsServiceAddress),
            "the nearest rule's ipBlock holds the address of a Service, which is never a source; policies see the address of \
             the client itself",
        ),
        Some(of) if of.got.starts_with("the node's") => headline.replace(
            of_code(Code::IpBlockIsServiceAddress),
            "the client's own node translates its address and the nodePort before policies judge; they see the address and \
             the port of the pod behind them",
        ),
        _ => headline.to_owned(),
    };
    // The name of an end that stands for many would be long.
    if other.len() > LONGEST {
        return headline;
    }
    headline
        .replace("the other end's", &format!("the {role}'s"))
        .replace("the other end", &format!("the {role} {other}"))
}
