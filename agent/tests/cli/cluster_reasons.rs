//! Reasons where the objects come from an API server: each has the field path and the field itself, as
//! reasons from files have their lines.

use std::path::Path;

use serde_json::{Value, json};

use crate::cases::{Question, questions, yaml_files};
use crate::rights::{Reply, items, refused, serve};
use crate::{Answer, Files};

/// The objects of YAML documents, as an API server has them.
fn objects(text: &str) -> Option<Vec<Value>> {
    let documents = text.split("\n---").map(|text| text.trim_start_matches('-'));
    let mut all = Vec::new();
    for document in documents {
        let mut object: Value = serde_saphyr::from_str(document).ok()?;
        let name = object["metadata"]["name"].as_str()?.to_owned();
        let metadata = object["metadata"].as_object_mut()?;
        metadata.entry("uid").or_insert_with(|| json!(format!("uid-{name}-{}", all.len())));
        let kind = object["kind"].as_str()?.to_owned();
        if !matches!(kind.as_str(), "Namespace" | "Node") && object["metadata"]["namespace"].is_null() {
            object["metadata"]["namespace"] = json!("default");
        }
        if kind == "NetworkPolicy" {
            with_defaults(&mut object);
        }
        all.push(object);
    }
    Some(all)
}

/// The API server says the policyTypes of every policy.
fn with_defaults(policy: &mut Value) {
    let has_egress = policy["spec"]["egress"].as_array().is_some_and(|rules| !rules.is_empty());
    if policy["spec"].is_object() && policy["spec"]["policyTypes"].is_null() {
        policy["spec"]["policyTypes"] = if has_egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    }
}

/// Serves objects: those of a kind in a list, and workloads by their names.
fn serve_objects(files: &Files, objects: Vec<Value>) {
    serve_objects_but(files, objects, None);
}

/// As [`serve_objects`], to one who may not read these.
fn serve_objects_but(files: &Files, objects: Vec<Value>, forbidden: Option<&'static str>) {
    const LISTS: [(&str, &str); 6] = [
        ("/api/v1/namespaces", "Namespace"),
        ("/api/v1/nodes", "Node"),
        ("/api/v1/pods", "Pod"),
        ("/api/v1/services", "Service"),
        ("/apis/discovery.k8s.io/v1/endpointslices", "EndpointSlice"),
        ("/apis/networking.k8s.io/v1/networkpolicies", "NetworkPolicy"),
    ];
    serve(files, move |path| -> Reply {
        if path == "/apis" {
            return Some((200, json!({"groups": []})));
        }
        if let Some((_, kind)) = LISTS.iter().find(|(of, _)| *of == path) {
            return items(objects.iter().filter(|of| of["kind"] == *kind).cloned().collect());
        }
        let parts: Vec<&str> = path.split('/').collect();
        let ["", _, .., "namespaces", namespace, plural, name] = parts.as_slice() else {
            return refused(404, "NotFound");
        };
        if forbidden == Some(*plural) {
            return refused(403, "Forbidden");
        }
        let is_it = |of: &&Value| {
            let kind = of["kind"].as_str().unwrap_or_default().to_lowercase();
            of["metadata"]["name"] == *name
                && of["metadata"]["namespace"] == *namespace
                && *plural == format!("{kind}s")
        };
        objects.iter().find(is_it).map_or_else(|| refused(404, "NotFound"), |of| Some((200, of.clone())))
    });
}

fn explain(files: &Files, words: &[&str]) -> Answer {
    files.run(&[&["explain", "--kubeconfig", "kubeconfig", "-n", "default"], words].concat())
}

/// The parts of an answer that say why something is denied, each from its headline to the next empty line.
fn denials(answer: &Answer) -> Vec<String> {
    answer.out.split("\n\n").filter(|part| part.starts_with("denied[")).map(str::to_owned).collect()
}

/// Whether a denial has its field path and, where it is about one thing, this with a mark.
fn has_mark(denial: &str) -> bool {
    let has_path = denial.lines().nth(1).is_some_and(|line| line.starts_with("  --> "));
    // Of rules that are equally far none is marked, and no field of a Service says that its pods are not ready or
    // have no address of a family.
    let is_about_many = denial.contains(" rules are equally near; the first wants") || denial.contains("about DNS");
    let is_of_pods =
        denial.contains("is not ready") || denial.contains("is ready") || denial.contains("backends has an");
    let has_no_field = denial.contains("it has no spec");
    has_path && (has_no_field || denial.lines().any(|line| line.contains('^')) || is_about_many || is_of_pods)
}

