//! The keys that check tokens, from a JWKS document or PEM: whatever they are, a token of another key is refused.

use common::config::{Auth, AuthKey};
use common::token::TokenVerifier;

/// A token that Ed25519 would have to verify; its signature is zeros.
const TOKEN: &str = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhIiwiZXhwIjo5OTk5OTk5OTk5fQ.\
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// A document, or PEM.
pub fn run(data: &[u8]) {
    let pem = AuthKey::PublicKey(data.to_vec());
    let jwks = std::str::from_utf8(data).ok().map(|text| AuthKey::Jwks(text.into()));
    for key in [Some(pem), jwks].into_iter().flatten() {
        if let Ok(verifier) = TokenVerifier::new(&Auth { key, issuer: None, audience: None }) {
            let _ = verifier.verify(TOKEN, 1_700_000_000);
        }
    }
}

/// A key of each kind.
pub fn seeds() -> Vec<Vec<u8>> {
    vec![
        br#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","use":"sig","alg":"EdDSA","kid":"1"}]}"#.to_vec(),
        br#"{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#.to_vec(),
        br#"{"keys":[{"kty":"RSA","n":"sXchDaQebHnPiGvyDOAT4saGEUetSyo9MKLOoWFsueri23bOdgWp4Dy1Wl","e":"AQAB"},{"kty":"oct","k":"c2VjcmV0"}]}"#.to_vec(),
        b"-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n".to_vec(),
    ]
}
