//! `npc lint`: what is wrong with the objects, each with a code and its place.

mod github;
mod mistakes;
mod sarif;

use std::io::{self, Write};

use npc_agent::finding::Finding;
use npc_agent::source::manifests::{ObjectRef, Severity};
use npc_compiler::API_VERSION;
use serde::Serialize;

use super::endpoint::no_namespace;
use super::output::{self, BAD, Columns, DOUBT, printable};
use super::warning::{self, Warning};
use super::{Exit, Stop, input};

/// Show what is wrong with policies and other objects, with codes, places, and what
/// npc does about it.
///
/// A finding is something that npc or the API server does not take as it is written, that has no
/// effect, or that cannot work. lint does not know which traffic you mean to allow: ask explain or
/// matrix for that. npc reason CODE explains a code. With -n, findings about objects of that namespace only
/// are shown and counted, and those about files as a whole. The exit code is 1 if there are findings of the
/// severity of --fail-on or above, else 0. What npc did not judge (policies of other kinds, templates, what
/// you may not list) is a warning that does not count: as text on standard error, in other formats among the
/// findings.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  npc lint -f manifests/\n  npc lint -f manifests/ -o sarif > npc.sarif")]
pub(super) struct Args {
    #[command(flatten)]
    input: input::Args,

    /// The format of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: LintFormat,

    /// The lowest severity for which the exit code is 1.
    #[arg(long, value_enum, default_value_t)]
    fail_on: FailOn,

    /// Exit with 0 instead of 1.
    #[arg(long)]
    exit_zero: bool,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum LintFormat {
    /// A line for each finding.
    #[default]
    Text,
    /// All findings in one document.
    Json,
    /// SARIF 2.1.0, for code scanning.
    Sarif,
    /// Commands of a GitHub workflow, which annotate the files of a change.
    Github,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum FailOn {
    /// Errors only: npc judges otherwise than the author meant.
    Error,
    /// Warnings too.
    #[default]
    Warning,
}

/// All findings.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LintReport<'a> {
    api_version: &'static str,
    kind: &'static str,
    findings: &'a [Finding],
    /// What the input has that was not judged, for people; the findings have it too.
    warnings: &'a [String],
}

/// Prints what is wrong.
pub(super) fn run(mut args: Args) -> anyhow::Result<Exit> {
    // What cannot be read is a finding like others.
    args.input.leave_out_errors();
    let input = args.input.read_quietly()?;
    let mut findings = input.findings();
    findings.extend(mistakes::findings(&input));
    if let Some(namespace) = args.input.only_namespace() {
        if let Some(message) = no_namespace(&input, namespace) {
            return Err(Stop::new(Exit::NotFound, message).into());
        }
        // A file that cannot be read may have objects of any namespace.
        let is_there = |of: &ObjectRef| of.namespace.is_empty() || of.namespace == namespace;
        findings.retain(|finding| finding.object.as_ref().is_none_or(is_there));
    }
    Finding::sort(&mut findings);
    // An exit code of 0 is no promise about what was not judged.
    let is_counted = |finding: &Finding| args.fail_on == FailOn::Warning || finding.severity == Severity::Error;
    let fails = findings.iter().any(is_counted) && !args.exit_zero;
    let warnings = input.with_passed_over(input.warnings.clone());
    if !matches!(args.output, LintFormat::Text) {
        findings.extend(warnings.iter().flat_map(Warning::findings).cloned());
        Finding::sort(&mut findings);
    }
    match args.output {
        LintFormat::Text => text(&findings, &mut output::stdout(), output::width())?,
        LintFormat::Json => {
            output::json(&LintReport {
                api_version: API_VERSION,
                kind: "FindingReport",
                findings: &findings,
                warnings: &warning::texts(&warnings),
            })?;
        }
        LintFormat::Sarif => output::json(&sarif::log(&findings))?,
        LintFormat::Github => github::write(&findings, &mut output::raw())?,
    }
    // A workflow's log has both streams, and commands say the same at their places.
    if !matches!(args.output, LintFormat::Github) {
        for warning in &warnings {
            say!("{warning}");
        }
    }
    Ok(if fails { Exit::Not } else { Exit::Fine })
}

/// A line for each finding.
fn text(findings: &[Finding], out: &mut impl Write, terminal: Option<usize>) -> io::Result<()> {
    let mut columns = Columns::default();
    for finding in findings {
        let style = if finding.severity == Severity::Error { BAD } else { DOUBT };
        let word = finding.severity.as_str();
        let place = finding.location.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
        let word = format!("{style}{word}{style:#}");
        columns.push([line(&place), word, finding.code.to_owned(), line(&finding.to_string())]);
    }
    columns.write_within(out, "", terminal)?;
    out.flush()
}

/// A text in one line, even if the author of the file or object wrote control characters.
fn line(text: &str) -> String {
    text.chars().map(printable).collect()
}

#[cfg(test)]
mod tests {
    use npc_agent::finding::Place;

    use super::*;

    #[test]
    fn no_name_or_text_of_an_author_reaches_a_terminal_as_it_is() {
        let finding = Finding {
            location: Some(Place { file: "a\u{1b}[2J\n.yaml".to_owned(), line: Some(3), column: Some(7) }),
            related: None,
            severity: Severity::Warning,
            code: "cidr-legacy",
            object: None,
            path: String::new(),
            problem: "a\u{202e}b\u{7}\nc".to_owned(),
            effect: "it works".to_owned(),
            help: String::new(),
        };
        let mut out = Vec::new();
        text(&[finding], &mut out, None).expect("memory takes all");
        let text = anstream::adapter::strip_bytes(&out).into_vec();
        let text = String::from_utf8(text).expect("text");
        assert_eq!(text, "a [2J .yaml:3:7  warning  cidr-legacy  a\u{fffd}b  c; it works\n");
    }
}
