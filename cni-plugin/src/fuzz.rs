//! Any bytes, as all that the plugin and the agent read of others: for fuzzing.

use serde_json::value::RawValue;

use crate::check::{check, is_of_a_pod};
use crate::configuration::Input;
use crate::environment::Environment;
use crate::note;
use crate::previous::Previous;
use crate::protocol::{Answer, Command, Request};

/// Reads bytes as each message of the protocol, as a network configuration, as the result of a
/// plugin and as `CNI_ARGS`.
///
/// # Panics
/// If a reader panics, or lets through what it is there to refuse.
pub fn fuzz_wire(data: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(data) {
        let written = serde_json::to_vec(&request).unwrap_or_default();
        assert_eq!(serde_json::from_slice::<Request>(&written).ok().as_ref(), Some(&request), "it is read as written");
        if check(&request.command).is_ok()
            && let Command::Add(add) | Command::Check(add) = &request.command
        {
            let folder = note::folder("/run/npc/cni.sock".as_ref());
            let path = note::path(&folder, &add.attachment);
            assert_eq!(path.parent(), Some(&*folder), "a note lies in its folder");
            assert!(path.file_name().is_some_and(|name| name.len() <= 255), "the kernel takes its name");
            assert!(add.addresses.iter().all(|address| is_of_a_pod(*address)));
        }
    }
    if let Ok((request, _)) = note::parse(data) {
        assert!(check(&request.command).is_ok(), "a note is checked as a request is");
    }
    if let Ok(answer) = serde_json::from_slice::<Answer>(data) {
        let written = serde_json::to_vec(&answer).unwrap_or_default();
        assert!(serde_json::from_slice::<Answer>(&written).is_ok());
    }
    if let Ok(input) = Input::parse(data) {
        let _ = (input.version(), input.settings(), input.attachments());
        assert!(input.socket().is_absolute());
        if let Some(previous) = input.previous() {
            read_result(previous);
        }
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(result) = serde_json::from_str::<&RawValue>(text) {
        read_result(result);
    }
    let environment = Environment::read(|_| Some(text.to_owned()));
    let _ = (environment.container_id(), environment.interface(), environment.netns(), environment.pod());
}

fn read_result(text: &RawValue) {
    if let Ok(previous) = Previous::parse(text)
        && let Ok(addresses) = previous.addresses("eth0", "/run/netns/pod")
    {
        assert!(addresses.iter().all(|address| is_of_a_pod(*address)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What each reader reads, and so what is worth changing a byte of.
    const SAMPLES: [&str; 6] = [
        r#"{"version":1,"command":"add","containerId":"c","interface":"eth0","network":"n","netns":"/run/netns/x","namespace":"shop","name":"web","uid":"u","addresses":["10.0.0.1","fd00::1"],"hostInterface":{"name":"veth1","index":7},"wait":29000}"#,
        r#"{"version":1,"command":"gc","network":"n","valid":[{"containerId":"c","interface":"eth0"}]}"#,
        r#"{"version":1,"command":"delete","containerId":"c","interface":"eth0","left":1234567}"#,
        r#"{"version":1,"error":{"kind":"timeout","message":"m"}}"#,
        r#"{"cniVersion":"1.1.0","name":"n","socket":"/s","timeoutSeconds":9,"failurePolicy":"open","openNamespaces":["a"],"cni.dev/valid-attachments":[{"containerID":"c","ifname":"eth0"}],"prevResult":{"interfaces":[{"name":"eth0","sandbox":"/run/netns/pod"}],"ips":[{"address":"10.0.0.5/24","interface":0},{"address":"0.0.0.0/0"}]}}"#,
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=u",
    ];

    /// Parts that readers treat in a way of their own.
    const PARTS: [&str; 12] = [
        "../",
        "/",
        "\\u0000",
        "0.0.0.0",
        "::ffff:0.0.0.0",
        "-1",
        "1e999",
        "null",
        "[",
        "{",
        "\"",
        "18446744073709551616",
    ];

    proptest! {
        #[test]
        fn changed_messages_are_read_or_refused(
            sample in proptest::sample::select(&SAMPLES[..]),
            changes in proptest::collection::vec((any::<proptest::sample::Index>(), 0_usize..9, proptest::sample::select(&PARTS[..])), 0..6),
        ) {
            let mut bytes = sample.as_bytes().to_vec();
            for (place, removed, part) in changes {
                let begin = place.index(bytes.len() + 1);
                let end = (begin + removed).min(bytes.len());
                bytes.splice(begin..end, part.bytes());
            }
            fuzz_wire(&bytes);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            fuzz_wire(&bytes);
        }
    }
}
