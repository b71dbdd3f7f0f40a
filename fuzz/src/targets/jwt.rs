//! Access tokens: none is accepted that nobody signed, and any claims may be signed by an issuer we trust.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::config::{Auth, AuthKey, Secret};
use common::ids::RoomId;
use common::token::{Claims, LEEWAY_SECS, TokenVerifier};

const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";
const NOW: u64 = 1_700_000_000;

/// First byte: 0 a token as it is; otherwise header and claims, divided by a line break, which are signed here.
pub fn run(data: &[u8]) {
    let Some((&signed, text)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let auth = |issuer: Option<&str>| Auth {
        key: AuthKey::Secret(Secret(KEY.to_vec())),
        issuer: issuer.map(Into::into),
        audience: issuer.map(Into::into),
    };
    let anybody = TokenVerifier::new(&auth(None)).expect("a key");
    if signed == 0 {
        assert!(anybody.verify(text, NOW).is_err(), "nobody has signed {text:?}");
        return;
    }
    let (header, claims) = text.split_once('\n').unwrap_or((r#"{"alg":"HS256"}"#, text));
    let token = sign(header, claims);
    if let Ok(claims) = anybody.verify(&token, NOW) {
        acceptable(&claims);
    }
    let addressed = TokenVerifier::new(&auth(Some("us"))).expect("a key");
    if addressed.verify(&token, NOW).is_ok() {
        assert!(claims.contains("iss") && claims.contains("aud"), "{claims}");
    }
}

fn acceptable(claims: &Claims) {
    assert!(claims.exp.saturating_add(LEEWAY_SECS) > NOW);
    assert!(claims.nbf.is_none_or(|nbf| nbf <= NOW + LEEWAY_SECS));
    assert!(!claims.sub.as_str().contains('#'));
    assert!(claims.room == "*" || RoomId::new(&claims.room).is_ok());
    assert!(claims.name.as_ref().is_none_or(|name| name.chars().count() <= 128));
}

fn sign(header: &str, claims: &str) -> String {
    let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, KEY), text.as_bytes());
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(tag))
}

/// Good claims, and a token without a signature.
pub fn seeds() -> Vec<Vec<u8>> {
    let claims = r#"{"sub":"alice","exp":1700000060,"nbf":1699999999,"name":"Alice","room":"r","admin":true,"call":false}"#;
    let addressed = r#"{"sub":"a","exp":1700000060,"iss":"us","aud":["us"]}"#;
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    let unsigned = format!("{none}.{}.", URL_SAFE_NO_PAD.encode(claims));
    vec![
        format!("\u{1}{claims}").into_bytes(),
        format!("\u{1}{{\"alg\":\"HS256\",\"typ\":\"JWT\",\"kid\":\"k\"}}\n{addressed}").into_bytes(),
        format!("\u{1}{{\"alg\":\"none\",\"crit\":[\"b64\"]}}\n{claims}").into_bytes(),
        format!("\0{unsigned}").into_bytes(),
    ]
}
