//! The commands: raw arguments to their meaning to work, one file each.

/// Says something on standard error, in a line of its own. A reader that has closed it, as `head` does, ends
/// no command: `eprintln!` would panic.
macro_rules! say {
    ($($words:tt)*) => { $crate::command::output::write_error_line(format_args!($($words)*)) };
}

mod absent_peers;
mod agent;
mod as_called;
mod cleanup;
mod compile;
mod completion;
mod dead_block;
mod endpoint;
mod explain;
mod input;
mod install_cni;
mod labels;
mod lint;
mod man;
mod matrix;
mod migrate;
mod node_kernel;
mod nodes;
mod output;
mod reason;
mod roles;
mod rule_text;
mod schema;
mod silent;
mod status;
mod unjudged;
mod warning;
mod why;
mod words;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::{self, ExitCode};

use clap::{ArgMatches, Args as _, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use clap_complete::CompleteEnv;
use clap_complete::engine::ArgValueCompleter;
use npc_agent::enforce;
use npc_agent::source::{kube, manifests};
use npc_agent::words::near;

/// What help begins with.
const EXAMPLES: &str = "\
Why is this flow allowed or denied?     {npc} explain shop/web shop/api:8080
Which endpoint may reach which?         {npc} matrix -n shop
The same of files, before they apply:   {npc} matrix -f manifests/";

/// Enforces Kubernetes NetworkPolicy with iptables and ipset, and explains what
/// policies allow.
#[derive(Debug, Parser)]
#[command(name = "npc", version, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    // In the order in which people come to need them.
    Explain(explain::Args),
    Reason(reason::Args),
    Matrix(matrix::Args),
    Lint(lint::Args),
    Compile(compile::Args),
    Why(why::Args),
    Migrate(migrate::Args),
    Schema(schema::Args),
    Agent(agent::Args),
    Status(status::Args),
    InstallCni(Box<install_cni::Args>),
    Cleanup(cleanup::Args),
    Completion(completion::Args),
    Man(man::Args),
    /// Show the version of npc.
    Version,
    /// Show the help of a command, as COMMAND --help does.
    #[command(hide = true)]
    Help {
        /// The command; without it, npc itself.
        #[arg(value_name = "COMMAND")]
        command: Option<String>,
    },
}

/// What a command's end says to its caller; a contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Exit {
    /// Done: allowed, nothing found, no change.
    Fine = 0,
    /// Denied, changed, found something, or failed.
    Not = 1,
    /// Bad flags or input.
    Input = 2,
    /// An endpoint or a node was not found, or is ambiguous.
    NotFound = 3,
    /// The input lacks a fact.
    Unknown = 4,
    /// The API server could not be asked.
    Cluster = 5,
}

/// Why a command stops without an answer.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Stop {
    exit: Exit,
    message: String,
}

impl Stop {
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

impl Cli {
    /// The command as flags, environment and, for the agent, its configuration
    /// file have it. Ends the process where they make no sense.
    pub(crate) fn read() -> Self {
        CompleteEnv::with_factory(Self::named).var(completion::VARIABLE).complete();
        let matches = Self::named().get_matches();
        let Some(("agent", given)) = matches.subcommand() else { return Self::of(&matches) };
        let Some(path) = given.get_one::<PathBuf>("config") else { return Self::of(&matches) };
        let flags = agent::Args::augment_args(clap::Command::new("agent"));
        match agent::Config::read(path, &flags) {
            Ok(config) => {
                let command = Self::named().mut_subcommand("agent", |agent| config.defaults(agent, given));
                let mut read = Self::of(&command.get_matches());
                if let Command::Agent(args) = &mut read.command {
                    args.file = config;
                }
                read
            }
            Err(error) => {
                say!("npc: {:#}", anyhow::Error::new(error));
                process::exit(Exit::Input as i32);
            }
        }
    }

