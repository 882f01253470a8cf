//! Clients of one API server, and what holds for each of their requests.
//!
//! - The bound of [`RequestLimits`] holds for all clients of a [`Connector`] together.
//! - An answer that leads elsewhere (3xx) is an error: kube would take it for a watch
//!   that has ended, and begin the next one at once.
//! - An answer that is no list and no watch has a bound, and so has a refusal. Lists and
//!   watches are read piece by piece.
//! - Where bytes come in answer to a list or a watch, that is noted with the time.
//!   kube reports objects and failures. Where nothing changes it reports nothing,
//!   whether the watch lives or its connection is dead. Bytes, and an end in good
//!   order, show that it lives. That a watch was accepted shows little, and bookmarks
//!   may be missing: a server before 1.24 sends none of a kind that does not change.

use std::fmt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{HeaderValue, Request, Response, header};
use http_body::{Frame, SizeHint};
use kube::client::Body;
use kube::core::Status;
use kube::{Client, Resource};
use tower::{BoxError, service_fn};

use super::kubeconfig::{Error, KubeconfigFiles, configuration};
use super::limits::RequestLimits;
use crate::source::ObjectKind;
use crate::source::kube::objects::slim;
use crate::source::watch_metrics::Watches;

/// How long an answer may take to begin or to go on.
const READ_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a connection may take. An API server that comes back is found at the next
/// try, so tries are short.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an answer may be that is no list and no watch, in bytes: kube reads it as a
/// whole. One object takes a few MiB at most.
const ANSWER_BYTES: usize = 16 << 20;

/// How npc names itself to the API server. Its audit log shows this, and its
/// `managedFields` show the part before the slash for what npc writes.
const AGENT_NAME: HeaderValue = HeaderValue::from_static(concat!("npc/", env!("CARGO_PKG_VERSION")));

/// Makes clients of one API server. Each has connections of its own, so behind a load
/// balancer each may reach another server.
#[derive(Clone)]
pub struct Connector {
    make: Arc<dyn Fn() -> kube::Result<Client> + Send + Sync>,
    server: Option<Arc<str>>,
    pub(in super::super) limits: Arc<RequestLimits>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Connector {
    /// Makes clients in this way.
    pub fn new(make: impl Fn() -> kube::Result<Client> + Send + Sync + 'static) -> Self {
        Self { make: Arc::new(make), server: None, limits: Arc::default() }
    }

    /// The URL of the API server, where it is known.
    #[must_use]
    pub fn server(&self) -> Option<&str> {
        self.server.as_deref()
    }

    /// A new client.
    ///
    /// # Errors
    /// If it cannot be made, as without the files that its configuration names.
    pub fn client(&self) -> kube::Result<Client> {
        self.noting(None)
    }

    /// A connector to the same API server whose clients have a bound of their own: what an optional request
    /// has to wait holds up nothing else.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self { limits: Arc::default(), ..self.clone() }
    }

    /// A new client that notes what comes in answer to lists and watches.
    pub(in super::super) fn noting(&self, watches: Option<&Watches>) -> kube::Result<Client> {
        let client = (self.make)()?;
        Ok(restrained(client, Arc::clone(&self.limits), watches.cloned()))
    }
}

