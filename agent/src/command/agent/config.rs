//! The agent's configuration file: what flags and environment leave open.
//!
//! A YAML mapping of the flags' names in camelCase to their values. It is read
//! into the flags' defaults, so that flags, environment and file have one
//! meaning, one check and this order of precedence.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::builder::ArgAction;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, Id};
use npc_agent::words::causes::sentence_of_parser;
use npc_agent::words::near;
use serde_json::Value;
use serde_saphyr::Spanned;

/// Flags that make no sense in a file.
const NOT_IN_FILES: [&str; 4] = ["config", "once", "help", "version"];

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It cannot be read.
    #[error("cannot read the configuration {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// It is not a YAML mapping.
    #[error("{}: {what}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its place.
        what: String,
    },
    /// A key that there is not.
    #[error("{place}: {key} is not a setting of the agent{}", suggestion.as_ref().map(|name| format!("; did you mean {name}?")).unwrap_or_default())]
    Unknown {
        /// File, line and column.
        place: String,
        /// The key.
        key: String,
        /// The key that was probably meant.
        suggestion: Option<String>,
    },
    /// A value that its setting does not take.
    #[error("{place}: {key}: {what}")]
    Value {
        /// File, line and column.
        place: String,
        /// The key.
        key: String,
        /// What is wrong.
        what: String,
    },
}

/// The settings of a file, checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Config {
    /// Values by the flags' ids.
    values: BTreeMap<String, String>,
}

impl Config {
    /// Reads a file for the command whose flags it sets.
    ///
    /// # Errors
    /// If it cannot be read, or any of it is no setting of the command's.
    pub(crate) fn read(path: &Path, command: &Command) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(|error| Error::Read(path.to_owned(), error))?;
        Self::parse(&text, path, command)
    }

    fn parse(text: &str, path: &Path, command: &Command) -> Result<Self, Error> {
        let parse = |error: serde_saphyr::Error| {
            let what = sentence_of_parser(&error.to_string()).to_owned();
            Error::Parse { path: path.to_owned(), what }
        };
        // A file of comments only sets nothing.
        // A node may be called `n`, which YAML 1.1 takes for false.
        let options = serde_saphyr::options! { strict_booleans: true };
        let settings: Option<BTreeMap<String, Spanned<Value>>> =
            serde_saphyr::from_str_with_options(text, options).map_err(parse)?;
        let mut values = BTreeMap::new();
        for (key, value) in settings.unwrap_or_default() {
            let place = format!("{}:{}:{}", path.display(), value.referenced.line(), value.referenced.column());
            let flags = || command.get_arguments().filter(|arg| !NOT_IN_FILES.contains(&arg.get_id().as_str()));
            let Some(arg) = flags().find(|arg| name(arg) == key) else {
                let names: Vec<String> = flags().map(name).collect();
                let suggestion = near::nearest(&key, names.iter().map(String::as_str)).map(str::to_owned);
                return Err(Error::Unknown { place, key, suggestion });
            };
            let fault = |what: &str| Error::Value { place: place.clone(), key: key.clone(), what: what.to_owned() };
            let text = match (&value.value, arg.get_action()) {
                (Value::Bool(value), ArgAction::SetTrue) => value.to_string(),
                (_, ArgAction::SetTrue) => return Err(fault("true or false is wanted")),
                (Value::String(text), _) => text.clone(),
                (Value::Number(number), _) => number.to_string(),
                _ => return Err(fault("a text is wanted")),
            };
            check(command, arg, &text).map_err(|what| fault(&what))?;
            let id = arg.get_id().as_str();
            if let Some(other) = flags().find(|other| {
                let other = other.get_id().as_str();
                values.contains_key(other) && exclude(command, id, other)
            }) {
                return Err(fault(&format!("it cannot be set together with {}", name(other))));
            }
            values.insert(id.to_owned(), text);
        }
        Ok(Self { values })
    }

    /// The command, with what the file says as the defaults of its flags. What
    /// cannot be together with a flag or a variable that is given goes without
    /// saying.
    pub(crate) fn defaults(&self, mut command: Command, given: &ArgMatches) -> Command {
        let given: Vec<&str> = given.ids().map(Id::as_str).filter(|id| is_given(given, id)).collect();
        for (id, value) in &self.values {
            if given.iter().any(|given| exclude(&command, id, given)) {
                continue;
            }
            let value = value.clone();
            command = command.mut_arg(id, |arg| arg.default_value(value));
        }
        command
    }

    /// A value by its flag's id.
    pub(crate) fn get(&self, id: &str) -> Option<&str> {
        self.values.get(id).map(String::as_str)
    }

    /// The ids of the flags that two files set differently.
    pub(crate) fn differences<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a str> {
        let either = self.values.keys().chain(other.values.keys().filter(|id| !self.values.contains_key(*id)));
        either.filter(|id| self.values.get(*id) != other.values.get(*id)).map(String::as_str)
    }
}

/// Whether flags or the environment set a flag, by its id.
pub(super) fn is_given(matches: &ArgMatches, id: &str) -> bool {
    matches!(matches.value_source(id), Some(ValueSource::CommandLine | ValueSource::EnvVariable))
}

