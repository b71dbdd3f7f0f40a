//! Every way for a token to be wrong.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const NOW: u64 = 1_700_000_000;

fn secret() -> Secret {
    Secret(b"0123456789abcdef0123456789abcdef".to_vec())
}

fn auth() -> Auth {
    Auth { key: AuthKey::Secret(secret()), issuer: None, audience: None }
}

fn claims() -> Claims {
    Claims {
        sub: UserId::new("alice").unwrap(),
        exp: NOW + 60,
        nbf: None,
        name: None,
        call: true,
        room: "*".into(),
        publish: true,
        subscribe: true,
        admin: false,
    }
}

fn signed(claims: Value) -> String {
    sign(&secret(), &claims).unwrap()
}

fn check(auth: &Auth, token: &str, expected: Result<(), TokenError>) {
    let found = TokenVerifier::new(auth).unwrap().verify(token, NOW).map(drop);
    assert_eq!(found, expected, "{token}");
}

#[test]
fn what_is_minted_is_verified() {
    let claims = Claims { admin: true, room: "r".into(), name: Some("Alice".into()), ..claims() };
    let token = mint(&secret(), &claims).unwrap();
    assert_eq!(TokenVerifier::new(&auth()).unwrap().verify(&token, NOW), Ok(claims));
}

#[test]
fn defaults_are_those_of_the_protocol() {
    let token = signed(json!({"sub": "bob", "exp": NOW + 1}));
    let claims = TokenVerifier::new(&auth()).unwrap().verify(&token, NOW).unwrap();
    assert!(claims.call && claims.publish && claims.subscribe && !claims.admin);
    assert_eq!(claims.room, "*");
}

#[test]
fn time_is_the_callers_and_the_leeway_small() {
    let token = mint(&secret(), &Claims { nbf: Some(NOW), ..claims() }).unwrap();
    let verifier = TokenVerifier::new(&auth()).unwrap();
    let at = |now| verifier.verify(&token, now).map(drop);
    assert_eq!(at(NOW - LEEWAY_SECS - 1), Err(TokenError::NotYetValid));
    assert_eq!(at(NOW - LEEWAY_SECS), Ok(()));
    assert_eq!(at(NOW + 60 + LEEWAY_SECS - 1), Ok(()));
    assert_eq!(at(NOW + 60 + LEEWAY_SECS), Err(TokenError::Expired));
    assert_eq!(at(u64::MAX), Err(TokenError::Expired));
}

#[test]
fn claims_that_are_required_or_too_odd() {
    let malformed = Err(TokenError::Malformed);
    check(&auth(), &signed(json!({"sub": "alice"})), malformed.clone());
    check(&auth(), &signed(json!({"exp": NOW + 1})), malformed.clone());
    check(&auth(), &signed(json!({"sub": "", "exp": NOW + 1})), malformed.clone());
    check(&auth(), &signed(json!({"sub": "a b", "exp": NOW + 1})), malformed.clone());
    check(&auth(), &signed(json!({"sub": "alice#2", "exp": NOW + 1})), malformed.clone());
    check(&auth(), &signed(json!({"sub": "a".repeat(129), "exp": NOW + 1})), malformed.clone());
    check(&auth(), &signed(json!({"sub": "alice", "exp": "soon"})), malformed.clone());
    check(&auth(), &signed(json!({"sub": "alice", "exp": -1})), malformed.clone());
    check(&auth(), &signed(json!({"sub": "alice", "exp": NOW + 1, "room": "no room"})), malformed.clone());
    check(&auth(), &signed(json!({"sub": "alice", "exp": NOW + 1, "admin": "yes"})), malformed);
    check(&auth(), &signed(json!({"sub": "alice", "exp": u64::MAX, "other": [1]})), Ok(()));
}

#[test]
fn a_long_name_is_cut_between_characters() {
    let token = mint(&secret(), &Claims { name: Some("é".repeat(500)), ..claims() }).unwrap();
    let claims = TokenVerifier::new(&auth()).unwrap().verify(&token, NOW).unwrap();
    assert_eq!(claims.name, Some("é".repeat(NAME_CHARS_MAX)));
}

#[test]
fn forged_and_unsigned_tokens_are_refused() {
    let good = mint(&secret(), &claims()).unwrap();
    let (head, body) = (good.split('.').next().unwrap(), good.split('.').nth(1).unwrap());
    let header = |header: Value| URL_SAFE_NO_PAD.encode(header.to_string());
    check(&auth(), &good, Ok(()));
    check(&auth(), &format!("{head}.{body}."), Err(TokenError::Signature));
    check(&auth(), &format!("{}.{body}.", header(json!({"alg": "none"}))), Err(TokenError::Malformed));
    check(&auth(), &format!("{}.{body}.AAAA", header(json!({"alg": "HS512"}))), Err(TokenError::Algorithm));
    let crit = header(json!({"alg": "HS256", "crit": ["b64"], "b64": false}));
    check(&auth(), &format!("{crit}.{body}.AAAA"), Err(TokenError::Malformed));
    let other = mint(&Secret(b"another secret of some length...".to_vec()), &claims()).unwrap();
    check(&auth(), &other, Err(TokenError::Signature));
    check(&auth(), "", Err(TokenError::Malformed));
    check(&auth(), &"a".repeat(TOKEN_BYTES_MAX + 1), Err(TokenError::TooLong));
}

