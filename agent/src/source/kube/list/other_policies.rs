//! Whether a cluster has policies of kinds that decide beside NetworkPolicies and that npc does not
//! judge: AdminNetworkPolicies, and those of other network plugins.
//!
//! The API server says which groups and resources it serves (discovery, which every user may read). For each resource
//! that decides, one object is listed, and the answer says how many more there are.

use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::join_all;
use kube::Client;
use npc_compiler::object::deciding_kinds;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};
use tokio::time::{self, Instant};

use super::ListSettings;
use crate::source::kube::connection::failure::Failure;
use crate::source::kube::words;
use crate::words::rounded::rounded;

/// How long all of this may take: no answer waits longer for what the lists do not need.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What there is of policies that npc does not judge.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct OtherPolicies {
    /// How many objects there are, by kinds with their groups: `CiliumNetworkPolicy.cilium.io`.
    pub found: BTreeMap<String, usize>,
    /// The kinds that the API server serves and that the reader may not list.
    pub refused: Vec<String>,
    /// Why nothing is known of some, or of all.
    pub failures: Vec<String>,
}

/// The groups that an API server serves.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Groups {
    #[serde(deserialize_with = "or_none")]
    groups: Vec<Group>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Group {
    name: String,
    #[serde(deserialize_with = "or_none")]
    versions: Vec<Version>,
    preferred_version: Version,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Version {
    group_version: String,
}

/// The resources of a version of a group.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Resources {
    #[serde(deserialize_with = "or_none")]
    resources: Vec<Resource>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Resource {
    name: String,
    kind: String,
    namespaced: bool,
}

/// The first page of a list, whose objects themselves say nothing.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ListPage {
    metadata: PageMetadata,
    #[serde(deserialize_with = "or_none")]
    items: Vec<IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PageMetadata {
    #[serde(deserialize_with = "or_none")]
    r#continue: String,
    remaining_item_count: Option<usize>,
}

/// A value, or nothing where a server writes `null`: Go does so for a list that was never made.
fn or_none<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(of: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(of)?.unwrap_or_default())
}

impl Group {
    /// Its versions, the preferred one first. A kind may be served by another one alone.
    fn versions(&self) -> Vec<&str> {
        let preferred = self.preferred_version.group_version.as_str();
        let others = self.versions.iter().map(|of| of.group_version.as_str()).filter(|of| *of != preferred);
        let mut all: Vec<&str> = iter::once(preferred).chain(others).collect();
        all.retain(|version| !version.is_empty());
        all
    }
}

