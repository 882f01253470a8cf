//! `npc reason`: what a code means, with an example.

use std::ffi::OsStr;
use std::io::Write as _;

use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use npc_agent::words::near::{listed, nearest};

use super::{Exit, Stop, output};

/// Show what a code of `explain`, `lint` or `migrate` or of a warning means, with an example.
///
/// Without a code it lists all of them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  npc reason\n  npc reason port-is-service-port")]
pub(super) struct Args {
    /// The code, as in `denied[peer-label-value]`, `near[policytypes-missing]` or `allowed[rule]`.
    #[arg(value_name = "CODE", add = ArgValueCompleter::new(codes))]
    code: Option<String>,
}

/// The codes that a word may become.
fn codes(word: &OsStr) -> Vec<CompletionCandidate> {
    let word = word.to_str().unwrap_or_default();
    let codes = PAGES.iter().map(|page| page.code).filter(|code| code.starts_with(word));
    codes.map(CompletionCandidate::new).collect()
}

/// A code and its page.
struct Page {
    code: &'static str,
    /// Markdown: a heading, a line that says what kind of code it is and what it means,
    /// the text, an example, and what npc says of it.
    text: &'static str,
}

macro_rules! pages {
    ($($code:literal)*) => {
        &[$(Page { code: $code, text: include_str!(concat!("reason/pages/", $code, ".md")) }),*]
    };
}

/// All of them, in the order in which they are listed.
const PAGES: &[Page] = pages! {
    "default-deny-only"
    "rule-missing"
    "peer-label-missing"
    "peer-label-value"
    "peer-other-namespace"
    "peer-namespace-label"
    "peer-and-not-or"
    "peer-or-not-and"
    "peer-hostnetwork"
    "ipblock-outside"
    "ipblock-except"
    "ipblock-family"
    "ipblock-is-service-address"
    "port-number"
    "port-protocol"
    "port-is-service-port"
    "port-named-unresolved"
    "port-named-other-protocol"
    "port-range"
    "direction-other"
    "policy-other-namespace"
    "subject-near-miss"
    "policytypes-missing"
    "policies-add-up"
    "except-undone"
    "rule-or-not-and"
    "rule-admits-everyone"
    "subject-hostnetwork"
    "rule-not-understood"
    "policy-too-large"
    "service-no-backends"
    "service-port-unknown"
    "service-source-ranges"
    "default-allow"
    "rule"
    "own-node"
    "self"
    "hostnetwork-exempt"
    "address-contested"
    "port-name-missing"
    "flows-not-listed"
    "service-headless"
    "asked-service-port"
    "service-not-exposed"
    "address-loopback"
    "host-port"
    "host-port-elsewhere"
    "no-common-family"
    "own-node-unknown"
    "source-is-service-address"
    "other-nodes-differ"
    "tunnel-dropped"
    "address-not-forwarded"
    "address-leads-elsewhere"
    "namespace-not-in"
    "negative-selector-outside"
    "policy-refused"
    "ipv6"
    "node-port"
    "self-by-service"
    "odd-text"
    "terminal-accept"
    "established"
    "only-new"
    "sidecar-port"
    "pod-start"
    "field-unknown"
    "name-invalid"
    "selector-invalid"
    "policytypes-invalid"
    "peer-empty"
    "peer-combined"
    "cidr-invalid"
    "cidr-legacy"
    "except-outside-cidr"
    "except-covers-cidr"
    "port-invalid"
    "port-name-invalid"
    "too-many-findings"
    "policytypes-unused-rules"
    "policytypes-egress-lost"
    "subject-empty"
    "peer-namespace-empty"
    "ipblock-service-address"
    "service-port"
    "protocol-missing-dns"
    "dns-blocked"
    "half-open"
    "rule-redundant"
    "policy-redundant"
    "allow-all-rule"
    "peer-split-or"
    "namespace-undeclared"
    "document-unreadable"
    "duplicate-name"
    "value-doubtful"
    "version-gone"
    "label-invalid"
    "annotation-invalid"
    "policies-not-judged"
    "pods-not-in-input"
    "objects-not-in-input"
    "right-missing"
    "workload-without-pods"
    "template-not-rendered"
    "file-encrypted"
    "file-not-objects"
    "kustomization-not-applied"
};

/// What a code means in one line, and its page as Markdown.
pub(super) fn page(code: &str) -> Option<(&'static str, &'static str)> {
    let page = PAGES.iter().find(|page| page.code == code)?;
    Some((page.summary().1, page.text))
}

impl Page {
    /// The command that the code belongs to, and what the code means, in one line each.
    fn summary(&self) -> (&'static str, &'static str) {
        let line = self.text.lines().find_map(|line| line.strip_prefix('*')?.strip_suffix('*'));
        line.and_then(|line| line.split_once(": ")).unwrap_or_default()
    }