/// Reads how to reach the cluster that kubectl would talk to, or, in a pod, its own.
///
/// # Errors
/// If nothing names a cluster, or what does cannot be read. The API server is not
/// asked.
///
/// # Panics
/// Outside of a tokio runtime, which a client needs.
pub fn connect(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<Connector, Error> {
    let mut config = configuration(kubeconfig, context)?;
    let exec = config.auth_info.exec.as_ref().and_then(|exec| exec.command.clone());
    let provider = config.auth_info.auth_provider.as_ref().map(|provider| provider.name.clone());
    // A request panics in kube if its server has a host and no scheme.
    let server = &config.cluster_url;
    if !matches!(server.scheme_str(), Some("http" | "https")) || server.authority().is_none() {
        return Err(Error::Server(server.to_string()));
    }
    config.headers.push((header::USER_AGENT, AGENT_NAME));
    config.read_timeout = Some(READ_TIMEOUT);
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // kube would repeat a request up to 15 times, the first time after 5 ms, below the
    // place where requests are counted and bounded.
    config.default_retry = false;
    let server = config.cluster_url.to_string();
    let mut connector = Connector::new(move || Client::try_from(config.clone()));
    connector.server = Some(server.trim_end_matches('/').into());
    // What is wrong with the configuration shows now.
    drop(connector.client().map_err(|error| unusable(error, exec, provider))?);
    Ok(connector)
}

/// Why no client can be made: the program that the kubeconfig names for a token, its auth-provider, or the files
/// that it names.
fn unusable(error: kube::Error, exec: Option<String>, provider: Option<String>) -> Error {
    use kube::client::AuthError;

    let program = || exec.clone().unwrap_or_default();
    match error {
        kube::Error::Auth(AuthError::AuthExecRun { out, .. }) => Error::ExecFailed(program(), said(&out)),
        kube::Error::Auth(AuthError::AuthExecParse(_) | AuthError::ExecPluginFailed) => {
            Error::ExecFailed(program(), "it printed no ExecCredential with a status".to_owned())
        }
        kube::Error::Auth(AuthError::AuthExec(_)) if provider.is_some() => {
            Error::AuthProvider(provider.unwrap_or_default())
        }
        kube::Error::InferKubeconfig(cause) => Error::Kubeconfig(KubeconfigFiles::default(), cause),
        error => match (failed_start(&error), exec) {
            (Some(why), Some(program)) => Error::Exec(program, why),
            _ => Error::Client(error),
        },
    }
}

/// What a program says that has failed: the last line of its standard error, which has the cause; else how it ended.
fn said(out: &std::process::Output) -> String {
    let text = String::from_utf8_lossy(&out.stderr);
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty());
    let ended = match out.status.code() {
        Some(code) => format!("exit code {code}"),
        None => out.status.to_string(),
    };
    last.map_or_else(|| format!("{ended}, and nothing on standard error"), |line| format!("{ended}, {line}"))
}

/// Why the program that gives a token could not be started, if that is what failed.
fn failed_start(error: &kube::Error) -> Option<String> {
    let kube::Error::Auth(kube::client::AuthError::AuthExecStart(cause)) = error else { return None };
    Some(match cause.kind() {
        std::io::ErrorKind::NotFound => "it is not on the PATH".to_owned(),
        std::io::ErrorKind::PermissionDenied => "it may not be executed".to_owned(),
        _ => cause.to_string(),
    })
}

fn restrained(client: Client, limits: Arc<RequestLimits>, watches: Option<Watches>) -> Client {
    let namespace = client.default_namespace().to_owned();
    let service = service_fn(move |request: Request<Body>| {
        let (client, limits, watches) = (client.clone(), Arc::clone(&limits), watches.clone());
        let kind = listed_kind(request.uri().path());
        async move {
            limits.wait(kind).await;
            let response: Response<Body> = client.send(request).await?;
            limits.answered(kind, response.headers());
            if response.status().is_redirection() {
                return Err(redirected(&response));
            }
            // A refusal says nothing about objects.
            let is_list = kind.is_some() && response.status().is_success();
            let of = kind.zip(watches).filter(|_| is_list);
            let left = (!is_list).then_some(ANSWER_BYTES);
            Ok(response.map(|body| Noted { body, of, left }))
        }
    });
    Client::new(service, namespace)
}

/// The error of an answer that leads elsewhere.
fn redirected(response: &Response<Body>) -> kube::Error {
    let to = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok()).unwrap_or("nowhere");
    let message = format!(
        "the answer leads to {to} instead; an API server does not do this, so a proxy between may want a login"
    );
    kube::Error::Api(Status::failure(&message, "Redirected").with_code(response.status().as_u16()).boxed())
}

fn too_long() -> BoxError {
    format!("the answer is longer than {} MiB, and no API server sends such a one", ANSWER_BYTES >> 20).into()
}

/// The kind that a list or a watch is of; none where it is one object.
fn listed_kind(path: &str) -> Option<ObjectKind> {
    fn lists<K: Resource<DynamicType = ()>>(path: &str) -> bool {
        path == K::url_path(&(), None)
    }
    let kinds = [
        (ObjectKind::Pod, lists::<slim::Pod> as fn(&str) -> bool),
        (ObjectKind::Namespace, lists::<slim::Namespace>),
        (ObjectKind::NetworkPolicy, lists::<slim::Policy>),
        (ObjectKind::Node, lists::<slim::Node>),
    ];
    kinds.into_iter().find(|(_, lists)| lists(path)).map(|(kind, _)| kind)
}