impl ListPage {
    /// How many objects the whole list has, at least.
    fn count(&self) -> usize {
        let more =
            self.metadata.remaining_item_count.unwrap_or_else(|| usize::from(!self.metadata.r#continue.is_empty()));
        // The number of a server may be any.
        self.items.len().saturating_add(more)
    }
}

/// How long an answer may take that the lists do not need.
pub(in super::super) fn short_timeout(timeout: Option<Duration>) -> Duration {
    timeout.map_or(TIMEOUT, |timeout| timeout.min(TIMEOUT))
}

/// Counts the policies that npc does not judge; in the namespaces of the settings, where they may not be
/// listed in all. It never fails: what is not known is said.
pub async fn other_policies(client: &Client, settings: &ListSettings) -> OtherPolicies {
    let timeout = short_timeout(settings.request_timeout);
    let deadline = Instant::now() + timeout;
    let timed_out = format!("the API server did not answer within {}", rounded(timeout));
    let failed = |failure| OtherPolicies { failures: vec![failure], ..OtherPolicies::default() };
    let served = match time::timeout_at(deadline, get::<Groups>(client, "/apis")).await {
        Ok(Ok(Groups { groups })) => groups,
        Ok(Err(failure)) => return failed(words(&failure)),
        Err(_) => return failed(timed_out),
    };
    // Calico's own API server shows the objects of crd.projectcalico.org a second time, and with them the
    // NetworkPolicies of Kubernetes.
    let has_calico = served.iter().any(|group| group.name == "crd.projectcalico.org");
    let groups = served.iter().filter(|group| !(has_calico && group.name == "projectcalico.org"));
    // The other groups count, if the API server of one group does not answer.
    let counts = groups.filter_map(|group| {
        let (_, kinds) = deciding_kinds().find(|(of, _)| *of == group.name)?;
        let counted = time::timeout_at(deadline, of_group(client, group, kinds, settings));
        let failed = || failed(format!("{}: {timed_out}", group.name));
        Some(counted.map(move |found| found.unwrap_or_else(|_| failed())))
    });
    let mut all = OtherPolicies::default();
    for OtherPolicies { found, refused, failures } in join_all(counts).await {
        all.found.extend(found);
        all.refused.extend(refused);
        all.failures.extend(failures);
    }
    all.failures.sort_unstable();
    all.failures.dedup();
    all
}

async fn of_group(client: &Client, group: &Group, kinds: &[&str], settings: &ListSettings) -> OtherPolicies {
    let mut all = OtherPolicies::default();
    let lists = group.versions().into_iter().map(async |version| {
        let path = format!("/apis/{version}");
        let resources = get::<Resources>(client, &path).await;
        (path, resources)
    });
    let mut deciding: Vec<(String, Resource)> = Vec::new();
    for (path, resources) in join_all(lists).await {
        match resources {
            Ok(Resources { resources }) => {
                // All versions that list a kind have the same objects of it.
                let known: BTreeSet<String> = deciding.iter().map(|(_, of)| of.kind.clone()).collect();
                // What stands behind a slash is a part of an object, such as its status.
                let is_new = |of: &Resource| {
                    kinds.contains(&of.kind.as_str()) && !of.name.contains('/') && !known.contains(&of.kind)
                };
                deciding.extend(resources.into_iter().filter(is_new).map(|of| (path.clone(), of)));
            }
            Err(failure) => all.failures.push(format!("{}: {}", group.name, words(&failure))),
        }
    }
    let counts = deciding.iter().map(async |(path, of)| (of, count(client, path, of, settings).await));
    for (resource, (count, failure)) in join_all(counts).await {
        let kind = format!("{}.{}", resource.kind, group.name);
        match failure {
            Some(failure) if failure.code() == Some(403) => all.refused.push(kind.clone()),
            Some(failure) => all.failures.push(format!("{kind}: {}", words(&failure))),
            None => {}
        }
        if count > 0 {
            all.found.insert(kind, count);
        }
    }
    all
}

/// How many objects of a resource there are, as far as the reader may see, and why not all were seen.
async fn count(client: &Client, path: &str, resource: &Resource, settings: &ListSettings) -> (usize, Option<Failure>) {
    let failure = match get::<ListPage>(client, &format!("{path}/{}?limit=1", resource.name)).await {
        Ok(page) => return (page.count(), None),
        Err(failure) => failure,
    };
    if failure.code() != Some(403) || !resource.namespaced {
        return (0, Some(failure));
    }
    let of_namespaces = settings.namespaces().map(async |namespace| {
        let there = format!("{path}/namespaces/{namespace}/{}?limit=1", resource.name);
        get::<ListPage>(client, &there).await.map_or(0, |page| page.count())
    });
    (join_all(of_namespaces).await.into_iter().fold(0, usize::saturating_add), Some(failure))
}

/// Reads what the API server has at a path.
async fn get<T: DeserializeOwned>(client: &Client, path: &str) -> Result<T, Failure> {
    let request = http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
    Ok(client.request::<T>(request).await?)
}

#[cfg(test)]
mod tests {
    use axum::http::{StatusCode, Uri};
    use axum::response::{IntoResponse as _, Response};
    use axum::{Json, Router};
    use serde_json::{Value, json};

    use super::*;

    async fn of_cluster(answer: fn(&str) -> Option<Response>) -> OtherPolicies {
        let answer = move |uri: Uri| async move {
            let path = uri.path_and_query().map_or_else(String::new, ToString::to_string);
            answer(&path).unwrap_or_else(|| refused(StatusCode::NOT_FOUND))
        };
        other_policies(&Client::new(Router::new().fallback(answer), "default"), &settings(None)).await
    }

    fn settings(request_timeout: Option<Duration>) -> ListSettings {
        ListSettings { namespace: "shop".to_owned(), others: ["ops".to_owned()].into(), request_timeout }
    }

    fn refused(code: StatusCode) -> Response {
        let reason = code.canonical_reason();
        (code, Json(json!({"status": "Failure", "code": code.as_u16(), "reason": reason, "message": reason})))
            .into_response()
    }

    fn groups(names: &[&str]) -> Response {
        let group = |name: &&str| json!({"name": name, "preferredVersion": {"groupVersion": format!("{name}/v1")}});
        Json(json!({"groups": names.iter().map(group).collect::<Vec<Value>>()})).into_response()
    }

    fn resources(resources: &[(&str, &str, bool)]) -> Response {
        let resource = |(name, kind, namespaced): &(&str, &str, bool)| json!({"name": name, "kind": kind, "namespaced": namespaced, "verbs": ["list"]});
        Json(json!({"resources": resources.iter().map(resource).collect::<Vec<Value>>()})).into_response()
    }

    #[tokio::test]
    async fn policies_of_other_engines_are_counted() {
        let found = of_cluster(|path| {
            Some(match path {
                "/apis" => groups(&["apps", "policy.networking.k8s.io", "crd.projectcalico.org", "projectcalico.org"]),
                "/apis/policy.networking.k8s.io/v1" => resources(&[
                    ("adminnetworkpolicies", "AdminNetworkPolicy", false),
                    ("adminnetworkpolicies/status", "AdminNetworkPolicy", false),
                    ("baselineadminnetworkpolicies", "BaselineAdminNetworkPolicy", false),
                ]),
                "/apis/policy.networking.k8s.io/v1/adminnetworkpolicies?limit=1" => {
                    Json(json!({"metadata": {"continue": "x", "remainingItemCount": 4}, "items": [{}]})).into_response()
                }
                "/apis/policy.networking.k8s.io/v1/baselineadminnetworkpolicies?limit=1" => {
                    Json(json!({"metadata": {}, "items": []})).into_response()
                }
                "/apis/crd.projectcalico.org/v1" => {
                    resources(&[("networkpolicies", "NetworkPolicy", true), ("ippools", "IPPool", false)])
                }
                "/apis/crd.projectcalico.org/v1/networkpolicies?limit=1" => {
                    Json(json!({"items": [{}]})).into_response()
                }
                _ => return None,
            })
        });
        let counts = [("AdminNetworkPolicy.policy.networking.k8s.io", 5), ("NetworkPolicy.crd.projectcalico.org", 1)];
        let counts = counts.map(|(kind, count)| (kind.to_owned(), count)).into();
        assert_eq!(found.await, OtherPolicies { found: counts, ..OtherPolicies::default() });
    }

    #[tokio::test]
    async fn what_may_not_be_listed_or_is_not_answered_is_said() {
        let found = of_cluster(|path| {
            Some(match path {
                "/apis" => groups(&["cilium.io", "crd.antrea.io"]),
                "/apis/cilium.io/v1" => resources(&[
                    ("ciliumnetworkpolicies", "CiliumNetworkPolicy", true),
                    ("ciliumclusterwidenetworkpolicies", "CiliumClusterwideNetworkPolicy", false),
                ]),
                "/apis/cilium.io/v1/namespaces/shop/ciliumnetworkpolicies?limit=1" => {
                    Json(json!({"items": [{}]})).into_response()
                }
                "/apis/cilium.io/v1/namespaces/ops/ciliumnetworkpolicies?limit=1" => {
                    Json(json!({"metadata": {"remainingItemCount": u64::MAX}, "items": [{}]})).into_response()
                }
                "/apis/crd.antrea.io/v1" => refused(StatusCode::SERVICE_UNAVAILABLE),
                _ => refused(StatusCode::FORBIDDEN),
            })
        })
        .await;
        assert_eq!(found.found, [("CiliumNetworkPolicy.cilium.io".to_owned(), usize::MAX)].into());
        assert_eq!(found.refused, ["CiliumNetworkPolicy.cilium.io", "CiliumClusterwideNetworkPolicy.cilium.io"]);
        let [failure] = found.failures.as_slice() else { panic!("one failure: {:?}", found.failures) };
        assert!(failure.starts_with("crd.antrea.io: "), "{failure}");
        let none = of_cluster(|_| None).await;
        assert_eq!((none.found.len(), none.refused.len(), none.failures.len()), (0, 0, 1));
    }

    #[tokio::test]
    async fn a_kind_counts_that_only_another_version_serves() {
        let found = of_cluster(|path| {
            let group = "/apis/policy.networking.k8s.io";
            let path = path.strip_prefix(group).unwrap_or(path);
            Some(match path {
                "/apis" => {
                    let versions =
                        ["v1alpha2", "v1alpha1"].map(|of| json!({"groupVersion": format!("{}/{of}", &group[6..])}));
                    let of_group = json!({"name": &group[6..], "versions": versions, "preferredVersion": versions[0]});
                    Json(json!({"groups": [of_group]})).into_response()
                }
                "/v1alpha2" => resources(&[("clusternetworkpolicies", "ClusterNetworkPolicy", false)]),
                "/v1alpha1" => resources(&[
                    ("clusternetworkpolicies", "ClusterNetworkPolicy", false),
                    ("adminnetworkpolicies", "AdminNetworkPolicy", false),
                ]),
                "/v1alpha2/clusternetworkpolicies?limit=1" => {
                    Json(json!({"metadata": {"continue": null}, "items": null})).into_response()
                }
                "/v1alpha1/adminnetworkpolicies?limit=1" => Json(json!({"items": [{}]})).into_response(),
                _ => return None,
            })
        });
        let counts = [("AdminNetworkPolicy.policy.networking.k8s.io".to_owned(), 1)].into();
        assert_eq!(found.await, OtherPolicies { found: counts, ..OtherPolicies::default() });
    }

    #[tokio::test(start_paused = true)]
    async fn the_other_groups_count_if_one_does_not_answer() {
        let answer = async |uri: Uri| match uri.path() {
            "/apis" => groups(&["cilium.io", "crd.antrea.io"]),
            "/apis/cilium.io/v1" => resources(&[("ciliumnetworkpolicies", "CiliumNetworkPolicy", true)]),
            "/apis/cilium.io/v1/ciliumnetworkpolicies" => Json(json!({"items": [{}]})).into_response(),
            _ => std::future::pending().await,
        };
        let found = other_policies(&Client::new(Router::new().fallback(answer), "default"), &settings(None)).await;
        assert_eq!(found.found, [("CiliumNetworkPolicy.cilium.io".to_owned(), 1)].into());
        assert_eq!(found.failures, ["crd.antrea.io: the API server did not answer within 5 s"]);
    }

    #[tokio::test(start_paused = true)]
    async fn no_answer_waits_longer_than_the_timeout() {
        let silent = Router::new().fallback(|| async {
            time::sleep(Duration::from_secs(600)).await;
            StatusCode::OK
        });
        let client = Client::new(silent, "default");
        let begin = time::Instant::now();
        let found = other_policies(&client, &settings(None)).await;
        assert_eq!(begin.elapsed(), TIMEOUT);
        assert_eq!(found.failures, ["the API server did not answer within 5 s"]);
        let found = other_policies(&client, &settings(Some(Duration::from_secs(1)))).await;
        assert_eq!(found.failures, ["the API server did not answer within 1 s"]);
    }
}
