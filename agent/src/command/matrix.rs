//! `npc matrix`: every allowed connection.

mod csv;
mod elsewhere;
mod filter;
mod list;
mod table;

use std::collections::BTreeSet;
use std::net::IpAddr;

use clap_complete::engine::ArgValueCompleter;
use npc_agent::source::manifests::ObjectRef;
use npc_compiler::algebra::traffic::{TUNNEL_PORTS, TUNNELS};
use npc_compiler::cluster::backend::HostPortAt;
use npc_compiler::cluster::group::{GroupId, Groups};
use npc_compiler::cluster::{Cluster, PolicyId};
use npc_compiler::object::parse_address;
use npc_compiler::policy::Direction;
use npc_compiler::verdict::explain::{EndName, NotForwarded, Port};
use npc_compiler::verdict::flow::End;
use npc_compiler::verdict::matrix::{self, Endpoint, MOST_PAIRS, Matrix};

use super::endpoint::{EndpointText, port};
use super::explain::warnings;
use super::input::Input;
use super::labels::Labels;
use super::warning::{self, Warning, WarningCode};
use super::words::{policies_and_pods, shorten};
use super::{Exit, Stop, completion, dead_block, input, output};

/// Show every allowed connection.
///
/// Rows are sources, columns are destinations. Endpoints are workloads or pods; `outside` stands for all
/// addresses that belong to none of them, those of nodes too. In a table `.` is nothing, `*` everything, 5432
/// a TCP port, 53/udp a UDP port, `-` one pod itself; where a workload of several pods meets itself stands
/// what one may send to another. A `?` before it means that the input does not say, a `~` behind it that it
/// holds for some replicas only, a `!` that the block is a Service's address, which no packet has. -n shows
/// the endpoints of one namespace only.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    input: input::Args,

    /// What one row and column stands for.
    #[arg(long, value_enum, default_value_t)]
    by: By,

    /// Show only what this endpoint may send, as for explain; may be repeated.
    #[arg(long, value_name = "ENDPOINT", add = ArgValueCompleter::new(completion::endpoints))]
    from: Vec<EndpointText>,

    /// Show only what may be sent to this endpoint; may be repeated. svc/NAME stands for its pods.
    #[arg(long, value_name = "ENDPOINT", add = ArgValueCompleter::new(completion::endpoints))]
    to: Vec<EndpointText>,

    /// Show only this port, as 443, 53/udp, 8000-8100 or icmp; without a protocol, of all
    /// protocols.
    #[arg(long, value_name = "PORT", value_parser = port_number)]
    port: Option<Port>,

    /// Show only endpoints whose pods have these labels, as kubectl's -l.
    #[arg(short = 'l', long, value_name = "LABELS")]
    selector: Option<Labels>,

    /// Show this address as an endpoint too; may be repeated.
    #[arg(long, value_name = "IP", value_parser = address)]
    address: Vec<IpAddr>,

    /// The format of the output. `table` turns into one line per allowed pair if it
    /// is too wide for the terminal; `wide` does not.
    #[arg(short, long, value_enum, default_value_t)]
    output: MatrixFormat,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum By {
    #[default]
    Workload,
    Pod,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum MatrixFormat {
    #[default]
    Table,
    Wide,
    Json,
    Yaml,
    Csv,
    Dot,
    Md,
}

/// A port without a name, which means other numbers at other pods.
fn port_number(text: &str) -> Result<Port, String> {
    port(text).map_err(|problem| problem.replace(", icmp or a port's name", " or icmp"))
}

fn address(text: &str) -> Result<IpAddr, String> {
    parse_address(text).ok_or_else(|| "this is no IP address".to_owned())
}

impl MatrixFormat {
    /// Refuses what would be too large to write.
    fn check(self, matrix: &Matrix<'_>) -> Result<(), Stop> {
        let refuse = |what: String| Err(Stop::new(Exit::Input, format!("{what}; {}", filter::SHOW_LESS)));
        match self {
            Self::Wide | Self::Md => {
                let (sources, destinations) = matrix.shape();
                match sources.saturating_mul(destinations) {
                    0..=MOST_IN_TABLE => Ok(()),
                    _ => refuse(format!("a table of {sources} sources and {destinations} destinations is too large")),
                }
            }
            Self::Json | Self::Yaml | Self::Csv | Self::Dot if matrix.has_too_many_pairs() => {
                refuse(format!("more than {MOST_PAIRS} pairs of endpoints are too many for one list"))
            }
            // In a table, endpoints that no rule distinguishes share their lines.
            Self::Table | Self::Json | Self::Yaml | Self::Csv | Self::Dot => Ok(()),
        }
    }
}

/// A table of more cells than this is not written.
const MOST_IN_TABLE: usize = 4_000_000;

/// Prints the matrix.
pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let input = args.input.read_for(&EndpointText::names(args.from.iter().chain(&args.to)))?;
    let cluster = &input.cluster;
    let by = match args.by {
        By::Workload => matrix::By::Workload,
        By::Pod => matrix::By::Pod,
    };
    let groups = Groups::of_cluster(cluster);
    let filter::Selected { matrix, addresses, outside, nowhere } = args.select(&input, &groups, by)?;
    if addresses.is_empty() && matrix_is_empty(cluster) {
        say!("npc: there are no endpoints; the input has {}", policies_and_pods(cluster));
    }
    let shows_any = (0..matrix.endpoints().len()).any(|row| matrix.is_shown(row) != (false, false));
    if let Some(labels) = args.selector.as_ref().filter(|_| !shows_any && !matrix_is_empty(cluster)) {
        say!("npc: no endpoint that is asked for has the labels {labels}");
    }
    if !shows_any && outside == (filter::OutsideShown { from: true, to: true }) && !args.from.is_empty() {
        say!("npc: no policy applies to what addresses outside send to each other, so a matrix has no row of it");
    }
    args.output.check(&matrix)?;
    let without_backends: Vec<Endpoint> =
        nowhere.why.keys().map(|of| Endpoint::without_backends(&of.namespace, &of.name)).collect();
    let why_nowhere = nowhere.why.iter().map(|(service, why)| {
        Warning::about(WarningCode::ServiceNoBackends, why.clone(), service, &input.loaded.positions)
    });
    let why_nowhere = why_nowhere.collect::<Vec<_>>();
    let view = table::TextMatrix::new(&matrix, cluster, &groups, outside, nowhere);
    let of_services = addresses.iter().filter_map(|address| where_it_leads(&input, *address));
    let dead = dead_block::warning(&input, policies_of(&matrix, &groups));
    let of_input = input.warnings.iter().cloned().chain(why_nowhere);
    let unforwarded = addresses.iter().filter_map(|address| not_forwarded(&groups, *address));
    let of_rules = tunnels(&input, &groups).into_iter().chain(unforwarded);
    let warnings: Vec<Warning> = of_input.chain(of_rules).chain(of_services).chain(dead).collect();
    match args.output {
        MatrixFormat::Json | MatrixFormat::Yaml => {
            let warnings = input.with_left_out(warnings.clone());
            let findings = input.findings_with(&warnings);
            let texts = warning::texts(&warnings);
            let list = list::Json::new(&matrix, &view, &without_backends, &texts, findings);
            if matches!(args.output, MatrixFormat::Yaml) { output::yaml(&list)? } else { output::json(&list)? }
        }
        MatrixFormat::Csv => csv::write(&matrix, &view, &mut output::raw())?,
        MatrixFormat::Dot => view.dot(&mut output::raw())?,
        MatrixFormat::Md => view.markdown(&mut output::raw())?,
        MatrixFormat::Wide => view.wide(&mut output::stdout())?,
        MatrixFormat::Table => view.fitting(&mut output::stdout(), output::width())?,
    }
    for warning in &warnings {
        say!("{warning}");
    }
    Ok(Exit::Fine)
}

