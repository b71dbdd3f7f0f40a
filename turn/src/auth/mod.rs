//! Long-term credentials (RFC 8489 §9.2): what a request must prove, and what it is told otherwise.
//!
//! `credentials` holds who may allocate, `nonce` the nonces that need no memory, `strangers` the bound on answers to
//! everybody else. `relay` asks for each request, and signs its answers with the [`Proof`].

mod credentials;
mod nonce;
mod strangers;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use credentials::Keys;
pub use credentials::{Credentials, SEPARATOR_DEFAULT};
use nonce::{Features, Nonces};
pub use strangers::StrangerLimit;

use crate::stun::attributes::{ErrorCode, Kind};
use crate::stun::integrity::{Integrity, LongTermKey, PasswordAlgorithm, USERHASH_BYTES, userhash};
use crate::stun::{Message, Writer};

/// RFC 8489 §14.3: USERNAME is shorter than 509 bytes.
const USERNAME_BYTES_MAX: usize = 508;

/// Tells who has proved a password from who has not.
#[derive(Debug)]
pub struct Authenticator {
    realm: String,
    keys: Keys,
    nonces: Nonces,
    /// PASSWORD-ALGORITHMS as it is sent.
    offer: Vec<u8>,
    /// Verifies for names that nobody has, so that they take as long as others.
    nobody: LongTermKey,
}

/// What a proved request was made with.
#[derive(Debug, Clone)]
pub struct Proof {
    username: Arc<str>,
    /// The part of the user name that quotas count.
    account: (u16, u16),
    /// `None` when nobody has to prove anything.
    key: Option<LongTermKey>,
    integrity: Integrity,
}

impl Proof {
    fn anonymous() -> Self {
        Self { username: "".into(), account: (0, 0), key: None, integrity: Integrity::Sha1 }
    }

    /// USERNAME, also of who has sent its hash.
    pub fn username(&self) -> &str {
        &self.username
    }

    /// Whom a quota counts: the user behind the expiry, or the whole name.
    pub fn account(&self) -> &str {
        let (from, to) = self.account;
        &self.username[usize::from(from)..usize::from(to)]
    }

    /// Signs an answer.
    pub fn sign(&self, answer: &mut Writer) {
        if let Some(key) = &self.key {
            answer.integrity(&key.ready(self.integrity));
        }
    }

    fn has_name(&self, name: &Name<'_>, realm: &str) -> bool {
        match name {
            Name::Plain(username) => *self.username == **username,
            Name::Hash(hash) => userhash(&self.username, realm) == **hash,
        }
    }
}

/// How a request names its user.
enum Name<'a> {
    Plain(&'a str),
    Hash(&'a [u8; USERHASH_BYTES]),
}

/// A request with everything that a proof is made of.
struct Claim<'a> {
    request: &'a Message<'a>,
    name: Name<'a>,
    algorithm: PasswordAlgorithm,
    /// The one that is checked: the better one that the request has.
    integrity: Integrity,
    /// The one that answers get.
    answer_integrity: Integrity,
}

impl Claim<'_> {
    fn holds(&self, key: &LongTermKey) -> bool {
        self.request.integrity_holds(&key.ready(self.integrity))
    }
}

impl Authenticator {
    /// `nonce_secret` comes from the seed. Nonces without a lifetime live as long as this.
    pub fn new(
        realm: String,
        credentials: &Credentials,
        nonce_lifetime: Option<Duration>,
        nonce_secret: &[u8; 32],
    ) -> Self {
        let nonces = Nonces::new(nonce_secret, nonce_lifetime);
        let nobody = LongTermKey::new(PasswordAlgorithm::Sha256, "", &realm, nonce_secret);
        let keys = Keys::new(credentials, &realm);
        Self { offer: offer(&keys), realm, keys, nonces, nobody }
    }

    /// Other credentials from now on. What was proved before goes on with the key that it was proved with.
    pub fn set_credentials(&mut self, credentials: &Credentials) {
        self.keys = Keys::new(credentials, &self.realm);
        self.offer = offer(&self.keys);
    }

    /// Bytes that [`Self::challenge`] appends.
    pub fn challenge_bytes(&self, algorithms: bool) -> usize {
        let attribute = |bytes: usize| 4 + bytes.next_multiple_of(4);
        let realm = attribute(self.realm.len());
        match algorithms {
            true => realm + attribute(nonce::BYTES_MAX) + attribute(self.offer.len()),
            false => realm + attribute(nonce::BYTES_MIN),
        }
    }

    /// Says what a client needs to prove itself: REALM, NONCE, and PASSWORD-ALGORITHMS when there is room for it.
    pub fn challenge(&self, answer: &mut Writer, client: SocketAddr, unix_seconds: u64, algorithms: bool) {
        let mut features = Features::default();
        if algorithms {
            features = features.with(Features::PASSWORD_ALGORITHMS);
        }
        if algorithms && self.keys.knows_all_names() {
            features = features.with(Features::USERNAME_ANONYMITY);
        }
        let nonce = self.nonces.issue(client, unix_seconds, features, &self.offer);
        answer.attribute(Kind::REALM, self.realm.as_bytes()).attribute(Kind::NONCE, nonce.as_bytes());
        if algorithms {
            answer.attribute(Kind::PASSWORD_ALGORITHMS, &self.offer);
        }
    }

