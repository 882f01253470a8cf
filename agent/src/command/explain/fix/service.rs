//! A change of a Service whose targetPort is the fault: it leads to a port that its pods do not
//! declare, where they declare another one that policies admit.

use std::io::{self, Write};

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation};
use npc_compiler::object::Protocol;
use npc_compiler::verdict::fix::{DeclaredPort, NoFix, UndeclaredTarget};
use serde::Serialize;
use serde_json::json;

use super::apply;
use crate::command::explain::services::text;
use crate::command::input::Input;
use crate::command::words::shorten;

/// At most this many ports are named.
pub(super) const PORTS: usize = 6;

/// The change of a Service, as JSON.
#[derive(Debug, Serialize)]
pub(super) struct ServiceJson {
    object: serde_json::Value,
    patch: Patch,
    /// The command that applies the patch; none if a name is none that a cluster has.
    pub(super) command: Option<String>,
}

/// A targetPort that may be wrong, beside a change of policies.
pub(super) fn undeclared(of: &UndeclaredTarget) -> String {
    let UndeclaredTarget { service: (namespace, name), port, target, declared, .. } = of;
    let declared: Vec<String> = declared.iter().map(declared_port).collect();
    format!(
        "targetPort of port {port} of {namespace}/svc/{name} is {target}, and its pods declare {}; if nothing listens on \
         {target}, correct the targetPort: the change of a policy alone gets no answer",
        shorten(&declared, PORTS, ", ")
    )
}

/// A port that pods declare, with its container: `15090 (container istio-proxy)`.
pub(super) fn declared_port(of: &DeclaredPort) -> String {
    match &of.container {
        None => of.port.to_string(),
        Some(container) => format!("{} (container {container})", of.port),
    }
}

/// The place of the port among those of its Service.
fn place(input: &Input, (namespace, name): &(String, String), port: (Protocol, u16)) -> Option<usize> {
    let service = input.cluster.service(namespace, name)?;
    service.ports.iter().position(|of| (of.protocol, of.port) == port)
}

/// The patch, where the pods declare one port that policies admit. Where several containers declare
/// ports, it may be that of a sidecar.
pub(super) fn json(input: &Input, reason: &NoFix) -> Option<ServiceJson> {
    let NoFix::TargetPort { service, protocol, port, declared, .. } = reason else { return None };
    let [DeclaredPort { port: declared, container: None }] = declared.as_slice() else { return None };
    let place = place(input, service, (*protocol, *port))?.to_string();
    let pointer = PointerBuf::from_tokens(["spec", "ports", place.as_str(), "targetPort"]);
    let operation = PatchOperation::Add(AddOperation { path: pointer, value: json!(declared) });
    let object = json!({"kind": "Service", "namespace": service.0, "name": service.1});
    let patch = Patch(vec![operation]);
    let command = apply::patch_command("service", Some(&service.0), &service.1, &patch);
    Some(ServiceJson { object, patch, command })
}

/// Marks the port of the Service.
pub(super) fn draw(input: &Input, reason: &NoFix, out: &mut impl Write) -> io::Result<()> {
    let NoFix::TargetPort { service, protocol, port, target, declared } = reason else { return Ok(()) };
    let (namespace, name) = service;
    let Some(place) = place(input, service, (*protocol, *port)) else { return Ok(()) };
    let Some(service) = input.cluster.service(namespace, name) else { return Ok(()) };
    let path = format!("spec.ports[{place}]");
    let is_written = |path: &String| text::find(input, service, path).is_some_and(|(_, place)| place.exact);
    // Left out, the targetPort is the port.
    let fields = ["targetPort", "port"].map(|field| format!("{path}.{field}"));
    let Some(field) = fields.iter().find(|field| is_written(field)) else { return Ok(()) };
    let declared: Vec<String> = declared.iter().map(declared_port).collect();
    let text = format!("leads to {target}, its pods declare {}", declared.join(", "));
    text::draw(input, service, &path, Some((field, &text)), out)
}
