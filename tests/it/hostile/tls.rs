//! Attacks on TLS: handshakes that begin and do not end, bytes that are none, answers and messages that nobody reads. And TCP
//! to the ports of media and of the relay that says half of a word, or goes in the middle of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::sleep;

use super::garbage::Noise;
use super::paying::{alone, known_secret, while_attacked};
use crate::client::Client;
use crate::server::Server;
use crate::tls;

/// The beginning of a ClientHello (RFC 8446 §5.1, §4.1.2): a record of 512 bytes, of which a few come.
const HALF_A_HELLO: [u8; 11] = [22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_of_tls_that_never_end_and_garbage_are_cut_off() {
    let _alone = alone().await;
    let server = tls::start_with(&[&known_secret()]);
    let https = server.http;
    while_attacked(&server, 64 * 1024, async move {
        let mut noise = Noise(13);
        let mut silent = Vec::new();
        for number in 0..400 {
            let mut stream = TcpStream::connect(https).await.expect("it listens");
            if number % 2 == 0 {
                stream.write_all(&HALF_A_HELLO).await.expect("nothing is wrong yet");
            }
            silent.push(stream);
        }
        for round in 0..200_usize {
            let mut stream = TcpStream::connect(https).await.expect("it listens");
            let said = match round % 4 {
                0 => b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
                1 => noise.bytes(2000),
                2 => [&[22, 3, 1, 64, 0][..], &noise.bytes(2000)].concat(), // a record's header, then noise
                _ => [&[22, 3, 1, 0, 4, 1, 255, 255, 255][..], &noise.bytes(2000)].concat(), // 16 MiB of hello
            };
            let _ = stream.write_all(&said).await; // it may be cut off by now
            sleep(Duration::from_millis(20)).await; // 100 kB a second
        }
        for stream in silent.iter_mut().step_by(2) {
            let _ = stream.write_all(&[0]).await; // one byte more does not win time
        }
        sleep(Duration::from_secs(7)).await;
    })
    .await;
    // 150 of the bad ones end by themselves; what the others have sent looks like the beginning of something.
    server.until_metric("causeway_connections_refused_total{reason=\"tls\"}", 400 + 150).await;
}

/// A connection on which nothing is read, and which has no room for what is not read.
async fn deaf(to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("it is new");
    socket.connect(to).await.expect("it listens")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_nothing_over_tls_is_left_behind() {
    let _alone = alone().await;
    let server = tls::start_with(&[&known_secret()]);
    let door = server.door();
    let mut callers = Vec::new();
    for number in 0..10 {
        callers.push(server.sign_in(&format!("caller{number}")).await);
    }
    while_attacked(&server, 64 * 1024, async move {
        let tls = door.tls.clone().expect("it serves TLS");
        let name = || "localhost".try_into().expect("a name");
        let mut idle = Vec::new();
        for _ in 0..40 {
            let mut stream = tls.connect(name(), deaf(door.http).await).await.expect("a handshake");
            for _ in 0..20 {
                stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("it reads");
            }
            idle.push(stream);
        }
        let mut mallory = Client::over(
            Box::new(tls.connect(name(), deaf(door.http).await).await.expect("a handshake")),
            "mallory",
        )
        .await;
        for (number, caller) in callers.iter_mut().enumerate() {
            let id = format!("c{number}");
            caller.send(json!({"type": "call-initiate", "callId": id, "recipientIds": ["mallory"], "callType": "audio"})).await;
            mallory.expect("incoming-call").await;
            mallory.send(json!({"type": "call-answer", "callId": id})).await;
            caller.expect("call-answered").await;
        }
        let sdp = "x".repeat(200_000);
        for _ in 0..4 {
            for (number, caller) in callers.iter_mut().enumerate() {
                let id = format!("c{number}");
                caller.send(json!({"type": "offer", "callId": id, "recipientId": "mallory", "sdp": sdp})).await;
            }
        }
        sleep(Duration::from_secs(2)).await;
        (mallory, idle)
    })
    .await;
    server.until_metric("causeway_limits_reached_total{limit=\"unread-messages\"}", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn halves_of_connections_to_media_and_relay_are_cut_off() {
    let _alone = alone().await;
    let server = Server::start_with(&[&known_secret()]);
    let ports: [SocketAddr; 2] =
        [server.media_port, server.turn_port].map(|port| (Ipv4Addr::LOCALHOST, port).into());
    let kept = while_attacked(&server, 64 * 1024, async move {
        let mut kept = Vec::new();
        for round in 0..150 {
            for port in ports {
                let mut stream = TcpStream::connect(port).await.expect("it listens");
                // The beginning of a frame (RFC 4571) or of a STUN message: 20 bytes are to come.
                let _ = stream.write_all(&[0, 20, 0]).await;
                match round % 3 {
                    0 => kept.push(stream), // and no more
                    1 => {
                        // It will not speak any more, and waits for an answer.
                        let _ = stream.shutdown().await;
                        kept.push(stream);
                    }
                    _ => stream.set_zero_linger().expect("a socket"), // gone without a word (RST)
                }
            }
            sleep(Duration::from_millis(10)).await;
        }
        kept
    })
    .await;
    server.until_metric("causeway_media_tcp_refused_total{reason=\"unanswered\"}", 50).await;
    server.until_metric("causeway_turn_tcp_refused_total{reason=\"idle\"}", 50).await;
    drop(kept);
}
