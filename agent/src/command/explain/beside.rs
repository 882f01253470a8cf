//! Policies that look as if they decided, and do not.

use std::io::{self, Write};

use npc_compiler::policy::Direction;
use npc_compiler::verdict::explain::{Beside, Code};

use super::Context;
use super::denied::{arrow, draw};
use super::headline::{NamedEnd, headline};
use crate::command::output::BAD;
use crate::command::words::policy_name;

/// A policy that looks as if it decided: in one line, where, and for which directions, if that is asked for.
pub(super) fn near(
    context: &Context<'_>,
    beside: &Beside,
    directions: &[Direction],
    out: &mut impl Write,
) -> io::Result<()> {
    writeln!(out, "near[{}]: {}", beside.code.as_str(), sentence(context, beside))?;
    writeln!(out, "{}", arrow(context, beside.policy, &context.places.path(beside.policy, "", &beside.mark())))?;
    if directions.is_empty() {
        return Ok(());
    }
    let directions: Vec<&str> = directions.iter().map(|direction| direction.section()).collect();
    writeln!(out, "   = note: about {}: it may not do what its author meant", directions.join(" and "))
}

/// A denial by a policy that does not apply as it looks.
pub(super) fn denied(context: &Context<'_>, beside: &Beside, other: &NamedEnd, out: &mut impl Write) -> io::Result<()> {
    let Beside { policy, code, path, want, got, .. } = beside;
    writeln!(out, "{BAD}denied[{}]{BAD:#}: {}", code.as_str(), headline(*code, other))?;
    // A field that the API does not have is in the file only.
    let place = match code {
        Code::RuleNotUnderstood | Code::PolicyTooLarge => path.clone(),
        _ => context.places.path(*policy, "", &beside.mark()),
    };
    writeln!(out, "{}", arrow(context, *policy, &place))?;
    let text = match code {
        Code::RuleNotUnderstood | Code::PolicyTooLarge => got.clone(),
        Code::DirectionOther => format!("wants {want}, there are {got}"),
        _ => format!("wants {want}, there is {got}"),
    };
    draw(context, *policy, vec![(place.clone(), place, text, true)], out)
}

fn sentence(context: &Context<'_>, beside: &Beside) -> String {
    let Beside { policy, want, got, code, path, .. } = beside;
    let name = format!("networkpolicy {}", policy_name(&context.input.cluster, *policy));
    match code {
        Code::PolicyTypesMissing | Code::DirectionOther => format!("{name} has {got}"),
        Code::PeerOrNotAnd => format!("{name} {path}: separate items mean OR: {want}; {got}"),
        Code::PolicyOtherNamespace => format!("{name} means {want}; this is {got}"),
        Code::RuleOrNotAnd => format!("{name}: separate rules mean OR: {want}; {got}"),
        Code::RuleAdmitsEveryone => format!("{name} {path}: {want}; {got}"),
        Code::SubjectHostNetwork => format!("{name} selects {want}; this is {got}"),
        Code::ExceptUndone => format!("{name} wants {want}, and there is {got}"),
        Code::PoliciesAddUp => format!("{name} isolates it too, {want}; there is {got}"),
        Code::RuleNotUnderstood | Code::PolicyTooLarge => format!("{name} {path}: {got}"),
        _ => format!("{name} wants {want}, there is {got}"),
    }
}
