//! The process of a container in the tests of container runtimes. It is no part of the
//! tests' own program: they compile this file to a static binary, and make an image of it.
//!
//! Its arguments:
//!
//! - `denied=ADDRESS:PORT`: tries TCP connections without a pause, and sends UDP datagrams.
//! - `measured=ADDRESS:PORT`: tries TCP connections without a pause for 3 s, and prints how many succeeded and
//!   after how many microseconds the last one did.
//! - `allowed=ADDRESS:PORT`: sends numbered UDP datagrams, and tries one TCP connection.
//! - `listen=PORT`: accepts TCP connections, and receives UDP datagrams.
//!
//! Each prints what comes of it. Without such arguments it waits, as the process of a sandbox does.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

fn main() {
    println!("started");
    for argument in std::env::args().skip(1) {
        match argument.split_once('=') {
            Some(("measured", to)) => measured(to.parse().unwrap()),
            Some(("denied", to)) => denied(to.parse().unwrap()),
            Some(("allowed", to)) => allowed(to.parse().unwrap()),
            Some(("listen", port)) => listen(port.parse().unwrap()),
            // What a sandbox is started with.
            _ => {}
        }
    }
    loop {
        thread::park();
    }
}

fn sender(to: SocketAddr) -> UdpSocket {
    let own = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    UdpSocket::bind(own).unwrap()
}

fn measured(to: SocketAddr) {
    let (begun, mut passed, mut last) = (Instant::now(), 0_u64, Duration::ZERO);
    while begun.elapsed() < Duration::from_secs(3) {
        if TcpStream::connect_timeout(&to, Duration::from_millis(50)).is_ok() {
            passed += 1;
            last = begun.elapsed();
        }
    }
    println!("measured {passed} {}", last.as_micros());
}

fn denied(to: SocketAddr) {
    thread::spawn(move || {
        let mut tries = 0_u64;
        loop {
            if TcpStream::connect_timeout(&to, Duration::from_millis(50)).is_ok() {
                println!("passed {to}");
            }
            tries += 1;
            if tries == 5 {
                println!("tried {to}");
            }
        }
    });
    thread::spawn(move || {
        let socket = sender(to);
        loop {
            let _ = socket.send_to(b"denied", to);
            thread::sleep(Duration::from_millis(1));
        }
    });
}

fn allowed(to: SocketAddr) {
    // Before anything else of this process, as the first that it sends.
    let socket = sender(to);
    for number in 0..10_u8 {
        if let Err(error) = socket.send_to(&[number], to) {
            println!("unsent {to} {number} {error}");
        }
    }
    thread::spawn(move || match TcpStream::connect_timeout(&to, Duration::from_secs(10)) {
        Ok(_) => println!("connected {to}"),
        Err(error) => println!("failed {to} {error}"),
    });
}

fn listen(port: u16) {
    let listener = TcpListener::bind(("::", port)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let from = stream.and_then(|stream| stream.peer_addr());
            println!("accepted {port} {}", from.is_ok());
        }
    });
    let socket = UdpSocket::bind(("::", port)).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            println!("received {port} {from}");
        }
    });
}