#[test]
fn issuer_and_audience_are_required_once_configured() {
    let auth = Auth { issuer: Some("https://id".into()), audience: Some("calls".into()), ..auth() };
    check(&auth, &mint_for(&auth, &claims()).unwrap(), Ok(()));
    check(&auth, &mint(&secret(), &claims()).unwrap(), Err(TokenError::Audience));
    let addressed = |iss, aud: Value| signed(json!({"sub": "alice", "exp": NOW + 1, "iss": iss, "aud": aud}));
    check(&auth, &addressed("https://id", json!(["x", "calls"])), Ok(()));
    check(&auth, &addressed("https://evil", json!("calls")), Err(TokenError::Audience));
    check(&auth, &addressed("https://id", json!("mail")), Err(TokenError::Audience));
}

/// A P-256 key pair: the signing key, its public key in PEM, its JWK.
fn ec_key(kid: &str) -> (EncodingKey, Vec<u8>, Value) {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let point = pair.public_key().as_ref();
    // SubjectPublicKeyInfo of a P-256 point (RFC 5480): a constant head, then the point.
    let mut spki = vec![0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    spki.extend([0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00]);
    spki.extend(point);
    let body = base64::engine::general_purpose::STANDARD.encode(&spki);
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n").into_bytes();
    let jwk = json!({
        "kty": "EC", "crv": "P-256", "kid": kid, "use": "sig",
        "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..]),
    });
    (EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref()), pem, jwk)
}

fn es256(key: &EncodingKey, kid: Option<&str>) -> String {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::ES256) };
    jsonwebtoken::encode(&header, &claims(), key).unwrap()
}

#[test]
fn a_public_key_is_never_taken_for_a_secret() {
    let (key, pem, _) = ec_key("a");
    let auth = Auth { key: AuthKey::PublicKey(pem.clone()), issuer: None, audience: None };
    check(&auth, &es256(&key, None), Ok(()));
    check(&auth, &mint(&Secret(pem), &claims()).unwrap(), Err(TokenError::Algorithm));
    assert!(mint_for(&auth, &claims()).is_err());
}

#[test]
fn a_jwks_key_is_found_by_its_kid() {
    let ((a, _, jwk_a), (b, _, jwk_b)) = (ec_key("a"), ec_key("b"));
    let symmetric = json!({"kty": "oct", "kid": "s", "k": URL_SAFE_NO_PAD.encode(secret().0)});
    let jwks = |keys: Value| Auth {
        key: AuthKey::Jwks(json!({"keys": keys}).to_string()),
        issuer: None,
        audience: None,
    };
    let auth = jwks(json!([jwk_a, jwk_b, symmetric]));
    check(&auth, &es256(&a, Some("a")), Ok(()));
    check(&auth, &es256(&b, Some("b")), Ok(()));
    check(&auth, &es256(&b, Some("a")), Err(TokenError::Signature));
    check(&auth, &es256(&b, Some("c")), Err(TokenError::UnknownKey));
    check(&auth, &es256(&a, None), Err(TokenError::UnknownKey));
    check(&auth, &mint(&secret(), &claims()).unwrap(), Err(TokenError::Algorithm));
    check(&jwks(json!([jwk_a])), &es256(&a, None), Ok(()));
    assert!(TokenVerifier::new(&jwks(json!([symmetric]))).is_err());
    assert!(TokenVerifier::new(&jwks(json!("x"))).is_err());
}

#[test]
fn keys_that_verify_nothing_are_refused_at_once() {
    let auth = |pem: &[u8]| Auth { key: AuthKey::PublicKey(pem.to_vec()), issuer: None, audience: None };
    assert!(TokenVerifier::new(&auth(b"")).is_err());
    assert!(
        TokenVerifier::new(&auth(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----")).is_err()
    );
}

proptest! {
    #[test]
    fn no_token_breaks_the_verifier(token in "([A-Za-z0-9_=-]{0,40}\\.){0,3}.{0,40}") {
        prop_assert!(TokenVerifier::new(&auth()).unwrap().verify(&token, NOW).is_err());
    }

    #[test]
    fn a_changed_token_is_refused(at in 0usize..200, to in "[A-Za-z0-9_-]") {
        let good = mint(&secret(), &claims()).unwrap();
        let at = at % good.len();
        let mut bad = good.clone();
        bad.replace_range(at..=at, &to);
        // The last character of base64 carries bits that mean nothing.
        prop_assume!(bad != good && at + 1 != good.len());
        prop_assert!(TokenVerifier::new(&auth()).unwrap().verify(&bad, NOW).is_err());
    }
}
