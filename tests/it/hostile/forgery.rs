//! Tokens that nobody minted, paths out of the web app, and pages from elsewhere.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Error;

use super::paying::{alone, known_secret, while_attacked};
use crate::client::{exchange, unix_secs};
use crate::server::{SECRET, Server};

/// A JWT with this header and these claims, signed with HMAC-SHA256 by `secret`, or with nothing.
fn jwt(header: &Value, claims: &Value, secret: Option<&str>) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = secret.map_or_else(Vec::new, |secret| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        hmac::sign(&key, signed.as_bytes()).as_ref().to_vec()
    });
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn forgeries() -> Vec<(&'static str, String)> {
    let hs256 = json!({"alg": "HS256", "typ": "JWT"});
    let good = json!({"sub": "alice", "exp": unix_secs() + 3600, "admin": true});
    let with = |key: &str, value: Value| {
        let mut claims = good.clone();
        claims[key] = value;
        claims
    };
    let mut without_expiry = good.clone();
    without_expiry.as_object_mut().expect("an object").remove("exp");
    let header = |header: Value| jwt(&header, &good, Some(SECRET));
    let signed = jwt(&hs256, &good, Some(SECRET));
    let (head, rest) = signed.split_once('.').expect("three parts");
    let (_, signature) = rest.split_once('.').expect("three parts");
    let other_user = URL_SAFE_NO_PAD.encode(with("sub", json!("root")).to_string());
    vec![
        ("alg none", jwt(&json!({"alg": "none"}), &good, None)),
        ("alg NONE, signed", header(json!({"alg": "NONE"}))),
        ("alg missing", header(json!({"typ": "JWT"}))),
        ("another HMAC", header(json!({"alg": "HS512"}))),
        ("a public key's algorithm", header(json!({"alg": "RS256"}))),
        ("no signature", jwt(&hs256, &good, None)),
        ("a wrong key", jwt(&hs256, &good, Some("another secret of thirty-two bytes"))),
        ("an empty key", jwt(&hs256, &good, Some(""))),
        ("expired", jwt(&hs256, &with("exp", json!(unix_secs() - 60)), Some(SECRET))),
        ("without expiry", jwt(&hs256, &without_expiry, Some(SECRET))),
        ("expiry as text", jwt(&hs256, &with("exp", json!("9999999999")), Some(SECRET))),
        ("not yet valid", jwt(&hs256, &with("nbf", json!(unix_secs() + 600)), Some(SECRET))),
        ("a user that is none", jwt(&hs256, &with("sub", json!("../root")), Some(SECRET))),
        ("another user in a signed token", format!("{head}.{other_user}.{signature}")),
        ("a wrong key behind a kid", {
            let header = json!({"alg": "HS256", "kid": "../../../../dev/null"});
            jwt(&header, &good, Some("another secret of thirty-two bytes"))
        }),
        ("a key of its own", {
            let header =
                json!({"alg": "HS256", "jwk": {"kty": "oct", "k": "AAAA"}, "jku": "http://127.0.0.1/"});
            jwt(&header, &good, Some("\0\0\0"))
        }),
        ("an unknown extension", header(json!({"alg": "HS256", "crit": ["x"], "x": 1}))),
        ("too long", jwt(&hs256, &with("name", json!("x".repeat(9000))), Some(SECRET))),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_forged_token_opens_anything() {
    let _alone = alone().await;
    let server = Server::start_with(&[&known_secret()]);
    let forgeries = forgeries();
    let count = forgeries.len() as u64;
    let (door, forged) = (server.door(), forgeries.clone());
    while_attacked(&server, 16 * 1024, async move {
        for (name, forged) in forged {
            let path = format!("/ws?token={forged}");
            let (mut socket, _) = door.handshake(&path, &[]).await.expect("it completes");
            assert_eq!(socket.closed().await, (1008, "Authentication failed".to_owned()), "{name}");
        }
    })
    .await;
    assert_eq!(server.metric("causeway_connections_refused_total{reason=\"token\"}").await, count);
    for (name, forged) in &forgeries {
        let reply = server.get_as(forged, "/v1/rooms").await;
        assert_eq!(reply.problem(401), "unauthorized", "{name}");
        assert!(!server.log().contains(forged), "{name}: a token is in the log");
    }
    assert_eq!(server.get_as(&server.minted("alice"), "/v1/rooms").await.problem(403), "forbidden");
}

#[tokio::test]
async fn no_path_leads_out_of_the_web_app() {
    let server = Server::start();
    std::fs::write(server.folder.path().join("secret.txt"), "not for you").expect("writable");
    for path in [
        "/secret.txt",
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/%2e%2e%2fsecret.txt",
        "/assets/../../secret.txt",
        "/assets/..%5c..%5csecret.txt",
        "/..\\secret.txt",
        "//secret.txt",
        "/./secret.txt",
        "/secret.txt%00.html",
        "/index.html%00",
        "//etc/passwd",
        "/%2fetc%2fpasswd",
        "/proc/self/environ",
        "/causeway-data/causeway.db",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", server.http);
        let reply = exchange(server.connect().await, &request).await;
        assert!((400..500).contains(&reply.status), "{path}: {reply:?}");
        assert!(!reply.body.contains("not for you") && !reply.body.contains("root:"), "{path}");
    }
}

#[tokio::test]
async fn pages_from_elsewhere_are_refused_and_counted() {
    let server = Server::start_deployed(&["http.public_url=https://call.example.org"]);
    let path = format!("/ws?token={}", server.minted("alice"));
    let origins = [
        "https://evil.example",
        "https://call.example.org.evil.example",
        "https://evil.example/https://call.example.org",
        "http://call.example.org",
        "http://localhost:5173",
        "null",
        "file://",
    ];
    for origin in origins {
        match server.handshake(&path, &[("origin", origin)]).await {
            Err(Error::Http(response)) => assert_eq!(response.status(), 403, "{origin}"),
            other => panic!("{origin}: {:?}", other.map(|_| "connected")),
        }
    }
    let refused = server.metric("causeway_connections_refused_total{reason=\"origin\"}").await;
    assert_eq!(refused, origins.len() as u64);
    let (mut client, _) =
        server.handshake(&path, &[("origin", "https://call.example.org")]).await.expect("our own page");
    client.welcome("alice", false).await;
}
