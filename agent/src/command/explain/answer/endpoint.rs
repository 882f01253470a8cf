//! One endpoint alone, printed: what isolates it, and with whom it may exchange what.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use npc_agent::source::manifests::ObjectRef;
use npc_compiler::API_VERSION;
use npc_compiler::algebra::block_text::WrittenBlock;
use npc_compiler::algebra::traffic::Traffic;
use npc_compiler::cluster::{PodId, PolicyId};
use npc_compiler::policy::Direction;
use npc_compiler::verdict::dead_block::is_dead;
use npc_compiler::verdict::explain::{
    EndpointExplanation, EndpointPart, MisleadingPolicy, QuestionEnd, Side, may_be_isolated,
};
use npc_compiler::verdict::matrix::{EndpointId, EndpointName};
use npc_compiler::verdict::outside::{Outside, OutsideBounds, shortest_entries};
use serde_json::{Value, json};

use super::json::{misleading as misleading_json, policy};
use crate::command::absent_peers::{self, AbsentEnd, elsewhere};
use crate::command::dead_block;
use crate::command::endpoint::{Resolved, short_kind};
use crate::command::explain::reasons::misleading;
use crate::command::explain::traffic::by_protocol;
use crate::command::explain::{Context, warnings};
use crate::command::input::Input;
use crate::command::output::{self, Columns, Format, width};
use crate::command::warning::{self, Warning, WarningCode};
use crate::command::words::{not_understood, policy_name, shorten};
use crate::command::{Exit, Stop};

/// At most this many names are written out.
const LISTED: usize = 8;

/// What there is to say of an endpoint.
pub(in crate::command::explain) struct About<'a> {
    pub(in crate::command::explain) context: &'a Context<'a>,
    /// As the endpoint is called: `shop/deploy/api`.
    pub(in crate::command::explain) name: &'a str,
    pub(in crate::command::explain) explanation: &'a EndpointExplanation,
    /// Its parts, where its pods may exchange different traffic with others.
    pub(in crate::command::explain) parts: &'a [EndpointPart],
    /// It is hostNetwork pods.
    pub(in crate::command::explain) is_of_hosts: bool,
}

/// Says that no policy applies to an end, or that the input does not tell: `stop` says why. An error if it is
/// neither.
pub(in crate::command::explain) fn without_policies(
    input: &Input,
    from: &Resolved<'_>,
    stop: Stop,
    format: Format,
) -> anyhow::Result<Exit> {
    let is_unknown = stop.exit == Exit::Unknown;
    match (stop.exit, format) {
        (Exit::Fine | Exit::Unknown, Format::Json) => {
            let side = |direction| {
                let may_be_isolated = may_be_isolated(&input.cluster, &from.target, direction);
                json!({
                    "isolatedBy": [], "mayBeIsolated": may_be_isolated, "allowed": [], "outside": [], "differs": [],
                    "differsOutside": [], "unknown": [], "unknownOutside": [], "elsewhere": [],
                })
            };
            let (unknowns, said) = if is_unknown { (vec![stop.message], None) } else { (vec![], Some(stop.message)) };
            // It ends so only for a Service that leads to no pod.
            let service = match &from.target {
                QuestionEnd::Service(service) => Some(ObjectRef::new("Service", &service.namespace, &service.name)),
                _ => None,
            };
            let said = said.map(|text| {
                let (code, positions) = (WarningCode::ServiceNoBackends, &input.loaded.positions);
                Warning::about_each(code, text, service.as_slice(), positions)
            });
            let warnings = input.with_left_out(said.into_iter().chain(input.warnings.iter().cloned()).collect());
            let findings = input.findings_with(&warnings);
            output::json(&json!({
                "apiVersion": API_VERSION, "kind": "EndpointExplanation", "endpoint": from.name,
                "ingress": side(Direction::Ingress),
                "egress": side(Direction::Egress), "warnings": warning::texts(&warnings), "unknowns": unknowns, "near": [], "parts": [],
                "findings": findings,
            }))?;
        }
        (Exit::Fine, Format::Text) => {
            let mut out = output::stdout();
            writeln!(out, "{}", stop.message)?;
            out.flush()?;
        }
        _ => return Err(stop.into()),
    }
    Ok(stop.exit)
}

/// The workloads at the other end, by what is allowed: `shop/deploy/api`.
fn peers(peers: &BTreeMap<Traffic, Vec<EndpointId>>) -> impl Iterator<Item = (&Traffic, Vec<String>)> {
    let shown = |id: &EndpointId| match id.name() {
        EndpointName::Object { namespace, kind: Some(kind), name } => {
            format!("{namespace}/{}/{name}", short_kind(kind))
        }
        EndpointName::Object { kind: None, .. } | EndpointName::Address(_) => id.to_string(),
    };
    peers.iter().map(move |(traffic, ids)| (traffic, ids.iter().map(shown).collect()))
}

