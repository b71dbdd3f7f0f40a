//! The process: its exit codes, its signals, what it prints.

use std::net::TcpListener;

use rustix::process::Signal;
use serde_json::json;

use crate::server::{Folder, Server, causeway};

/// Runs to the end with these arguments: exit code and everything printed.
fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output = causeway(&Folder::new(), arguments).output().expect("the binary starts");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text.into_owned())
}

#[test]
fn a_bad_setting_is_one_line_that_names_it_and_exit_2() {
    for (set, named) in [
        ("http.nonsense=1", "http.nonsense"),
        ("signaling.heartbeat=soon", "signaling.heartbeat"),
        ("media.port=99999", "media.port"),
        ("http.listen=nowhere", "http.listen"),
    ] {
        let (code, text) = run(&["--dev", "--set", set]);
        assert_eq!(code, Some(2), "{set}: {text}");
        assert!(text.contains(named), "{set}: {text}");
        assert_eq!(text.trim().lines().count(), 1, "{set}: {text}");
    }
    let (code, text) = run(&["--config", "/nonexistent/causeway.toml"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("/nonexistent/causeway.toml"), "{text}");
}

#[test]
fn a_port_in_use_is_one_line_that_names_the_setting_and_exit_2() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = taken.local_addr().expect("it is bound");
    let (media, turn) = (crate::server::free_port(), crate::server::free_port());
    let sets = [
        format!("http.listen={address}"),
        format!("media.port={media}"),
        "media.workers=1".to_owned(),
        format!("turn.listen=127.0.0.1:{turn}"),
    ];
    let arguments: Vec<&str> =
        ["--dev"].into_iter().chain(sets.iter().flat_map(|set| ["--set", set.as_str()])).collect();
    let (code, text) = run(&arguments);
    assert_eq!(code, Some(2), "{text}");
    assert!(
        text.lines().any(|line| line.contains("http.listen") && line.contains(&address.to_string())),
        "{text}"
    );
}

#[test]
fn version_and_help_are_printed() {
    assert_eq!(run(&["--version"]).0, Some(0));
    let (code, help) = run(&["--help"]);
    assert_eq!(code, Some(0));
    assert!(help.contains("--config"), "{help}");
}

#[tokio::test]
async fn sigterm_closes_with_1012_and_exits_0() {
    let mut server = Server::start();
    let mut client = server.join("alice").await;
    server.signal(Signal::TERM);
    assert_eq!(client.closed().await.0, 1012);
    drop(client);
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
}

#[tokio::test]
async fn sigterm_waits_for_a_running_call_for_the_drain_timeout_and_no_longer_when_sent_again() {
    for hang_up in [true, false] {
        let mut server = Server::start_with(&["signaling.drain_timeout=1h"]);
        let (mut alice, mut bob) = (server.join("alice").await, server.join("bob").await);
        alice
            .send(json!({"type": "call-initiate", "callId": "c1", "recipientIds": ["bob"], "callType": "audio"}))
            .await;
        bob.expect("incoming-call").await;
        bob.send(json!({"type": "call-answer", "callId": "c1"})).await;
        alice.expect("call-answered").await;

        server.signal(Signal::TERM);
        server.wait_for("draining", |log| log.contains("draining").then_some(()));
        alice.send(json!({"type": "offer", "callId": "c1", "recipientId": "bob", "sdp": "v=0"})).await;
        bob.expect("offer").await;
        if hang_up {
            alice.send(json!({"type": "call-end", "callId": "c1"})).await;
        } else {
            server.signal(Signal::TERM);
        }
        let reason = if hang_up { "hangup" } else { "server-stopping" };
        assert_eq!(bob.expect("call-ended").await["reason"], reason);
        assert_eq!(alice.closed().await.0, 1012);
        drop((alice, bob));
        assert_eq!(server.wait().code(), Some(0), "{}", server.log());
    }
}

#[tokio::test]
async fn a_call_that_runs_when_the_server_stops_is_in_the_log_of_the_next() {
    let mut server = Server::start();
    let (mut alice, mut bob) = (server.join("alice").await, server.join("bob").await);
    alice
        .send(json!({"type": "call-initiate", "callId": "c1", "recipientIds": ["bob"], "callType": "audio"}))
        .await;
    bob.expect("incoming-call").await;
    bob.send(json!({"type": "call-answer", "callId": "c1"})).await;
    alice.expect("call-answered").await;
    assert_eq!(server.stop().code(), Some(0));

    let folder = std::mem::replace(&mut server.folder, Folder::new());
    let next = Server::start_in(folder, &[]);
    let token = next.admin_token().await;
    let page = next.get_as(&token, "/v1/calls").await.json();
    assert_eq!(page["calls"][0]["callId"], "c1", "{page}");
}

#[tokio::test]
async fn draining_is_not_ready_and_still_alive() {
    let server = Server::start();
    assert_eq!(server.get("/readyz").await.status, 200);
    let user = server.token("alice").await;
    let admin = server.admin_token().await;
    let drain = async |token: &str| {
        server.request("POST", "/v1/drain", &[&format!("Authorization: Bearer {token}")], "").await
    };
    assert_eq!(drain(&user).await.problem(403), "forbidden");
    assert_eq!(server.get("/readyz").await.status, 200);
    assert_eq!(drain(&admin).await.status, 202);
    assert_eq!(server.get("/readyz").await.status, 503);
    assert_eq!(server.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn sighup_says_what_cannot_be_reloaded() {
    let mut server = Server::start();
    server.signal(Signal::HUP);
    server.wait_for("a word about SIGHUP", |log| log.contains("restart").then_some(()));
    assert_eq!(server.get("/healthz").await.status, 200);
}
