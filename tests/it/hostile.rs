//! What a hostile client may try: it gets the documented answer, and everybody else notices nothing.
//!
//! Here is what one client does to its own connection. The attacks that are to hurt others are below: while each goes on, a
//! call is held ([`paying`]), its messages are timed and the process's memory is watched. SECURITY.md names them.

mod crowds;
mod flows;
mod forgery;
mod garbage;
mod insiders;
mod member;
mod outages;
mod paying;
mod protocol;
mod relayed;
mod scarcity;
mod strangers;
mod tls;

use futures_util::SinkExt;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::server::{PATIENCE, Server};

#[tokio::test]
async fn an_oversized_message_closes_with_1009() {
    let server = Server::start();
    let mut client = server.join("alice").await;
    client.send(json!({"type": "x", "filler": "x".repeat(250 * 1024)})).await;
    assert_eq!(client.expect("error").await["code"], "unknown-type");
    client.send(json!({"type": "x", "filler": "x".repeat(600 * 1024)})).await;
    assert_eq!(client.closed().await.0, 1009);
}

#[tokio::test]
async fn what_is_no_message_is_told_and_the_connection_stays() {
    let server = Server::start();
    let mut client = server.join("alice").await;
    for bad in [
        Message::binary(vec![0, 1, 2]),
        Message::text("{"),
        Message::text("[]"),
        Message::text("\"x\""),
        Message::text("[".repeat(10_000)),
    ] {
        client.socket.send(bad).await.expect("the connection stays");
        let error = client.next().await;
        assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("invalid-message")));
    }
    client.send(json!({"type": "call-end", "callId": "nobodys"})).await;
    assert_eq!(client.next().await["code"], "call-not-found");
}

#[tokio::test]
async fn a_flood_is_told_once_and_then_cut_off() {
    let server = Server::start();
    let mut client = server.join("alice").await;
    for _ in 0..5000 {
        if client.socket.send(Message::text(r#"{"type":"flood"}"#)).await.is_err() {
            break; // already cut off
        }
    }
    let mut told = 0;
    loop {
        let message =
            timeout(PATIENCE, futures_util::StreamExt::next(&mut client.socket)).await.expect("in time");
        match message {
            Some(Ok(Message::Text(text))) => told += usize::from(text.contains("rate-limited")),
            Some(Ok(Message::Close(frame))) => {
                assert_eq!(u16::from(frame.expect("a code").code), 1008);
                break;
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => panic!("cut off without a code: {error}"),
            None => panic!("cut off without a code"),
        }
    }
    assert_eq!(told, 1);
}

#[tokio::test]
async fn random_bytes_at_every_port_change_nothing() {
    let server = Server::start();
    let mut client = server.join("alice").await;
    let udp = UdpSocket::bind("127.0.0.1:0").await.expect("loopback");
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = |length: usize| -> Vec<u8> {
        let mut byte = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..length).map(|_| byte()).collect()
    };
    for round in 0..300_usize {
        for port in [server.media_port, server.turn_port] {
            let mut bytes = noise(round * 7 % 1500);
            if let Some(first) = bytes.first_mut() {
                *first = (round % 256) as u8; // every kind of packet by its first byte (RFC 7983)
            }
            udp.send_to(&bytes, ("127.0.0.1", port)).await.expect("loopback takes it");
        }
    }
    for port in [server.http.port(), server.media_port, server.turn_port] {
        for round in 0..10 {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
            let _ = stream.write_all(&noise(100 + round * 500)).await; // it may be cut off at once
            let _ = stream.shutdown().await;
            let mut answer = Vec::new();
            let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the server ends it");
        }
    }
    client.send(json!({"type": "still-there"})).await;
    assert_eq!(client.next().await["code"], "unknown-type");
    assert_eq!(server.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn headers_without_end_are_refused() {
    let server = Server::start();
    let mut stream = server.connect().await;
    let head = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n", "x".repeat(64 * 1024));
    let _ = stream.write_all(head.as_bytes()).await; // it may be cut off on the way
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the server ends it");
    assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(server.get("/healthz").await.status, 200);
}