/// The body of an answer, whose pieces are noted.
struct Noted {
    body: Body,
    of: Option<(ObjectKind, Watches)>,
    /// How many bytes may still come, if there is a bound.
    left: Option<usize>,
}

impl http_body::Body for Noted {
    type Data = <Body as http_body::Body>::Data;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let (None | Some(Ok(_)), Some((kind, watches))) = (&frame, &self.of) {
            watches.bytes(*kind);
        }
        if let (Some(left), Some(Ok(frame))) = (&mut self.left, &frame) {
            match left.checked_sub(frame.data_ref().map_or(0, axum::body::Bytes::len)) {
                Some(less) => *left = less,
                None => return Poll::Ready(Some(Err(too_long()))),
            }
        }
        // Wrapped once is enough: the outer client does it again.
        Poll::Ready(frame.map(|frame| {
            frame.map_err(|error| match error {
                kube::Error::Service(error) => error,
                error => error.into(),
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::kube::words;

    /// A server whose answers have no end.
    #[tokio::test]
    async fn an_answer_without_end_is_an_error() {
        for code in [200, 500] {
            let endless = service_fn(move |_: Request<Body>| async move {
                let pieces = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 1 << 16]));
                let body = axum::body::Body::from_stream(pieces);
                Ok::<_, std::convert::Infallible>(Response::builder().status(code).body(body).expect("an answer"))
            });
            let connector = Connector::new(move || Ok(Client::new(endless, "default")));
            let client = connector.client().expect("a client");
            let error = client.apiserver_version().await.expect_err("it has no end");
            assert!(words(&error).contains("longer than 16 MiB"), "{}", words(&error));
        }
    }

    /// What an error says of a kubeconfig, with this in place of the cluster's server.
    fn refusal(server: &str) -> String {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let config = format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: c\n  cluster:\n    server: {server}\n\
             users:\n- name: u\n  user: {{token: topsecret}}\n\
             contexts:\n- name: x\n  context: {{cluster: c, user: u}}\ncurrent-context: x\n"
        );
        std::fs::write(file.path(), config).expect("it is written");
        connect(Some(file.path()), None).expect_err(server).to_string()
    }

    #[test]
    fn a_server_that_is_no_url_is_refused_in_words() {
        for server in
            ["10.0.0.1", "10.0.0.1:6443", "api.example.com", "//api.example.com", "/", "ftp://api.example.com"]
        {
            let words = refusal(server);
            assert!(words.contains("write it as https://HOST:PORT") && words.contains(server), "{server}: {words}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_kubeconfig_shows_none_of_its_lines() {
        for (server, said) in [
            ("https://h\n    server: https://h", "line 7 column 5: duplicate mapping key: server"),
            ("https://h\n\tx: [", "line 6 column"),
            ("https://h\nusers: {token: topsecret}", "line"),
            ("[]", "line 6 column 13: expected string scalar"),
        ] {
            let words = refusal(server);
            let begins = words.starts_with("cannot use the kubeconfig /");
            assert!(begins && words.contains(": it cannot be read: line "), "{words}");
            assert!(words.contains(said) && !words.contains('\n'), "{words}");
            assert!(!words.contains("topsecret") && !words.contains("Policy") && !words.contains("Option"), "{words}");
        }
    }

    #[test]
    fn lists_and_watches_are_recognised_by_their_paths() {
        for (path, kind) in [
            ("/api/v1/pods", Some(ObjectKind::Pod)),
            ("/api/v1/namespaces", Some(ObjectKind::Namespace)),
            ("/apis/networking.k8s.io/v1/networkpolicies", Some(ObjectKind::NetworkPolicy)),
            ("/api/v1/nodes", Some(ObjectKind::Node)),
            ("/api/v1/nodes/node-1", None),
            ("/version", None),
        ] {
            assert_eq!(listed_kind(path), kind, "{path}");
        }
    }
}
