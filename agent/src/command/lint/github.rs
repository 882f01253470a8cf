//! Findings as commands of a GitHub workflow, which shows them at their lines.
//!
//! The format and its escapes: `packages/core/src/command.ts` of
//! <https://github.com/actions/toolkit>.

use std::io::{self, Write};

use npc_agent::finding::Finding;

/// Writes a command for each finding.
pub(super) fn write(findings: &[Finding], out: &mut impl Write) -> io::Result<()> {
    findings.iter().try_for_each(|finding| writeln!(out, "{}", command(finding)))?;
    out.flush()
}

fn command(finding: &Finding) -> String {
    let name = finding.severity.as_str();
    let mut properties = Vec::new();
    if let Some(place) = finding.location.as_ref().filter(|place| place.file != "-") {
        properties.push(format!("file={}", property(&place.file)));
        properties.extend(place.line.map(|line| format!("line={line}")));
        properties.extend(place.column.map(|column| format!("col={column}")));
    }
    properties.push(format!("title={}", property(finding.code)));
    format!("::{name} {}::{}", properties.join(","), data(&finding.to_string()))
}

/// A message. A line break would end the command.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// The value of a property.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use npc_agent::finding::Place;
    use npc_agent::source::manifests::Severity;

    use super::*;

    #[test]
    fn what_would_end_a_command_or_a_property_is_escaped() {
        let finding = Finding {
            location: Some(Place { file: "a,b:c%\n.yaml".to_owned(), line: Some(3), column: Some(7) }),
            related: None,
            severity: Severity::Warning,
            code: "cidr-legacy",
            object: None,
            path: String::new(),
            problem: "100%: one,\r\n::error ::two".to_owned(),
            effect: "it works".to_owned(),
            help: String::new(),
        };
        assert_eq!(
            command(&finding),
            "::warning file=a%2Cb%3Ac%25%0A.yaml,line=3,col=7,title=cidr-legacy::100%25: one,%0D%0A::error ::two; it works"
        );
        let nowhere = Finding { location: None, severity: Severity::Error, ..finding };
        assert!(command(&nowhere).starts_with("::error title=cidr-legacy::100%25"));
    }
}
