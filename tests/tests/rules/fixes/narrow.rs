//! Fixes admit no more than they name.

use npc_compiler::algebra::cidr::Cidr;
use npc_compiler::verdict::fix::{Change, Edit};
use serde_json::{Value, json};

/// Whether all that a fix writes names its peers and its ports. A prefix is named where it was
/// asked about, or one that holds it. A rule without ports is for a question without one. What the author of the object wrote already, in another
/// place of it, may be wider, but for a rule for every peer.
pub(super) fn is_narrow(change: &Change, before: &Value, asked: [&str; 2], names_port: bool) -> bool {
    let is_address = |text: &str| text.ends_with("/32") || text.ends_with("/128");
    let has_labels = |selector: &Value| selector["matchLabels"].as_object().is_some_and(|labels| !labels.is_empty());
    let is_peer = |peer: &Value| {
        let is_asked = |cidr: &Cidr| {
            let asked = asked.iter().filter_map(|text| Cidr::parse(text).ok().filter(|of| of.family == cidr.family));
            cidr.network().prefix() > 0
                && asked.into_iter().any(|of| cidr.addresses().difference(&of.addresses()).is_empty())
        };
        let is_one = |text: &str| is_address(text) || Cidr::parse(text).is_ok_and(|cidr| is_asked(&cidr));
        has_labels(&peer["podSelector"]) || peer["ipBlock"]["cidr"].as_str().is_some_and(is_one)
    };
    let is_port = |port: &Value| port.get("port").is_some() && (port["port"] != 1 || port["endPort"] != u16::MAX);
    let are = |list: Option<&Value>, is_narrow: &dyn Fn(&Value) -> bool| {
        list.and_then(Value::as_array).is_some_and(|items| !items.is_empty() && items.iter().all(is_narrow))
    };
    let is_rule = |rule: &Value| {
        let ports = rule.get("ports");
        let are_ports = are(ports, &is_port) || (!names_port && ports.is_none());
        are(rule.get("from").or_else(|| rule.get("to")), &is_peer) && are_ports
    };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    // A rule of the other direction.
    let is_turned = |rule: &Value| {
        let (peers, old_peers, old) =
            if rule.get("from").is_some() { ("from", "to", "egress") } else { ("to", "from", "ingress") };
        let mut rules = list(&before["spec"][old]).into_iter();
        let peers = list(&rule[peers]);
        !peers.is_empty() && rules.any(|of| list(&of[old_peers]) == peers && list(&of["ports"]) == list(&rule["ports"]))
    };
    // An item's own podSelector, without its namespaceSelector.
    let is_split = |item: &Value| {
        let rules = [list(&before["spec"]["ingress"]), list(&before["spec"]["egress"])].concat();
        let mut items = rules.iter().flat_map(|rule| [list(&rule["from"]), list(&rule["to"])].concat());
        items.any(|of| of["namespaceSelector"].is_object() && of["podSelector"] == item["podSelector"])
    };
    let is_operation = |operation: &Value| {
        let (path, value) = (operation["path"].as_str().unwrap_or_default(), &operation["value"]);
        if operation["op"] == "remove" {
            // The exception is the asked prefix or address itself; a rule moves to the other direction.
            let is_whole_rule = path.matches('/').count() == 3 && !path.starts_with("/spec/podSelector");
            return path.contains("/ipBlock/except/") || is_whole_rule;
        }
        let whole = path.strip_suffix("/-");
        let items = if whole.is_some() { json!([value]) } else { value.clone() };
        match whole.unwrap_or(path).rsplit('/').next().unwrap_or_default() {
            "ingress" | "egress" => are(Some(&items), &|rule| is_rule(rule) || is_turned(rule)),
            "from" | "to" => are(Some(&items), &|item| is_peer(item) || is_split(item)),
            "ports" => are(Some(&items), &is_port),
            "podSelector" | "namespaceSelector" => has_labels(value),
            // In place of an item that was not understood.
            index if index.parse::<usize>().is_ok() => {
                let list = path.rsplit('/').nth(1);
                if list == Some("ports") { is_port(value) } else { is_peer(value) }
            }
            "cidr" => value.as_str().is_some_and(is_address),
            "operator" => ["In", "NotIn", "Exists", "DoesNotExist"].iter().any(|operator| value == operator),
            "protocol" => ["TCP", "UDP", "SCTP"].iter().any(|protocol| value == protocol),
            "port" => value.is_number() || value.is_string(),
            "policyTypes" => true,
            _ => false,
        }
    };
    match &change.edit {
        Edit::NewPolicy(document) => {
            let spec = &document["spec"];
            let mut rules = ["ingress", "egress"].into_iter().filter_map(|section| spec.get(section));
            rules.all(|rules| are(Some(rules), &is_rule)) && has_labels(&spec["podSelector"])
        }
        // A policy as its author wrote it; no rule is for every peer on every port.
        Edit::MovedPolicy(document, _) => {
            let rules = [list(&document["spec"]["ingress"]), list(&document["spec"]["egress"])].concat();
            let direction = change.direction.section();
            let is_wide =
                |rule: &Value| [list(&rule["from"]), list(&rule["to"]), list(&rule["ports"])].concat().is_empty();
            rules.iter().all(|rule| !list(&document["spec"][direction]).contains(rule) || !is_wide(rule))
        }
        Edit::Policy(patch) => serde_json::to_value(patch).unwrap().as_array().unwrap().iter().all(is_operation),
        Edit::Labels(..) => true,
    }
}
