//! What an agent writes to the cluster: an Event on each NetworkPolicy of
//! which it understood only a part, and, where that is asked for, its own Node
//! without the start-up taint. Nothing else.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Taint};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use npc_compiler::policy::finding::{Effect, Finding};
use npc_compiler::ruleset::name::Fields;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time;
use tracing::{debug, info, warn};

use super::slim::Policy;
use super::{backoff, words};
pub use crate::notice::Notice;

/// The taint that keeps pods off a node until its agent enforces.
pub const STARTUP_TAINT: &str = "npc.dev/agent-not-ready";

/// Who says it, in an Event.
const CONTROLLER: &str = "npc.dev/agent";

/// The longest note of an Event, in bytes (events.k8s.io/v1).
const NOTE_MAX: usize = 1024;

/// How often an Event is tried.
const TRIES: u32 = 6;

/// Tells the cluster what the agent has to tell, until it ends.
pub async fn tell(client: Client, node: String, mut notices: mpsc::UnboundedReceiver<Notice>, remove_taint: bool) {
    while let Some(notice) = notices.recv().await {
        match notice {
            Notice::Ready if remove_taint => {
                let (nodes, node) = (Api::all(client.clone()), node.clone());
                let write = move || remove_startup_taint(nodes.clone(), node.clone()).boxed();
                tokio::spawn(async move { insisted("remove the start-up taint of its node", write).await });
            }
            Notice::Ready => {}
            // What works, or makes no difference, is the log's business.
            Notice::Finding(finding) if matches!(finding.effect, Effect::Works | Effect::Ignored) => {}
            Notice::Finding(finding) => {
                let write = || complain(client.clone(), node.clone(), finding.clone()).boxed();
                tried("create an Event", write).await;
            }
        }
    }
}

/// Tries a write until it succeeds, or it is clear that it will not.
async fn tried(what: &str, write: impl Fn() -> BoxFuture<'static, kube::Result<()>>) {
    let mut waits = backoff();
    for left in (0..TRIES).rev() {
        match write().await {
            Ok(()) => return,
            Err(kube::Error::Api(status)) if status.code == 403 => {
                warn!(error = status.message, "the agent may not {what}; policies are enforced all the same");
                return;
            }
            Err(error) if left == 0 => {
                warn!(error = words(&error), "cannot {what}; policies are enforced all the same");
            }
            Err(error) => {
                let wait = waits.next().unwrap_or_default();
                debug!(error = words(&error), retry = ?wait, "cannot {what} yet");
                time::sleep(wait).await;
            }
        }
    }
}

/// Tries a write until it succeeds, however long that takes, and even if the
/// API server forbids it: the right may be granted yet, and without this write
/// no pod comes to the node.
async fn insisted(what: &str, write: impl Fn() -> BoxFuture<'static, kube::Result<()>>) {
    let mut waits = backoff();
    let mut said = false;
    while let Err(error) = write().await {
        let wait = waits.next().unwrap_or_default();
        if std::mem::replace(&mut said, true) {
            debug!(error = words(&error), retry = ?wait, "still cannot {what}");
        } else {
            warn!(
                error = words(&error), retry = ?wait,
                "cannot {what} yet, and tries until it can; policies are enforced all the same"
            );
        }
        time::sleep(wait).await;
    }
}

/// Puts an Event on a policy: one for the cluster, whichever agent comes
/// first, because its name follows from what it says.
async fn complain(client: Client, node: String, finding: Finding) -> kube::Result<()> {
    let policies: Api<Policy> = Api::namespaced(client.clone(), &finding.namespace);
    let Some(policy) = policies.get_opt(&finding.name).await? else { return Ok(()) };
    let event = event(&finding, policy.uid(), &node);
    let events: Api<Event> = Api::namespaced(client, &finding.namespace);
    match events.create(&PostParams::default(), &event).await {
        Ok(_) => Ok(()),
        // Another agent has said it, or the namespace is going away.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(error),
    }
}

fn event(finding: &Finding, uid: Option<String>, node: &str) -> Event {
    let mut identity = Fields::of("event");
    for field in
        [uid.as_deref().unwrap_or_default(), &finding.namespace, &finding.name, &finding.path, &finding.problem]
    {
        identity.add(field);
    }
    let mut text = format!("{}: {}; {}", finding.path, finding.problem, finding.effect);
    if text.len() > NOTE_MAX {
        text.truncate((0..=NOTE_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0));
    }
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
    // With the version that was read, so that no taint that somebody adds
    // meanwhile is lost: then it is a conflict, and tried again.
    let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": left}});
    nodes.patch(&node, &PatchParams::default(), &Patch::Merge(patch)).await?;
    info!(node, taint = STARTUP_TAINT, "pods may start on this node: removed its start-up taint");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(problem: &str) -> Finding {
        Finding {
            namespace: "shop".to_owned(),
            name: "api".to_owned(),
            path: "spec.ingress[0].from[0].ipBlock.cidr".to_owned(),
            problem: problem.to_owned(),
            effect: Effect::MatchesNothing,
        }
    }

    /// When a write was tried that always fails, in seconds since the first.
    async fn tries() -> Vec<f64> {
        let tried_at = std::sync::Mutex::new(Vec::new());
        let begin = time::Instant::now();
        let write = || {
            tried_at.lock().expect("nobody panicked").push(begin.elapsed().as_secs_f64());
            async { Err(kube::Error::LinesCodecMaxLineLengthExceeded) }.boxed()
        };
        tried("be of use", write).await;
        tried_at.into_inner().expect("nobody panicked")
    }

    #[tokio::test(start_paused = true)]
    async fn agents_that_fail_together_do_not_come_back_together() {
        let (one, other) = (tries().await, tries().await);
        assert_eq!((one.len(), other.len()), (6, 6));
        assert!(
            one.iter().zip(&other).skip(1).all(|(one, other)| (one - other).abs() > f64::EPSILON),
            "{one:?} {other:?}"
        );
        // Longer and longer, and not for long.
        let waits: Vec<f64> = one.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(waits[0] < 2.0 && waits[4] > 10.0 && one[5] < 60.0, "{waits:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_node_waits_for_is_tried_until_it_works() {
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
        insisted("be of use", write).await;
        assert_eq!(tries.into_inner(), 3 * TRIES + 1);
    }

    #[test]
    fn every_agent_gives_one_thing_one_name() {
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
