//! Which request proves what, and which answer the others get (RFC 8489 §9.2.4).

use std::collections::BTreeMap;

use common::config::Secret;
use common::turn_credentials::password_for;

use super::*;
use crate::stun::header::{Class, HEADER_BYTES, Method, TransactionId};
use crate::stun::integrity::Key;

const NOW: u64 = 1_800_000_000;
const REALM: &str = "example.org";
const CLIENT: &str = "203.0.113.5:1000";

fn client() -> SocketAddr {
    CLIENT.parse().expect("an address")
}

fn secret(text: &str) -> Secret {
    Secret(text.into())
}

fn users(users: &[(&str, &str)]) -> BTreeMap<String, Secret> {
    users.iter().map(|(name, password)| ((*name).to_owned(), secret(password))).collect()
}

fn authenticator(credentials: &Credentials) -> Authenticator {
    Authenticator::new(REALM.into(), credentials, Some(Duration::from_secs(3600)), &[7; 32])
}

fn both_kinds() -> Credentials {
    let secrets = vec![secret("north"), secret("south")];
    Credentials { secrets, users: users(&[("alice", "wonder")]), ..Credentials::default() }
}

/// What a client has learned from a 401.
struct Challenge {
    nonce: Vec<u8>,
    offer: Option<Vec<u8>>,
}

fn challenge(auth: &Authenticator, algorithms: bool) -> Challenge {
    let mut answer = Writer::new(Class::Error, Method::ALLOCATE, TransactionId([1; 12]));
    auth.challenge(&mut answer, client(), NOW, algorithms);
    let bytes = answer.finish();
    let message = Message::parse(&bytes).expect("well-formed");
    assert_eq!(message.text(Kind::REALM), Some(REALM));
    assert_eq!(bytes.len(), HEADER_BYTES + auth.challenge_bytes(algorithms));
    Challenge {
        nonce: message.attribute(Kind::NONCE).expect("a challenge has a nonce").to_vec(),
        offer: message.attribute(Kind::PASSWORD_ALGORITHMS).map(<[u8]>::to_vec),
    }
}

const MD5: &[u8] = &[0, 1, 0, 0];
const SHA256: &[u8] = &[0, 2, 0, 0];

/// A request that a test changes before it is signed.
struct Request<'a> {
    name: &'a str,
    hashed: bool,
    realm: &'a str,
    nonce: &'a [u8],
    algorithm: Option<&'a [u8]>,
    algorithms: Option<&'a [u8]>,
}

impl<'a> Request<'a> {
    fn of(name: &'a str, challenge: &'a Challenge) -> Self {
        Self {
            name,
            hashed: false,
            realm: REALM,
            nonce: &challenge.nonce,
            algorithm: Some(SHA256),
            algorithms: challenge.offer.as_deref(),
        }
    }

    fn rfc_5389(name: &'a str, challenge: &'a Challenge) -> Self {
        Self { algorithm: None, algorithms: None, ..Self::of(name, challenge) }
    }

    fn signed(&self, keys: &[Key]) -> Vec<u8> {
        let mut writer = Writer::new(Class::Request, Method::ALLOCATE, TransactionId([2; 12]));
        match self.hashed {
            true => writer.attribute(Kind::USERHASH, &userhash(self.name, REALM)),
            false => writer.attribute(Kind::USERNAME, self.name.as_bytes()),
        };
        writer.attribute(Kind::REALM, self.realm.as_bytes()).attribute(Kind::NONCE, self.nonce);
        for (kind, value) in
            [(Kind::PASSWORD_ALGORITHMS, self.algorithms), (Kind::PASSWORD_ALGORITHM, self.algorithm)]
        {
            if let Some(value) = value {
                writer.attribute(kind, value);
            }
        }
        for key in keys {
            writer.integrity(key);
        }
        writer.finish()
    }
}

fn key(algorithm: PasswordAlgorithm, name: &str, password: &str, integrity: Integrity) -> Key {
    LongTermKey::new(algorithm, name, REALM, password.as_bytes()).ready(integrity)
}

fn old_key(name: &str, password: &str) -> Key {
    key(PasswordAlgorithm::Md5, name, password, Integrity::Sha1)
}

fn new_key(name: &str, password: &str) -> Key {
    key(PasswordAlgorithm::Sha256, name, password, Integrity::Sha256)
}

fn check_at(auth: &Authenticator, bytes: &[u8], at: u64, known: Option<&Proof>) -> Result<Proof, u16> {
    let message = Message::parse(bytes).expect("well-formed");
    auth.check(&message, client(), at, known).map_err(|code| code.0)
}

fn check(auth: &Authenticator, bytes: &[u8]) -> Result<Proof, u16> {
    check_at(auth, bytes, NOW, None)
}

fn code(outcome: Result<Proof, u16>) -> u16 {
    outcome.map_or_else(|code| code, |_| 0)
}

