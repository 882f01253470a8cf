//! The proxy that leads to an API server: the one that kubectl would take, which asks the package `httpproxy` of Go
//! (<https://pkg.go.dev/golang.org/x/net/http/httpproxy>).
//!
//! kube has rules of its own. It compares NO_PROXY with the address of the proxy and not with that of the
//! server, takes no HTTP_PROXY, and asks a proxy for servers on this machine. So its choice is not asked for.

use std::fmt;
use std::net::IpAddr;

use http::Uri;
use ipnetwork::IpNetwork;

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

/// The address that a host is. One of IPv4 may be written as one of IPv6.
fn address(host: &str) -> Option<IpAddr> {
    host.parse().ok().map(|address: IpAddr| address.to_canonical())
}

fn is_local(host: &str) -> bool {
    host == "localhost" || address(host).is_some_and(|address| address.is_loopback())
}

/// Whether a list such as `10.0.0.0/8,.example.com,host:6443` has a host. An entry that is none of these
/// forms matches nothing.
fn is_excepted(host: &str, port: u16, list: &str) -> bool {
    let (of_host, port) = (address(host), port.to_string());
    list.split(',').map(|entry| entry.trim().to_ascii_lowercase()).any(|entry| {
        if entry == "*" {
            return true;
        }
        if entry.contains('/') {
            return block(&entry).zip(of_host).is_some_and(|(block, address)| block.contains(address));
        }
        let (name, wanted) = split_port(&entry);
        if !wanted.is_empty() && wanted != port {
            return false;
        }
        let of_entry = address(name);
        if of_host.is_some() || of_entry.is_some() {
            return of_host == of_entry;
        }
        let name = name.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(name);
        match name {
            "" => false,
            _ if name.starts_with('.') => host.ends_with(name),
            _ => host.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.')),
        }
    })
}

/// A block of addresses as `10.0.0.0/8`. One of IPv4 may be written as one of IPv6.
fn block(entry: &str) -> Option<IpNetwork> {
    let (before, length) = entry.split_once('/')?;
    let (before, length): (IpAddr, u8) = (before.parse().ok()?, length.parse().ok()?);
    let canonical = before.to_canonical();
    let shorter = if canonical.is_ipv4() && before.is_ipv6() { 96 } else { 0 };
    match length.checked_sub(shorter) {
        Some(length) => IpNetwork::new(canonical, length).ok(),
        // It is wider than all of IPv4.
        None => IpNetwork::new(before, length).ok(),
    }
}

/// `host:port` or `[address]:port` in its parts; without a port as it is written, so that an address in brackets is none
/// then.
fn split_port(entry: &str) -> (&str, &str) {
    match entry.rsplit_once(':') {
        Some((host, port)) => match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(host) => (host, port),
            None if host.contains([':', '[', ']']) => (entry, ""),
            None => (host, port),
        },
        None => (entry, ""),
    }
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
        for server in [
            "https://localhost:6443",
            "https://127.0.0.1:6443",
            "https://[::1]:6443",
            "https://[::ffff:127.0.0.2]:6443",
        ] {
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
            ("https://[2001:db8::1]:6443", "[2001:db8::1]", false),
            ("https://[2001:db8::1]:6443", "[2001:db8::1]:", true),
            // An address of IPv4 as one of IPv6.
            ("https://[::ffff:10.1.2.3]:6443", "10.0.0.0/8", true),
            ("https://[::ffff:10.1.2.3]:6443", "10.1.2.3", true),
            ("https://10.1.2.3:6443", "::ffff:10.1.0.0/112", true),
            ("https://10.1.2.3:6443", "::ffff:10.1.2.3", true),
            ("https://10.1.2.3:6443", "::/0", false),
            ("https://10.1.2.3:6443", "::ffff:0:0/90", false),
            // An address belongs to no domain.
            ("https://10.1.2.3:6443", ".3", false),
            ("https://10.1.2.3:6443", "2.3", false),
            ("https://10.1.2.3:6443", "10.0.0.0/255.0.0.0", false),
            ("https://api.example.com:6443", "example.com:", true),
            ("https://api.example.com:6443", "example.com:https", false),
            ("https://api.example.com:6443", "example.com:06443", false),
            // What is no entry is passed over, and what stands beside it counts.
            ("https://api.example.com:6443", "localhost,", false),
            ("https://api.example.com:6443", ",, :6443,a b,http://x,example.com,", true),
            ("https://api.example.com:6443", ",, :6443,a b,http://x,.,*.,", false),
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