    /// The command under the name by which it runs: as `kubectl-npc` it is kubectl's.
    fn named() -> clap::Command {
        let name = as_called::program();
        let command = Self::command().bin_name(name).before_help(EXAMPLES.replace("{npc}", name));
        command.mut_subcommands(|subcommand| {
            let has_namespace = subcommand.get_arguments().any(|arg| arg.get_id() == "namespace");
            // Examples are written as npc's.
            let own = |help: String| help.replace("\n  npc ", &format!("\n  {name} "));
            let (before, after) = (subcommand.get_before_help(), subcommand.get_after_help());
            let (before, after) = (before.map(ToString::to_string), after.map(ToString::to_string));
            let subcommand = match before {
                Some(help) => subcommand.before_help(own(help)),
                None => subcommand,
            };
            let subcommand = match after {
                Some(help) => subcommand.after_help(own(help)),
                None => subcommand,
            };
            if !has_namespace {
                return subcommand;
            }
            let completer = ArgValueCompleter::new(completion::namespaces);
            subcommand.mut_arg("namespace", |arg| arg.add(completer))
        })
    }

    fn of(matches: &ArgMatches) -> Self {
        if let Some(words) = silent::without_effect(matches) {
            say!("npc: {words}");
            process::exit(Exit::Input as i32);
        }
        Self::from_arg_matches(matches).unwrap_or_else(|error| error.exit())
    }

    /// Runs the command, and answers its exit code.
    pub(crate) fn run(self) -> ExitCode {
        let done = match self.command {
            Command::Explain(args) => explain::run(&args),
            Command::Reason(args) => reason::run(&args),
            Command::Matrix(args) => matrix::run(&args),
            Command::Lint(args) => lint::run(args),
            Command::Compile(args) => compile::run(&args),
            Command::Why(args) => why::run(&args),
            Command::Migrate(args) => migrate::run(&args),
            Command::Schema(args) => schema::run(&args),
            Command::Agent(args) => agent::run(args),
            Command::Status(args) => status::run(&args),
            Command::InstallCni(args) => install_cni::run(*args),
            Command::Cleanup(args) => cleanup::run(&args),
            Command::Completion(args) => completion::run(&args),
            Command::Man(args) => man::run(&args),
            Command::Version => version(),
            Command::Help { command } => help(command.as_deref()),
        };
        let exit = done.unwrap_or_else(|error| {
            let exit = Exit::of(&error);
            if exit != Exit::Fine {
                say!("npc: {error:#}");
            }
            exit
        });
        ExitCode::from(exit as u8)
    }
}

/// Prints the help of a command, or that of npc.
fn help(command: Option<&str>) -> anyhow::Result<Exit> {
    let mut npc = Cli::named();
    // Usage lines have the whole name from then on.
    npc.build();
    let Some(name) = command else {
        // No flag of it has a long help, so `--help` prints the short form too.
        npc.print_help()?;
        return Ok(Exit::Fine);
    };
    let names: Vec<String> = npc.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let Some(asked) = npc.find_subcommand_mut(name) else {
        let meant = near::nearest(name, names.iter().map(String::as_str));
        let meant = meant.map(|meant| format!("; did you mean {meant}?")).unwrap_or_default();
        return Err(Stop::new(Exit::Input, format!("there is no command {name}{meant}")).into());
    };
    asked.print_long_help()?;
    Ok(Exit::Fine)
}

/// Prints the version.
fn version() -> anyhow::Result<Exit> {
    let mut out = output::stdout();
    writeln!(out, "npc {}", env!("CARGO_PKG_VERSION"))?;
    out.flush()?;
    Ok(Exit::Fine)
}

impl Exit {
    /// The exit code for an error.
    fn of(error: &anyhow::Error) -> Self {
        for cause in error.chain() {
            if let Some(stop) = cause.downcast_ref::<Stop>() {
                return stop.exit;
            }
            if cause.is::<manifests::Errors>() {
                return Self::Input;
            }
            if cause.is::<kube::Error>() {
                return Self::Cluster;
            }
            if matches!(cause.downcast_ref(), Some(enforce::Error::Misnamed(_))) {
                return Self::NotFound;
            }
            // The reader has read enough and closed the pipe, as `head` does.
            if cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
                return Self::Fine;
            }
        }
        Self::Not
    }
}
