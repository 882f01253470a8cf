//! The matrix as JSON, for programs, with what passes from and to outside.

use npc_agent::finding::Finding;
use npc_compiler::algebra::block_text::written_blocks;
use npc_compiler::algebra::cidr;
use npc_compiler::policy::Direction;
use npc_compiler::verdict::matrix::{Endpoint, Matrix, Printed, protocols};
use npc_compiler::verdict::outside::{Outside, OutsideBounds, shortest_entries};
use serde::Serialize;

use super::elsewhere::Elsewhere;
use super::table::{OUTSIDE, TextMatrix};

/// The documented JSON of the matrix, and what passes from and to outside.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Json<'a> {
    #[serde(flatten)]
    matrix: Printed<'a>,
    outside: Vec<OutsideConnection>,
    /// What of these holds for some replicas only.
    outside_differs: Vec<OutsideConnection>,
    /// What may be allowed besides: the input lacks a fact.
    outside_unknowns: Vec<OutsideConnection>,
    elsewhere: Vec<Elsewhere>,
    /// What is wrong with the objects.
    findings: Vec<Finding>,
}

/// How addresses outside are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AddressStyle {
    /// As prefixes, each with a connection of its own.
    Prefixes,
    /// As ipBlocks, with exceptions where that is shorter; those of several connections may overlap.
    Blocks,
}

/// What is allowed between an endpoint and addresses outside, of one protocol.
#[derive(Debug, Serialize)]
pub(super) struct OutsideConnection {
    /// The id of the endpoint, or `outside`.
    pub(super) from: String,
    pub(super) to: String,
    /// The addresses outside, a prefix or a block; none for all of both families.
    pub(super) prefix: Option<String>,
    pub(super) protocol: &'static str,
    pub(super) ports: Option<Vec<[u16; 2]>>,
}

impl<'a> Json<'a> {
    pub(super) fn new(
        matrix: &'a Matrix<'a>,
        view: &TextMatrix<'_>,
        without_backends: &'a [Endpoint],
        warnings: &'a [String],
        findings: Vec<Finding>,
    ) -> Self {
        let [outside, outside_differs, outside_unknowns] = outside(matrix, view, AddressStyle::Prefixes);
        let (matrix, elsewhere) = (Printed { matrix, without_backends, warnings }, view.elsewhere());
        Self { matrix, outside, outside_differs, outside_unknowns, elsewhere, findings }
    }
}

/// What passes from and to outside, by endpoint: for some replica, not for each, and perhaps.
pub(super) fn outside(
    matrix: &Matrix<'_>,
    view: &TextMatrix<'_>,
    written: AddressStyle,
) -> [Vec<OutsideConnection>; 3] {
    let mut all = [const { Vec::new() }; 3];
    for (place, endpoint) in matrix.endpoints().iter().enumerate() {
        let id = endpoint.id.to_string();
        for direction in [Direction::Egress, Direction::Ingress] {
            let (from, to) = match direction {
                Direction::Egress => (id.as_str(), OUTSIDE),
                Direction::Ingress => (OUTSIDE, id.as_str()),
            };
            let OutsideBounds { allowed, differs, unknown, .. } = view.outside(place, direction);
            for (rows, entries) in all.iter_mut().zip([allowed, differs, unknown]) {
                let entries = if written == AddressStyle::Blocks { shortest_entries(&entries) } else { entries };
                rows.extend(entries.iter().flat_map(|entry| rows_of(entry, from, to, written)));
            }
        }
    }
    all
}

/// The rows of an entry, one for each prefix or block and protocol.
fn rows_of(entry: &Outside, from: &str, to: &str, written: AddressStyle) -> Vec<OutsideConnection> {
    let prefixes = match (&entry.addresses, written) {
        (None, _) => vec![None],
        (Some((family, set)), AddressStyle::Prefixes) => {
            cidr::prefixes(*family, set).iter().map(|of| Some(of.to_string())).collect()
        }
        (Some((family, set)), AddressStyle::Blocks) => {
            written_blocks(*family, set).iter().map(|of| Some(of.to_string())).collect()
        }
    };
    let of_prefix = |prefix: Option<String>| {
        protocols(&entry.traffic).map(move |(protocol, ports)| OutsideConnection {
            from: from.to_owned(),
            to: to.to_owned(),
            prefix: prefix.clone(),
            protocol,
            ports,
        })
    };
    prefixes.into_iter().flat_map(of_prefix).collect()
}
