//! What mends a part of a policy that was not understood.

use json_patch::PatchOperation;
use serde_json::{Value, json};

use super::change::{pointer, replace};
use super::peer::{self, Other};
use super::proposal::{Cause, Proposal, Size};
use super::propose::Proposer;
use crate::algebra::cidr::Cidr;
use crate::object::Protocol;
use crate::policy::finding::{Code, Finding};
use crate::verdict::explain::Beside;

impl Proposer<'_> {
    /// What can stand in place of a part that was not understood, so that its rule admits the flow: a
    /// protocol in capital letters, an address with its length, an item that names the other end or the
    /// port. What the object in memory does not have, such as an unknown field, no patch mends.
    pub(super) fn of_finding(&self, part: &Beside, all: &mut Vec<Proposal>) {
        let mut findings = self.view.cluster.findings_of(part.policy);
        let Some(finding) = findings.find(|finding| finding.path == part.path) else { return };
        let path = pointer(&finding.path);
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let proposal = self.of_policy(part.policy, Size::Value, |document| {
            self.right_part(finding, &path, document).into_iter().collect()
        });
        all.extend(proposal.map(|of| Proposal { cause: Cause::Mistake, ..of }));
    }

    fn right_part(&self, finding: &Finding, path: &[&str], document: &Value) -> Option<PatchOperation> {
        let written = document.pointer(&format!("/{}", path.join("/")))?;
        match finding.code {
            Code::PortInvalid if path.last() == Some(&"protocol") => {
                let protocol = Protocol::parse(&written.as_str()?.trim().to_ascii_uppercase())?;
                Some(replace(path, json!(protocol.as_str())))
            }
            Code::PortInvalid => {
                let ([item @ .., _], [port]) = (path, self.ports.as_slice()) else { return None };
                Some(replace(item, port.clone()))
            }
            Code::CidrInvalid => {
                let Other::Blocks(blocks) = &self.other else { return None };
                let meant = Cidr::of_address(finding.address?);
                let is_it = path.last() == Some(&"cidr") && blocks.as_slice() == [meant];
                is_it.then(|| replace(path, json!(meant.network().to_string())))
            }
            Code::PeerEmpty => {
                let items = peer::items(self.view, &self.other, &self.namespace).ok()?;
                let [item] = items.as_slice() else { return None };
                Some(replace(path, item.clone()))
            }
            _ => None,
        }
    }
}
