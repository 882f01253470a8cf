//! Commands at an API server that lets them read little, or that does not answer.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use serde_json::{Value, json};

use crate::{Answer, Files};

/// An answer of the server: status and body; none where it never answers.
pub(crate) type Reply = Option<(u16, Value)>;

/// An API server that answers by the path of a request, in threads that end with the test.
pub(crate) fn server(reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Files {
    let files = Files::of("");
    serve(&files, reply);
    files
}

/// The same, with a kubeconfig for it beside other files.
pub(crate) fn serve(files: &Files, reply: impl Fn(&str) -> Reply + Send + Sync + 'static) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let reply = Arc::new(reply);
    thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            let reply = Arc::clone(&reply);
            thread::spawn(move || answer(&connection, &*reply));
        }
    });
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "shop"}}],
    });
    files.add("kubeconfig", &config.to_string());
}

/// Answers the requests of one connection.
fn answer(connection: &TcpStream, reply: &dyn Fn(&str) -> Reply) {
    let mut lines = BufReader::new(connection).lines().map_while(Result::ok);
    while let Some(request) = lines.next() {
        let path = request.split([' ', '?']).nth(1).unwrap_or_default().to_owned();
        lines.by_ref().take_while(|line| !line.is_empty()).for_each(drop);
        let Some((status, body)) = reply(&path) else {
            // Until the client gives up.
            lines.next();
            return;
        };
        let body = body.to_string();
        let head =
            format!("HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        let mut connection = connection;
        if connection.write_all((head + &body).as_bytes()).is_err() {
            return;
        }
    }
}

#[allow(clippy::unnecessary_wraps, reason = "a reply, as all are")]
pub(crate) fn refused(code: u16, reason: &str) -> Reply {
    Some((code, json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": "no"})))
}

#[allow(
    clippy::unnecessary_wraps,
    clippy::needless_pass_by_value,
    reason = "a reply, as all are, of a value made for it"
)]
pub(crate) fn items(items: Value) -> Reply {
    Some((200, json!({"metadata": {}, "items": items})))
}

/// What a developer of the namespace shop may read.
fn one_namespace(path: &str) -> Reply {
    let pod = |name: &str, address: &str| {
        json!({"metadata": {"namespace": "shop", "name": name, "labels": {"app": name}},
               "spec": {"nodeName": "n", "containers": []},
               "status": {"phase": "Running", "podIPs": [{"ip": address}], "hostIPs": [{"ip": "192.0.2.1"}]}})
    };
    match path {
        // Which groups there are, every user may read.
        "/apis" => Some((200, json!({"groups": []}))),
        "/api/v1/namespaces/shop/pods" => items(json!([pod("web", "10.0.0.1"), pod("api", "10.0.0.2")])),
        "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies" => items(json!([{
            "metadata": {"namespace": "shop", "name": "api"},
            "spec": {"podSelector": {"matchLabels": {"app": "api"}}, "ingress": [{"from": [
                {"podSelector": {"matchLabels": {"app": "web"}}},
            ]}]},
        }])),
        path if path.starts_with("/api/v1/namespaces/shop/") || path.contains("/namespaces/shop/endpointslices") => {
            items(json!([]))
        }
        _ => refused(403, "Forbidden"),
    }
}

pub(crate) fn explain(files: &Files, words: &[&str]) -> Answer {
    files.run(&[&["explain", "--kubeconfig", "kubeconfig"], words].concat())
}

#[test]
fn rights_in_one_namespace_are_enough_and_what_is_missing_is_said() {
    let files = server(one_namespace);
    let answer = explain(&files, &["web", "api:80", "-o", "json"]);
    assert_eq!(answer.code, 0, "{}", answer.err);
    assert_eq!(answer.json()["query"]["source"], "cluster");
    let denied = explain(&files, &["192.0.2.99", "api:80"]);
    assert_eq!(denied.code, 1, "{}{}", denied.out, denied.err);
    assert_eq!(answer.err, "", "warnings are part of the answer");
    let warnings = &answer.json()["warnings"];
    let [line] = warnings.as_array().unwrap().as_slice() else { panic!("one warning: {warnings}") };
    let line = line.as_str().unwrap();
    assert!(denied.out.contains(&format!("warning[right-missing]: {line}")), "{}", denied.out);
    for words in ["no right to list namespaces, nodes", "pods, services", "of namespaces other than shop"] {
        assert!(line.contains(words), "{words}: {line}");
    }
}

/// As [`one_namespace`], with a rule for pods of namespaces that may not be read.
fn one_of_several_namespaces(path: &str) -> Reply {
    match path {
        "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies" => items(json!([{
            "metadata": {"namespace": "shop", "name": "api"},
            "spec": {"podSelector": {"matchLabels": {"app": "api"}}, "ingress": [{"from": [
                {"podSelector": {"matchLabels": {"app": "web"}}},
                {"namespaceSelector": {"matchLabels": {"team": "sre"}}},
            ]}]},
        }])),
        path => one_namespace(path),
    }
}

#[test]
fn an_address_may_be_that_of_a_pod_or_a_service_that_may_not_be_read() {
    let files = server(one_of_several_namespaces);
    for words in [["10.0.0.9", "api:80"], ["api", "10.0.0.9:8080"], ["web", "10.96.0.7:80"]] {
        let answer = explain(&files, &words);
        assert_eq!(answer.code, 4, "{words:?}: {}{}", answer.out, answer.err);
        assert!(answer.out.contains("is a pod's or a Service's address: no right to list pods"), "{}", answer.out);
    }
    let outside = explain(&files, &["8.8.8.8", "api:80"]);
    assert_eq!(outside.code, 1, "no pod has such an address: {}", outside.out);
    let own = explain(&files, &["10.0.0.1", "api:80"]);
    assert_eq!(own.code, 0, "a pod that was read: {}", own.out);
    let policy = explain(&files, &["netpol/api"]);
    assert!(!policy.out.contains("unused") && policy.out.contains("team=sre: perhaps"), "{}", policy.out);
    assert!(policy.out.contains("no right to list"), "{}", policy.out);
}

#[test]
fn a_service_that_may_not_be_read_is_not_said_to_be_missing() {
    let files = server(|path| match path {
        "/api/v1/namespaces/shop/services" => refused(403, "Forbidden"),
        path => one_namespace(path),
    });
    // As where the same Service is asked about by its address.
    let answer = explain(&files, &["web", "svc/api:80"]);
    assert_eq!(answer.code, 4, "{}{}", answer.out, answer.err);
    assert!(answer.out.starts_with("UNKNOWN  web -> svc/api:80\n"), "{}", answer.out);
    assert!(answer.out.contains("no right to list") && !answer.out.contains("there is no service"), "{}", answer.out);
    let json = explain(&files, &["web", "svc/api:80", "-o", "json"]).json();
    assert_eq!((&json["verdict"], &json["query"]["to"]), (&"Unknown".into(), &"svc/api:80".into()), "{json}");
    assert!(json["unknowns"][0].as_str().unwrap().contains("no service \"api\" was read"), "{json}");
    assert!(json["warnings"][0].as_str().unwrap().contains("no right to list"), "{json}");
    crate::schema::conforms(crate::schema::EXPLANATION, &json);
    let certain = explain(&files, &["pod/wbe", "svc/api:80"]);
    assert_eq!((certain.code, certain.out.as_str()), (3, ""), "{}", certain.err);
    let answer = explain(&server(one_namespace), &["web", "api:80", "-o", "json"]);
    let warnings = answer.json()["warnings"].to_string();
    assert!(!warnings.contains("namespaces of namespaces"), "{warnings}");
}

#[test]
fn an_endpoint_of_a_namespace_that_may_not_be_read_is_said_to_be_that() {
    let files = server(one_namespace);
    let answer = explain(&files, &["ops/monitor", "shop/api:80"]);
    assert_eq!(answer.code, 4, "{}{}", answer.out, answer.err);
    assert!(answer.out.contains("no right to list pods of namespaces other than shop"), "{}", answer.out);
    let alone = explain(&files, &["ops/monitor"]);
    assert_eq!((alone.code, alone.out.as_str()), (4, ""), "{}", alone.err);
    let policy = explain(&files, &["ops/netpol/monitor"]);
    assert_eq!(policy.code, 4, "{}", policy.err);
    assert!(policy.err.contains("but it may be there: no right to list networkpolicies"), "{}", policy.err);
    let own = explain(&files, &["netpol/nope"]);
    assert_eq!(own.code, 3, "the policies of the namespace were read: {}", own.err);
    // However its namespace is written.
    for name in ["svc/monitor.ops", "monitor.ops", "monitor.ops.svc:80", "ops/svc/monitor"] {
        let answer = explain(&files, &["web", name]);
        assert_eq!(answer.code, 4, "{name}: {}{}", answer.out, answer.err);
    }
    assert_eq!(explain(&files, &["netpol/monitor.ops"]).code, 4);
    assert_eq!(explain(&files, &["web", "svc/nope"]).code, 3, "the Services of the namespace were read");
}

/// What a developer of the namespaces shop and ops may read; of a third one, only its pods.
fn two_namespaces(path: &str) -> Reply {
    let pod = |name: &str, address: &str| {
        json!({"metadata": {"namespace": "ops", "name": name, "labels": {"app": name}},
               "spec": {"nodeName": "m", "containers": []},
               "status": {"phase": "Running", "podIPs": [{"ip": address}], "hostIPs": [{"ip": "192.0.2.2"}]}})
    };
    match path {
        "/api/v1/namespaces/ops/pods" => items(json!([pod("monitor", "10.0.1.1")])),
        "/apis/networking.k8s.io/v1/namespaces/ops/networkpolicies" => items(json!([{
            "metadata": {"namespace": "ops", "name": "monitor"},
            "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [
                {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}},
            ]}]},
        }])),
        path if path.starts_with("/api/v1/namespaces/ops/") || path.contains("/namespaces/ops/endpointslices") => {
            items(json!([]))
        }
        "/api/v1/namespaces/pods-only/pods" => items(json!([])),
        path => one_namespace(path),
    }
}

