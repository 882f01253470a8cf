//! What a source names: its words without comments and texts, what its `use`s bring, and its paths.

/// The words and signs of a source, without comments, texts and characters.
pub(super) fn tokens(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '"' => text_length(rest),
            'r' | 'b' if rest.trim_start_matches(['r', 'b', '#']).starts_with('"') && !rest.starts_with("b#") => {
                let begin = rest.find('"').unwrap();
                let end = format!("\"{}", "#".repeat(rest[..begin].matches('#').count()));
                if rest[..begin].contains('r') {
                    begin + 1 + rest[begin + 1..].find(&end).unwrap_or(0) + end.len()
                } else {
                    begin + text_length(&rest[begin..])
                }
            }
            // A character; anything else with a quote is a lifetime.
            '\'' if rest[1..].starts_with('\\') => 4 + rest[3..].find('\'').unwrap_or(0),
            '\'' if rest.chars().nth(2) == Some('\'') => rest.char_indices().nth(3).map_or(rest.len(), |(at, _)| at),
            first if is_word(first) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            ':' if rest.starts_with("::") => 2,
            first => first.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        let is_kept = token == "::" || token.chars().all(is_word) || (token.len() == 1 && !token.trim().is_empty());
        if is_kept && token != "'" {
            found.push(token);
        }
        rest = after;
    }
    found
}

/// The length of a text with its quotes.
fn text_length(rest: &str) -> usize {
    let mut is_escaped = false;
    let end = rest.char_indices().skip(1).find(|(_, c)| {
        let is_end = *c == '"' && !is_escaped;
        is_escaped = *c == '\\' && !is_escaped;
        is_end
    });
    end.map_or(rest.len(), |(at, _)| at + 1)
}

/// The place behind what a bracket at this place encloses.
fn behind(tokens: &[&str], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match *token {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

/// Takes what exists for tests alone out of a source, and answers the modules among it that have
/// files of their own.
pub(super) fn without_tests<'a>(tokens: &[&'a str]) -> (Vec<&'a str>, Vec<&'a str>) {
    let (mut kept, mut modules, mut at) = (Vec::new(), Vec::new(), 0);
    while at < tokens.len() {
        let is_test = |of: &[&str]| {
            of.starts_with(&["#", "[", "cfg", "(", "test", ")"])
                || of.starts_with(&["#", "[", "cfg", "(", "all", "(", "test"])
        };
        if !is_test(&tokens[at..]) {
            kept.push(tokens[at]);
            at += 1;
            continue;
        }
        while tokens.get(at) == Some(&"#") {
            at = behind(tokens, at + 1);
        }
        let begin = at;
        while at < tokens.len() && !matches!(tokens[at], ";" | "{") {
            at = if matches!(tokens[at], "(" | "[") { behind(tokens, at) } else { at + 1 };
        }
        if tokens.get(at) == Some(&"{") {
            at = behind(tokens, at);
        } else if let Some(module) = tokens[begin..at].iter().position(|token| *token == "mod") {
            modules.extend(tokens.get(begin + module + 1));
            at += 1;
        }
    }
    (kept, modules)
}

/// A `use`: the whole path of one name, and how the name is called here.
pub(super) struct Use<'a> {
    pub(super) path: Vec<&'a str>,
    pub(super) name: &'a str,
}

/// What the `use`s of a source bring, and where the other tokens are.
pub(super) fn uses<'a>(tokens: &[&'a str]) -> (Vec<Use<'a>>, Vec<&'a str>) {
    fn tree<'a>(tokens: &[&'a str], at: &mut usize, before: &[&'a str], found: &mut Vec<Use<'a>>) {
        let mut path = before.to_vec();
        let mut name = None;
        while let Some(token) = tokens.get(*at) {
            *at += 1;
            match *token {
                "{" => {
                    loop {
                        tree(tokens, at, &path, found);
                        if tokens.get(*at - 1) != Some(&",") {
                            break;
                        }
                    }
                    // It ends with what is in its braces.
                    name = Some("");
                }
                "," | "}" | ";" => break,
                "as" => {
                    name = tokens.get(*at).copied();
                    *at += 1;
                }
                "::" => {}
                name => path.push(name),
            }
        }
        let own = path.iter().rev().find(|part| **part != "self").copied();
        let name = name.or(own).unwrap_or_default();
        found.push(Use { path, name });
    }
    let (mut found, mut rest, mut at) = (Vec::new(), Vec::new(), 0);
    while at < tokens.len() {
        if tokens[at] == "use" && tokens.get(at + 1) != Some(&"<") {
            at += 1;
            tree(tokens, &mut at, &[], &mut found);
            // No path goes on behind it.
            rest.push(";");
        } else {
            rest.push(tokens[at]);
            at += 1;
        }
    }
    (found, rest)
}

/// The paths of a source: those of its `use`s, each whole, and all others.
pub(super) fn paths<'a>(tokens: &[&'a str]) -> Vec<Vec<&'a str>> {
    let (uses, rest) = uses(tokens);
    let mut found: Vec<Vec<&str>> = uses.into_iter().map(|of| of.path).collect();
    let mut at = 0;
    while at < rest.len() {
        let mut path = vec![rest[at]];
        while rest.get(at + 1) == Some(&"::") && at + 2 < rest.len() {
            path.push(rest[at + 2]);
            at += 2;
        }
        if path.len() > 1 {
            found.push(path);
        }
        at += 1;
    }
    found
}
