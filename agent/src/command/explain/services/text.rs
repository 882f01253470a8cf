//! Services as they are written: in files, or as the API server has them, as far as npc reads them.

use std::borrow::Cow;
use std::io::{self, Write};
use std::rc::Rc;

use npc_agent::source::manifests::{Location, ObjectRef, Positions};
use npc_compiler::object::{Exposure, Service, ServicePort, TargetPort};
use serde_json::{Map, Value, json};

use crate::command::explain::places::excerpt::{Excerpt, Mark};
use crate::command::explain::places::place::{ObjectText, print};
use crate::command::input::Input;

/// The text of a Service, and where a field of it stands there.
pub(in crate::command::explain) fn find<'i>(
    input: &'i Input,
    service: &Service,
    path: &str,
) -> Option<(ObjectText<'i>, Location)> {
    let positions = &input.loaded.positions;
    let object = ObjectRef::new("Service", &service.namespace, &service.name);
    if let Some(location) = positions.locate_object(&object, path) {
        return Some((ObjectText::File(positions), location));
    }
    let printed = printed(service)?;
    let location = printed.locate_object(&object, path)?;
    Some((ObjectText::Object(printed), location))
}

/// Where a field of a Service stands, `policies.yaml:3:7  service shop/api  spec.selector`, and, where the
/// Service has the field, the field itself with a mark.
pub(in crate::command::explain) fn draw(
    input: &Input,
    service: &Service,
    path: &str,
    mark: Option<(&str, &str)>,
    out: &mut impl Write,
) -> io::Result<()> {
    let marked = mark.map_or(path, |(path, _)| path);
    let Some((text, place)) = find(input, service, marked) else { return Ok(()) };
    let is_file = text.is_file();
    let at = if is_file { Cow::Owned(format!("{place}  ")) } else { Cow::Borrowed("") };
    writeln!(out, "  --> {at}service {}/{}  {path}", service.namespace, service.name)?;
    match mark.filter(|_| place.exact) {
        Some((_, said)) => {
            let marks = vec![Mark { place, text: said.to_owned(), is_miss: true }];
            Excerpt { positions: text.positions(), is_file, marks, around: Vec::new() }.draw(out)
        }
        None => Ok(()),
    }
}

/// A Service as `kubectl get -o yaml` would print it, with the fields that npc reads.
fn printed(service: &Service) -> Option<Rc<Positions>> {
    let routing = &service.routing;
    let mut spec = Map::new();
    let policy = |is_local: bool| json!(if is_local { "Local" } else { "Cluster" });
    if service.exposure != Exposure::Inside {
        spec.insert("externalTrafficPolicy".to_owned(), policy(service.exposure == Exposure::OwnNode));
    }
    if routing.is_node_local {
        spec.insert("internalTrafficPolicy".to_owned(), policy(true));
    }
    if !routing.source_ranges.is_empty() {
        spec.insert("loadBalancerSourceRanges".to_owned(), json!(routing.source_ranges));
    }
    spec.insert("ports".to_owned(), service.ports.iter().map(|of| port(service, of)).collect());
    if let Some(selector) = &service.selector {
        spec.insert("selector".to_owned(), json!(selector));
    }
    let object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": service.name, "namespace": service.namespace}, "spec": spec,
    });
    print(&object)
}

fn port(service: &Service, of: &ServicePort) -> Value {
    let mut port = Map::new();
    port.extend(of.name.as_ref().map(|name| ("name".to_owned(), json!(name))));
    let node_ports = &service.routing.node_ports;
    let node_port = node_ports.iter().find(|((protocol, _), number)| (*protocol, **number) == (of.protocol, of.port));
    port.extend(node_port.map(|((_, number), _)| ("nodePort".to_owned(), json!(number))));
    port.insert("port".to_owned(), json!(of.port));
    port.insert("protocol".to_owned(), json!(of.protocol.as_str()));
    let target = match &of.target {
        TargetPort::Number(number) => json!(number),
        TargetPort::Name(name) => json!(name),
    };
    port.insert("targetPort".to_owned(), target);
    Value::Object(port)
}
