//! Why no connection to the API server comes about, in words: the libraries below say it in names of
//! Rust types.

use std::error::Error;

/// What an error means to an operator, and what to do, where libraries say it in words of their own.
pub(super) fn words(error: &(dyn Error + 'static)) -> Option<String> {
    plain(&with_causes(error))
}

/// Whether a proxy failed to lead to the API server, so that what the system says is about the proxy.
pub(super) fn is_at_proxy(error: &(dyn Error + 'static)) -> bool {
    is_of_proxy(&with_causes(error))
}

fn is_of_proxy(text: &str) -> bool {
    text.contains("tunnel error") || text.contains("SOCKS error")
}

fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut texts = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        texts.push(error.to_string());
        cause = error.source();
    }
    texts.join(": ")
}

/// Why the API server cannot be reached, by the text of an error with its causes.
fn plain(text: &str) -> Option<String> {
    if is_of_proxy(text) {
        let (_, cause) = text.rsplit_once(": ").unwrap_or(("", text));
        return Some(format!(
            "the proxy did not lead to the API server ({cause}); check proxy-url of the cluster in the kubeconfig, \
             HTTPS_PROXY, and NO_PROXY, which names the servers to reach without a proxy"
        ));
    }
    if text.contains("dns error") || text.contains("failed to lookup address") {
        return Some(
            "DNS knows no address of the API server's host; check the server in the kubeconfig, and the VPN or network \
             that leads to it"
                .to_owned(),
        );
    }
    if text.contains("received corrupt message") || text.contains("InvalidContentType") {
        return Some(
            "the server does not speak TLS; check the server in the kubeconfig: it may be for http://, or the port of \
             something else"
                .to_owned(),
        );
    }
    let (_, certificate) = text.split_once("invalid peer certificate: ")?;
    let has = |names: &[&str]| names.iter().any(|name| certificate.contains(name));
    Some(if has(&["NotValidForName"]) {
        "the API server's certificate is for another host name; check the server in the kubeconfig, or set \
         tls-server-name of the cluster to a name that the certificate has"
            .to_owned()
    } else if has(&["Expired"]) {
        "the API server's certificate has expired; renew it, or check the clock of this machine".to_owned()
    } else if has(&["NotValidYet"]) {
        "the API server's certificate is not valid yet; check the clock of this machine".to_owned()
    } else if has(&["UnknownIssuer", "CaUsedAsEndEntity", "BadSignature"]) {
        "the authority that signed the API server's certificate is not the one of the kubeconfig; set \
         certificate-authority or certificate-authority-data of the cluster to the authority of this API server"
            .to_owned()
    } else {
        format!(
            "the API server's certificate is not accepted ({}); check certificate-authority of the cluster in the kubeconfig",
            certificate.trim()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libraries_say_of_a_connection_is_said_in_words() {
        for (text, says) in [
            (
                "client error (Connect): tunnel error: unsuccessful",
                "the proxy did not lead to the API server (unsuccessful)",
            ),
            ("client error (Connect): invalid peer certificate: UnknownIssuer", "certificate-authority-data"),
            ("client error (Connect): invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))", "authority"),
            ("client error (Connect): invalid peer certificate: certificate expired: Expired", "has expired"),
            ("invalid peer certificate: certificate not valid for name \"h\": NotValidForName", "tls-server-name"),
            ("invalid peer certificate: BadEncoding", "not accepted (BadEncoding)"),
            ("client error (Connect): received corrupt message of type InvalidContentType", "does not speak TLS"),
            (
                "client error (Connect): dns error: failed to lookup address information: Name or service not known",
                "DNS knows no address",
            ),
        ] {
            let plain = plain(text).unwrap_or_else(|| panic!("{text}"));
            assert!(plain.contains(says), "{text}: {plain}");
            assert!(!plain.contains("Connect") && !plain.contains("OtherError"), "{plain}");
        }
        assert_eq!(plain("Connection refused (os error 111)"), None);
    }
}