#[test]
fn the_namespaces_that_the_ends_name_are_read_too() {
    let files = server(two_namespaces);
    for (from, to, code) in [
        ("web", "ops/monitor:80", 0),
        ("ops/monitor", "api:80", 1),
        ("ops/pod/monitor", "web:80", 0),
        ("web", "monitor.ops:80", 0),
        ("ns/ops", "web:80", 0),
    ] {
        let answer = explain(&files, &[from, to, "-o", "json"]);
        assert_eq!(answer.code, code, "{from} {to}: {}{}", answer.out, answer.err);
        let warnings = answer.json()["warnings"].to_string();
        assert!(warnings.contains("of namespaces other than ops, shop"), "{from} {to}: {warnings}");
    }
    let url = explain(&files, &["web", "http://monitor.ops/"]);
    assert!(url.out.starts_with("ALLOWED  shop/pod/web -> ops/pod/monitor"), "{}{}", url.out, url.err);
    // The namespace of the kubeconfig need not be one of them.
    let elsewhere = explain(&files, &["-n", "secret", "ops/monitor", "shop/web:80"]);
    assert_eq!(elsewhere.code, 0, "{}{}", elsewhere.out, elsewhere.err);
    let none = explain(&files, &["-n", "secret", "hidden/a", "b:80"]);
    assert_eq!(none.code, 5, "{}{}", none.out, none.err);
    assert!(none.err.contains("nor in any of the namespaces secret, hidden"), "{}", none.err);
    // Its policies are not read.
    let policies = explain(&files, &["10.0.3.1", "pods-only/pod/x", "-n", "shop"]);
    assert_eq!(policies.code, 3, "{}{}", policies.out, policies.err);
    let matrix = files.run(&["matrix", "--kubeconfig", "kubeconfig", "--from", "ops/monitor", "-A", "-o", "csv"]);
    assert!(matrix.out.contains("ops/Pod/monitor,shop/Pod/web"), "{}{}", matrix.out, matrix.err);
}