#[test]
fn clients_of_both_rfcs_prove_a_static_user_and_a_timed_name() {
    let auth = authenticator(&both_kinds());
    let challenge = challenge(&auth, true);
    assert_eq!(challenge.offer.as_deref(), Some(&[SHA256, MD5].concat()[..]));
    let timed = format!("{NOW}:bob");
    let by_south = password_for(&secret("south"), &timed);
    for (name, password, account) in [("alice", "wonder", "alice"), (&timed, &*by_south, "bob")] {
        let old = Request::rfc_5389(name, &challenge).signed(&[old_key(name, password)]);
        let proof = check(&auth, &old).expect("an MD5 key");
        assert_eq!((proof.username(), proof.account(), proof.integrity), (name, account, Integrity::Sha1));
        let new = Request::of(name, &challenge).signed(&[new_key(name, password)]);
        let proof = check(&auth, &new).expect("a SHA-256 key");
        assert_eq!((proof.account(), proof.integrity), (account, Integrity::Sha256));
        let md5 = Request { algorithm: Some(MD5), ..Request::of(name, &challenge) };
        let md5 = md5.signed(&[key(PasswordAlgorithm::Md5, name, password, Integrity::Sha256)]);
        assert_eq!(check(&auth, &md5).expect("an MD5 key by name").integrity, Integrity::Sha256);
        assert_eq!(code(check(&auth, &Request::of(name, &challenge).signed(&[new_key(name, "guess")]))), 401);
        let both = [old_key(name, password), key(PasswordAlgorithm::Md5, name, "guess", Integrity::Sha256)];
        let both = Request::rfc_5389(name, &challenge).signed(&both);
        assert_eq!(code(check(&auth, &both)), 401, "the better integrity is the one that counts");
    }
}

#[test]
fn a_bid_down_is_refused() {
    let auth = authenticator(&both_kinds());
    let challenge = challenge(&auth, true);
    let code_of = |algorithm, algorithms| {
        let request = Request { algorithm, algorithms, ..Request::of("alice", &challenge) };
        let key = match algorithm {
            Some(MD5) => key(PasswordAlgorithm::Md5, "alice", "wonder", Integrity::Sha256),
            Some(_) => new_key("alice", "wonder"),
            None => old_key("alice", "wonder"),
        };
        code(check(&auth, &request.signed(&[key])))
    };
    let (offer, reversed) = ([SHA256, MD5].concat(), [MD5, SHA256].concat());
    assert_eq!(code_of(Some(SHA256), Some(&offer)), 0);
    assert_eq!(code_of(Some(MD5), Some(&offer)), 0);
    assert_eq!(code_of(None, None), 0, "RFC 5389");
    assert_eq!(code_of(Some(MD5), Some(MD5)), 400, "somebody has taken SHA-256 out of the offer");
    assert_eq!(code_of(Some(MD5), Some(&reversed)), 400);
    assert_eq!(code_of(Some(SHA256), None), 400);
    assert_eq!(code_of(None, Some(&offer)), 400);
    assert_eq!(code_of(Some(&[0, 3, 0, 0]), Some(&offer)), 400);
    assert_eq!(code_of(Some(&[0, 2, 0, 4, 1, 2, 3, 4]), Some(&offer)), 400, "with parameters");

    // Without the cookie's bit nothing was offered, and the request is one of RFC 5389.
    let bare = super::tests::challenge(&auth, false);
    assert_eq!((bare.offer.as_deref(), bare.nonce.len()), (None, 16));
    let old = Request::rfc_5389("alice", &bare).signed(&[old_key("alice", "wonder")]);
    assert_eq!(code(check(&auth, &old)), 0);
    let new = Request::of("alice", &bare).signed(&[new_key("alice", "wonder")]);
    assert_eq!(code(check(&auth, &new)), 401);
}

#[test]
fn what_is_missing_or_stale_has_its_own_code() {
    let auth = authenticator(&both_kinds());
    let challenge = challenge(&auth, true);
    let good = Request::of("alice", &challenge).signed(&[new_key("alice", "wonder")]);
    assert_eq!(code(check(&auth, &good)), 0);
    assert_eq!(code(check_at(&auth, &good, NOW + 3600, None)), 438);
    let unsigned = Request::of("alice", &challenge).signed(&[]);
    assert_eq!(code(check(&auth, &unsigned)), 401);
    let other_realm = Request { realm: "example.com", ..Request::of("alice", &challenge) };
    assert_eq!(code(check(&auth, &other_realm.signed(&[new_key("alice", "wonder")]))), 401);
    for without in [Kind::USERNAME, Kind::REALM, Kind::NONCE] {
        let whole = Message::parse(&good).expect("well-formed");
        let mut writer = Writer::new(Class::Request, Method::ALLOCATE, TransactionId([2; 12]));
        let kept =
            whole.attributes().filter(|a| a.kind != without && a.kind != Kind::MESSAGE_INTEGRITY_SHA256);
        for attribute in kept {
            writer.attribute(attribute.kind, attribute.value);
        }
        writer.integrity(&new_key("alice", "wonder"));
        assert_eq!(code(check(&auth, &writer.finish())), 400, "{without:?}");
    }
    let expired = format!("{}:bob", NOW - 1);
    let password = password_for(&secret("north"), &expired);
    let expired = Request::of(&expired, &challenge).signed(&[new_key(&expired, &password)]);
    assert_eq!(code(check(&auth, &expired)), 401);
}

