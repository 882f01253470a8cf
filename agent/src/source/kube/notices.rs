//! What an agent writes to the cluster: an Event on each NetworkPolicy that it
//! understood in part, and, with `--remove-startup-taint`, its own Node without the
//! start-up taint. Nothing else.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Taint};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::Status;
use kube::{Api, Client, ResourceExt as _};
use npc_compiler::algebra::short_text::truncate;
use npc_compiler::policy::finding::Finding;
use npc_compiler::ruleset::names::hash::FieldHasher;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time;
use tracing::{debug, info, warn};

use super::objects::slim::Policy;
use super::{backoff, words};
pub use crate::source::notice::Notice;
use crate::words::rounded::rounded;

/// The taint that keeps pods off a node until its agent enforces.
pub const STARTUP_TAINT: &str = "npc.dev/agent-not-ready";

/// The controller that an Event names.
const CONTROLLER: &str = "npc.dev/agent";

/// The longest note of an Event, in bytes (events.k8s.io/v1).
const NOTE_MAX: usize = 1024;

/// How often the agent tries to create an Event.
const TRIES: u32 = 6;

/// Writes notices to the cluster, until their sender is dropped.
pub async fn write_notices(
    client: Client,
    node: String,
    mut notices: mpsc::UnboundedReceiver<Notice>,
    remove_taint: bool,
) {
    while let Some(notice) = notices.recv().await {
        match notice {
            Notice::Ready if remove_taint => {
                let (nodes, node) = (Api::all(client.clone()), node.clone());
                let write = move || remove_startup_taint(nodes.clone(), node.clone()).boxed();
                tokio::spawn(async move { try_until_done("remove the start-up taint of its node", write).await });
            }
            Notice::Ready => {}
            // The log has what works, or makes no difference.
            Notice::Finding(finding) if !finding.effect.is_harmful() => {}
            Notice::Finding(finding) => {
                let write = || create_event(client.clone(), node.clone(), finding.clone()).boxed();
                try_for_a_while("create an Event", write).await;
            }
        }
    }
}

/// Tries a write [`TRIES`] times, unless the API server refuses it for good.
async fn try_for_a_while(what: &str, write: impl Fn() -> BoxFuture<'static, kube::Result<()>>) {
    let mut waits = backoff();
    for left in (0..TRIES).rev() {
        match write().await {
            Ok(()) => return,
            Err(kube::Error::Api(status)) if status.code == 403 => {
                // No right, a quota, or an admission rule: the message says which.
                warn!(error = status.message, "the API server refused to {what}; policies are enforced all the same");
                return;
            }
            Err(error) if left == 0 => {
                warn!(error = words(&error), "cannot {what}; policies are enforced all the same");
            }
            Err(error) => {
                let wait = waits.next().unwrap_or_default();
                debug!(error = words(&error), retry = ?rounded(wait), "cannot {what} yet");
                time::sleep(wait).await;
            }
        }
    }
}

/// Tries a write until it succeeds, however long that takes, even if the API server
/// refuses it. An operator may still grant the right, and without this write the
/// scheduler places no pod on the node.
async fn try_until_done(what: &str, write: impl Fn() -> BoxFuture<'static, kube::Result<()>>) {
    let mut waits = backoff();
    let mut is_logged = false;
    while let Err(error) = write().await {
        let wait = waits.next().unwrap_or_default();
        if std::mem::replace(&mut is_logged, true) {
            debug!(error = words(&error), retry = ?rounded(wait), "still cannot {what}");
        } else {
            warn!(
                error = words(&error), retry = ?rounded(wait),
                "cannot {what} yet; the agent retries, and policies are enforced all the same"
            );
        }
        time::sleep(wait).await;
    }
}