/// At most this many questions of each file are asked.
const ASKED: usize = 4;

#[test]
fn every_denial_of_a_cluster_has_its_field_path_and_the_field() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/cases"));
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for path in yaml_files(folder) {
        let text = std::fs::read_to_string(&path).unwrap();
        let (questions, with) = questions(&text);
        let of_file = |name: &String| objects(&std::fs::read_to_string(folder.join(name)).unwrap());
        let others: Option<Vec<Vec<Value>>> = with.iter().map(of_file).collect();
        // What only files can have: documents that an API server refuses.
        let (Some(others), Some(own)) = (others, objects(&text)) else { continue };
        let files = Files::of("");
        serve_objects(&files, others.into_iter().flatten().chain(own).collect());
        let of_two_ends = |words: &Vec<&str>| {
            words.len() == 3 && words[0] == "explain" && !words.iter().any(|word| word.starts_with('-'))
        };
        let denied = questions.iter().filter(|of| of.is_denied()).map(Question::words).filter(of_two_ends);
        for words in denied.take(ASKED) {
            let rest = &words[1..];
            let answer = explain(&files, rest);
            for denial in denials(&answer) {
                seen += 1;
                if !has_mark(&denial) {
                    wrong.push(format!("{}: {}\n{denial}", path.display(), rest.join(" ")));
                }
            }
        }
    }
    assert!(seen > 150, "only {seen} denials were seen");
    assert!(wrong.is_empty(), "{} of {seen} denials have no mark:\n{}", wrong.len(), wrong.join("\n\n"));
}

const ENDS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {kubernetes.io/metadata.name: default}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {nodeName: n1, containers: [{name: c}]}
status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: v1
kind: Pod
metadata:
  name: cart-5d4f8-aaaa
  labels: {app: cart, pod-template-hash: 5d4f8}
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: cart-5d4f8, uid: u, controller: true}]
spec: {nodeName: n2, containers: [{name: c, ports: [{name: dns, containerPort: 53}]}]}
status: {phase: Running, podIP: 10.0.0.2, podIPs: [{ip: 10.0.0.2}], conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart, labels: {app: cart, tier: backend}}
spec:
  template: {metadata: {labels: {app: cart}}, spec: {containers: [{name: c, ports: [{name: dns, containerPort: 53}]}]}}
---
";

fn cluster(more: &str) -> Files {
    let files = Files::of("");
    serve_objects(&files, objects(&[ENDS.trim_start(), more].concat()).unwrap());
    files
}

fn says(answer: &Answer, texts: &[&str]) {
    for text in texts {
        assert!(answer.out.contains(text), "{text:?} is not in {}{}", answer.out, answer.err);
    }
}

#[test]
fn a_policy_that_allows_nothing_is_shown_with_what_of_it_isolates() {
    let files = cluster(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: deny}\nspec: {podSelector: {}}\n",
    );
    let answer = explain(&files, &["web", "cart:53"]);
    says(
        &answer,
        &[
            "denied[default-deny-only]",
            "  --> networkpolicy default/deny  spec.policyTypes[0]\n",
            "  |   - Ingress\n  |     ^^^^^^^ isolates",
            "isolates its pods for ingress, and no rule admits anything",
        ],
    );
}

