//! One endpoint alone, printed: what isolates it, and with whom it may exchange what.

use std::io::{self, Write};

use ipnetwork::IpNetwork;
use npc_compiler::API_VERSION;
use npc_compiler::policy::Direction;
use npc_compiler::verdict::explain::{EndpointExplanation, Side};
use serde_json::{Value, json};

use super::answer::{by_protocol, policy};
use super::{Context, warning};
use crate::command::endpoint::short_kind;
use crate::command::output::Columns;
use crate::command::words::{policy_name, shorten};

/// So many names are written out.
const LISTED: usize = 8;

/// What there is to say of an endpoint.
pub(super) struct About<'a> {
    pub(super) context: &'a Context<'a>,
    /// As the endpoint is called: `shop/deploy/api`.
    pub(super) name: &'a str,
    pub(super) explanation: &'a EndpointExplanation,
}

/// The workloads at the other end, by what is allowed: `shop/deploy/api`.
fn peers(side: &Side) -> impl Iterator<Item = (&npc_compiler::algebra::traffic::Traffic, Vec<String>)> {
    let shown = |id: &str| match id.split('/').collect::<Vec<_>>().as_slice() {
        [namespace, kind, name] => format!("{namespace}/{}/{name}", short_kind(kind)),
        _ => id.to_owned(),
    };
    side.peers.iter().map(move |(traffic, ids)| (traffic, ids.iter().map(|id| shown(id)).collect()))
}

impl About<'_> {
    fn warnings(&self) -> Vec<String> {
        warning::texts(&self.context.input.cluster, &self.explanation.warnings)
    }

    pub(super) fn text(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{}", self.name)?;
        for side in &self.explanation.sides {
            let isolated: Vec<String> = (side.isolated_by.iter())
                .map(|(id, pods)| {
                    let name = policy_name(&self.context.input.cluster, *id);
                    if *pods == side.pods { name } else { format!("{name} ({pods} of {} pods)", side.pods) }
                })
                .collect();
            let isolated = if isolated.is_empty() {
                "not isolated".to_owned()
            } else {
                format!("isolated by {}", isolated.join(", "))
            };
            writeln!(out, "\n  {}  {isolated}", side.direction.as_str().to_lowercase())?;
            let way = if side.direction == Direction::Ingress { "from" } else { "to" };
            let mut columns = Columns::default();
            for (traffic, names) in peers(side) {
                columns.push([traffic.to_string(), format!("{way} {}", shorten(&names, LISTED, ", "))]);
            }
            for entry in &side.outside {
                let prefix = match entry.prefix {
                    None => String::new(),
                    Some(prefix @ IpNetwork::V4(_)) => format!(" {prefix}"),
                    Some(prefix @ IpNetwork::V6(_)) => format!(" [{prefix}]"),
                };
                columns.push([entry.traffic.to_string(), format!("{way} outside{prefix}")]);
            }
            if side.peers.is_empty() && side.outside.is_empty() {
                columns.push(["nothing".to_owned()]);
            }
            columns.write(out, "    ", 0)?;
        }
        for text in self.warnings() {
            writeln!(out, "\nwarning: {text}")?;
        }
        out.flush()
    }

    pub(super) fn json(&self) -> Value {
        let side = |side: &Side| {
            let peers: Vec<Value> = peers(side)
                .flat_map(|(traffic, names)| {
                    by_protocol(traffic)
                        .into_iter()
                        .map(move |(protocol, ports)| json!({"peers": names, "protocol": protocol, "ports": ports}))
                })
                .collect();
            let isolated: Vec<_> = side.isolated_by.keys().map(|id| policy(self.context, *id)).collect();
            let outside: Vec<String> = side.outside.iter().map(ToString::to_string).collect();
            json!({"isolatedBy": isolated, "allowed": peers, "outside": outside})
        };
        let [ingress, egress] = &self.explanation.sides;
        json!({
            "apiVersion": API_VERSION, "kind": "EndpointExplanation", "endpoint": self.name,
            "ingress": side(ingress), "egress": side(egress), "warnings": self.warnings(),
        })
    }
}
