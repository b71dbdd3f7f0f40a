//! Too many connections, and connections that take too long: idle, slow, flooding.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use common::net::{open_files, raise_open_files};
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::paying::{alone, known_secret, while_attacked};
use crate::server::Server;

/// An attacker's address that is not the paying users'.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A connection from [`ELSEWHERE`].
async fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((ELSEWHERE, 0).into())?;
    socket.connect(to).await
}

async fn crowd(to: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut crowd = Vec::with_capacity(count);
    for _ in 0..count {
        crowd.push(connect(to).await.expect("the kernel takes the connection"));
    }
    crowd
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_and_slow_sockets_are_cut_off_and_counted() {
    let _alone = alone().await;
    raise_open_files();
    let server = Server::start_with(&[&known_secret(), "signaling.heartbeat=1s"]);
    // Both ends have this limit, and the server leaves HTTP a half of it, media and TURN an eighth each.
    let all = (open_files() / 2).min(10_000);
    println!("{all} idle sockets, with {} open files", open_files());
    let (http, media) = (server.http, SocketAddr::from((Ipv4Addr::LOCALHOST, server.media_port)));
    let turn = SocketAddr::from((Ipv4Addr::LOCALHOST, server.turn_port));
    let (web, tcp) = (all * 7 / 10, all * 15 / 100);
    let mut slow_frame = server.sign_in("mallory").await;
    let held = while_attacked(&server, 400 * 1024, async move {
        let raw = slow_frame.socket.get_mut();
        let _ = raw.write_all(&[0x81, 0xff, 0, 0, 0, 0, 0, 3, 0, 0, 1, 2, 3, 4]).await; // 192 KiB are to come
        let mut held = vec![crowd(media, tcp).await, crowd(turn, tcp).await, crowd(http, web).await];
        for slow in held[2].iter_mut().take(200) {
            let _ = slow.write_all(b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n").await;
        }
        for _ in 0..8 {
            for slow in held[2].iter_mut().take(200) {
                let _ = slow.write_all(b"X-Slow: 1\r\n").await; // progress, but no end
            }
            let _ = slow_frame.socket.get_mut().write_all(b"x").await; // cut off meanwhile
            sleep(Duration::from_millis(500)).await;
        }
        held
    })
    .await;
    server.until_metric("causeway_connections_refused_total{reason=\"slow\"}", web as u64).await;
    server.until_metric("causeway_media_tcp_refused_total{reason=\"unanswered\"}", tcp as u64).await;
    server.until_metric("causeway_turn_tcp_refused_total{reason=\"idle\"}", tcp as u64).await;
    assert!(server.metric("causeway_limits_reached_total{limit=\"silence\"}").await >= 1);
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_connections_stops_at_its_address() {
    let _alone = alone().await;
    let server = Server::start_deployed(&["limits.connections_per_ip=64"]);
    let ports = [server.http.port(), server.media_port, server.turn_port];
    while_attacked(&server, 32 * 1024, async move {
        for _ in 0..5 {
            for port in ports {
                let crowd = crowd((Ipv4Addr::LOCALHOST, port).into(), 150).await;
                sleep(Duration::from_millis(100)).await; // all of them are accepted, or closed
                drop(crowd);
            }
        }
    })
    .await;
    for metric in ["connections_refused", "media_tcp_refused", "turn_tcp_refused"] {
        let name = format!("causeway_{metric}_total{{reason=\"too-many\"}}");
        assert!(server.metric(&name).await >= 5 * (150 - 64), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_messages_is_paced_and_cut_off() {
    let _alone = alone().await;
    let server = Server::start_with(&[&known_secret()]);
    let mut flooders = Vec::new();
    for _ in 0..16 {
        flooders.push(server.sign_in("mallory").await);
    }
    // The costliest that JSON has for its length, and the cheapest.
    let big = Bytes::from(format!("{{\"type\":\"x\",\"a\":[{}0]}}", "0,".repeat(120_000)));
    while_attacked(&server, 256 * 1024, async move {
        let floods = flooders.into_iter().enumerate().map(|(number, client)| {
            let big = big.clone();
            tokio::spawn(async move {
                let (mut sink, stream) = client.socket.split();
                let text = if number % 8 == 0 { big } else { Bytes::from_static(b"{\"type\":\"flood\"}") };
                let text = tokio_tungstenite::tungstenite::Utf8Bytes::try_from(text).expect("it is text");
                let flood = async { while sink.send(Message::Text(text.clone())).await.is_ok() {} };
                let read = stream.for_each(|_| async {});
                let _ =
                    tokio::time::timeout(Duration::from_secs(4), async { tokio::join!(flood, read) }).await;
            })
        });
        for flood in floods.collect::<Vec<_>>() {
            flood.await.expect("it floods until it is cut off");
        }
    })
    .await;
    assert!(server.metric("causeway_limits_reached_total{limit=\"flood\"}").await >= 8);
    assert!(server.metric("causeway_messages_refused_total{code=\"unknown-type\"}").await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_of_json_and_endless_sdp_take_no_memory_and_no_time() {
    let _alone = alone().await;
    let server = Server::start_with(&[&known_secret()]);
    let (mut mallory, mut callee) = (server.sign_in("mallory").await, server.sign_in("callee").await);
    let call =
        json!({"type": "call-initiate", "callId": "bomb", "recipientIds": ["callee"], "callType": "audio"});
    while_attacked(&server, 64 * 1024, async move {
        mallory.send(call).await;
        callee.expect("incoming-call").await;
        callee.send(json!({"type": "call-answer", "callId": "bomb"})).await;
        mallory.expect("call-answered").await;
        let depth = 50_000;
        for bomb in [
            "[".repeat(depth),
            format!("{}1{}", "{\"a\":".repeat(depth / 2), "}".repeat(depth / 2)),
            format!("{{\"type\":\"x\",\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth)),
            format!("{{\"type\":\"x\",\"a\":1{}}}", "0".repeat(200_000)),
            "{\"type\":\"x\",\"a\":1e999999999}".to_owned(),
            "{\"type\":\"\\ud800\"}".to_owned(),
        ] {
            mallory.socket.send(Message::text(bomb)).await.expect("the connection stays");
            assert_eq!(mallory.next().await["type"], "error");
        }
        let sdp = "a=x\r\n".repeat(30_000);
        for _ in 0..4 {
            mallory
                .send(json!({"type": "offer", "callId": "bomb", "recipientId": "callee", "sdp": sdp}))
                .await;
            assert_eq!(callee.expect("offer").await["sdp"], sdp);
        }
        mallory.send(json!({"type": "offer", "callId": "bomb", "sdp": "x".repeat(8 << 20)})).await;
        assert_eq!(mallory.closed().await.0, 1009);
    })
    .await;
    assert!(server.metric("causeway_messages_refused_total{code=\"invalid-message\"}").await >= 4);
    assert_eq!(server.metric("causeway_limits_reached_total{limit=\"message-bytes\"}").await, 1);
}
