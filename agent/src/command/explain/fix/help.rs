//! The fix of a flow, or why there is none, below its denials.

use std::io::{self, Write};

use npc_compiler::policy::Direction;
use npc_compiler::verdict::fix::{Change, Closing, NoFix, Wider};

use super::change::write_change;
use super::why_not::why_not;
use super::words::{checked, not_proposed};
use super::{Found, INDENT, anchor, service};
use crate::command::input::Input;

/// Writes the changes of some directions below a denial. The last denial of a flow says what all
/// its changes together do.
pub(in super::super) fn help(
    input: &Input,
    found: Option<Found<'_>>,
    directions: &[Direction],
    is_last: bool,
    out: &mut impl Write,
) -> io::Result<()> {
    let cluster = &input.cluster;
    let Some(found) = found else { return Ok(()) };
    match found.fix {
        Ok(_) if !found.is_first => {
            if is_last {
                writeln!(out, "   = help: the changes above admit this flow too")
            } else {
                Ok(())
            }
        }
        // It is the same for all of them.
        Err(NoFix::NotTried(_)) if !found.is_first => Ok(()),
        Err(reason) if is_last => {
            service::draw(input, reason, out)?;
            writeln!(out, "   = help: {}", why_not(reason))?;
            let command = service::json(input, reason).and_then(|service| service.command);
            command.iter().try_for_each(|line| writeln!(out, "{INDENT}to correct it: {line}"))
        }
        Err(_) => Ok(()),
        Ok(fix) => {
            let more_flows = found.more_flows();
            let is_here = |change: &Change| directions.contains(&change.direction);
            if is_last && !fix.changes.iter().any(is_here) {
                writeln!(out, "   = help: the change above is for this direction too")?;
            }
            for change in fix.changes.iter().filter(|change| is_here(change)) {
                let only = fix.opens.is_empty().then_some(more_flows.len());
                write_change(input, change, only, out)?;
                if let Some(place) = anchor::shared_text(input, change) {
                    writeln!(out, "{INDENT}{}", anchor::words(&place))?;
                }
                match change.adds.nodes(cluster) {
                    0 => {}
                    1 => writeln!(
                        out,
                        "{INDENT}(that is the address of a node: it admits all that runs in its network)"
                    )?,
                    _ => writeln!(
                        out,
                        "{INDENT}(these are addresses of nodes: they admit every hostNetwork pod and every process of these nodes; add those \
                         of nodes that join later)"
                    )?,
                }
            }
            if is_last {
                writeln!(out, "{INDENT}{}", checked(cluster, fix, found.is_after_others, &more_flows))?;
                if found.is_in_part {
                    writeln!(
                        out,
                        "{INDENT}(the answer as a whole is then PARTIAL: other flows of it stay denied, and have no fix)"
                    )?;
                }
                if fix.changes.iter().any(|change| change.adds.has_every_port) {
                    writeln!(
                        out,
                        "{INDENT}(every port, because no port was asked about; ask about one, and the change names it)"
                    )?;
                }
            }
            if let Some(of) = fix.undeclared_target.as_ref().filter(|_| is_last) {
                writeln!(out, "   = note: {}", service::undeclared(of))?;
            }
            for Closing { change, closes } in fix.closing.iter().filter(|of| is_here(&of.change)) {
                writeln!(out, "   = note: {}", not_proposed(cluster, change, "close", closes))?;
            }
            for Wider { change, opens } in fix.wider.iter().filter(|of| is_here(&of.change)) {
                writeln!(out, "   = note: {}", not_proposed(cluster, change, "open", opens))?;
            }
            Ok(())
        }
    }
}