#[test]
fn a_namespace_that_may_be_there_is_not_said_to_be_missing() {
    let files = server(|path| match path {
        "/api/v1/namespaces" | "/api/v1/namespaces/shop" | "/api/v1/namespaces/ops" => refused(403, "Forbidden"),
        "/api/v1/pods" => items(json!([{
            "metadata": {"namespace": "shop", "name": "web"},
            "spec": {"nodeName": "n", "containers": []},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]},
        }])),
        "/apis" => Some((200, json!({"groups": []}))),
        path if path.matches('/').count() > 5 => refused(404, "NotFound"),
        _ => items(json!([])),
    });
    let answer = explain(&files, &["ops/monitor", "shop/web:80"]);
    assert_eq!(answer.code, 3, "all pods were read: {}{}", answer.out, answer.err);
    assert!(answer.err.contains("there is no workload or pod \"monitor\" in namespace ops"), "{}", answer.err);
    let matrix = files.run(&["matrix", "--kubeconfig", "kubeconfig", "-n", "ops"]);
    assert!(!matrix.err.contains("there is no namespace"), "{}", matrix.err);
    let known = server(|path| match path {
        "/api/v1/namespaces" => items(json!([{"metadata": {"name": "shop"}}])),
        "/apis" => Some((200, json!({"groups": []}))),
        path if path.matches('/').count() > 5 => refused(404, "NotFound"),
        _ => items(json!([])),
    });
    let answer = explain(&known, &["ops/monitor", "shop/web:80"]);
    assert!(answer.err.contains("there is no namespace \"ops\""), "{}", answer.err);
}

#[test]
fn without_a_right_to_pods_the_command_ends_and_names_the_way_out() {
    let answer = explain(&server(|_| refused(403, "Forbidden")), &["web", "api"]);
    assert_eq!(answer.code, 5);
    for words in ["cannot list pods", "namespace shop", "-n", "-f"] {
        assert!(answer.err.contains(words), "{words}: {}", answer.err);
    }
}

