//! Flows that conntrack keeps apart from others, or began by itself.

use super::*;

/// Rules of another program that put what a client exchanges with the database into
/// a zone: in both directions, or one.
fn put_into_zones(lab: &Lab) {
    for (client, zone) in [("shop/web1", "--zone"), ("shop/web2", "--zone-orig"), ("team/web3", "--zone-reply")] {
        for family in Family::ALL {
            let address = lab.places()[lab.find(client).unwrap()].address(family).unwrap().to_string();
            for end in ["-s", "-d"] {
                raw(lab, family, &["-A", "PREROUTING", end, &address, "-j", "CT", zone, "7"]);
            }
        }
    }
}

/// Runs iptables on the raw table of the database's node.
fn raw(lab: &Lab, family: Family, arguments: &[&str]) -> String {
    let tool = if family == Family::V4 { "iptables" } else { "ip6tables" };
    let tool = format!("{tool}-{}", lab.backend().as_str());
    let command = [&[&*tool, "-t", "raw"], arguments].concat();
    lab.node("node-1").unwrap().exec(&command, "").unwrap()
}

fn flows_in_zones_are_cut_like_others(backend: Backend, mode: Mode) {
    let Some((mut lab, listeners)) = start(vec![db(&web(), &[ADMITTED])], backend, mode, &[]) else { return };
    put_into_zones(&lab);
    let mut control = control(&lab);
    let mut denied = flows(&lab, &listeners, &["shop/web1", "shop/web2"]);
    let mut kept = flows(&lab, &listeners, &["team/web3"]);
    for family in Family::ALL {
        let listed = raw(&lab, family, &["-nvxL", "PREROUTING"]);
        let idle = |line: &str| line.contains("CT") && line.trim_start().starts_with("0 ");
        assert!(!listed.lines().any(idle), "nothing was put into a zone:\n{listed}");
    }
    let team = json!({"namespaceSelector": {"matchLabels": {"may": "read"}}});
    let narrowed = shop_of(&lab, vec![db(&team, &[ADMITTED])]);
    apply(&mut lab, narrowed, &mut control);
    all_are_cut(&mut denied, &mut control);
    all_go_on(&mut kept);
    let narrowed = shop_of(&lab, vec![db(&team, &[1])]);
    apply(&mut lab, narrowed, &mut control);
    all_are_cut(&mut kept, &mut control);
}

/// How many connections the kernel of the database's node expects.
fn expected(lab: &Lab) -> u64 {
    let counts = lab.node("node-1").unwrap().exec(["cat", "/proc/net/stat/nf_conntrack"], "").unwrap();
    let mut lines = counts.lines();
    let column = lines.next().unwrap().split_ascii_whitespace().position(|name| name == "expect_create").unwrap();
    let of = |line: &str| u64::from_str_radix(line.split_ascii_whitespace().nth(column).unwrap(), 16).unwrap();
    lines.map(of).sum()
}

/// FTP in its active mode: the client says on which port it waits, and the server connects to that.
/// The kernel expects that connection, and knows to which connection it belongs.
fn a_flow_that_a_helper_expected_is_cut_like_others(backend: Backend, mode: Mode) {
    let Some((mut lab, _listeners)) = start(vec![db(&web(), &[21])], backend, mode, &[]) else { return };
    raw(&lab, Family::V4, &["-A", "PREROUTING", "-p", "tcp", "--dport", "21", "-j", "CT", "--helper", "ftp"]);
    let mut control = control(&lab);
    let [client, server] = ["shop/web2", "shop/db"].map(|name| &lab.places()[lab.find(name).unwrap()]);
    let [from, at] = [(client, 0), (server, 21)].map(|(pod, port)| (pod.address(Family::V4).unwrap(), port));
    let listen = |pod: &npc_tests::lab::Place, at| pod.netns.within(|| TcpListener::bind(at)).unwrap().unwrap();
    let connect = |pod: &npc_tests::lab::Place, at: SocketAddr| {
        let stream = pod.netns.within(|| TcpStream::connect_timeout(&at, PATIENCE)).unwrap().unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    let accept = |listener: &TcpListener| {
        let (stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    let (commands, waiting) = (listen(server, at), listen(client, from));
    let mut asks = connect(client, at.into());
    let mut asked = accept(&commands);
    let port = waiting.local_addr().unwrap().port();
    let own = from.0.to_string().replace('.', ",");
    for command in ["USER anonymous\r\n".to_owned(), format!("PORT {own},{},{}\r\n", port >> 8, port & 0xff)] {
        asks.write_all(command.as_bytes()).unwrap();
        asked.read_exact(&mut vec![0; command.len()]).unwrap();
        asked.write_all(b"200 OK\r\n").unwrap();
        asks.read_exact(&mut [0; 8]).unwrap();
    }
    let data = connect(server, waiting.local_addr().unwrap());
    let mut data = vec![("data".to_owned(), Flow::Tcp(accept(&waiting), data))];
    let mut commands = vec![("commands".to_owned(), Flow::Tcp(asks, asked))];
    all_go_on(&mut data);
    assert!(expected(&lab) > 0, "the kernel expected no connection");
    // The database begins no connections any more.
    let mut narrowed = db(&web(), &[21]);
    let spec = narrowed.object.spec.as_mut().unwrap();
    spec.policy_types = Some(vec!["Ingress".to_owned(), "Egress".to_owned()]);
    let narrowed = shop_of(&lab, vec![narrowed]);
    apply(&mut lab, narrowed, &mut control);
    all_are_cut(&mut data, &mut control);
    all_go_on(&mut commands);
}

on_both_backends!(
    flows_in_zones_are_cut_like_others: Routed,
    a_flow_that_a_helper_expected_is_cut_like_others: Routed,
);
