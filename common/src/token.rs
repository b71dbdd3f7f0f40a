//! Who may do what: access tokens (`docs/protocol.md` §1), as JWTs (RFC 7519).
//!
//! The key decides the algorithm, never the token (RFC 8725 §3.1): a secret verifies HS256 only, a public key the one
//! algorithm of its kind. The caller says what time it is.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::config::{Auth, AuthKey, Secret};
use crate::ids::{RoomId, UserId};

/// A longer token is refused unread. It comes in a request line, which the HTTP server bounds to the same order.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// How far the issuer's clock may be from ours, seconds: NTP keeps hosts well within it.
pub const LEEWAY_SECS: u64 = 5;

/// Everybody in a room is told a peer's name: what goes beyond is cut off.
const NAME_CHARS_MAX: usize = 128;

/// The claims that Causeway reads. Unknown claims are ignored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claims {
    /// The user id: 1–128 characters of `[A-Za-z0-9._@:-]`.
    pub sub: UserId,
    /// Expiry, seconds since the Unix epoch.
    pub exp: u64,
    /// Not before, seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// Display name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// May place calls.
    #[serde(default = "yes")]
    pub call: bool,
    /// The one room that may be joined, or `"*"`.
    #[serde(default = "any")]
    pub room: String,
    /// May publish in rooms.
    #[serde(default = "yes")]
    pub publish: bool,
    /// May subscribe in rooms.
    #[serde(default = "yes")]
    pub subscribe: bool,
    /// May mute, remove, record, close.
    #[serde(default)]
    pub admin: bool,
}

fn yes() -> bool {
    true
}

fn any() -> String {
    "*".into()
}

/// Why a token is not accepted, or none can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Longer than [`TOKEN_BYTES_MAX`].
    #[error("the token is too long")]
    TooLong,
    /// Not a JWT with the claims that are required.
    #[error("the token is malformed")]
    Malformed,
    /// Signed with another algorithm than the key's.
    #[error("the token's algorithm does not fit the key")]
    Algorithm,
    /// No key of the JWKS document is meant by the token.
    #[error("the token's key is unknown")]
    UnknownKey,
    /// The signature does not verify.
    #[error("the token's signature is wrong")]
    Signature,
    /// `iss` or `aud` is missing or differs from the configured one.
    #[error("the token is meant for somebody else")]
    Audience,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `nbf` has not come yet.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// The configured key verifies nothing.
    #[error("{0}")]
    Key(&'static str),
}

/// Checks tokens against the configured key.
pub struct TokenVerifier {
    keys: Vec<VerifyingKey>,
    issuer: Option<String>,
    audience: Option<String>,
}

struct VerifyingKey {
    kid: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

impl TokenVerifier {
    /// Reads the key; refuses one that could not verify anything.
    pub fn new(auth: &Auth) -> Result<Self, TokenError> {
        let keys = match &auth.key {
            AuthKey::Secret(secret) => {
                let key = DecodingKey::from_secret(&secret.0);
                vec![VerifyingKey { kid: None, algorithm: Algorithm::HS256, key }]
            }
            AuthKey::PublicKey(pem) => vec![public_key(pem)?],
            AuthKey::Jwks(document) => {
                let set: JwkSet =
                    serde_json::from_str(document).map_err(|_| TokenError::Key("is not a JWKS document"))?;
                set.keys.iter().filter_map(jwk).collect()
            }
        };
        if keys.is_empty() {
            return Err(TokenError::Key("holds no signing key of a supported kind (Ed25519, P-256, RSA)"));
        }
        Ok(Self { keys, issuer: auth.issuer.clone(), audience: auth.audience.clone() })
    }

    /// The claims of a good token. `unix_now` is wall time, seconds since the Unix epoch.
    pub fn verify(&self, token: &str, unix_now: u64) -> Result<Claims, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Malformed)?;
        if header.crit.is_some() {
            return Err(TokenError::Malformed); // extensions that must be understood (RFC 7515 §4.1.11): we know none
        }
        let key = self.key_for(&header)?;
        let claims = jsonwebtoken::decode::<Claims>(token, &key.key, &self.validation(key.algorithm))
            .map_err(|error| token_error(error.kind()))?
            .claims;
        in_time(&claims, unix_now)?;
        well_formed(claims)
    }

    /// The key that the header means. Without a `kid` there must be one key only that fits.
    fn key_for(&self, header: &Header) -> Result<&VerifyingKey, TokenError> {
        let mut named = self
            .keys
            .iter()
            .filter(|key| header.kid.is_none() || key.kid.is_none() || key.kid == header.kid)
            .peekable();
        if named.peek().is_none() {
            return Err(TokenError::UnknownKey);
        }
        let mut fitting = named.filter(|key| key.algorithm == header.alg);
        match (fitting.next(), fitting.next()) {
            (None, _) => Err(TokenError::Algorithm),
            (Some(_), Some(_)) if header.kid.is_none() => Err(TokenError::UnknownKey),
            (Some(key), _) => Ok(key),
        }
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        // The library would read the system's clock: time is ours to check.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = self.audience.is_some();
        if let Some(audience) = &self.audience {
            validation.set_audience(&[audience]);
            validation.required_spec_claims.insert("aud".into());
        }
        if let Some(issuer) = &self.issuer {
            validation.set_issuer(&[issuer]);
            validation.required_spec_claims.insert("iss".into());
        }
        validation
    }
}

