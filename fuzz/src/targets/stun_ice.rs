//! STUN at the media port: ours against str0m's and against our own relay's, both ways.

use media::stun::{BindingRequest, key, write_error, write_request, write_success};
use str0m::ice::StunMessage;
use turn::stun::integrity::{Integrity, Key};
use turn::stun::{Message, ParseError};

use super::stun_turn::{PASSWORD, hmac_sha1, message};

/// See [`message`] for how the bytes become a datagram.
pub fn run(data: &[u8]) {
    let datagram = message(data);
    if let Ok(request) = BindingRequest::parse(&datagram) {
        compare(&datagram, &request);
    }
    written(data);
}

fn compare(datagram: &[u8], request: &BindingRequest<'_>) {
    let verdict = request.verify(&key(PASSWORD));
    match Message::parse(datagram) {
        Ok(relays) => {
            assert_eq!(relays.transaction_id().0, request.transaction_id);
            // Behind MESSAGE-INTEGRITY-SHA256 the older one no longer counts for the relay; ICE knows nothing of the newer.
            match relays.has_message_integrity() {
                true => assert_eq!(relays.integrity_holds(&Key::raw(PASSWORD.as_bytes())), verdict),
                false => assert_eq!(relays.integrity(), Some(Integrity::Sha256)),
            }
            assert_eq!(relays.fingerprint_holds(), Some(true));
        }
        Err(error) => assert_eq!(error, ParseError::TooMany),
    }
    // str0m refuses more: odd values in attributes that we pass over.
    if let Ok(theirs) = StunMessage::parse(datagram) {
        assert!(theirs.is_binding_request());
        assert_eq!(theirs.split_username(), Some((request.local_ufrag, request.remote_ufrag)));
        assert_eq!(theirs.verify(PASSWORD.as_bytes(), hmac_sha1), verdict);
        assert!(!theirs.use_candidate() || request.use_candidate);
        assert!(request.has_priority);
    }
}

/// What we write is read by all three.
fn written(data: &[u8]) {
    let mut id = [0; 12];
    id.iter_mut().zip(data).for_each(|(to, from)| *to = *from);
    let hex: String = data.iter().take(40).map(|byte| format!("{byte:02x}")).collect();
    let username = format!("{hex}:peer");
    let mut out = Vec::new();
    write_request(&mut out, &id, &username, &key(PASSWORD));
    let ours = BindingRequest::parse(&out).expect("ours");
    assert_eq!((ours.local_ufrag, ours.remote_ufrag, ours.transaction_id), (hex.as_str(), "peer", id));
    assert!(ours.verify(&key(PASSWORD)) && ours.use_candidate && ours.controlling && ours.has_priority);
    assert_eq!(StunMessage::parse(&out).expect("str0m").split_username(), Some((hex.as_str(), "peer")));

    let port = u16::from_be_bytes([id[0], id[1]]);
    let mapped = if id[2] & 1 == 0 {
        std::net::SocketAddr::from(([id[3], id[4], id[5], id[6]], port))
    } else {
        std::net::SocketAddr::from((u128::from_be_bytes([id[3]; 16]).to_be_bytes(), port))
    };
    out.clear();
    write_success(&mut out, &id, mapped, &key(PASSWORD));
    let theirs = StunMessage::parse(&out).expect("str0m");
    assert_eq!(theirs.mapped_address(), Some(mapped));
    assert!(theirs.verify(PASSWORD.as_bytes(), hmac_sha1));
    out.clear();
    write_error(&mut out, &id, 400 + u16::from(id[7] % 100), Some(&key(PASSWORD)));
    assert_eq!(Message::parse(&out).expect("the relay").fingerprint_holds(), Some(true));
}

/// The relay's, and a check that carries MESSAGE-INTEGRITY-SHA256 before the integrity of ICE.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut both = vec![7, 0, 1];
    both.extend_from_slice(&[9; 12]);
    both.extend_from_slice(b"\0\x06\0\x09evtj:h6vY\0\0\0\0\x24\0\x04\x6e\0\x01\xff\0\x1c\0\x20");
    both.extend_from_slice(&[5; 32]);
    let mut seeds = super::stun_turn::seeds();
    seeds.push(both);
    seeds
}
