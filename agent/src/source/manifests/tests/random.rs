//! Random texts.

use proptest::prelude::*;

use super::*;

/// Good manifests, to be spoilt.
const SEEDS: [&str; 3] = [
    "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: n}\nspec:\n  podSelector:\n    \
     matchLabels: &l\n      app: x\n  ingress:\n  - from:\n    - podSelector: {matchLabels: *l}\n    - ipBlock:\n        \
     cidr: 10.0.0.0/8\n        except: [10.1.0.0/16]\n    ports:\n    - {port: 80, protocol: TCP}\n---\napiVersion: v1\nkind: Pod\n\
     metadata: {name: a}\n",
    "{\"apiVersion\":\"v1\",\"kind\":\"List\",\"items\":[{\"apiVersion\":\"apps/v1\",\"kind\":\"Deployment\",\"metadata\":\
     {\"name\":\"d\"},\"spec\":{\"template\":{\"metadata\":{\"labels\":{\"a\":\"\\u00e9\"}},\"spec\":{\"containers\":[]}}}}]}",
    "apiVersion: v1\nkind: Service\nmetadata:\n  name: |\n    s\nspec:\n  <<: {selector: {app: \"x\"}}\n  ports:\n  - port: 0x50\n    \
     targetPort: 'http'\n",
];

/// What YAML gives a meaning to.
const MARKS: [&str; 24] = [
    "\n",
    "  ",
    "\t",
    ": ",
    "- ",
    "? ",
    "[",
    "]",
    "{",
    "}",
    ", ",
    "#",
    "'",
    "\"",
    "|\n",
    ">-\n",
    "&l ",
    "*l",
    "!!str ",
    "<<: ",
    "---\n",
    "...\n",
    "%YAML 1.2\n",
    "\u{feff}",
];

/// Reads any bytes; that this comes back is half of the test.
fn survive(bytes: Vec<u8>) -> Result<(), TestCaseError> {
    let length = bytes.len();
    let parsed = parse(&"f.yaml".into(), bytes, "default");
    let lines = u32::try_from(length).unwrap() + 1;
    for problem in &parsed.problems {
        let Some(span) = problem.span else { return Err(TestCaseError::fail("a problem without a place")) };
        prop_assert!(span.start.line >= 1 && span.start.column >= 1 && span.start.line <= lines, "{problem}");
        prop_assert!(span.start <= span.end, "{problem:?}");
    }
    let loaded = assemble(vec![parsed], &ReadOptions::default());
    for policy in &loaded.objects.policies {
        for path in ["", "spec.ingress[0].from[1].ipBlock.cidr", "]][[.."] {
            let found = loaded.positions.locate("NetworkPolicy", policy.namespace(), policy.name(), path);
            prop_assert!(found.is_some_and(|l| loaded.positions.line(&l.file, l.line()).is_some()));
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        survive(bytes)?;
    }

    #[test]
    fn any_text_of_marks_is_survived(parts in prop::collection::vec(prop::sample::select(MARKS.to_vec()), 0..60)) {
        survive(parts.concat().into_bytes())?;
    }

    #[test]
    fn spoilt_manifests_are_survived(
        seed in prop::sample::select(SEEDS.to_vec()),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..6, prop::sample::select(MARKS.to_vec())), 1..6),
    ) {
        let mut text: Vec<char> = seed.chars().collect();
        for (at, removed, added) in edits {
            let at = at.index(text.len() + 1);
            let end = (at + removed).min(text.len());
            text.splice(at..end, added.chars());
        }
        survive(text.into_iter().collect::<String>().into_bytes())?;
    }

    /// Cutting a file short is what a reader of a half-written file sees.
    #[test]
    fn cut_manifests_are_survived(seed in prop::sample::select(SEEDS.to_vec()), at in any::<prop::sample::Index>()) {
        let at = at.index(seed.len());
        survive(seed.as_bytes()[..at].to_vec())?;
    }
}

#[test]
fn the_seeds_are_good() {
    for seed in SEEDS {
        let errors = problems(seed).into_iter().filter(|p| p.contains("error")).collect::<Vec<_>>();
        assert!(errors.len() <= 1, "{errors:#?}");
    }
}