    /// Checks a request as RFC 8489 §9.2.4 says, but the nonce first: a forged request then costs one comparison, and a
    /// client whose nonce is older than what we offer now learns the new offer by 438. `known` is the proof that the
    /// client's allocation was made with: its key outlives the credentials, so that a call outlives them too.
    pub fn check(
        &self,
        request: &Message<'_>,
        client: SocketAddr,
        unix_seconds: u64,
        known: Option<&Proof>,
    ) -> Result<Proof, ErrorCode> {
        if self.keys.anonymous {
            return Ok(Proof::anonymous());
        }
        let integrity = request.integrity().ok_or(ErrorCode::UNAUTHENTICATED)?;
        let name = (request.attribute(Kind::USERNAME), request.attribute(Kind::USERHASH));
        let (Some(realm), Some(nonce)) = (request.text(Kind::REALM), request.attribute(Kind::NONCE)) else {
            return Err(ErrorCode::BAD_REQUEST);
        };
        if name.0.is_some() == name.1.is_some() {
            return Err(ErrorCode::BAD_REQUEST);
        }
        let features = self.nonces.check(nonce, client, unix_seconds, &self.offer);
        let features = features.ok_or(ErrorCode::STALE_NONCE)?;
        let asked = features.has(Features::PASSWORD_ALGORITHMS).then(|| self.algorithm_of(request));
        let asked = asked.transpose()?.flatten();
        let name = read_name(name).filter(|_| realm == self.realm).ok_or(ErrorCode::UNAUTHENTICATED)?;
        let claim = Claim {
            request,
            name,
            algorithm: asked.unwrap_or(PasswordAlgorithm::Md5),
            integrity,
            answer_integrity: answer_integrity(request, integrity, asked.is_some()),
        };
        self.prove(&claim, unix_seconds, known).ok_or(ErrorCode::UNAUTHENTICATED)
    }

    /// PASSWORD-ALGORITHM, when there. Nobody between us has changed what we offered: the request repeats it, signed.
    fn algorithm_of(&self, request: &Message<'_>) -> Result<Option<PasswordAlgorithm>, ErrorCode> {
        let wanted = request.attribute(Kind::PASSWORD_ALGORITHM);
        let repeated = request.attribute(Kind::PASSWORD_ALGORITHMS);
        let (Some(wanted), Some(repeated)) = (wanted, repeated) else {
            return if wanted.is_none() && repeated.is_none() {
                Ok(None)
            } else {
                Err(ErrorCode::BAD_REQUEST)
            };
        };
        let found = self.keys.algorithms.iter().find(|algorithm| wanted == entry(**algorithm));
        found.filter(|_| repeated == self.offer).copied().map(Some).ok_or(ErrorCode::BAD_REQUEST)
    }

    /// A name that nobody has takes the way of one with a wrong password.
    fn prove(&self, claim: &Claim<'_>, unix_seconds: u64, known: Option<&Proof>) -> Option<Proof> {
        if let Some(proof) = known
            && let Some(key) = proof.key
            && key.algorithm() == claim.algorithm
            && proof.has_name(&claim.name, &self.realm)
            && claim.holds(&key)
        {
            return Some(Proof { integrity: claim.answer_integrity, ..proof.clone() });
        }
        let proof = |username: Arc<str>, account: std::ops::Range<usize>, key| {
            let account = (account.start as u16, account.end as u16); // names are shorter than 509 bytes
            Proof { username, account, key: Some(key), integrity: claim.answer_integrity }
        };
        if let Some(user) = self.static_user(&claim.name) {
            let key = user.key(claim.algorithm);
            let holds = claim.holds(&key.unwrap_or(self.nobody));
            return key.filter(|_| holds).map(|key| proof(Arc::clone(&user.name), 0..user.name.len(), key));
        }
        if let Name::Plain(username) = claim.name
            && let Some(timed) = self.keys.timed_name(username)
        {
            if timed.expires < unix_seconds {
                return None; // as the name itself tells everybody
            }
            let mut keys = self.keys.timed_keys(username, &self.realm, claim.algorithm);
            return keys.find(|key| claim.holds(key)).map(|key| proof(username.into(), timed.user, key));
        }
        let nobody = claim.holds(&self.nobody);
        debug_assert!(!nobody, "nobody knows this key");
        None
    }

    fn static_user(&self, name: &Name<'_>) -> Option<&credentials::User> {
        match name {
            Name::Hash(hash) => self.keys.user(hash),
            Name::Plain(username) if self.keys.has_users() => {
                self.keys.user(&userhash(username, &self.realm))
            }
            Name::Plain(_) => None,
        }
    }
}

/// Answers carry MESSAGE-INTEGRITY-SHA256 to who has named an algorithm (RFC 8489 §9.2.4), and to who has signed with nothing
/// else and would not look at another.
fn answer_integrity(request: &Message<'_>, integrity: Integrity, named: bool) -> Integrity {
    let only_sha256 = integrity == Integrity::Sha256 && !request.has_message_integrity();
    if named || only_sha256 { Integrity::Sha256 } else { Integrity::Sha1 }
}

fn read_name<'a>((username, hash): (Option<&'a [u8]>, Option<&'a [u8]>)) -> Option<Name<'a>> {
    match (username, hash) {
        (Some(username), _) if username.len() <= USERNAME_BYTES_MAX => {
            std::str::from_utf8(username).ok().map(Name::Plain)
        }
        (_, Some(hash)) => hash.try_into().ok().map(Name::Hash),
        _ => None,
    }
}

fn offer(keys: &Keys) -> Vec<u8> {
    keys.algorithms.iter().flat_map(|algorithm| entry(*algorithm)).collect()
}

/// An algorithm's number and the length of its parameters (RFC 8489 §14.11).
fn entry(algorithm: PasswordAlgorithm) -> [u8; 4] {
    let [high, low] = algorithm.number().to_be_bytes();
    [high, low, 0, 0]
}