/// Whether the input has no endpoint at all.
fn matrix_is_empty(cluster: &Cluster) -> bool {
    !cluster.named().any(|(_, pod)| pod.is_endpoint() && !pod.only_in_slice)
}

/// Where an address leads, if it is that of a Service, or of a node that sends some of its ports on. A
/// matrix judges an address as what it is, not as what it leads to.
fn where_it_leads(input: &Input, address: IpAddr) -> Option<Warning> {
    let (cluster, code) = (&input.cluster, WarningCode::AddressLeadsElsewhere);
    if cluster.is_service(address) {
        let of_address = cluster.service_of_cluster_ip(address).into_iter().chain(cluster.services_outside(address));
        let services: Vec<ObjectRef> =
            of_address.map(|of| ObjectRef::new("Service", &of.namespace, &of.name)).collect();
        let names: Vec<String> = services.iter().map(|of| format!("{}/{}", of.namespace, of.name)).collect();
        let names = shorten(&names, 3, ", ");
        let text = format!("{address} is the address of service {names}; ask npc explain where it leads");
        return Some(Warning::about_each(code, text, &services, &input.loaded.positions));
    }
    if !cluster.is_node(address) {
        return None;
    }
    let of_services = cluster.node_ports().map(|(protocol, number, service)| {
        format!("{number}/{} ({}/{})", protocol.lower(), service.namespace, service.name)
    });
    let is_here = |at: &HostPortAt| matches!(at, HostPortAt::Here | HostPortAt::Perhaps);
    let of_pods = cluster.host_ports_at(address).filter(|(.., at)| is_here(at)).map(|(id, port, _)| {
        let pod = cluster.pod(id);
        format!("{}/{} ({}/{})", port.host_port, port.protocol.lower(), pod.namespace, pod.name)
    });
    let ports: BTreeSet<String> = of_services.chain(of_pods).collect();
    let ports = shorten(&Vec::from_iter(ports), 3, ", ");
    let text =
        || format!("{address} is a node's; its ports {ports} lead to Services or pods: ask npc explain about these");
    (!ports.is_empty()).then(|| Warning::new(code, text()))
}