/// Creates an Event on a policy. All agents give it the same name, which follows from
/// its content, so the cluster has it once.
async fn create_event(client: Client, node: String, finding: Finding) -> kube::Result<()> {
    let policies: Api<Policy> = Api::namespaced(client.clone(), &finding.namespace);
    let Some(policy) = policies.get_opt(&finding.name).await? else { return Ok(()) };
    let event = event(&finding, policy.uid(), &node);
    let events: Api<Event> = Api::namespaced(client, &finding.namespace);
    match events.create(&PostParams::default(), &event).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if is_pointless(&status) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether an Event is not needed any more: another agent created it (409), or the
/// policy's namespace is gone (404) or being deleted. For the latter the API server
/// answers 403, as for a missing right, and distinguishes them by this cause
/// (`NamespaceTerminatingCause` of `k8s.io/api/core/v1`).
fn is_pointless(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    matches!(status.code, 404 | 409) || causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

fn event(finding: &Finding, uid: Option<String>, node: &str) -> Event {
    let mut identity = FieldHasher::of("event");
    for field in
        [uid.as_deref().unwrap_or_default(), &finding.namespace, &finding.name, &finding.path, &finding.problem]
    {
        identity.add(field);
    }
    let mut text = format!("{}: {}; {} [{}]", finding.path, finding.problem, finding.effect, finding.code.as_str());
    truncate(&mut text, NOTE_MAX);
    Event {
        metadata: ObjectMeta {
            name: Some(format!("npc-{}", identity.finish().short())),
            namespace: Some(finding.namespace.clone()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(Timestamp::now())),
        regarding: Some(ObjectReference {
            api_version: Some("networking.k8s.io/v1".to_owned()),
            kind: Some("NetworkPolicy".to_owned()),
            namespace: Some(finding.namespace.clone()),
            name: Some(finding.name.clone()),
            uid,
            field_path: Some(finding.path.clone()),
            ..ObjectReference::default()
        }),
        type_: Some("Warning".to_owned()),
        reason: Some("PartlyUnderstood".to_owned()),
        action: Some("Compile".to_owned()),
        note: Some(text),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(node.chars().take(128).collect()),
        ..Event::default()
    }
}

/// Takes the start-up taint off the node, if it has it.
async fn remove_startup_taint(nodes: Api<Node>, node: String) -> kube::Result<()> {
    let found = nodes.get(&node).await?;
    let version = found.resource_version();
    let taints = found.spec.and_then(|spec| spec.taints).unwrap_or_default();
    let left: Vec<Taint> = taints.iter().filter(|taint| taint.key != STARTUP_TAINT).cloned().collect();
    if left.len() == taints.len() {
        return Ok(());
    }
    // With the version that was read: if another program adds a taint meanwhile, the
    // API server answers 409 and the agent tries again, so that no taint is lost.
    let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": left}});
    nodes.patch(&node, &PatchParams::default(), &Patch::Merge(patch)).await?;
    info!(node, taint = STARTUP_TAINT, "pods may start on this node: removed its start-up taint");
    Ok(())
}

#[cfg(test)]
mod tests {
    use npc_compiler::policy::finding::{Effect, FindingCode};

    use super::*;

    fn finding(problem: &str) -> Finding {
        Finding {
            namespace: "shop".to_owned(),
            name: "api".to_owned(),
            path: "spec.ingress[0].from[0].ipBlock.cidr".to_owned(),
            code: FindingCode::PeerEmpty,
            problem: problem.to_owned(),
            effect: Effect::MatchesNothing,
            address: None,
        }
    }

    /// When the agent tries a write that always fails, in seconds since the first try.
    async fn tries() -> Vec<f64> {
        let tried_at = std::sync::Mutex::new(Vec::new());
        let begin = time::Instant::now();
        let write = || {
            tried_at.lock().expect("no test panicked").push(begin.elapsed().as_secs_f64());
            async { Err(kube::Error::LinesCodecMaxLineLengthExceeded) }.boxed()
        };
        try_for_a_while("write", write).await;
        tried_at.into_inner().expect("no test panicked")
    }

    #[tokio::test(start_paused = true)]
    async fn agents_that_fail_together_retry_at_different_times() {
        let (one, other) = (tries().await, tries().await);
        assert_eq!((one.len(), other.len()), (6, 6));
        assert!(
            one.iter().zip(&other).skip(1).all(|(one, other)| (one - other).abs() > f64::EPSILON),
            "{one:?} {other:?}"
        );
        // The waits grow, and end within a minute.
        let waits: Vec<f64> = one.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(waits[0] < 2.0 && waits[4] > 10.0 && one[5] < 60.0, "{waits:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_start_up_taint_is_removed_however_long_that_takes() {
        let tries = std::sync::atomic::AtomicU32::new(0);
        let write = || {
            let forbidden = kube::core::Status::failure("no right yet", "Forbidden").with_code(403);
            let answer = match tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
                0 => Err(kube::Error::Api(forbidden.boxed())),
                n if n < 3 * TRIES => Err(kube::Error::LinesCodecMaxLineLengthExceeded),
                _ => Ok(()),
            };
            async { answer }.boxed()
        };
        try_until_done("write", write).await;
        assert_eq!(tries.into_inner(), 3 * TRIES + 1);
    }

    /// What an API server answers to the creation of an Event: the code, the message,
    /// and the reason of the cause, in a `Status`.
    fn status(code: u16, message: &str, cause: Option<&str>) -> serde_json::Value {
        let causes: Vec<_> = cause.iter().map(|reason| json!({"reason": reason, "message": message})).collect();
        json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message,
            "reason": if code == 403 { "Forbidden" } else { "Other" }, "details": {"causes": causes},
        })
    }

    /// The warnings that an agent logs when the API server answers so.
    async fn warnings(answer: serde_json::Value) -> Vec<String> {
        use std::fmt::Write as _;
        use std::sync::{Arc, Mutex};

        use http::{Request, Response};
        use kube::client::Body;
        use tracing_subscriber::layer::SubscriberExt as _;

        struct Warnings(Arc<Mutex<Vec<String>>>);

        impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Warnings {
            fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
                let mut line = String::new();
                event.record(&mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
                    write!(line, "{field}={value:?} ").expect("text takes it");
                });
                if *event.metadata().level() <= tracing::Level::WARN {
                    self.0.lock().expect("no test panicked").push(line);
                }
            }
        }

        let service = tower::service_fn(move |request: Request<Body>| {
            let policy = json!({"metadata": {"namespace": "shop", "name": "api", "uid": "u"}, "spec": null});
            let (code, answer) = match *request.method() {
                http::Method::GET => (200, policy),
                _ => (answer["code"].as_u64().expect("a code"), answer.clone()),
            };
            let code = u16::try_from(code).expect("a code");
            let body = Body::from(answer.to_string().into_bytes());
            async move { Ok::<_, kube::Error>(Response::builder().status(code).body(body).expect("an answer")) }
        });
        let logged = Arc::new(Mutex::new(Vec::new()));
        let _guard =
            tracing::subscriber::set_default(tracing_subscriber::registry().with(Warnings(Arc::clone(&logged))));
        let (sender, notices) = mpsc::unbounded_channel();
        sender.send(Notice::Finding(finding("p"))).expect("the receiver is there");
        drop(sender);
        write_notices(Client::new(service, "default"), "n1".to_owned(), notices, false).await;
        std::mem::take(&mut logged.lock().expect("no test panicked"))
    }

    #[tokio::test]
    async fn a_refused_event_is_a_warning_unless_its_namespace_is_going() {
        let terminating = "events.events.k8s.io \"npc-1\" is forbidden: unable to create new content in namespace \
                           shop because it is being terminated";
        for (code, message, cause) in [
            (403, terminating, Some("NamespaceTerminating")),
            (404, "namespaces \"shop\" not found", None),
            (409, "events.events.k8s.io \"npc-1\" already exists", None),
        ] {
            assert_eq!(warnings(status(code, message, cause)).await, Vec::<String>::new(), "{message}");
        }
        for message in [
            "events.events.k8s.io is forbidden: User \"npc\" cannot create resource \"events\"",
            "events.events.k8s.io \"npc-1\" is forbidden: exceeded quota: q, requested: count/events=1",
        ] {
            let [warning] = &warnings(status(403, message, None)).await[..] else { panic!("one warning") };
            assert!(warning.contains("the API server refused to create an Event"), "{warning}");
            assert!(warning.contains("policies are enforced all the same"), "{warning}");
            assert!(warning.contains(message.split('"').next().expect("a part")), "{warning}");
        }
    }

    #[test]
    fn all_agents_name_an_event_alike() {
        let named = |problem: &str, uid: &str, node| event(&finding(problem), Some(uid.to_owned()), node).name_any();
        assert_eq!(named("p", "u", "n1"), named("p", "u", "n2"));
        assert_ne!(named("p", "u", "n1"), named("q", "u", "n1"));
        assert_ne!(named("p", "u", "n1"), named("p", "v", "n1"), "another policy under its name");
    }

    #[test]
    fn a_note_is_as_long_as_the_api_allows() {
        let note = event(&finding(&"ä".repeat(NOTE_MAX)), None, "n1").note.expect("it has one");
        assert!(note.len() <= NOTE_MAX && note.len() > NOTE_MAX - 4);
    }
}
