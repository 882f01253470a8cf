//! The variables by which a runtime gives a command, and the container that it is for.

use crate::check::{is_container_id, is_interface};
use crate::{Code, Error};

/// The variables, as they are; nothing is checked yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// `CNI_COMMAND`
    pub command: Option<String>,
    /// `CNI_CONTAINERID`
    pub container_id: Option<String>,
    /// `CNI_NETNS`
    pub netns: Option<String>,
    /// `CNI_IFNAME`
    pub interface: Option<String>,
    /// `CNI_ARGS`
    pub arguments: Option<String>,
}

/// A pod as the runtime names it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// `K8S_POD_NAMESPACE`
    pub namespace: String,
    /// `K8S_POD_NAME`
    pub name: String,
    /// `K8S_POD_UID`; of a static pod, the hash of its manifest.
    pub uid: Option<String>,
}

impl Environment {
    /// Reads the variables. An empty one is a missing one.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        let given = |name| variable(name).filter(|value| !value.is_empty());
        Self {
            command: given("CNI_COMMAND"),
            container_id: given("CNI_CONTAINERID"),
            netns: given("CNI_NETNS"),
            interface: given("CNI_IFNAME"),
            arguments: given("CNI_ARGS"),
        }
    }

    /// The container id that the runtime gave.
    ///
    /// # Errors
    /// If it is missing, or is none by the specification: a letter or digit, and then
    /// letters, digits, `_`, `.` and `-`. So it is no path.
    pub fn container_id(&self) -> Result<&str, Error> {
        let id = required("CNI_CONTAINERID", self.container_id.as_deref())?;
        if is_container_id(id) {
            Ok(id)
        } else {
            Err(wrong("CNI_CONTAINERID", "letters, digits, _ . and - are expected, at most 200"))
        }
    }

    /// The name of the interface in the container.
    ///
    /// # Errors
    /// If it is missing, or none that the kernel would take.
    pub fn interface(&self) -> Result<&str, Error> {
        let name = required("CNI_IFNAME", self.interface.as_deref())?;
        if is_interface(name) {
            Ok(name)
        } else {
            Err(wrong("CNI_IFNAME", "the name of a network interface is expected"))
        }
    }

    /// The path of the container's network namespace.
    ///
    /// # Errors
    /// If it is missing.
    pub fn netns(&self) -> Result<&str, Error> {
        required("CNI_NETNS", self.netns.as_deref())
    }

    /// The pod that the container is of. Other arguments are of no account.
    ///
    /// # Errors
    /// If `CNI_ARGS` names no pod.
    pub fn pod(&self) -> Result<Pod, Error> {
        let mut pod = Pod::default();
        for pair in self.arguments.as_deref().unwrap_or_default().split(';') {
            match pair.split_once('=') {
                Some(("K8S_POD_NAMESPACE", value)) => value.clone_into(&mut pod.namespace),
                Some(("K8S_POD_NAME", value)) => value.clone_into(&mut pod.name),
                Some(("K8S_POD_UID", value)) if !value.is_empty() => pod.uid = Some(value.to_owned()),
                _ => {}
            }
        }
        if pod.namespace.is_empty() || pod.name.is_empty() {
            return Err(wrong(
                "CNI_ARGS",
                "K8S_POD_NAMESPACE and K8S_POD_NAME are expected; npc-cni serves the pods of Kubernetes only",
            ));
        }
        Ok(pod)
    }
}

fn required<'a>(name: &str, value: Option<&'a str>) -> Result<&'a str, Error> {
    value.ok_or_else(|| wrong(name, "it is missing"))
}

fn wrong(name: &str, what: &str) -> Error {
    Error::new(Code::InvalidEnvironment, format!("npc-cni: the environment variable {name} cannot be used: {what}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Environment {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
        Environment::read(|name| find(name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn a_container_id_is_no_path() {
        for (id, is_good) in [
            ("abc-1.2_3", true),
            (&"a".repeat(200), true),
            (&"a".repeat(201), false),
            ("../../etc/passwd", false),
            ("a/b", false),
            ("..", false),
            (".hidden", false),
            ("a\nb", false),
            ("ä", false),
            ("", false),
        ] {
            assert_eq!(with(&[("CNI_CONTAINERID", id)]).container_id().is_ok(), is_good, "{id}");
        }
    }

    #[test]
    fn an_interface_has_a_name_that_the_kernel_takes() {
        for (name, is_good) in
            [("eth0", true), ("a-very-long-nam", true), ("a-very-long-name", false), ("..", false), ("a/b", false)]
        {
            assert_eq!(with(&[("CNI_IFNAME", name)]).interface().is_ok(), is_good, "{name}");
        }
        assert_eq!(with(&[]).interface().unwrap_err().code, Code::InvalidEnvironment);
    }

    #[test]
    fn a_pod_is_named_by_arguments_and_others_are_ignored() {
        let text =
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;X;K8S_POD_INFRA_CONTAINER_ID=c;K8S_POD_UID=u";
        let pod = with(&[("CNI_ARGS", text)]).pod().unwrap();
        assert_eq!((&*pod.namespace, &*pod.name, pod.uid.as_deref()), ("shop", "web-0", Some("u")));
        let pod = with(&[("CNI_ARGS", "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=")]).pod().unwrap();
        assert_eq!(pod.uid, None);
        assert!(with(&[("CNI_ARGS", "K8S_POD_NAMESPACE=shop")]).pod().is_err());
        assert!(with(&[]).pod().is_err());
    }
}