    /// The page as text for a terminal: no marks of Markdown but those of code.
    fn plain(&self, width: Option<usize>) -> String {
        let (mut text, mut is_code) = (String::new(), false);
        for line in self.text.lines() {
            if line.starts_with("```") {
                is_code = !is_code;
                continue;
            }
            let line = line.strip_prefix("## ").unwrap_or(line);
            let line = line.strip_prefix('*').and_then(|line| line.strip_suffix('*')).unwrap_or(line);
            let line = line.replace("**", "");
            let width = width.filter(|_| !is_code).unwrap_or(usize::MAX);
            for line in wrapped(&line, width, 0) {
                text.push_str(&line);
                text.push('\n');
            }
        }
        text
    }
}

/// A line in as many as fit a width; those after the first are indented.
fn wrapped(line: &str, width: usize, indent: usize) -> Vec<String> {
    if line.chars().count() <= width || width <= indent + NARROW {
        return vec![line.to_owned()];
    }
    let (mut lines, mut current) = (Vec::new(), String::new());
    for word in line.split(' ') {
        let has = current.chars().count();
        if has > 0 && !current.trim().is_empty() && has + 1 + word.chars().count() > width {
            lines.push(std::mem::replace(&mut current, " ".repeat(indent)));
            current.push_str(word);
        } else {
            if has > 0 {
                current.push(' ');
            }
            current.push_str(word);
        }
    }
    lines.push(current);
    lines
}

/// A terminal that has no more columns for text wraps the lines itself.
const NARROW: usize = 20;

/// Prints a page, or all codes.
pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let (mut out, width) = (output::stdout(), output::width());
    let Some(code) = &args.code else {
        let mut of = "";
        for page in PAGES {
            let (command, summary) = page.summary();
            if command != of {
                writeln!(out, "{}{command}:", if of.is_empty() { "" } else { "\n" })?;
                of = command;
            }
            let line = format!("  {:<26} {summary}", page.code);
            wrapped(&line, width.unwrap_or(usize::MAX), 29).iter().try_for_each(|line| writeln!(out, "{line}"))?;
        }
        return Ok(Exit::Fine);
    };
    let code = code.split_once('[').map_or(code.as_str(), |(_, code)| code).trim_end_matches(']');
    match PAGES.iter().find(|page| page.code == code) {
        Some(page) => write!(out, "{}", page.plain(width))?,
        None => {
            let codes = || PAGES.iter().map(|page| page.code);
            let hint = match nearest(code, codes()) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("codes are {}; npc reason lists them", listed(codes())),
            };
            return Err(Stop::new(Exit::Input, format!("there is no code {code:?}; {hint}")).into());
        }
    }
    Ok(Exit::Fine)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use npc_agent::source::manifests;
    use npc_compiler::azure;
    use npc_compiler::policy::finding;
    use npc_compiler::verdict::explain::ReasonCode;
    use npc_compiler::verdict::lint;

    use super::*;
    use crate::command::warning::WarningCode;

    const HEADER: &str = "# Reasons

What each code of `npc explain`, `npc lint` and `npc migrate` means, and of the warnings of all commands.
`npc reason CODE` shows the same. Put the YAML of an example into `example.yaml` to try it.

";

    /// `docs/reasons.md`, as the pages make it.
    fn document() -> String {
        let pages: Vec<&str> = PAGES.iter().map(|page| page.text).collect();
        format!("{HEADER}{}", pages.join("\n"))
    }

    /// NPC_WRITE=1 writes it.
    #[test]
    fn the_document_is_made_of_the_pages() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reasons.md");
        if std::env::var_os("NPC_WRITE").is_some() {
            std::fs::write(&path, document()).expect("the repository is writable");
        }
        let there = std::fs::read_to_string(&path).expect("docs/reasons.md is there");
        assert!(there == document(), "docs/reasons.md is not what the pages make; write it with NPC_WRITE=1");
    }

    #[test]
    fn every_page_has_its_code_and_a_summary_and_every_code_one_page() {
        let codes: BTreeSet<&str> = PAGES.iter().map(|page| page.code).collect();
        assert_eq!(codes.len(), PAGES.len());
        for page in PAGES {
            assert!(page.text.starts_with(&format!("## {}\n\n*", page.code)), "{}", page.code);
            let (command, summary) = page.summary();
            assert!(!command.is_empty() && !summary.is_empty(), "{}", page.code);
        }
        let of_migrate = azure::AzureReason::ALL.iter().map(|reason| reason.code());
        let of_explain = ReasonCode::ALL.iter().map(|code| code.as_str());
        let of_policies = finding::FindingCode::ALL.iter().map(|code| code.as_str());
        let of_files = manifests::ProblemCode::ALL.iter().map(|code| code.as_str());
        let of_mistakes = lint::MistakeCode::ALL.iter().map(|code| code.as_str());
        let of_lint = of_policies.chain(of_files).chain(of_mistakes);
        let of_warnings = WarningCode::ALL.iter().map(|code| code.as_str());
        let of_lint = of_lint.chain(of_warnings);
        for code in of_explain.chain(of_migrate).chain(of_lint).chain(azure::NOTES.iter().map(|note| note.code)) {
            assert!(codes.contains(code), "no page of {code}");
        }
    }
}
