#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

use proptest::prelude::*;
use serde_json::json;

use super::*;

const AZURE: &str = r#"{
   "cniVersion":"0.3.0",
   "name":"azure",
   "disableGC": true,
   "plugins":[
      {"type":"azure-vnet", "mode":"transparent", "ipam":{"type":"azure-cns"}, "big": 12345678901234567890123},
      {"type":"portmap","capabilities":{"portMappings":true},"snat":true}
   ],
   "unknown": {"b": 1, "a": [1.0, 1e2]}
}"#;

fn list(text: &str) -> ConfList {
    ConfList::parse("10-azure.conflist", text.as_bytes()).unwrap()
}

fn own() -> Plugin {
    Plugin { kind: TYPE.to_owned(), text: RawValue::from_string(r#"{"type":"npc-cni"}"#.to_owned()).unwrap() }
}

#[test]
fn all_keys_stay_as_they_were_written_and_in_order() {
    let source = list(AZURE);
    let own = own();
    let text = source.text_with(source.plugins().iter().chain([&own]));
    let at = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part} is missing in {text}"));
    let parts = [
        "\"cniVersion\": \"0.3.0\"",
        "\"name\": \"azure\"",
        "\"disableGC\": true",
        r#"{"type":"azure-vnet", "mode":"transparent", "ipam":{"type":"azure-cns"}, "big": 12345678901234567890123}"#,
        r#"{"type":"portmap","capabilities":{"portMappings":true},"snat":true}"#,
        r#"{"type":"npc-cni"}"#,
        r#""unknown": {"b": 1, "a": [1.0, 1e2]}"#,
    ];
    assert!(parts.map(at).is_sorted(), "{text}");
    let read = list(&text);
    assert!(read.has_same_keys(&source));
    assert_eq!(read.plugins().len(), 3);
}

#[test]
fn a_single_plugin_is_a_list_of_it() {
    let text = r#"{"name":"net","cniVersion":"1.0.0","type":"ptp","ipam":{"type":"host-local"}}"#;
    let source = ConfList::parse("10-net.conf", text.as_bytes()).unwrap();
    let own = own();
    let written = source.text_with(source.plugins().iter().chain([&own]));
    let value: Value = serde_json::from_str(&written).unwrap();
    let expected = json!({"name": "net", "cniVersion": "1.0.0",
        "plugins": [serde_json::from_str::<Value>(text).unwrap(), {"type": "npc-cni"}]});
    assert_eq!(value, expected);
}

#[test]
fn what_a_runtime_or_our_plugin_refuses_is_no_source() {
    let deep = format!(r#"{{"cniVersion":"1.0.0","name":"n","plugins":[{{"type":"a"}}],"x":{}}}"#, "[".repeat(100_000));
    let huge = format!(r#"{{"cniVersion":"1.0.0","name":"{}","plugins":[{{"type":"a"}}]}}"#, "n".repeat(1 << 20));
    for text in [
        "",
        "{",
        "null",
        "[]",
        "{}{}",
        "\u{feff}{}",
        r#"{"cniVersion":"1.0.0","plugins":[{"type":"a"}]}"#,
        r#"{"cniVersion":"1.0.0","name":"","plugins":[{"type":"a"}]}"#,
        r#"{"cniVersion":"1.0.0","name":"n"}"#,
        r#"{"cniVersion":"1.0.0","name":"n","plugins":null}"#,
        r#"{"cniVersion":"1.0.0","name":"n","plugins":[]}"#,
        r#"{"cniVersion":"1.0.0","name":"n","plugins":[{}]}"#,
        r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":1}]}"#,
        r#"{"cniVersion":"1.0.0","name":"n","plugins":["a"]}"#,
        r#"{"cniVersion":"1.0.0","name":"n","type":"a"}"#,
        &deep,
        &huge,
    ] {
        assert!(ConfList::parse("1.conflist", text.as_bytes()).is_err(), "{}", &text[..text.len().min(80)]);
    }
    assert!(ConfList::parse("1.conf", AZURE.as_bytes()).is_err(), "a list under the name of a single plugin");
    for versions in [
        "",
        r#""cniVersion":"0.2.0","#,
        r#""cniVersion":1,"#,
        r#""cniVersion":"1.0.0","cniVersions":["1.0.0","2.0.0"],"#,
        r#""cniVersion":"1.0.0","cniVersions":"1.0.0","#,
    ] {
        let text = format!(r#"{{{versions}"name":"n","plugins":[{{"type":"a"}}]}}"#);
        assert!(list(&text).check_versions().is_err(), "{text}");
    }
    let fine = r#"{"cniVersion":"1.0.0","cniVersions":["0.4.0","1.1.0"],"name":"n","plugins":[{"type":"a"}]}"#;
    assert_eq!(list(fine).check_versions(), Ok(()));
}

#[test]
fn of_a_key_that_stands_there_twice_the_last_counts() {
    let text = r#"{"cniVersion":"0.2.0","name":"a","plugins":[{"type":"x"}],"cniVersion":"1.0.0","plugins":[{"type":"y","type":"z"}]}"#;
    let list = list(text);
    assert_eq!(list.check_versions(), Ok(()));
    assert_eq!(list.plugins().iter().map(|plugin| &*plugin.kind).collect::<Vec<_>>(), ["z"]);
}

#[test]
fn our_plugin_is_found_at_any_depth() {
    let leads = |text: &str| leads_to("05-npc.conflist", text.as_bytes()).unwrap();
    assert!(!leads(AZURE));
    for text in [
        r#"{"plugins":[{"type":"npc-cni"}]}"#,
        r#"{"type":"multus","delegates":[{"name":"n","plugins":[{"type":"azure-vnet"},{"type":"npc-cni"}]}]}"#,
        r#"{"x":[[[{"y":{"Type":"npc-cni"}}]]]}"#,
        // A map would keep the second.
        r#"{"type":"npc-cni","type":"other"}"#,
        r#"{"type":"multus","clusterNetwork":"/host/etc/cni/net.d/05-npc.conflist"}"#,
    ] {
        assert!(leads(text), "{text}");
    }
    for text in
        [r#"{"name":"npc-cni"}"#, r#"["npc-cni"]"#, r#"{"type":{"npc-cni":1}}"#, r#"{"clusterNetwork":"azure"}"#, "1"]
    {
        assert!(!leads(text), "{text}");
    }
}

/// JSON with keys that stand there twice, and numbers that no number type holds.
fn any_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        "-?[1-9][0-9]{0,30}(\\.[0-9]{1,5})?([eE][0-9]{1,2})?",
        "[a-z\\-]{0,8}".prop_map(|text| format!("{text:?}")),
        Just("\"npc-cni\"".to_owned()),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        let key = prop_oneof![Just("type"), Just("plugins"), Just("name"), Just("cniVersion"), Just("x")];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec((key, inner), 0..5).prop_map(|fields| {
                let fields: Vec<_> = fields.iter().map(|(key, value)| format!("{key:?}: {value}")).collect();
                format!("{{{}}}", fields.join(","))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = ConfList::parse("1.conflist", &bytes);
        let _ = leads_to("05-npc.conflist", &bytes);
    }

    #[test]
    fn any_json_is_read_without_a_panic_and_what_is_written_is_read_again(
        json in any_json(), cut in any::<prop::sample::Index>(), name in prop_oneof![Just("1.conf"), Just("1.conflist")]
    ) {
        let _ = ConfList::parse(name, &json.as_bytes()[..cut.index(json.len() + 1)]);
        if let Ok(list) = ConfList::parse(name, json.as_bytes()) {
            let text = list.text_with(list.plugins());
            let again = ConfList::parse("1.conflist", text.as_bytes()).unwrap();
            prop_assert!(again.has_same_keys(&list));
            prop_assert_eq!(again.plugins().len(), list.plugins().len());
            for (a, b) in again.plugins().iter().zip(list.plugins()) {
                prop_assert_eq!(a.text.get(), b.text.get());
            }
        }
    }
}