impl std::fmt::Debug for TokenVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenVerifier({} keys)", self.keys.len())
    }
}

fn in_time(claims: &Claims, unix_now: u64) -> Result<(), TokenError> {
    if unix_now >= claims.exp.saturating_add(LEEWAY_SECS) {
        return Err(TokenError::Expired);
    }
    if claims.nbf.is_some_and(|nbf| unix_now.saturating_add(LEEWAY_SECS) < nbf) {
        return Err(TokenError::NotYetValid);
    }
    Ok(())
}

/// `#` is no character of a user id: `alice#2` is the second session of `alice` in a room.
fn well_formed(mut claims: Claims) -> Result<Claims, TokenError> {
    let room_is_one = claims.room == "*" || RoomId::new(&claims.room).is_ok();
    if claims.sub.as_str().contains('#') || !room_is_one {
        return Err(TokenError::Malformed);
    }
    if let Some((cut, _)) = claims.name.as_ref().and_then(|name| name.char_indices().nth(NAME_CHARS_MAX)) {
        claims.name.as_mut().expect("a name was just measured").truncate(cut);
    }
    Ok(claims)
}

fn token_error(kind: &jsonwebtoken::errors::ErrorKind) -> TokenError {
    use jsonwebtoken::errors::ErrorKind;
    match kind {
        ErrorKind::InvalidSignature => TokenError::Signature,
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => TokenError::Algorithm,
        ErrorKind::InvalidIssuer | ErrorKind::InvalidAudience => TokenError::Audience,
        ErrorKind::MissingRequiredClaim(claim) if claim == "iss" || claim == "aud" => TokenError::Audience,
        _ => TokenError::Malformed,
    }
}

/// The kind of a PEM key is written in it; each reader refuses the others' kinds.
fn public_key(pem: &[u8]) -> Result<VerifyingKey, TokenError> {
    let ed = || DecodingKey::from_ed_pem(pem).map(|key| (Algorithm::EdDSA, key));
    let ec = |_| DecodingKey::from_ec_pem(pem).map(|key| (Algorithm::ES256, key));
    let rsa = |_| DecodingKey::from_rsa_pem(pem).map(|key| (Algorithm::RS256, key));
    let (algorithm, key) =
        ed().or_else(ec).or_else(rsa).map_err(|_| TokenError::Key("is not a public key in PEM"))?;
    Ok(VerifyingKey { kid: None, algorithm, key })
}

/// A key of the set, if it is one for signatures and of a kind we know. Symmetric keys have no place in a public document.
fn jwk(jwk: &Jwk) -> Option<VerifyingKey> {
    let (algorithm, key_algorithm) = match &jwk.algorithm {
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        _ => return None,
    };
    let signs = jwk.common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature);
    let agrees = jwk.common.key_algorithm.is_none_or(|named| named == key_algorithm);
    if !signs || !agrees {
        return None;
    }
    let key = DecodingKey::from_jwk(jwk).ok()?;
    Some(VerifyingKey { kid: jwk.common.key_id.clone(), algorithm, key })
}

/// Signs claims with HS256.
pub fn mint(secret: &Secret, claims: &Claims) -> Result<String, TokenError> {
    sign(secret, claims)
}

/// Signs claims as `auth` will accept them: with its secret, and with its issuer and audience when they are configured.
pub fn mint_for(auth: &Auth, claims: &Claims) -> Result<String, TokenError> {
    #[derive(Serialize)]
    struct Addressed<'a> {
        #[serde(flatten)]
        claims: &'a Claims,
        #[serde(skip_serializing_if = "Option::is_none")]
        iss: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        aud: Option<&'a str>,
    }
    let AuthKey::Secret(secret) = &auth.key else {
        return Err(TokenError::Key("can only verify: tokens are minted where the private key is"));
    };
    sign(secret, &Addressed { claims, iss: auth.issuer.as_deref(), aud: auth.audience.as_deref() })
}

fn sign(secret: &Secret, claims: &impl Serialize) -> Result<String, TokenError> {
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(&secret.0))
        .map_err(|_| TokenError::Malformed)
}

#[cfg(test)]
mod tests;
