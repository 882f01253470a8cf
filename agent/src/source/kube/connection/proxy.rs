//! The proxy that leads to an API server: the one that kubectl would take.
//!
//! kube has rules of its own. It compares NO_PROXY with the address of the proxy and not with that of the
//! server, takes no HTTP_PROXY, and asks a proxy for servers on this machine. So its choice is replaced.

use std::fmt;
use std::net::IpAddr;

use http::Uri;
use ipnetwork::IpNetwork;
use kube::config::Kubeconfig;

/// What names a proxy is no URL of one.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot use the proxy that {by} names: {why}; write it as http://HOST:PORT, https://HOST:PORT or socks5://HOST:PORT"
)]
pub struct Unusable {
    by: Named,
    why: &'static str,
}

/// What names a proxy.
#[derive(Debug, Clone, Copy)]
enum Named {
    /// `proxy-url` of the cluster in a kubeconfig.
    Kubeconfig,
    /// A variable of the environment.
    Variable(&'static str),
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kubeconfig => f.write_str("proxy-url of the kubeconfig"),
            Self::Variable(name) => f.write_str(name),
        }
    }
}

/// The `proxy-url` of the cluster that a context names, by default the current one.
pub(super) fn of_kubeconfig(config: &Kubeconfig, context: Option<&str>) -> Option<String> {
    let context = context.or(config.current_context.as_deref())?;
    let context = config.contexts.iter().find(|named| named.name == context)?.context.as_ref()?;
    let cluster = config.clusters.iter().find(|named| named.name == context.cluster)?.cluster.as_ref()?;
    cluster.proxy_url.clone().filter(|url| !url.is_empty())
}