#[test]
fn a_service_that_leads_nowhere_is_shown_with_the_field_that_is_why() {
    let service = |name: &str, spec: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: 10.96.0.{}, {spec}}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata: {{name: {name}-1, labels: \
             {{kubernetes.io/service-name: {name}}}}}\n",
            name.len()
        )
    };
    let endpoint = "endpoints: [{addresses: [10.0.0.2], conditions: {ready: true}, nodeName: n2, targetRef: {kind: Pod, \
                    name: cart-5d4f8-aaaa}}]\n";
    let policies = [
        service("local", "internalTrafficPolicy: Local, selector: {app: cart}, ports: [{port: 80, targetPort: 53}]"),
        format!("ports: [{{port: 53, protocol: TCP}}]\n{endpoint}---\n"),
        service("carts", "selector: {app: carts}, ports: [{port: 80}]"),
        "ports: []\nendpoints: []\n---\n".to_owned(),
        service("no-name", "selector: {app: cart}, ports: [{port: 53, protocol: UDP, targetPort: dns}]"),
        format!("ports: []\n{endpoint}---\n"),
        service("portless", "selector: {app: cart}, ports: [{port: 80, targetPort: 53}]"),
        format!("ports: [{{port: 53, protocol: TCP}}]\n{endpoint}"),
    ];
    let files = cluster(&policies.concat());
    for (to, texts) in [
        (
            "svc/local",
            &[
                "  --> service default/local  spec.internalTrafficPolicy\n",
                "internalTrafficPolicy: Local",
                "^^^ a node leads to its own pods only",
            ][..],
        ),
        (
            "svc/carts",
            &[
                "  --> service default/carts  spec.selector\n",
                "app: carts",
                "selects no pod that could be a backend",
                // A cluster has an EndpointSlice of it too, which says nothing of this.
                "its selector selects no pod: it selects app=carts; default/deploy/cart has app=cart",
            ],
        ),
        (
            "svc/no-name",
            &[
                "  --> service default/no-name  spec.ports[0].targetPort\n",
                "targetPort: dns",
                "^^^ no pod has a UDP port named dns",
                "their port dns is TCP",
            ],
        ),
        (
            "svc/portless:81",
            &["  --> service default/portless  spec.ports\n", "^^^ wants one of these, there is TCP 81"],
        ),
    ] {
        let answer = explain(&files, &["web", to]);
        assert_eq!(answer.code, 1, "{}{}", answer.out, answer.err);
        says(&answer, texts);
    }
}

/// The label is on the Deployment, which a list of pods does not say.
#[test]
fn a_label_on_the_workload_and_not_in_its_template_is_said_as_from_files() {
    let policy = |name: &str, spec: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n"
        )
    };
    let from_backend = "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: \
                        {tier: backend}}}]}]}";
    let of_backend = "{podSelector: {matchLabels: {tier: backend}}, ingress: [{from: [{podSelector: {matchLabels: \
                      {app: api}}}]}]}";
    let text = [policy("web", from_backend), policy("backend", of_backend)].concat();
    let files = cluster(text.trim_end().trim_end_matches("---"));
    let denied = explain(&files, &["cart", "web:80"]);
    says(
        &denied,
        &[
            "denied[peer-label-missing]",
            "the deployment itself has a label tier (metadata.labels), which its pods do not get",
            "the source, default/deploy/cart, lacks the label that the rule asks for; add this to its \
             spec.template.metadata.labels:\n           tier: backend\n",
        ],
    );
    let near = "near[subject-near-miss]: networkpolicy default/backend wants tier=backend, there is tier=backend in \
                metadata.labels of default/deploy/cart, not in its template";
    says(&explain(&files, &["web", "cart:53"]), &["ALLOWED", near]);
    says(&explain(&files, &["cart"]), &[near]);
    // The pod was made after an older template.
    let newer = Files::of("");
    let (old, new) =
        ("template: {metadata: {labels: {app: cart}}", "template: {metadata: {labels: {app: cart, tier: backend}}");
    let ends = ENDS.replace(old, new);
    serve_objects(&newer, objects(&[ends.trim_start(), text.trim_end().trim_end_matches("---")].concat()).unwrap());
    says(
        &explain(&newer, &["cart", "web:80"]),
        &[
            "the template of default/deploy/cart has tier=backend, and this pod was made before that",
            "no change is needed: the template of default/deploy/cart has tier=backend already",
        ],
    );
    // One who may not read the Deployment gets the rest of the answer.
    let refusing = Files::of("");
    let objects = objects(&[ENDS.trim_start(), text.trim_end().trim_end_matches("---")].concat()).unwrap();
    serve_objects_but(&refusing, objects, Some("deployments"));
    let answer = explain(&refusing, &["cart", "web:80"]);
    assert!(!answer.out.contains("itself has a label") && answer.code == 1, "{}{}", answer.out, answer.err);
}