#[test]
fn a_hashed_name_is_found_among_static_users_and_that_is_said_when_there_are_no_others() {
    let auth = authenticator(&both_kinds());
    let learned = challenge(&auth, true);
    assert!(learned.nonce.starts_with(b"obMatJos2gAAA"), "timed names cannot be found by their hash");
    let hashed = Request { hashed: true, ..Request::of("alice", &learned) };
    let proof = check(&auth, &hashed.signed(&[new_key("alice", "wonder")])).expect("she is known");
    assert_eq!(proof.username(), "alice");
    let timed = format!("{NOW}:bob");
    let password = password_for(&secret("north"), &timed);
    let plain = Request::of(&timed, &learned).signed(&[new_key(&timed, &password)]);
    let hashed =
        Request { hashed: true, ..Request::of(&timed, &learned) }.signed(&[new_key(&timed, &password)]);
    assert_eq!(code(check(&auth, &hashed)), 401);
    let known = check(&auth, &plain).expect("a timed name");
    assert!(check_at(&auth, &hashed, NOW, Some(&known)).is_ok(), "the holder of an allocation is known");

    let auth = authenticator(&Credentials { secrets: vec![], ..both_kinds() });
    assert!(challenge(&auth, true).nonce.starts_with(b"obMatJos2wAAA"));
}

#[test]
fn a_user_whose_name_no_attribute_holds_is_none() {
    let long = "x".repeat(70_000);
    let auth = authenticator(&Credentials { users: users(&[(&long, "y")]), ..Credentials::default() });
    let learned = challenge(&auth, true);
    let hashed = Request { hashed: true, ..Request::of(&long, &learned) };
    assert_eq!(code(check(&auth, &hashed.signed(&[new_key(&long, "y")]))), 401);
}

#[test]
fn a_secret_is_replaced_without_an_end_of_what_runs() {
    let timed = format!("{}:bob", NOW + 100);
    let request = |auth: &Authenticator, by: &str| {
        let key = new_key(&timed, &password_for(&secret(by), &timed));
        Request::of(&timed, &challenge(auth, true)).signed(&[key])
    };
    let with = |secrets: &[&str]| Credentials {
        secrets: secrets.iter().map(|text| secret(text)).collect(),
        ..Credentials::default()
    };
    let mut auth = authenticator(&with(&["north"]));
    let proof = check(&auth, &request(&auth, "north")).expect("the first secret");
    auth.set_credentials(&with(&["north", "south"]));
    assert!(check(&auth, &request(&auth, "north")).is_ok() && check(&auth, &request(&auth, "south")).is_ok());
    auth.set_credentials(&with(&["south"]));
    assert_eq!(code(check(&auth, &request(&auth, "north"))), 401);
    assert!(check_at(&auth, &request(&auth, "north"), NOW, Some(&proof)).is_ok(), "its allocation goes on");
    assert!(
        check_at(&auth, &request(&auth, "north"), NOW + 200, Some(&proof)).is_ok(),
        "also past the expiry"
    );
    assert!(check_at(&auth, &request(&auth, "south"), NOW, Some(&proof)).is_ok());
    auth.set_credentials(&Credentials { anonymous: true, ..Credentials::default() });
    let bare = Writer::new(Class::Request, Method::ALLOCATE, TransactionId([2; 12])).finish();
    assert_eq!(check(&auth, &bare).expect("everybody may").account(), "");
    auth.set_credentials(&Credentials { secrets: vec![secret("")], ..Credentials::default() });
    assert_eq!(code(check(&auth, &request(&auth, ""))), 401, "an empty secret is none");
}

#[test]
fn who_does_not_exist_gets_the_answer_of_a_wrong_password() {
    let auth = authenticator(&both_kinds());
    let challenge = challenge(&auth, true);
    let long = "x".repeat(600);
    for name in ["alice", "nobody", "", &long, "1900000000:eve", "1000000000:eve"] {
        for hashed in [false, true] {
            let request = Request { hashed, ..Request::of(name, &challenge) };
            assert_eq!(code(check(&auth, &request.signed(&[new_key(name, "guess")]))), 401, "{name}");
        }
    }
}
