//! What the reader of an answer should know of the input: what is wrong with it, what was not judged, and
//! what was not read and may change the answer.

use npc_compiler::cluster::unread::Unread;

use super::answer::KernelExplanation;
use super::thing::Thing;
use crate::command::input::{Input, unread_words};
use crate::command::output::Format;

impl KernelExplanation {
    /// The same, with what its reader should know of the input.
    pub(super) fn of_input(mut self, input: &Input, thing: &Thing, format: Format) -> Self {
        self.findings = input.findings();
        let address = if let Thing::Address(address) = thing { Some(*address) } else { None };
        // Nothing of the input bears on what another program made.
        if address.is_none() && self.owner.as_deref() != Some("npc") {
            return self;
        }
        self.warnings = match format {
            // What was passed over is on standard error already.
            Format::Text => input.warnings.clone(),
            Format::Json => input.with_passed_over(input.warnings.clone()),
        };
        self.findings = input.findings_with(&self.warnings);
        let may_isolate = |of: &Unread| self.judges.iter().any(|end| of.may_hold("NetworkPolicy", &end.namespace));
        let may_matter = |of: &&Unread| match address {
            Some(address) => may_isolate(of) || (of.may_be_pods() && input.cluster.may_be_unread(address)),
            // Policies say which chains there are, and pods what is in their sets.
            None => of.may_be("NetworkPolicy") || of.may_be_pods(),
        };
        self.unknowns = unread_words(input.loaded.unread.iter().filter(may_matter));
        self
    }
}
