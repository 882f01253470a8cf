//! Flags that would do nothing in silence: they are refused where the command line has them. A variable of the
//! environment or a key of the configuration file may be there for another node, and is passed over.

use clap::ArgMatches;
use clap::parser::ValueSource;

/// What settings of a cluster are, which files have not.
const OF_CLUSTERS: [&str; 5] =
    ["watch_timeout", "relist_spread", "hold_removals", "hold_removals_at_most", "remove_startup_taint"];

/// The settings that only `cleanup --cni` reads.
const OF_PLUGIN: [&str; 4] = ["conf_dir", "conf_name", "bin_dir", "cache_dir"];

/// Why a flag of the command line has no effect, and what to do, if one has none.
pub(super) fn without_effect(matches: &ArgMatches) -> Option<String> {
    let (command, given) = matches.subcommand()?;
    let source = |id: &str| given.try_contains_id(id).is_ok().then(|| given.value_source(id)).flatten();
    let is_written = |id: &&str| source(id) == Some(ValueSource::CommandLine);
    let flag = |id: &str| match id {
        "conf_dir" | "conf_name" | "bin_dir" | "cache_dir" => format!("--cni-{}", id.replace('_', "-")),
        id => format!("--{}", id.replace('_', "-")),
    };
    match command {
        "agent" if source("manifests").is_some() => {
            let flag = flag(OF_CLUSTERS.into_iter().find(is_written)?);
            Some(format!("{flag} does nothing with --manifests: it is about the API server; leave it out"))
        }
        "agent" if is_written(&"allow_empty") => {
            Some("--allow-empty does nothing without --manifests: it is about a directory; leave it out".to_owned())
        }
        "cleanup" if !given.get_flag("cni") => {
            let flag = flag(OF_PLUGIN.into_iter().find(is_written)?);
            Some(format!(
                "{flag} does nothing without --cni, which takes the CNI plugin away; add --cni, or leave it out"
            ))
        }
        _ => None,
    }
}