/// Whether two flags, by their ids, cannot be set together. Of defaults the
/// parser of flags does not ask that.
fn exclude(command: &Command, one: &str, other: &str) -> bool {
    let names = |of: &str, other: &str| {
        let of = command.get_arguments().find(|arg| arg.get_id() == of);
        of.is_some_and(|of| command.get_arg_conflicts_with(of).iter().any(|arg| arg.get_id() == other))
    };
    names(one, other) || names(other, one)
}

/// Whether the flag takes the value; otherwise why not.
fn check(command: &Command, arg: &Arg, value: &str) -> Result<(), String> {
    let Some(long) = arg.get_long() else { return Ok(()) };
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        return Ok(());
    }
    // Without the environment, which would be checked too.
    let alone = command.clone().mut_args(|arg| arg.env(None::<&str>));
    let flag = format!("--{long}={value}");
    match alone.try_get_matches_from(["npc", flag.as_str()]) {
        Ok(_) => Ok(()),
        Err(error) => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            Err(first.strip_prefix("error: ").unwrap_or(first).to_owned())
        }
    }
}

/// The key in the file of the flag with this id.
pub(super) fn key(command: &Command, id: &str) -> String {
    command.get_arguments().find(|arg| arg.get_id() == id).map_or_else(|| id.to_owned(), name)
}

/// A flag's name in the file: `--log-format` is `logFormat`.
fn name(arg: &Arg) -> String {
    let mut name = String::new();
    for (i, word) in arg.get_long().unwrap_or_default().split('-').enumerate() {
        let (first, rest) = word.split_at(word.len().min(1));
        name.push_str(&if i == 0 { first.to_owned() } else { first.to_uppercase() });
        name.push_str(rest);
    }
    name
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches as _};

    use super::super::Args;
    use super::*;

    fn command() -> Command {
        Args::augment_args(Command::new("agent")).mut_args(|arg| arg.env(None::<&str>))
    }

    fn parse(text: &str) -> Result<Config, Error> {
        Config::parse(text, Path::new("config.yaml"), &command())
    }

    fn args(config: &Config, flags: &[&str]) -> Args {
        let given = || ["agent"].iter().chain(flags);
        let matches = config.defaults(command(), &command().get_matches_from(given())).get_matches_from(given());
        Args::from_arg_matches(&matches).expect("they match")
    }

    #[test]
    fn a_file_sets_what_flags_do_not() {
        let config =
            parse("logLevel: debug\nkeepEstablished: true\nnode: n1\nallowTunnels: false\n").expect("it is good");
        let args = args(&config, &["--node", "n2"]);
        assert_eq!((args.log_level.as_str(), args.node.as_deref()), ("debug", Some("n2")));
        assert!(args.enforcement.keep_established && !args.enforcement.allow_tunnels);
        assert_eq!(parse("# nothing\n").expect("it is good"), Config::default());
    }

    #[test]
    fn what_cannot_be_set_together_is_an_error_in_a_file_and_else_the_flag_counts() {
        for (text, said) in [
            ("manifests: /m\nkubeconfig: /k\n", "it cannot be set together with"),
            ("context: c\nmanifests: /m\n", "config.yaml:2:12: manifests: it cannot be set together with context"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(said), "{error}");
        }
        let config = parse("manifests: /m\n").expect("it is good");
        let given = args(&config, &["--kubeconfig", "/k"]);
        assert_eq!((given.manifests, given.kubeconfig.as_deref()), (None, Some(Path::new("/k"))));
        let config = parse("kubeconfig: /k\ncontext: c\n").expect("it is good");
        let given = args(&config, &["--manifests", "/m"]);
        assert_eq!((given.manifests.as_deref(), given.kubeconfig, given.context), (Some(Path::new("/m")), None, None));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, said) in [
            (
                "logLevel: info\nlogFormt: json\n",
                "config.yaml:2:11: logFormt is not a setting of the agent; did you mean logFormat?",
            ),
            ("once: true\n", "config.yaml:1:7: once is not a setting of the agent"),
            ("log-format: json\n", "did you mean logFormat?"),
            ("keepEstablished: 3\n", "keepEstablished: true or false is wanted"),
            ("backend: [nft]\n", "backend: a text is wanted"),
            ("backend: nftables\n", "config.yaml:1:10: backend: invalid value 'nftables'"),
            ("- a\n", "config.yaml: line 1 column 1"),
            ("node: a\nnode: b\n", "config.yaml: line 2 column 1: duplicate mapping key: node"),
            ("node: [\n", "config.yaml: line"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(said), "{error}");
            assert!(!error.contains('\n') && !error.contains("Policy"), "{error}");
        }
    }

    #[test]
    fn what_differs_is_named_by_its_flag() {
        let of = |text| parse(text).expect("it is good");
        let (one, other) = (of("logLevel: info\nbackend: nft\nnode: n"), of("logLevel: debug\nnode: n"));
        assert_eq!(one.differences(&other).collect::<Vec<_>>(), ["backend", "log_level"]);
        assert_eq!(other.get("log_level"), Some("debug"));
    }
}
