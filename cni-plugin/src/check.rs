//! What has to be true of a request before either side acts on it. JSON of the right shape may
//! still name a file elsewhere, or an address that no set of the kernel takes.

use std::net::IpAddr;

use crate::protocol::{Add, Attachment, Command};

/// The longest container id. A note about the container has it in its file's name, which may
/// have 255 bytes.
const LONGEST_ID: usize = 200;

/// The longest name of a network interface (`IFNAMSIZ` less the closing zero).
const LONGEST_INTERFACE: usize = 15;

/// The longest name of a namespace or a pod that Kubernetes takes.
///
/// <https://kubernetes.io/docs/concepts/overview/working-with-objects/names/>
const LONGEST_NAME: usize = 253;

/// The longest path (`PATH_MAX`). A network's name and a UID are far shorter.
const LONGEST_TEXT: usize = 4_096;

/// How many addresses an interface may have. Each is an entry in several sets.
const MOST_ADDRESSES: usize = 64;

/// Whether this is a container id by the specification: a letter or digit, and then letters,
/// digits, `_`, `.` and `-`. So it is no path.
#[must_use]
pub fn is_container_id(id: &str) -> bool {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let begins = id.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    id.len() <= LONGEST_ID && begins && id.bytes().all(is_known)
}

/// Whether the kernel takes this as the name of an interface. So it is no path.
#[must_use]
pub fn is_interface(name: &str) -> bool {
    let is_wrong = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    !name.is_empty() && name.len() <= LONGEST_INTERFACE && name != "." && name != ".." && !name.contains(is_wrong)
}

/// Whether a pod can have this address: it must be able to stand for one interface of a network. The
/// kernel's sets refuse 0.0.0.0, and one refused entry holds up all others. An IPv4 address in the form
/// of IPv6 (`::ffff:10.0.0.1`) is refused too: packets carry the IPv4 address, which no rule would judge.
#[must_use]
pub fn is_of_a_pod(address: IpAddr) -> bool {
    let is_of_no_interface = match address {
        IpAddr::V4(address) => address.is_broadcast(),
        IpAddr::V6(address) => address.to_ipv4_mapped().is_some(),
    };
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || is_of_no_interface)
}

/// Checks a request.
///
/// # Errors
/// What is wrong with it, for an operator.
pub fn check(command: &Command) -> Result<(), String> {
    match command {
        Command::Add(add) | Command::Check(add) => check_add(add),
        Command::Delete { attachment } => check_attachment(attachment),
        Command::Gc { valid, .. } => valid.iter().try_for_each(check_attachment),
    }
}

fn check_attachment(attachment: &Attachment) -> Result<(), String> {
    if !is_container_id(&attachment.container_id) {
        return Err("containerId: letters, digits, _ . and - are expected, at most 200".to_owned());
    }
    if !is_interface(&attachment.interface) {
        return Err("interface: the name of a network interface is expected".to_owned());
    }
    Ok(())
}

fn check_add(add: &Add) -> Result<(), String> {
    check_attachment(&add.attachment)?;
    for (key, name) in [("namespace", &add.namespace), ("name", &add.name)] {
        if name.is_empty() || name.len() > LONGEST_NAME || name.contains(char::is_control) {
            return Err(format!("{key}: a name of at most {LONGEST_NAME} bytes is expected"));
        }
    }
    let uid = add.uid.as_deref().unwrap_or_default();
    for (key, text) in [("netns", add.netns.as_str()), ("network", &add.network), ("uid", uid)] {
        if text.len() > LONGEST_TEXT {
            return Err(format!("{key}: at most {LONGEST_TEXT} bytes are expected"));
        }
    }
    if add.host_interface.as_ref().is_some_and(|host| !is_interface(&host.name)) {
        return Err("hostInterface: the name of a network interface is expected".to_owned());
    }
    if add.addresses.len() > MOST_ADDRESSES {
        return Err(format!("addresses: {} are more than {MOST_ADDRESSES}", add.addresses.len()));
    }
    match add.addresses.iter().find(|address| !is_of_a_pod(**address)) {
        Some(address) => Err(format!("addresses: {address} is none that a pod can have")),
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::protocol::Request;

    fn check_with(key: &str, value: &Value) -> Result<(), String> {
        let mut add = json!({
            "version": 1, "command": "add", "containerId": "c", "interface": "eth0",
            "namespace": "shop", "name": "web", "addresses": ["10.0.0.1", "fd00::1"],
        });
        add[key] = value.clone();
        check(&serde_json::from_value::<Request>(add).unwrap().command)
    }

    #[test]
    fn what_names_a_file_elsewhere_or_no_pods_address_is_refused() {
        assert_eq!(check_with("name", &json!("web")), Ok(()));
        for (key, value) in [
            ("containerId", json!("../../etc/cron.d/x")),
            ("containerId", json!("/etc/x")),
            ("containerId", json!("")),
            ("interface", json!("x/../../../etc/x")),
            ("interface", json!("")),
            ("namespace", json!("")),
            ("name", json!("a\u{0}b")),
            ("name", json!("a".repeat(254))),
            ("addresses", json!(["0.0.0.0"])),
            ("addresses", json!(["10.0.0.1", "::"])),
            ("addresses", json!(["127.0.0.1"])),
            ("addresses", json!(["::1"])),
            ("addresses", json!(["224.0.0.1"])),
            ("addresses", json!(["ff02::1"])),
            ("addresses", json!(["255.255.255.255"])),
            ("addresses", json!(["::ffff:10.0.0.1"])),
            ("addresses", json!((0..65).map(|n| format!("10.0.0.{n}")).collect::<Vec<_>>())),
        ] {
            assert!(check_with(key, &value).is_err_and(|what| what.starts_with(key)), "{key} {value}");
        }
        let attachment = |id: &str| Attachment { container_id: id.to_owned(), interface: "eth0".to_owned() };
        assert!(check(&Command::Delete { attachment: attachment("../x") }).is_err());
        let valid = vec![attachment("a"), attachment("b/c")];
        assert!(check(&Command::Gc { network: "n".to_owned(), valid }).is_err());
    }
}
