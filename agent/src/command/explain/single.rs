//! One endpoint alone: what isolates it, who may reach it and whom it may
//! reach.

use std::collections::BTreeMap;
use std::io::{self, Write};

use npc_compiler::API_VERSION;
use npc_compiler::cluster::PodId;
use npc_compiler::policy::Direction;
use npc_compiler::verdict::flow::End;
use npc_compiler::verdict::matrix::{self, By, Matrix};
use serde_json::{Value, json};

use super::answer::{by_protocol, policy};
use super::ends::units_of_pods;
use super::{Context, contests};
use crate::command::endpoint::{Resolved, Target, short_kind};
use crate::command::output::Columns;
use crate::command::outside::Outside;
use crate::command::words::{policy_name, shorten};
use crate::command::{Exit, Stop};

/// So many names are written out.
const LISTED: usize = 8;

/// What there is to say of an endpoint.
pub(super) struct About<'a> {
    context: &'a Context<'a>,
    name: String,
    sides: Vec<Side>,
    warnings: Vec<String>,
}

/// What there is to say of a direction.
struct Side {
    direction: Direction,
    /// The policies that isolate some of its pods, and how many pods.
    isolated: BTreeMap<npc_compiler::cluster::PolicyId, usize>,
    pods: usize,
    /// Who, by what is allowed.
    peers: BTreeMap<npc_compiler::algebra::traffic::Traffic, Vec<String>>,
    outside: Vec<String>,
}

/// Looks an endpoint up.
pub(super) fn about<'a>(context: &'a Context<'a>, of: &Resolved) -> Result<About<'a>, Stop> {
    let cluster = &context.input.cluster;
    let pods: Vec<PodId> = match &of.target {
        Target::Pod(pod) => vec![*pod],
        Target::Pods(pods) => pods.clone(),
        Target::Address(address) => cluster.holders(*address, cluster.home(*address)).to_vec(),
        Target::Service(_) | Target::Node(_) | Target::Blocks(_) => Vec::new(),
    };
    let pods: Vec<PodId> = pods.into_iter().filter(|pod| cluster.class_of(*pod).is_some()).collect();
    if pods.is_empty() {
        let message = format!("no policy applies to {}; ask about it together with a pod", of.name);
        return Err(Stop::new(Exit::Input, message));
    }
    let matrix =
        Matrix::of_groups(cluster, context.groups, &matrix::Options { by: By::Workload, addresses: Vec::new() });
    let side = |direction| {
        let mut isolated = BTreeMap::new();
        for pod in &pods {
            for id in context.groups.of(*pod, direction).iter().flat_map(|id| &context.groups.get(*id).key.policies) {
                *isolated.entry(*id).or_default() += 1;
            }
        }
        let outside =
            Outside { cluster, groups: context.groups }.entries(pods.iter().map(|pod| End::Pod(*pod)), direction);
        Side { direction, isolated, pods: pods.len(), peers: peers(&matrix, &pods, direction), outside }
    };
    let warnings = contests::warnings(cluster, &units_of_pods(context, &pods));
    Ok(About { context, name: of.name.clone(), sides: Direction::ALL.map(side).into(), warnings })
}

/// The workloads that may be at the other end, by what is allowed.
fn peers(
    matrix: &Matrix<'_>,
    pods: &[PodId],
    direction: Direction,
) -> BTreeMap<npc_compiler::algebra::traffic::Traffic, Vec<String>> {
    let rows = 0..matrix.endpoints().len();
    let own: Vec<usize> = (rows.clone())
        .filter(|row| matrix.ends(*row).any(|end| matches!(end, End::Pod(pod) if pods.contains(&pod))))
        .collect();
    let mut peers = BTreeMap::<_, Vec<String>>::new();
    for other in rows {
        let mut traffic = npc_compiler::algebra::traffic::Traffic::none();
        for own in own.iter().filter(|own| **own != other || matrix.ends(other).count() > 1) {
            let (from, to) = if direction == Direction::Ingress { (other, *own) } else { (*own, other) };
            for cell in matrix.between(from, to) {
                traffic = traffic.union(&cell.traffic);
            }
        }
        if !traffic.is_none() {
            let id: Vec<&str> = matrix.endpoints()[other].id.split('/').collect();
            let name = match id.as_slice() {
                [namespace, kind, name] => format!("{namespace}/{}/{name}", short_kind(kind)),
                _ => id.join("/"),
            };
            peers.entry(traffic).or_default().push(name);
        }
    }
    peers
}

impl About<'_> {
    pub(super) fn text(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{}", self.name)?;
        for side in &self.sides {
            let isolated: Vec<String> = (side.isolated.iter())
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
            for (traffic, names) in &side.peers {
                columns.push([traffic.to_string(), format!("{way} {}", shorten(names, LISTED, ", "))]);
            }
            for entry in &side.outside {
                // `203.0.113.0/25:443`, `443`, `*`.
                let (traffic, prefix) = match entry.rsplit_once(':') {
                    Some((prefix, traffic)) => (traffic.to_owned(), format!(" {prefix}")),
                    None => (entry.clone(), String::new()),
                };
                columns.push([traffic, format!("{way} outside{prefix}")]);
            }
            if side.peers.is_empty() && side.outside.is_empty() {
                columns.push(["nothing".to_owned()]);
            }
            columns.write(out, "    ", 0)?;
        }
        for text in &self.warnings {
            writeln!(out, "\nwarning: {text}")?;
        }
        out.flush()
    }

    pub(super) fn json(&self) -> Value {
        let side = |side: &Side| {
            let peers: Vec<Value> = (side.peers.iter())
                .flat_map(|(traffic, names)| {
                    by_protocol(traffic)
                        .into_iter()
                        .map(move |(protocol, ports)| json!({"peers": names, "protocol": protocol, "ports": ports}))
                })
                .collect();
            let isolated: Vec<_> = side.isolated.keys().map(|id| policy(self.context, *id)).collect();
            json!({"isolatedBy": isolated, "allowed": peers, "outside": side.outside})
        };
        json!({
            "apiVersion": API_VERSION, "kind": "EndpointExplanation", "endpoint": self.name,
            "ingress": side(&self.sides[0]), "egress": side(&self.sides[1]), "warnings": self.warnings,
        })
    }
}
