//! Commands that reach an API server through a proxy, where kubectl would.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use crate::rights::{items, server};
use crate::{Answer, Files};

/// A proxy that leads every request to one server, in threads that end with the test: its address, and
/// for which servers it was asked.
fn proxy(to: String) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&asked);
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let (to, noted) = (to.clone(), Arc::clone(&noted));
            thread::spawn(move || lead(client, &to, &noted));
        }
    });
    (address, asked)
}

/// Connects a client with the server after its request `CONNECT host:port`.
fn lead(mut client: TcpStream, to: &str, noted: &Mutex<Vec<String>>) -> Option<()> {
    let mut lines = BufReader::new(client.try_clone().ok()?).lines().map_while(Result::ok);
    let request = lines.next()?;
    lines.take_while(|line| !line.is_empty()).for_each(drop);
    noted.lock().unwrap().push(request.strip_prefix("CONNECT ")?.split(' ').next()?.to_owned());
    let server = TcpStream::connect(to).ok()?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok()?;
    let (mut from_client, mut to_server) = (client.try_clone().ok()?, server.try_clone().ok()?);
    thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
    std::io::copy(&mut &server, &mut client).ok()?;
    Some(())
}

/// A cluster with one pod, and the address of its API server.
fn cluster() -> (Files, String) {
    let files = server(|path| match path {
        "/apis" => Some((200, json!({"groups": []}))),
        "/api/v1/namespaces" => items(json!([{"metadata": {"name": "shop"}}])),
        "/api/v1/pods" => items(json!([{
            "metadata": {"namespace": "shop", "name": "web", "labels": {"app": "web"}},
            "spec": {"nodeName": "n", "containers": []},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]}}])),
        _ => items(json!([])),
    });
    let config: Value =
        serde_json::from_str(&std::fs::read_to_string(files.path().join("kubeconfig")).unwrap()).unwrap();
    let url = config["clusters"][0]["cluster"]["server"].as_str().unwrap();
    let address = url.trim_start_matches("http://").to_owned();
    (files, address)
}

/// Writes a kubeconfig for this server.
fn configure(files: &Files, cluster: &Value) {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "shop"}}],
    });
    files.add("kubeconfig", &config.to_string());
}

/// Asks with these variables and no other that names a proxy.
fn ask(files: &Files, variables: &[(&str, &str)]) -> Answer {
    let mut command = files.command(&["explain", "--kubeconfig", "kubeconfig", "web", "203.0.113.7:443"]);
    for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"] {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied());
    Answer::of(&mut command)
}

#[test]
fn the_environment_names_a_proxy_and_the_servers_to_reach_without_it() {
    let (files, address) = cluster();
    let (proxy, asked) = proxy(address.clone());
    configure(&files, &json!({"server": "http://api.cluster.invalid:6443"}));
    let answer = ask(&files, &[("HTTP_PROXY", &proxy), ("NO_PROXY", "other.invalid,127.0.0.1")]);
    assert_eq!(answer.code, 0, "{}{}", answer.out, answer.err);
    let servers = std::mem::take(&mut *asked.lock().unwrap());
    assert!(!servers.is_empty() && servers.iter().all(|of| of == "api.cluster.invalid:6443"), "{servers:?}");

    // kubectl passes over entries that are none.
    let odd = "localhost,, a b,http://x,";
    for names in [["HTTP_PROXY", "NO_PROXY"], ["HTTP_PROXY", "no_proxy"]] {
        let answer = ask(&files, &[(names[0], &proxy), ("HTTPS_PROXY", &proxy), (names[1], odd)]);
        assert_eq!(answer.code, 0, "{}{}", answer.out, answer.err);
        assert!(!std::mem::take(&mut *asked.lock().unwrap()).is_empty(), "{names:?}");
    }

    let answer = ask(&files, &[("HTTP_PROXY", &proxy), ("NO_PROXY", ".cluster.invalid")]);
    assert_eq!(answer.code, 5, "{}{}", answer.out, answer.err);
    assert!(answer.err.contains("DNS knows no address of the API server's host"), "{}", answer.err);
    assert_eq!(*asked.lock().unwrap(), Vec::<String>::new(), "NO_PROXY names the server");

    // A server on this machine, as kind and minikube have it, is asked itself.
    configure(&files, &json!({"server": format!("http://{address}")}));
    for variable in ["HTTP_PROXY", "HTTPS_PROXY"] {
        let answer = ask(&files, &[(variable, &proxy)]);
        assert_eq!(answer.code, 0, "{variable}: {}{}", answer.out, answer.err);
        assert_eq!(*asked.lock().unwrap(), Vec::<String>::new(), "{variable}");
    }
}

#[test]
fn a_kubeconfig_names_a_proxy_for_its_cluster() {
    let (files, address) = cluster();
    let (proxy, asked) = proxy(address.clone());
    configure(&files, &json!({"server": format!("http://{address}"), "proxy-url": format!("http://{proxy}")}));
    let answer = ask(&files, &[("NO_PROXY", "127.0.0.0/8")]);
    assert_eq!(answer.code, 0, "{}{}", answer.out, answer.err);
    assert!(asked.lock().unwrap().contains(&address), "{:?}", asked.lock().unwrap());

    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    configure(&files, &json!({"server": format!("http://{address}"), "proxy-url": format!("http://{closed}")}));
    let answer = ask(&files, &[]);
    assert_eq!(answer.code, 5, "{}{}", answer.out, answer.err);
    assert!(answer.err.contains("the proxy did not lead to the API server"), "{}", answer.err);
}
