//! `npc schema`: the JSON Schemas of what the other commands print.

use std::io::Write as _;

use super::{Exit, output};

/// Print the JSON Schema of an output.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which output.
    #[arg(value_name = "KIND", value_enum, ignore_case = true)]
    kind: Document,
}

/// A document that a command prints with `-o json`.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Document {
    /// What npc explain SRC DST prints.
    #[value(name = "FlowExplanation", alias = "flow-explanation", alias = "explain")]
    FlowExplanation,
    /// What npc explain ENDPOINT prints.
    #[value(name = "EndpointExplanation", alias = "endpoint-explanation", alias = "endpoint")]
    EndpointExplanation,
    /// What npc matrix prints.
    #[value(name = "ConnectivityMatrix", alias = "connectivity-matrix", alias = "matrix")]
    ConnectivityMatrix,
    /// What npc lint prints.
    #[value(name = "FindingReport", alias = "finding-report", alias = "lint")]
    FindingReport,
    /// What npc explain netpol/NAME prints.
    #[value(name = "PolicyExplanation", alias = "policy-explanation", alias = "netpol")]
    PolicyExplanation,
    /// What npc migrate prints.
    #[value(name = "MigrationReport", alias = "migration-report", alias = "migrate")]
    MigrationReport,
    /// What npc why prints.
    #[value(name = "KernelExplanation", alias = "kernel-explanation", alias = "why")]
    KernelExplanation,
}

/// Prints the schema.
pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let schema = match args.kind {
        Document::FlowExplanation => include_str!("../../schemas/flow-explanation.json"),
        Document::EndpointExplanation => include_str!("../../schemas/endpoint-explanation.json"),
        Document::ConnectivityMatrix => include_str!("../../schemas/connectivity-matrix.json"),
        Document::FindingReport => include_str!("../../schemas/finding-report.json"),
        Document::PolicyExplanation => include_str!("../../schemas/policy-explanation.json"),
        Document::MigrationReport => include_str!("../../schemas/migration-report.json"),
        Document::KernelExplanation => include_str!("../../schemas/kernel-explanation.json"),
    };
    let mut out = output::raw();
    out.write_all(schema.as_bytes())?;
    out.flush()?;
    Ok(Exit::Fine)
}