impl About<'_> {
    fn warnings(&self) -> Vec<Warning> {
        let mut all = warnings::with_input(self.context.input, &self.explanation.warnings);
        let policies: BTreeSet<PolicyId> =
            self.explanation.sides.iter().flat_map(|side| side.isolated_by.keys().copied()).collect();
        all.extend(dead_block::warning(self.context.input, policies));
        all
    }

    /// The facts that the input lacks, in words.
    fn unknowns(&self) -> Vec<String> {
        let unread: BTreeSet<String> = self.explanation.unread_policies.iter().map(ToString::to_string).collect();
        let unread = Vec::from_iter(unread);
        let text = || format!("policies that may select {} and were not read: {}", self.name, unread.join("; "));
        let policies = (!unread.is_empty()).then(text);
        let pods = self.context.input.left_out_pods();
        let pods = pods.map(|of| format!("what {} may exchange with pods that were not read: {of}", self.name));
        policies.into_iter().chain(pods).collect()
    }

    /// What the rules of a direction admit whose other ends are not in the input.
    fn elsewhere(&self, side: &Side) -> Vec<AbsentEnd> {
        let policies = side.isolated_by.keys();
        policies.flat_map(|id| elsewhere(&self.context.input.cluster, *id, side.direction)).collect()
    }

    pub(in crate::command::explain) fn text(&self, out: &mut impl Write) -> io::Result<()> {
        match self.parts {
            [] => {
                writeln!(out, "{}", self.name)?;
                self.sides(self.explanation, out)?;
            }
            parts => {
                let kinds = parts.len();
                writeln!(out, "{}  PARTIAL: its pods are judged in {kinds} ways, each with its policies", self.name)?;
                for part in parts {
                    writeln!(out, "\n{}", self.part_name(part))?;
                    self.sides(&part.explanation, out)?;
                }
            }
        }
        let sides = &self.explanation.sides;
        let differ = |side: &Side| !side.differing_peers.is_empty() || !side.outside.differs.is_empty();
        let shown = self.parts.iter().flat_map(|part| &part.explanation.sides);
        if shown.chain(sides.iter().filter(|_| self.parts.is_empty())).any(differ) {
            writeln!(out, "\n~ allowed for some only. {}", self.why_some())?;
        }
        if sides.iter().any(|side| !side.unknown_peers.is_empty() || !side.outside.unknown.is_empty()) {
            writeln!(
                out,
                "\n? the input does not say whether this is allowed; npc explain SRC DST names the missing fact"
            )?;
        }
        for (_, policy) in &self.explanation.misleading {
            writeln!(out)?;
            misleading::near(self.context, policy, &[], out)?;
        }
        for text in self.unknowns() {
            writeln!(out, "\nunknown: {text}")?;
        }
        for warning in self.warnings() {
            writeln!(out, "\n{warning}")?;
        }
        out.flush()
    }

    /// What differs where not all of an endpoint may exchange the same with all of another.
    fn why_some(&self) -> &'static str {
        let is_of_pods = self.explanation.sides.iter().any(|side| side.pods > 0);
        match (is_of_pods, self.is_of_hosts) {
            (true, _) => {
                "If replicas differ, npc matrix --by pod shows which; if IPv4 and IPv6 differ, npc explain SRC DST shows how"
            }
            (false, true) => {
                "A node and the pods on it may exchange everything, and policies see each node by its address; npc explain \
                 SRC DST shows what holds for which nodes"
            }
            (false, false) => {
                "Its addresses differ, or the replicas of the other end do: a node and the pods on it may exchange \
                 everything; npc explain SRC DST shows how"
            }
        }
    }

    /// What a part is called: its workloads, or its pods where another part has pods of the same
    /// workload.
    fn part_name(&self, part: &EndpointPart) -> String {
        let cluster = &self.context.input.cluster;
        let workloads = |part: &EndpointPart| super::policy::workloads(cluster, &part.pods);
        let own = workloads(part);
        let others: Vec<String> = self.parts.iter().filter(|other| *other != part).flat_map(workloads).collect();
        if own.iter().all(|name| !others.contains(name)) {
            return shorten(&own, LISTED, ", ");
        }
        let pod = |id: &PodId| {
            let pod = cluster.pod(*id);
            format!("{}/pod/{}", pod.namespace, pod.name)
        };
        shorten(&part.pods.iter().map(pod).collect::<Vec<_>>(), LISTED, ", ")
    }

    /// Both directions.
    fn sides(&self, explanation: &EndpointExplanation, out: &mut impl Write) -> io::Result<()> {
        let cluster = &self.context.input.cluster;
        // An address of what was not read may be a pod's, though nothing would isolate it in one direction.
        let may_be_pod = explanation.sides.iter().any(|side| side.may_be_isolated);
        for side in &explanation.sides {
            let isolated: Vec<String> = (side.isolated_by.iter())
                .map(|(id, pods)| {
                    let name = policy_name(cluster, *id);
                    if *pods == side.pods { name } else { format!("{name} ({pods} of {} pods)", side.pods) }
                })
                .collect();
            let isolated = match (isolated.is_empty(), side.may_be_isolated) {
                (true, false) if side.pods == 0 && !may_be_pod => {
                    let what = if self.is_of_hosts { "a hostNetwork pod" } else { "no pod" };
                    format!("{what}: no policy applies to it, only those of the other ends")
                }
                (true, false) => "not isolated".to_owned(),
                (true, true) => "isolated or not: the input does not say".to_owned(),
                (false, false) => format!("isolated by {}", isolated.join(", ")),
                (false, true) => format!("isolated by {}, and perhaps by others", isolated.join(", ")),
            };
            writeln!(out, "\n  {}  {isolated}", side.direction.as_str().to_lowercase())?;
            let way = side.direction.peers_field();
            let mut columns = Columns::default();
            let parts = [
                (("", ""), &side.common_peers, &side.outside.common),
                (("", "~"), &side.differing_peers, &side.outside.differs),
                (("?", ""), &side.unknown_peers, &side.outside.unknown),
            ];
            for ((before, behind), of_side, outside) in parts {
                let marked = |traffic: &Traffic| format!("{before}{traffic}{behind}");
                for (traffic, names) in peers(of_side) {
                    columns.push([marked(traffic), format!("{way} {}", shorten(&names, LISTED, ", "))]);
                }
                for entry in shortest_entries(outside) {
                    let of_block = |block: &WrittenBlock| {
                        let dead = is_dead(cluster, block).then(|| format!(" ({})", dead_block::DEAD));
                        format!(" {}{}", block.before_port(), dead.unwrap_or_default())
                    };
                    let mut blocks: Vec<String> = entry.blocks().iter().map(of_block).collect();
                    if blocks.is_empty() {
                        blocks.push(String::new());
                    }
                    for block in blocks {
                        columns.push([marked(&entry.traffic), format!("{way} outside{block}")]);
                    }
                }
            }
            let elsewhere: BTreeSet<_> =
                self.elsewhere(side).into_iter().map(|of| (of.ports, of.peer, of.found, of.is_partly_here)).collect();
            for (ports, peer, found, is_partly_here) in &elsewhere {
                let why = absent_peers::words_of_part(*found, *is_partly_here);
                columns.push([ports.clone(), format!("{way} {peer} {why}")]);
            }
            if elsewhere.is_empty()
                && side.peers.is_empty()
                && side.unknown_peers.is_empty()
                && side.outside == OutsideBounds::default()
            {
                let stopped = if side.admits_others {
                    ": the policies of the other ends stop what rules of this one admit"
                } else if side.pods > 0 {
                    " but what a pod exchanges with itself and its own node"
                } else {
                    ""
                };
                columns.push([format!("nothing{stopped}")]);
            }
            columns.write_within(out, "    ", width())?;
            for text in not_understood(cluster, side.isolated_by.keys().copied(), side.direction) {
                writeln!(out, "    not understood: {text}")?;
            }
        }
        Ok(())
    }

    pub(in crate::command::explain) fn json(&self) -> Value {
        let side = |side: &Side| {
            let rows = |of_side| -> Vec<Value> {
                let rows = peers(of_side).flat_map(|(traffic, names)| {
                    by_protocol(traffic)
                        .into_iter()
                        .map(move |(protocol, ports)| json!({"peers": names, "protocol": protocol, "ports": ports}))
                });
                rows.collect()
            };
            let isolated: Vec<_> = side.isolated_by.keys().map(|id| policy(self.context, *id)).collect();
            let by_prefix = |of: &[Outside]| of.iter().flat_map(Outside::by_prefix).collect::<Vec<String>>();
            json!({
                "isolatedBy": isolated, "mayBeIsolated": side.may_be_isolated,
                "allowed": rows(&side.peers), "outside": by_prefix(&side.outside.allowed),
                "differs": rows(&side.differing_peers), "differsOutside": by_prefix(&side.outside.differs),
                "unknown": rows(&side.unknown_peers), "unknownOutside": by_prefix(&side.outside.unknown),
                "elsewhere": self.elsewhere(side),
            })
        };
        let part = |part: &EndpointPart| {
            let [ingress, egress] = &part.explanation.sides;
            let pod = |id: &PodId| {
                let pod = self.context.input.cluster.pod(*id);
                format!("{}/{}", pod.namespace, pod.name)
            };
            let pods: Vec<String> = part.pods.iter().map(pod).collect();
            json!({"endpoint": self.part_name(part), "pods": pods, "ingress": side(ingress), "egress": side(egress)})
        };
        let near = |(direction, of): &(Direction, MisleadingPolicy)| {
            let mut near = json!(misleading_json(self.context, of));
            near["direction"] = json!(direction);
            near
        };
        let [ingress, egress] = &self.explanation.sides;
        let warnings = self.context.input.with_left_out(self.warnings());
        json!({
            "apiVersion": API_VERSION, "kind": "EndpointExplanation", "endpoint": self.name,
            "ingress": side(ingress), "egress": side(egress),
            "warnings": warning::texts(&warnings), "unknowns": self.unknowns(),
            "near": self.explanation.misleading.iter().map(near).collect::<Vec<Value>>(),
            "parts": self.parts.iter().map(part).collect::<Vec<Value>>(),
            "findings": self.context.input.findings_with(&warnings),
        })
    }
}