#[test]
fn what_goes_wrong_with_the_api_server_is_one_plain_sentence() {
    let rejected = server(|_| refused(401, "Unauthorized"));
    let silent = server(|_| None);
    let gone = Files::of("");
    let config = "{apiVersion: v1, kind: Config, current-context: c, \
                  clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}], \
                  contexts: [{name: c, context: {cluster: c, user: u}}], users: [{name: u, user: {}}]}";
    gone.add("kubeconfig", config);
    let none = Files::of("");
    for (files, words, expected) in [
        (&rejected, &[][..], "rejected your credentials"),
        (&silent, &["--request-timeout", "50ms"], "did not answer within 50 ms"),
        (&gone, &[], "cannot be reached: connection refused"),
        (&none, &[], "there is no kubeconfig"),
        (&gone, &["--context", "nope"], "it has no context \"nope\""),
    ] {
        let answer = explain(files, &[&["web", "api"], words].concat());
        assert_eq!(answer.code, 5, "{}", answer.err);
        assert_eq!(answer.err.lines().count(), 1, "{}", answer.err);
        assert!(answer.err.contains(expected) && answer.err.contains("-f"), "{expected}: {}", answer.err);
        for debug in ["Error", "Some(", "Status {", "os error", "\\\""] {
            assert!(!answer.err.contains(debug), "{debug}: {}", answer.err);
        }
    }
}

/// A pod that no version of npc can read, and nothing else.
fn unreadable_pod(path: &str) -> Reply {
    match path {
        "/api/v1/pods" => items(json!([{"metadata": {"namespace": "shop", "name": "odd", "labels": 7}}])),
        _ => items(json!([])),
    }
}

#[test]
fn what_cannot_be_read_is_reported_once() {
    let files = server(unreadable_pod);
    let lint = files.run(&["lint", "--kubeconfig", "kubeconfig"]);
    assert_eq!((lint.code, lint.err.as_str()), (1, ""), "{}", lint.out);
    assert_eq!(lint.out.matches("pod shop/odd: cannot be read").count(), 1, "{}", lint.out);
    // Other commands have no findings in their text.
    let matrix = files.run(&["matrix", "--kubeconfig", "kubeconfig", "--allow-errors"]);
    assert_eq!(matrix.err.matches("pod shop/odd: cannot be read").count(), 1, "{}", matrix.err);
}

/// Policies of other namespaces may keep their pods from it.
#[test]
fn what_any_means_beyond_the_readers_rights_is_not_known() {
    let files = server(one_namespace);
    let answer = explain(&files, &["any", "web:80"]);
    assert_eq!(answer.code, 4, "{}{}", answer.out, answer.err);
    for text in ["UNKNOWN  pods that were not read -> shop/pod/web", "no right to list pods"] {
        assert!(answer.out.contains(text), "{text}: {}", answer.out);
    }
    let json = explain(&files, &["any", "web:80", "-o", "json"]).json();
    assert_eq!(json["verdict"], "Unknown");
    assert!(json["unknowns"].to_string().contains("which pods there are besides"), "{}", json["unknowns"]);
    // All pods of its own namespace are known.
    let answer = explain(&files, &["ns/shop", "web:80"]);
    assert_eq!(answer.code, 0, "{}{}", answer.out, answer.err);
}

#[test]
fn credentials_that_cannot_be_had_are_said_in_one_sentence() {
    let of_user = |user: &Value| {
        let files = Files::of("");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        });
        files.add("kubeconfig", &config.to_string());
        files.run(&["matrix", "--kubeconfig", "kubeconfig"])
    };
    let api = "client.authentication.k8s.io/v1";
    let exec = |script: &str| json!({"exec": {"apiVersion": api, "command": "sh", "args": ["-c", script], "interactiveMode": "Never"}});
    for (user, text) in [
        (exec("exit 3"), "the program \"sh\" for a token, and it failed: exit code 3, and nothing on standard error"),
        (exec("echo a >&2; echo log in >&2; exit 1"), "it failed: exit code 1, log in; log in again"),
        (exec("echo no"), "it printed no ExecCredential"),
        (json!({"client-certificate": "/nope.crt", "client-key": "/nope.key"}), "there is no /nope.crt"),
        (json!({"auth-provider": {"name": "gcp"}}), "has the auth-provider \"gcp\""),
    ] {
        let answer = of_user(&user);
        assert_eq!(answer.code, 5, "{user}: {}", answer.err);
        assert!(answer.err.contains(text), "{user}: {}", answer.err);
        for debug in ["ExitStatus", "Output {", "oauth feature", "infer"] {
            assert!(!answer.err.contains(debug), "{debug}: {}", answer.err);
        }
    }
}

#[test]
fn a_busy_server_is_asked_again() {
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let files = server(move |path| {
        let number = asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if number < 2 { refused(429, "TooManyRequests") } else { one_namespace(path) }
    });
    let answer = explain(&files, &["web", "api:80"]);
    assert_eq!(answer.code, 0, "{}{}", answer.out, answer.err);
}
