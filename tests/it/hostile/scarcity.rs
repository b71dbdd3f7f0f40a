//! When something runs out: the disk, the database, open files, memory.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use rustix::process::Resource;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::paying::{alone, known_secret, while_attacked};
use crate::client::Client;
use crate::server::Server;

/// Calls somebody and ends the call, which is then to be logged.
pub async fn call(caller: &mut Client, callee: &mut Client, id: &str) {
    caller
        .send(json!({"type": "call-initiate", "callId": id, "recipientIds": ["dave"], "callType": "audio"}))
        .await;
    callee.expect("incoming-call").await;
    callee.send(json!({"type": "call-answer", "callId": id})).await;
    caller.expect("call-answered").await;
    caller.send(json!({"type": "call-end", "callId": id, "forAll": true})).await;
    callee.expect("call-ended").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_costs_records_and_no_calls() {
    let _alone = alone().await;
    let server = Server::start_with(&[&known_secret()]);
    let (mut carol, mut dave) = (server.sign_in("carol").await, server.sign_in("dave").await);
    call(&mut carol, &mut dave, "before").await;
    server.until_metric("causeway_call_log_written_total", 1).await;

    // No file may grow any more: as on a full disk, neither the database nor the spill file takes a record.
    server.limit(Resource::Fsize, Some(0));
    let (mut carol, mut dave) = while_attacked(&server, 32 * 1024, async move {
        for number in 0..50 {
            call(&mut carol, &mut dave, &format!("full-{number}")).await;
        }
        sleep(Duration::from_secs(1)).await;
        (carol, dave)
    })
    .await;
    server.until_metric("causeway_call_log_lost_total", 1).await;
    let told = server.log().matches("call records are lost").count();
    assert_eq!(told, 1, "one warning a minute");

    server.limit(Resource::Fsize, None);
    let written = server.metric("causeway_call_log_written_total").await;
    call(&mut carol, &mut dave, "after").await;
    server.until_metric("causeway_call_log_written_total", written + 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_gone_is_not_waited_for() {
    let _alone = alone().await;
    let nobody = crate::server::free_port();
    let url = format!("store.url=postgres://causeway@127.0.0.1:{nobody}/causeway");
    let server = Server::start_with(&[&known_secret(), &url, "store.spill_dir=spill"]);
    let (mut carol, mut dave) = (server.sign_in("carol").await, server.sign_in("dave").await);
    while_attacked(&server, 32 * 1024, async move {
        for number in 0..50 {
            call(&mut carol, &mut dave, &format!("gone-{number}")).await;
        }
        sleep(Duration::from_secs(1)).await;
    })
    .await;
    server.until_metric("causeway_call_log_spilled_total", 51).await;
    assert_eq!(server.metric("causeway_call_log_lost_total").await, 0);
    assert_eq!(server.get_as(&server.minted("carol"), "/v1/calls").await.problem(503), "unavailable");
}

fn ports(server: &Server) -> [SocketAddr; 3] {
    [server.http.port(), server.media_port, server.turn_port].map(|port| (Ipv4Addr::LOCALHOST, port).into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_256_open_files_strangers_cannot_take_the_last() {
    let _alone = alone().await;
    let server = Server::start_limited("-n 256", &[]);
    let ports = ports(&server);
    while_attacked(&server, 32 * 1024, async move {
        let mut crowd = Vec::new();
        for _ in 0..200 {
            for port in ports {
                crowd.push(TcpStream::connect(port).await.expect("the kernel takes the connection"));
            }
        }
        sleep(Duration::from_secs(1)).await;
    })
    .await;
    for metric in ["connections_refused", "media_tcp_refused", "turn_tcp_refused"] {
        let name = format!("causeway_{metric}_total{{reason=\"too-many\"}}");
        assert!(server.metric(&name).await >= 50, "{name}");
    }
    server.sign_in("late").await;
    assert_eq!(server.log().matches("cannot accept").count(), 0, "{}", server.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_files_the_listeners_neither_spin_nor_die() {
    let server = Server::start_with(&[&known_secret()]);
    let ports = ports(&server);
    server.sign_in("early").await.close_normally().await;
    server.media_is_up().await;
    server.limit(Resource::Nofile, Some(3));
    let (before, waited) = (server.cpu_ticks(), Duration::from_secs(2));
    let mut waiting = Vec::new();
    for port in ports {
        waiting.push(TcpStream::connect(port).await.expect("the kernel takes the connection"));
    }
    sleep(waited).await;
    let spent = Duration::from_millis(10 * (server.cpu_ticks() - before));
    assert!(spent < waited / 2, "{spent:?} of processor time in {waited:?}");
    server.limit(Resource::Nofile, None);
    for listener in ["http", "media", "turn"] {
        let name = format!("causeway_accept_failures_total{{listener=\"{listener}\"}}");
        assert!(server.metric(&name).await >= 5, "{name}");
    }
    assert_eq!(server.log().matches("cannot accept").count(), 3, "one warning a minute and listener");
    server.sign_in("late").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_capped_memory_a_crowd_that_sends_does_not_end_the_process() {
    let _alone = alone().await;
    // Address space, most of which is reserved and never touched: threads' stacks and the allocator's arenas.
    let server = Server::start_limited("-v 3000000", &[]);
    let http = server.http;
    while_attacked(&server, 200 * 1024, async move {
        let mut crowd = Vec::new();
        for _ in 0..1000 {
            let mut stream = TcpStream::connect(http).await.expect("the kernel takes the connection");
            let head = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}", "x".repeat(8 * 1024));
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes()).await; // refused ones are cut off
            crowd.push(stream);
        }
        let _ = timeout(Duration::from_secs(2), std::future::pending::<()>()).await;
    })
    .await;
    assert_eq!(server.get("/healthz").await.status, 200);
}
