//! Who may connect, and how a token may come.

use serde_json::json;
use tokio_tungstenite::tungstenite::Error;

use crate::client::exchange;
use crate::server::Server;

#[tokio::test]
async fn a_token_may_come_in_the_query_in_a_header_or_beside_the_subprotocol() {
    let server = Server::start();
    let token = server.token("alice").await;
    for path in ["/", "/ws"] {
        let mut client = server.open(&format!("{path}?token={token}")).await;
        let connected = client.welcome("alice", false).await;
        assert!(connected["iceServers"].is_array() && connected["heartbeatMs"].is_u64(), "{connected}");
    }
    let bearer = format!("Bearer {token}");
    let (mut client, _) = server.handshake("/ws", &[("authorization", &bearer)]).await.expect("101");
    client.welcome("alice", false).await;

    let pair = format!("causeway, {token}");
    let (mut client, response) =
        server.handshake("/ws", &[("sec-websocket-protocol", &pair)]).await.expect("101");
    assert_eq!(response.headers()["sec-websocket-protocol"], "causeway");
    client.welcome("alice", false).await;
}

#[tokio::test]
async fn without_a_good_token_the_handshake_completes_and_1008_follows() {
    let server = Server::start();
    let good = server.token("alice").await;
    let forged = format!("{}AAAA", &good[..good.len() - 4]);
    for path in
        ["/ws".to_owned(), "/ws?token=".to_owned(), format!("/?token={forged}"), "/ws?token=%zz".into()]
    {
        let closed = server.open(&path).await.closed().await;
        assert_eq!(closed, (1008, "Authentication failed".to_owned()), "{path}");
    }
    assert!(!server.log().contains(&forged), "a token is in the log");
}

#[tokio::test]
async fn the_first_message_is_not_lost_however_early_it_comes() {
    let server = Server::start();
    let token = server.token("alice").await;
    for _ in 0..5 {
        let mut client = server.open(&format!("/ws?token={token}")).await;
        client.send(json!({"type": "no-such-type"})).await;
        client.welcome("alice", false).await;
        assert_eq!(client.expect("error").await["code"], "unknown-type");
    }
}

#[tokio::test]
async fn pages_from_elsewhere_may_not_connect() {
    let server = Server::start();
    let token = server.token("alice").await;
    let path = format!("/ws?token={token}");
    let own = format!("http://{}", server.http);
    for origin in [own.as_str(), "http://localhost:5173"] {
        let (mut client, _) = server.handshake(&path, &[("origin", origin)]).await.expect("101");
        client.welcome("alice", false).await;
    }
    for origin in ["https://evil.example", "null", "http://127.0.0.1.evil.example"] {
        match server.handshake(&path, &[("origin", origin)]).await {
            Err(Error::Http(response)) => assert_eq!(response.status(), 403, "{origin}"),
            other => panic!("{origin}: {:?}", other.map(|_| "connected")),
        }
    }
}

#[tokio::test]
async fn dev_mode_mints_tokens_for_this_machine_only() {
    let server = Server::start();
    assert_eq!(server.get("/dev/token").await.problem(405), "method-not-allowed");
    let post = async |headers: &[&str], body: &str| server.request("POST", "/dev/token", headers, body).await;
    assert_eq!(post(&[], "{}").await.problem(400), "invalid-request");
    assert_eq!(post(&[], r#"{"user":"a b"}"#).await.problem(400), "invalid-request");
    let long = format!(r#"{{"user":"alice","name":"{}"}}"#, "x".repeat(20_000));
    assert_eq!(post(&[], &long).await.problem(400), "invalid-request");
    let evil = ["Origin: https://evil.example"];
    assert_eq!(post(&evil, r#"{"user":"alice"}"#).await.problem(403), "forbidden");

    let body = r#"{"user":"alice"}"#;
    let rebound = format!(
        "POST /dev/token HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(exchange(server.connect().await, &rebound).await.problem(403), "forbidden");
}