/// The policies that isolate the endpoints that are shown.
fn policies_of(matrix: &Matrix<'_>, groups: &Groups) -> BTreeSet<PolicyId> {
    let is_shown = |row: &usize| matrix.is_shown(*row) != (false, false);
    let ends = (0..matrix.endpoints().len()).filter(is_shown).flat_map(|row| matrix.ends(row));
    let pods = ends.filter_map(|end| if let End::Pod(pod) = end { Some(pod) } else { None });
    let found: BTreeSet<GroupId> = pods
        .flat_map(|pod| Direction::ALL.into_iter().filter_map(move |direction| groups.of(pod, direction)))
        .collect();
    let policies = found.into_iter().flat_map(|group| &groups.get(group).key.policies);
    policies.copied().collect()
}

/// That nodes forward nothing to an address of the matrix, or nothing from it, or that it is each pod itself.
fn not_forwarded(groups: &Groups, address: IpAddr) -> Option<Warning> {
    if address.is_loopback() || address.is_unspecified() {
        return Some(Warning::new(WarningCode::AddressLoopback, warnings::loopback(address)));
    }
    let NotForwarded { is_source, address: what } = NotForwarded::of_address(groups, address)?;
    let text = warnings::not_forwarded(&EndName::of_address(address), is_source, what);
    Some(Warning::new(WarningCode::AddressNotForwarded, text))
}

/// Where the rules of nodes are stricter than the policies that this matrix shows.
fn tunnels(input: &Input, groups: &Groups) -> Option<Warning> {
    let (cluster, code) = (&input.cluster, WarningCode::TunnelDropped);
    let kept = cluster.endpoints().filter(|(id, _)| {
        let group = groups.of(*id, Direction::Egress);
        group.is_some_and(|group| groups.get(group).drops_tunnels())
    });
    let mut pods: Vec<String> = kept.map(|(_, pod)| format!("{}/{}", pod.namespace, pod.name)).collect();
    pods.sort_unstable();
    let first = pods.first()?;
    let whose = match pods.len() {
        1 => first.clone(),
        more => format!("{more} pods isolated for egress, such as {first}"),
    };
    let list = |numbers: &[String]| numbers.join(", ");
    let text = format!(
        "this is what policies allow. From {whose}, agents that run without --allow-tunnels drop tunnels: IP \
         protocols {}, and UDP to {} where no rule names the port",
        list(&TUNNELS.map(|number| number.to_string())),
        list(&TUNNEL_PORTS.map(|port| port.to_string())),
    );
    Some(Warning::new(code, text))
}
