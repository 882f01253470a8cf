//! The patches of kustomizations, as far as they change policies.

use super::foreign;
use super::problem::ObjectRef;
use super::span::TextPosition;
use super::tree::{self, Value, YamlNode};

/// A patch that a kustomization names or holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Patch {
    /// The file that it is in; none where it stands in the kustomization.
    pub(super) path: Option<String>,
    /// What the kustomization says that it changes.
    target: Option<Target>,
    /// The policies that a patch in the kustomization changes by itself.
    inline: Vec<PatchedPolicy>,
}

/// What a kustomization says that a patch changes. Each value is a regular expression.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    kind: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
}

/// The policies that a patch changes; any of them where a part of the name is not known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PatchedPolicy {
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
}

/// The kind whose patches decide.
const POLICY: &str = "NetworkPolicy";

/// Where a JSON patch changes what only a policy has.
const FIELDS: [&str; 4] = ["/spec/podSelector", "/spec/ingress", "/spec/egress", "/spec/policyTypes"];

/// The patches of a kustomization.
pub(super) fn patches(kustomization: &YamlNode) -> Vec<Patch> {
    let items = |key: &str| match kustomization.get(key).map(|list| &list.resolved().value) {
        Some(Value::List(items)) => items.as_slice(),
        _ => &[],
    };
    let text = |node: &YamlNode, key: &str| node.get(key).and_then(YamlNode::text).map(str::to_owned);
    let with_target = ["patches", "patchesJson6902"].into_iter().flat_map(items).map(|item| {
        let target = item.get("target").map(|of| Target {
            kind: text(of, "kind"),
            namespace: text(of, "namespace"),
            name: text(of, "name"),
        });
        let inline = text(item, "patch").map(|patch| policies_in(&patch)).unwrap_or_default();
        Patch { path: text(item, "path"), target, inline }
    });
    let merged = items("patchesStrategicMerge").iter().filter_map(YamlNode::text).map(|of| {
        let is_inline = of.contains('\n');
        let inline = if is_inline { policies_in(of) } else { Vec::new() };
        Patch { path: (!is_inline).then(|| of.to_owned()), target: None, inline }
    });
    with_target.chain(merged).collect()
}

/// The folders and files that a kustomization takes objects from, as it names them.
pub(super) fn used(kustomization: &YamlNode) -> Vec<String> {
    let items = |key: &str| match kustomization.get(key).map(|list| &list.resolved().value) {
        Some(Value::List(items)) => items.as_slice(),
        _ => &[],
    };
    let named = ["resources", "bases", "components"].into_iter().flat_map(items);
    named.filter_map(YamlNode::text).map(str::to_owned).collect()
}

impl Patch {
    /// The policies that it changes where it stands in the kustomization.
    pub(super) fn inline_policies(&self) -> Vec<PatchedPolicy> {
        if self.path.is_some() { Vec::new() } else { self.targeted(self.inline.clone()) }
    }

    /// The policies that a file changes that is this patch, and has these objects.
    pub(super) fn policies_of<'o>(
        &self,
        text: &str,
        objects: impl Iterator<Item = (&'o ObjectRef, bool)>,
    ) -> Vec<PatchedPolicy> {
        let named = objects.filter(|(object, _)| object.kind == POLICY).map(|(object, has_namespace)| PatchedPolicy {
            namespace: Some(object.namespace.clone()).filter(|_| has_namespace),
            name: Some(object.name.clone()).filter(|name| !name.is_empty()),
        });
        let named: Vec<PatchedPolicy> = named.collect();
        self.targeted(if named.is_empty() { of_fields(text) } else { named })
    }

    /// The policies that are changed, by the kustomization's target and by the names in the patch itself.
    fn targeted(&self, own: Vec<PatchedPolicy>) -> Vec<PatchedPolicy> {
        let Some(Target { kind, namespace, name }) = &self.target else { return own };
        let literal = |of: &Option<String>| of.clone().filter(|of| of.bytes().all(is_literal));
        match kind {
            None if own.is_empty() => own,
            Some(kind) if !kind.contains(POLICY) && kind.bytes().all(is_literal_or_choice) => Vec::new(),
            _ => vec![PatchedPolicy { namespace: literal(namespace), name: literal(name) }],
        }
    }
}

/// Whether a character of a regular expression stands for itself.
const fn is_literal(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-'
}

const fn is_literal_or_choice(byte: u8) -> bool {
    is_literal(byte) || matches!(byte, b'|' | b'(' | b')' | b'^' | b'$')
}

/// The policies that a patch changes by itself.
fn policies_in(patch: &str) -> Vec<PatchedPolicy> {
    let mut policies = Vec::new();
    tree::documents(patch, TextPosition::FIRST, |_| {}, &mut |document| {
        let Ok(node) = document else { return };
        let text = |path: &[&str]| node.at(path).and_then(YamlNode::text).map(str::to_owned);
        if foreign::is_json_patch(&node) {
            policies.extend(of_fields(patch));
        } else if text(&["kind"]).as_deref() == Some(POLICY) {
            let (namespace, name) = (text(&["metadata", "namespace"]), text(&["metadata", "name"]));
            policies.push(PatchedPolicy { namespace, name });
        }
    });
    policies
}

/// Any policy, where a JSON patch changes what only policies have.
fn of_fields(text: &str) -> Vec<PatchedPolicy> {
    let is_of_policy = FIELDS.iter().any(|field| text.contains(field));
    is_of_policy.then_some(PatchedPolicy { namespace: None, name: None }).into_iter().collect()
}
