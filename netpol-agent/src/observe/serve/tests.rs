// SPDX-License-Identifier: Apache-2.0
//! Clients that send little, nothing or too much, on real sockets.

use std::net::SocketAddr;

use axum::routing::get;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};

use super::*;

const PATIENT: Limits = Limits {
    connections: 4,
    head: Duration::from_secs(600),
    whole: Duration::from_secs(600),
};
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

/// Starts a server whose answers have `length` bytes.
async fn serve(limits: Limits, length: usize) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let router = Router::new().route("/", get(move || async move { "x".repeat(length) }));
    let server = tokio::spawn(async move { run(&listener, &router, limits, &stopped).await });
    (address, stop, server)
}

/// Reads until the server ends the connection, cleanly or not.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    String::from_utf8(bytes).unwrap()
}

async fn ask(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(REQUEST).await.unwrap();
    rest(&mut stream).await
}

#[tokio::test]
async fn a_connection_is_of_one_request() {
    let (address, ..) = serve(PATIENT, 2).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(REQUEST).await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nxx"),
        "{answer}"
    );
    assert!(answer.contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn a_client_that_sends_nothing_or_half_a_request_is_left() {
    let limits = Limits {
        head: Duration::from_millis(50),
        ..PATIENT
    };
    let (address, ..) = serve(limits, 2).await;
    for part in [&b""[..], b"G", b"GET / HTTP/1.1\r\nHost: x\r\n"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(part).await.unwrap();
        assert!(!rest(&mut stream).await.contains("200 OK"), "{part:?}");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_the_answer_is_left() {
    let limits = Limits {
        whole: Duration::from_millis(50),
        ..PATIENT
    };
    // Larger than the sockets' buffers.
    let length = 64 << 20;
    let (address, ..) = serve(limits, length).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(REQUEST).await.unwrap();
    // Its task ends although the client reads nothing. The server can then accept others, one at a
    // time.
    assert!(ask(address).await.starts_with("HTTP/1.1 200 "));
    assert!(rest(&mut stream).await.len() < length);
}

#[tokio::test]
async fn who_asks_is_answered_beside_those_who_hold_connections() {
    let (address, ..) = serve(PATIENT, 2).await;
    let mut held = Vec::new();
    for _ in 0..3 * PATIENT.connections {
        held.push(TcpStream::connect(address).await.unwrap());
        assert!(ask(address).await.ends_with("xx"));
    }
    // The oldest were ended to make room; the youngest are still open.
    assert_eq!(rest(&mut held[0]).await, "");
    let youngest = held.last_mut().unwrap();
    youngest.write_all(REQUEST).await.unwrap();
    assert!(rest(youngest).await.ends_with("xx"));
}

#[tokio::test]
async fn a_long_head_is_refused() {
    let (address, ..) = serve(PATIENT, 2).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let long = [
        b"GET / HTTP/1.1\r\nHost: ",
        &vec![b'x'; 2 * HEAD][..],
        b"\r\n\r\n",
    ]
    .concat();
    let _ = stream.write_all(&long).await;
    assert!(!rest(&mut stream).await.contains("200 OK"));
}

#[tokio::test]
async fn connections_end_when_the_server_does() {
    let (address, stop, server) = serve(PATIENT, 2).await;
    let mut idle = TcpStream::connect(address).await.unwrap();
    assert!(ask(address).await.ends_with("xx"));
    stop.cancel();
    server.await.unwrap();
    assert_eq!(rest(&mut idle).await, "");
}
