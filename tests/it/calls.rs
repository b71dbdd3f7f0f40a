//! Calls over the wire: relay, several devices, resume, the call log.

use serde_json::json;

use crate::client::Client;
use crate::server::Server;

/// Alice calls Bob, who answers.
async fn call(alice: &mut Client, bob: &mut Client, call_id: &str) {
    alice
        .send(
            json!({"type": "call-initiate", "callId": call_id, "recipientIds": ["bob"], "callType": "video"}),
        )
        .await;
    let ringing = bob.expect("incoming-call").await;
    assert_eq!((&ringing["callId"], &ringing["initiatorId"]), (&json!(call_id), &json!("alice")));
    assert_eq!(ringing["callType"], "video");
    bob.send(json!({"type": "call-answer", "callId": call_id})).await;
    assert_eq!(alice.expect("call-answered").await["userId"], "bob");
}

#[tokio::test]
async fn two_people_call_and_hang_up_and_the_log_has_it() {
    let server = Server::start();
    let (mut alice, mut bob) = (server.join("alice").await, server.join("bob").await);
    call(&mut alice, &mut bob, "c1").await;

    let sdp = "v=0\r\n".to_owned() + &"a=x\r\n".repeat(2000);
    alice
        .send(json!({"type": "offer", "callId": "c1", "recipientId": "bob", "sdp": sdp, "senderId": "x"}))
        .await;
    let offer = bob.expect("offer").await;
    assert_eq!((&offer["senderId"], &offer["sdp"]), (&json!("alice"), &json!(sdp)));
    let candidate = json!({"candidate": "candidate:1 1 udp 1 192.0.2.1 9 typ host", "sdpMid": "0"});
    bob.send(
        json!({"type": "ice-candidate", "callId": "c1", "recipientId": "alice", "candidate": candidate}),
    )
    .await;
    assert_eq!(alice.expect("ice-candidate").await["candidate"], candidate);

    bob.send(json!({"type": "call-end", "callId": "c1"})).await;
    let ended = alice.expect("call-ended").await;
    assert_eq!((&ended["endedBy"], &ended["reason"]), (&json!("bob"), &json!("hangup")));

    let token = server.token("alice").await;
    let record = logged(&server, &token).await;
    assert_eq!((&record["callId"], &record["initiator"]), (&json!("c1"), &json!("alice")));
    assert_eq!(record["endReason"], "hangup");
    let one =
        server.get_as(&token, &format!("/v1/calls/{}", record["recordId"].as_str().expect("an id"))).await;
    assert_eq!(one.json(), record);

    let stranger = server.token("mallory").await;
    let page = server.get_as(&stranger, "/v1/calls").await.json();
    assert_eq!(page["calls"], json!([]), "only one's own calls are shown");
    let path = format!("/v1/calls/{}", record["recordId"].as_str().expect("an id"));
    assert_eq!(server.get_as(&stranger, &path).await.problem(404), "not-found");
    assert_eq!(server.get_as(&stranger, "/v1/calls?user=alice").await.problem(403), "forbidden");
    let admin = server.admin_token().await;
    let all = server.get_as(&admin, "/v1/calls?user=bob").await.json();
    assert_eq!(all["calls"], json!([record]));
}

/// The one call in the log; it is written by a task of its own, so not at once.
async fn logged(server: &Server, token: &str) -> serde_json::Value {
    for _ in 0..1000 {
        let page = server.get_as(token, "/v1/calls").await;
        assert_eq!(page.status, 200, "{page:?}");
        if let Some(record) = page.json()["calls"].as_array().and_then(|calls| calls.first().cloned()) {
            return record;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the call is not in the log");
}

#[tokio::test]
async fn every_device_rings_and_the_answer_silences_the_others() {
    let server = Server::start();
    let mut alice = server.join("alice").await;
    let (mut phone, mut laptop) = (server.join("bob").await, server.join("bob").await);
    assert_ne!(phone.session, laptop.session);
    alice
        .send(json!({"type": "call-initiate", "callId": "c1", "recipientIds": ["bob"], "callType": "audio"}))
        .await;
    phone.expect("incoming-call").await;
    laptop.expect("incoming-call").await;
    laptop.send(json!({"type": "call-answer", "callId": "c1"})).await;
    assert_eq!(phone.expect("call-ended").await["reason"], "answered-elsewhere");
    alice.expect("call-answered").await;
    alice.send(json!({"type": "offer", "callId": "c1", "recipientId": "bob", "sdp": "v=0"})).await;
    laptop.expect("offer").await;
}

#[tokio::test]
async fn a_lost_connection_resumes_with_its_call_and_what_it_missed() {
    let server = Server::start();
    let (mut alice, mut bob) = (server.join("alice").await, server.join("bob").await);
    call(&mut alice, &mut bob, "c1").await;
    let session = bob.session.clone();
    drop(bob); // no close frame
    until_open(&server, 2).await; // alice's, and the one that asks
    alice.send(json!({"type": "offer", "callId": "c1", "recipientId": "bob", "sdp": "v=0 missed"})).await;

    let token = server.token("bob").await;
    let mut bob = server.open(&format!("/ws?token={token}&session={session}")).await;
    bob.welcome("bob", true).await;
    assert_eq!(bob.session, session);
    assert_eq!(bob.expect("offer").await["sdp"], "v=0 missed");

    let thief = server.token("mallory").await;
    let mut thief = server.open(&format!("/ws?token={thief}&session={session}")).await;
    thief.welcome("mallory", false).await;
}

/// Waits until the server has noticed that connections are gone.
async fn until_open(server: &Server, connections: usize) {
    let line = format!("causeway_http_connections {connections}\n");
    for _ in 0..1000 {
        if server.get("/metrics").await.body.contains(&line) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("there are never {connections} connections");
}

#[tokio::test]
async fn a_close_with_1000_ends_the_session_at_once() {
    let server = Server::start();
    let (mut alice, mut bob) = (server.join("alice").await, server.join("bob").await);
    call(&mut alice, &mut bob, "c1").await;
    bob.close_normally().await;
    assert_eq!(alice.expect("call-ended").await["reason"], "disconnected");
}