/// The proxy for a server. `proxy_url` of a kubeconfig holds for every server. Without it the environment
/// decides, as in programs in Go: by the scheme of the server, never for one on this machine, and not for
/// what NO_PROXY names.
pub(super) fn proxy_for(
    server: &Uri,
    proxy_url: Option<&str>,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Option<Uri>, Unusable> {
    if let Some(url) = proxy_url {
        return parsed(url, Named::Kubeconfig).map(Some);
    }
    let set = |names: [&'static str; 2]| {
        names.into_iter().find_map(|name| Some((name, environment(name).filter(|value| !value.is_empty())?)))
    };
    let is_tls = server.scheme_str() == Some("https");
    let names = if is_tls { ["HTTPS_PROXY", "https_proxy"] } else { ["HTTP_PROXY", "http_proxy"] };
    let Some((name, url)) = set(names) else { return Ok(None) };
    let host = server.host().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase();
    let port = server.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let excepted = set(["NO_PROXY", "no_proxy"]).map_or_else(String::new, |(_, list)| list);
    if is_local(&host) || is_excepted(&host, port, &excepted) {
        return Ok(None);
    }
    parsed(&url, Named::Variable(name)).map(Some)
}

/// A proxy's URL; without a scheme that of HTTP.
fn parsed(url: &str, by: Named) -> Result<Uri, Unusable> {
    let unusable = |why| Unusable { by, why };
    let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    // The proxy resolves the names of servers in either case.
    let url = url.strip_prefix("socks5h://").map_or(url.clone(), |rest| format!("socks5://{rest}"));
    let uri: Uri = url.parse().map_err(|_| unusable("it is no URL"))?;
    match uri.scheme_str() {
        Some("http" | "https" | "socks5") if uri.host().is_some_and(|host| !host.is_empty()) => Ok(uri),
        Some("http" | "https" | "socks5") => Err(unusable("it has no host")),
        _ => Err(unusable("npc does not know its scheme")),
    }
}

fn is_local(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether a list such as `10.0.0.0/8,.example.com,host:6443` has a host. An entry that is none of these
/// forms matches nothing.
fn is_excepted(host: &str, port: u16, list: &str) -> bool {
    let address: Option<IpAddr> = host.parse().ok();
    list.split(',').map(|entry| entry.trim().to_ascii_lowercase()).any(|entry| {
        if entry == "*" {
            return true;
        }
        if entry.contains('/') {
            let net = entry.parse::<IpNetwork>().ok();
            return net.zip(address).is_some_and(|(net, address)| net.contains(address));
        }
        let (name, wanted) = split_port(&entry);
        if wanted.is_some_and(|wanted| wanted != port) {
            return false;
        }
        if let Ok(of_entry) = name.parse::<IpAddr>() {
            return address == Some(of_entry);
        }
        let name = name.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(name);
        match name.strip_prefix('.') {
            Some("") => false,
            Some(_) => host.ends_with(name),
            None if name.is_empty() => false,
            None => host.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.')),
        }
    })
}

/// `host:port`, `[address]:port` or either without a port.
fn split_port(entry: &str) -> (&str, Option<u16>) {
    if entry.parse::<IpAddr>().is_ok() {
        return (entry, None);
    }
    let (name, port) = match entry.rsplit_once(':').map(|(name, port)| (name, port.parse().ok())) {
        Some((name, Some(port))) => (name, Some(port)),
        _ => (entry, None),
    };
    (name.trim_matches(['[', ']']), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The proxy's host for a server with this environment; none where the server is asked itself.
    fn host(server: &str, environment: &[(&str, &str)]) -> Option<String> {
        let value = |name: &str| {
            environment.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned())
        };
        let proxy = proxy_for(&server.parse().expect("a server"), None, value).expect("a proxy's URL");
        proxy.and_then(|proxy| proxy.host().map(str::to_owned))
    }

    #[test]
    fn the_scheme_of_the_server_chooses_the_variable() {
        let both = [("HTTPS_PROXY", "http://secure:3128"), ("http_proxy", "plain:3128")];
        assert_eq!(host("https://api.example.com:6443", &both).as_deref(), Some("secure"));
        assert_eq!(host("http://api.example.com", &both).as_deref(), Some("plain"));
        assert_eq!(host("http://api.example.com", &both[..1]), None);
        assert_eq!(
            host("https://api.example.com", &[("HTTPS_PROXY", ""), ("https_proxy", "low:1")]).as_deref(),
            Some("low")
        );
    }

    #[test]
    fn no_proxy_leads_to_no_server_on_this_machine() {
        for server in ["https://localhost:6443", "https://127.0.0.1:6443", "https://[::1]:6443"] {
            assert_eq!(host(server, &[("HTTPS_PROXY", "http://proxy:3128")]), None, "{server}");
        }
    }

    #[test]
    fn what_no_proxy_names_is_asked_itself() {
        for (server, list, excepted) in [
            ("https://10.1.2.3:6443", "10.0.0.0/8", true),
            ("https://10.1.2.3:6443", "192.0.2.0/24, 10.1.2.3", true),
            ("https://10.1.2.3:6443", "10.1.2.3:6443", true),
            ("https://10.1.2.3:6443", "10.1.2.3:443", false),
            ("https://[2001:db8::1]:6443", "2001:db8::/32", true),
            ("https://[2001:db8::1]:6443", "2001:db8::1", true),
            ("https://[2001:db8::1]:6443", "[2001:db8::1]:6443", true),
            ("https://api.example.com:6443", "example.com", true),
            ("https://API.Example.com:6443", ".example.com", true),
            ("https://api.example.com:6443", "*.example.com", true),
            ("https://api.example.com", "api.example.com:443", true),
            ("https://api.example.com:6443", "localhost,", false),
            ("https://example.com:6443", ".example.com", false),
            ("https://notexample.com:6443", "example.com", false),
            // The proxy's own name says nothing about the server.
            ("https://api.example.com:6443", "proxy", false),
            ("https://api.example.com:6443", "other,*", true),
        ] {
            let proxy = host(server, &[("HTTPS_PROXY", "http://proxy:3128"), ("NO_PROXY", list)]);
            assert_eq!(proxy.is_none(), excepted, "{server} with NO_PROXY={list}");
        }
    }

    #[test]
    fn a_proxy_of_the_kubeconfig_holds_for_every_server() {
        let none_but = |name: &str| (name == "NO_PROXY").then(|| "*".to_owned());
        let server = "https://127.0.0.1:6443".parse().expect("a server");
        let proxy = proxy_for(&server, Some("socks5h://proxy:1080"), none_but).expect("a proxy's URL");
        assert_eq!(proxy.map(|proxy| proxy.to_string()).as_deref(), Some("socks5://proxy:1080/"));
    }

    #[test]
    fn what_is_no_proxy_is_refused_without_its_password() {
        let server = "https://api.example.com".parse().expect("a server");
        for url in ["ftp://me:secret@proxy", "http://me:secret@proxy host", "http://"] {
            let said = proxy_for(&server, Some(url), |_| None).expect_err(url).to_string();
            assert!(said.contains("proxy-url of the kubeconfig") && !said.contains("secret"), "{said}");
        }
    }
}
