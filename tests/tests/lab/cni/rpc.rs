//! Calls of the Container Runtime Interface: gRPC over a unix socket, with the messages
//! that the tests need, as far as they need them.
//!
//! The kept crate of all CRI messages asks for `protoc` on each machine that builds it.
//! These few are from the same description:
//! <https://github.com/kubernetes/cri-api/blob/v0.34.1/pkg/apis/runtime/v1/api.proto>

use std::path::Path;

use axum::body::Bytes;
use http::{HeaderMap, Request};
use prost::Message;
use tokio::net::UnixStream;

#[derive(Clone, PartialEq, Message)]
pub(super) struct PodSandboxConfig {
    #[prost(message, optional, tag = "1")]
    pub(super) metadata: Option<PodSandboxMetadata>,
    #[prost(string, tag = "2")]
    pub(super) hostname: String,
    #[prost(string, tag = "3")]
    pub(super) log_directory: String,
    #[prost(message, repeated, tag = "5")]
    pub(super) port_mappings: Vec<PortMapping>,
    #[prost(message, optional, tag = "8")]
    pub(super) linux: Option<LinuxPodSandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PodSandboxMetadata {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) uid: String,
    #[prost(string, tag = "3")]
    pub(super) namespace: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LinuxPodSandboxConfig {
    #[prost(string, tag = "1")]
    pub(super) cgroup_parent: String,
}

/// Of TCP, which is the protocol 0.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PortMapping {
    #[prost(int32, tag = "2")]
    pub(super) container_port: i32,
    #[prost(int32, tag = "3")]
    pub(super) host_port: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RunPodSandbox {
    #[prost(message, optional, tag = "1")]
    pub(super) config: Option<PodSandboxConfig>,
}

/// The id of a sandbox or of a container: a request about it, or what its making answers.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Id {
    #[prost(string, tag = "1")]
    pub(super) id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CreateContainer {
    #[prost(string, tag = "1")]
    pub(super) sandbox: String,
    #[prost(message, optional, tag = "2")]
    pub(super) config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    pub(super) sandbox_config: Option<PodSandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    pub(super) metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "2")]
    pub(super) image: Option<ImageSpec>,
    #[prost(string, repeated, tag = "4")]
    pub(super) arguments: Vec<String>,
    #[prost(string, tag = "11")]
    pub(super) log_path: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ContainerMetadata {
    #[prost(string, tag = "1")]
    pub(super) name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ImageSpec {
    #[prost(string, tag = "1")]
    pub(super) image: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ImageStatus {
    #[prost(message, optional, tag = "1")]
    pub(super) image: Option<ImageSpec>,
}

/// Whether an image was found; what it holds is of no account.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Found {
    #[prost(message, optional, tag = "1")]
    pub(super) found: Option<Empty>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Empty {}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Status {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<Conditions>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Conditions {
    #[prost(message, repeated, tag = "1")]
    pub(super) conditions: Vec<Condition>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Condition {
    #[prost(string, tag = "1")]
    pub(super) kind: String,
    #[prost(bool, tag = "2")]
    pub(super) status: bool,
    #[prost(string, tag = "3")]
    pub(super) reason: String,
    #[prost(string, tag = "4")]
    pub(super) message: String,
}

/// One call at this socket, of a service and its method; the error is what the runtime answers,
/// as the kubelet reports it in the Event of a pod.
pub(super) fn call<A: Message + Default>(socket: &Path, method: &str, request: &impl Message) -> Result<A, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(exchange(socket, method, request.encode_to_vec()))?;
    A::decode(&*answer).map_err(|error| format!("{method}: {error}"))
}

/// Sends a message and answers the one that comes. A message has five bytes before it: that it
/// is not compressed, and its length.
///
/// <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>
async fn exchange(socket: &Path, method: &str, message: Vec<u8>) -> Result<Vec<u8>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{method}: {error}");
    let stream = UnixStream::connect(socket).await.map_err(|error| failed(&error))?;
    let (mut requests, connection) = h2::client::handshake(stream).await.map_err(|error| failed(&error))?;
    let connection = tokio::spawn(connection);
    let request = Request::post(format!("http://localhost/runtime.v1.{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (answer, mut body) = requests.send_request(request, false).map_err(|error| failed(&error))?;
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend(message);
    body.send_data(Bytes::from(framed), true).map_err(|error| failed(&error))?;
    let (head, mut body) = answer.await.map_err(|error| failed(&error))?.into_parts();
    let mut received = Vec::new();
    while let Some(part) = body.data().await {
        let part = part.map_err(|error| failed(&error))?;
        body.flow_control().release_capacity(part.len()).map_err(|error| failed(&error))?;
        received.extend_from_slice(&part);
    }
    // A call that fails at once has its status among the headers.
    let trailers = body.trailers().await.map_err(|error| failed(&error))?.unwrap_or(head.headers);
    connection.abort();
    let text = |headers: &HeaderMap, name: &str| {
        headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).unwrap_or_default()
    };
    if text(&trailers, "grpc-status") != "0" {
        return Err(format!("{method}: {}", text(&trailers, "grpc-message")));
    }
    Ok(received.split_off(received.len().min(5)))
}
