//! `npc-lab`: builds a cluster of network namespaces from manifests, runs a
//! real agent on every node, sends real packets, and compares what arrives
//! with what the NetworkPolicy API demands.

#![forbid(unsafe_code)]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use npc_agent::source::manifests;
use npc_compiler::object::{Family, Objects};
use npc_lab::lab::{Backend, Enforcer, Lab, Mode, cleanup, report};

/// A cluster as network namespaces, with real agents and real packets.
#[derive(Debug, Parser)]
#[command(name = "npc-lab", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build the cluster, probe it, and print expected against seen; the exit
    /// code is 0 only if all probes agreed.
    Run(Run),
    /// Remove what labs left behind that were killed.
    Clean,
}

#[derive(Debug, clap::Args)]
struct Run {
    /// A manifest, a folder of them, or - for standard input; may be repeated.
    #[arg(short, long = "filename", value_name = "PATH", required = true)]
    files: Vec<PathBuf>,
    /// How pods are attached to nodes.
    #[arg(long, value_enum, default_value = "both")]
    mode: Modes,
    /// Which iptables; every one that is installed, if left out.
    #[arg(long, value_enum)]
    backend: Option<Backends>,
    /// The npc binary; the one beside this program, if left out.
    #[arg(long, value_name = "PATH")]
    npc: Option<PathBuf>,
    /// Start no agents: shows what the policies forbid and nothing stops.
    #[arg(long, conflicts_with = "npc")]
    no_agent: bool,
    /// Keep the agents' logs here, as MODE-BACKEND/NODE.log. They are in the lab's folder while
    /// it runs, and go with it.
    #[arg(long, value_name = "DIR", conflicts_with = "no_agent")]
    keep_logs: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Modes {
    Routed,
    Bridge,
    Both,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Backends {
    Nft,
    Legacy,
    Both,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::Run(run) => end_on_signals().and_then(|()| run.run()),
        Command::Clean => clean(),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            print_error(&format!("npc-lab: {error:#}"));
            ExitCode::from(2)
        }
    }
}

impl Run {
    fn run(&self) -> anyhow::Result<ExitCode> {
        let objects = load(&self.files)?;
        let enforcer = match &self.npc {
            _ if self.no_agent => Enforcer::None,
            Some(npc) => Enforcer::Agent(npc.canonicalize().with_context(|| format!("no npc at {}", npc.display()))?),
            None => Enforcer::sibling()?,
        };
        let modes: &[Mode] = match self.mode {
            Modes::Routed => &[Mode::Routed],
            Modes::Bridge => &[Mode::Bridge],
            Modes::Both => &[Mode::Routed, Mode::Bridge],
        };
        let backends = backends(self.backend);
        let mut counts = report::Counts::default();
        for backend in &backends {
            for mode in modes {
                let lab = Lab::builder(objects.clone()).mode(*mode).backend(*backend).enforcer(enforcer.clone());
                let mut lab = lab.start()?;
                let judgement = lab.judge();
                // Of a lab that failed they are wanted most.
                if let Some(folder) = &self.keep_logs {
                    keep_logs(&lab, &folder.join(format!("{}-{}", mode.as_str(), backend.as_str())))?;
                }
                let judgement = judgement?;
                print(&report::table(&lab, &judgement))?;
                print("\n")?;
                counts.extend(&report::Counts::of(&judgement));
            }
        }
        print(&format!("{}\n", counts.sentence()))?;
        let total = counts.total();
        Ok(ExitCode::from(u8::from(total.agreed != total.of)))
    }
}

/// Copies the logs of a lab's agents into a folder.
fn keep_logs(lab: &Lab, folder: &Path) -> anyhow::Result<()> {
    let failed = || format!("cannot keep the agents' logs in {}", folder.display());
    fs::create_dir_all(folder).with_context(failed)?;
    for node in lab.cluster().gateways.keys() {
        fs::write(folder.join(format!("{node}.log")), lab.log(node)?).with_context(failed)?;
    }
    Ok(())
}

fn load(files: &[PathBuf]) -> anyhow::Result<Objects> {
    let loaded = manifests::load(files, &manifests::ReadOptions::default()).context("cannot read the manifests")?;
    for problem in &loaded.problems {
        print_error(&problem.to_string());
    }
    Ok(loaded.objects)
}

/// The backends that were asked for, else those that are there. With none
/// there, nft, whose absence is then reported.
fn backends(asked: Option<Backends>) -> Vec<Backend> {
    match asked {
        Some(Backends::Nft) => vec![Backend::Nft],
        Some(Backends::Legacy) => vec![Backend::Legacy],
        Some(Backends::Both) => vec![Backend::Nft, Backend::Legacy],
        None => {
            let there = |backend: &Backend| backend.program(Family::V4, "-restore").is_ok();
            let found: Vec<Backend> = [Backend::Nft, Backend::Legacy].into_iter().filter(there).collect();
            if found.is_empty() { vec![Backend::Nft] } else { found }
        }
    }
}

fn clean() -> anyhow::Result<ExitCode> {
    for name in cleanup::remove_dead()? {
        print(&format!("removed {name}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// On SIGINT and SIGTERM: removes the labs and ends. A thread waits for them,
/// because destructors do not run when a signal ends a process.
fn end_on_signals() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        let signal = runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            std::io::Result::Ok(tokio::select! {
                _ = interrupt.recv() => 2,
                _ = terminate.recv() => 15,
            })
        });
        let Ok(number) = signal else { return };
        if let Err(error) = cleanup::remove_own() {
            print_error(&format!("npc-lab: {error}; try npc-lab clean"));
        }
        std::process::exit(128 + number);
    });
    Ok(())
}

fn print(text: &str) -> std::io::Result<()> {
    std::io::stdout().write_all(text.as_bytes())
}

fn print_error(text: &str) {
    // There is nowhere else to say it.
    let _ = writeln!(std::io::stderr(), "{text}");
}
