//! The HTTP routes of `docs/protocol.md` §4.

use std::collections::BTreeSet;

use serde_json::json;

use crate::server::Server;

#[tokio::test]
async fn the_web_app_is_served_with_its_security_headers() {
    let server = Server::start();
    let page = server.get("/").await;
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    assert!(
        page.header("content-security-policy").is_some_and(|policy| policy.contains("default-src 'self'"))
    );
    let known = format!("If-None-Match: {}", page.header("etag").expect("an ETag"));
    let again = server.request("GET", "/", &[&known], "").await;
    assert_eq!((again.status, again.body.as_str()), (304, ""));
    for missing in ["/deep/link", "/../Cargo.toml", "/%2e%2e/Cargo.toml", "/assets/../../Cargo.toml"] {
        assert_eq!(server.get(missing).await.problem(404), "not-found", "{missing}");
    }
    assert_eq!(server.request("POST", "/", &[], "").await.problem(405), "method-not-allowed");
    assert_eq!(server.request("HEAD", "/", &[], "").await.body, "");
}

#[tokio::test]
async fn metrics_are_for_this_machine_and_administrators() {
    let server = Server::start();
    let _client = server.join("alice").await;
    let text = server.get("/metrics").await;
    assert_eq!(text.status, 200);
    for line in ["causeway_sessions 1", "causeway_http_requests_total{status=\"2xx\"}", "# EOF"] {
        assert!(text.body.contains(line), "{line} is not in\n{}", text.body);
    }
    let proxied = "X-Forwarded-For: 192.0.2.1";
    assert_eq!(server.request("GET", "/metrics", &[proxied], "").await.problem(401), "unauthorized");
    let user = format!("Authorization: Bearer {}", server.token("alice").await);
    assert_eq!(server.request("GET", "/metrics", &[proxied, &user], "").await.problem(403), "forbidden");
    let admin = format!("Authorization: Bearer {}", server.admin_token().await);
    assert_eq!(server.request("GET", "/metrics", &[proxied, &admin], "").await.status, 200);
}

#[tokio::test]
async fn the_dashboard_asks_for_metrics_that_exist() {
    let names = |text: &'static str| -> BTreeSet<&'static str> {
        let from = text.match_indices("causeway_").map(|(at, _)| &text[at..]);
        from.map(|from| from.split(|c: char| c != '_' && !c.is_ascii_lowercase()).next().unwrap_or(from))
            .collect()
    };
    let dashboard = include_str!("../../deploy/grafana-dashboard.json");
    let json: serde_json::Value = serde_json::from_str(dashboard).expect("JSON");
    assert!(json["panels"].as_array().is_some_and(|panels| panels.len() > 20));
    // Those that count by label have no line before they have counted, so the list for operators is asked too.
    let explained = names(include_str!("../../docs/operations.md"));
    let unknown: Vec<_> = names(dashboard).difference(&explained).copied().collect();
    assert!(unknown.is_empty(), "{unknown:?} are not in docs/operations.md");
    let served = Server::start().get("/metrics").await.body;
    let shown = |name: &&&str| served.contains(&format!("# TYPE {} ", name.trim_end_matches("_total")));
    assert!(explained.iter().filter(shown).count() > 12, "{served}");
}

#[tokio::test]
async fn ice_servers_hold_time_limited_credentials_in_both_shapes() {
    let server = Server::start();
    assert_eq!(server.get("/v1/ice-servers").await.problem(401), "unauthorized");
    let token = server.token("alice").await;
    let list = server.get_as(&token, "/v1/ice-servers").await.json();
    let relay = list.as_array().expect("an array").iter().find(|entry| entry.get("username").is_some());
    let relay = relay.unwrap_or_else(|| panic!("no TURN in {list}"));
    let username = relay["username"].as_str().expect("text");
    assert!(username.ends_with(":alice"), "{username}");
    let port = server.turn_port.to_string();
    assert!(relay["urls"].as_array().expect("urls").iter().any(|url| {
        url.as_str().is_some_and(|url| url.starts_with("turn:127.0.0.1:") && url.contains(&port))
    }));

    let rest = server.get_as(&token, "/v1/ice-servers?service=turn").await.json();
    assert!(rest["username"].is_string() && rest["password"].is_string(), "{rest}");
    assert!(rest["ttl"].is_u64() && rest["uris"].is_array(), "{rest}");
}

#[tokio::test]
async fn rooms_are_listed_and_closed_by_administrators_only() {
    let server = Server::start();
    let user = server.token("alice").await;
    let admin = server.admin_token().await;
    assert_eq!(server.get("/v1/rooms").await.problem(401), "unauthorized");
    assert_eq!(server.get_as(&user, "/v1/rooms").await.problem(403), "forbidden");
    assert_eq!(server.get_as(&admin, "/v1/rooms").await.json()["rooms"], json!([]));
    assert_eq!(server.get_as(&admin, "/v1/rooms/none").await.problem(404), "room-not-found");

    let mut alice = server.join("alice").await;
    alice.send(json!({"type": "join-room", "requestId": 1, "roomId": "r1"})).await;
    let joined = alice.expect("response").await;
    assert_eq!((&joined["ok"], &joined["requestId"]), (&json!(true), &json!(1)), "{joined}");
    let room = server.get_as(&admin, "/v1/rooms/r1").await.json();
    assert_eq!(room["peers"][0]["peerId"], "alice", "{room}");

    let bearer = format!("Authorization: Bearer {admin}");
    let delete = async |path: &str| server.request("DELETE", path, &[&bearer], "").await;
    assert_eq!(delete("/v1/rooms/r1/peers/bob").await.problem(404), "peer-not-found");
    assert_eq!(delete("/v1/rooms/r1/peers/alice").await.status, 204);
    alice.expect("removed").await;

    alice.send(json!({"type": "join-room", "requestId": 2, "roomId": "r2"})).await;
    alice.expect("response").await;
    assert_eq!(delete("/v1/rooms/r2").await.status, 204);
    alice.expect("room-closed").await;
    assert_eq!(delete("/v1/rooms/r2").await.problem(404), "room-not-found");
}

#[tokio::test]
async fn unknown_routes_and_methods_are_problems() {
    let server = Server::start();
    let admin = server.admin_token().await;
    assert_eq!(server.get_as(&admin, "/v1/nothing").await.problem(404), "not-found");
    assert_eq!(server.get_as(&admin, "/v1/calls/none").await.problem(404), "not-found");
    assert_eq!(server.get_as(&admin, "/v1/calls?since=yesterday").await.problem(400), "invalid-request");
    assert_eq!(server.get_as(&admin, "/v1/drain").await.problem(405), "method-not-allowed");
    assert_eq!(server.get("/%zz").await.problem(400), "invalid-request");
}
