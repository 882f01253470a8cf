//! What of a folder of manifests was not read, for the agent's status.

use npc_agent::finding::Place;
use npc_agent::source::manifests::{Problem, Severity};
use npc_agent::status::ManifestError;

/// How many errors a status has.
const MOST: usize = 100;

/// The errors among problems, 100 at most, and how many there are.
pub(super) fn errors(problems: &[Problem]) -> (Vec<ManifestError>, usize) {
    let errors = || problems.iter().filter(|problem| problem.severity() == Severity::Error);
    (errors().take(MOST).map(error).collect(), errors().count())
}

fn error(problem: &Problem) -> ManifestError {
    let some = |text: String| (!text.is_empty()).then_some(text);
    let object = problem.object.as_ref().map(ToString::to_string);
    ManifestError {
        location: Place::from(problem).to_string(),
        field: some([object.unwrap_or_default().as_str(), problem.path.as_str()].join(" ").trim().to_owned()),
        code: problem.code.as_str().to_owned(),
        problem: problem.message.clone(),
        help: some(problem.help.clone()),
    }
}

#[cfg(test)]
mod tests {
    use npc_agent::source::manifests::{ReadOptions, parse_text};

    use super::*;

    #[test]
    fn an_error_has_its_code_and_help_under_their_names() {
        let options = ReadOptions { allow_errors: true, ..ReadOptions::default() };
        let text = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicyy\nmetadata: {name: a}\n";
        let parsed = parse_text("a.yaml", text, &options).expect("errors are left out");
        let (errors, count) = errors(&parsed.problems);
        let json = serde_json::to_value(&errors).expect("plain data");
        assert_eq!(count, 1, "{json}");
        assert_eq!(json[0]["code"], "document-unreadable", "{json}");
        assert!(json[0]["help"].as_str().is_some_and(|help| help.contains("NetworkPolicy")), "{json}");
        assert!(json[0].get("effect").is_none(), "{json}");
    }
}
