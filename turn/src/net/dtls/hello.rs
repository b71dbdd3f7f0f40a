//! A ClientHello as far as the cookie exchange needs it (RFC 6347 §4.2.1, §4.2.2).
//!
//! ```text
//! record     type 22 · version 2 · epoch 2 · sequence number 6 · length 2
//! handshake  type 1 · length 3 · message_seq 2 · fragment_offset 3 · fragment_length 3
//! body       version 2 · random 32 · session_id 1+n · cookie 1+n · …
//! ```

use super::cookie::Cookie;

/// Content type of a handshake record.
const HANDSHAKE: u8 = 22;
const ALERT: u8 = 21;
const FATAL: u8 = 2;
const ALERT_BYTES: usize = RECORD_HEADER_BYTES + 2;
const CLIENT_HELLO: u8 = 1;
const HELLO_VERIFY_REQUEST: u8 = 3;
const RECORD_HEADER_BYTES: usize = 13;
const HANDSHAKE_HEADER_BYTES: usize = 12;
const BODY: usize = RECORD_HEADER_BYTES + HANDSHAKE_HEADER_BYTES;
/// The body's version.
const VERSION_BYTES: usize = 2;

/// What a HelloVerifyRequest says whatever is spoken later (RFC 6347 §4.2.1).
const DTLS_1_0: [u8; VERSION_BYTES] = [0xfe, 0xff];
/// The only version that is spoken; those who know a later one say so elsewhere.
const DTLS_1_2: [u8; VERSION_BYTES] = [0xfe, 0xfd];
/// Header, version, and a cookie with its length.
pub(super) const VERIFY_REQUEST_BYTES: usize = BODY + VERSION_BYTES + 1 + size_of::<Cookie>();

/// Why there will be no handshake (RFC 5246 §7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alert {
    HandshakeFailure = 40,
    ProtocolVersion = 70,
}

/// Random bytes that a client chooses anew for each handshake, and keeps from its first to its second ClientHello.
pub(super) type Random = [u8; 32];

/// An unfragmented ClientHello, alone in its datagram.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hello<'a> {
    datagram: &'a [u8],
    /// Where the cookie's length is.
    cookie_at: usize,
    pub(super) random: Random,
    pub(super) cookie: &'a [u8],
}

impl<'a> Hello<'a> {
    pub(super) fn parse(datagram: &'a [u8]) -> Option<Self> {
        let epoch = datagram.get(3..5)?;
        if datagram[0] != HANDSHAKE || epoch != [0, 0] || !is_whole(datagram, CLIENT_HELLO) {
            return None;
        }
        let random = *datagram.get(BODY + VERSION_BYTES..)?.first_chunk()?;
        let session_id_at = BODY + VERSION_BYTES + size_of::<Random>();
        let cookie_at = session_id_at + 1 + usize::from(*datagram.get(session_id_at)?);
        let cookie = sized(datagram, cookie_at)?;
        if datagram.len() < VERIFY_REQUEST_BYTES {
            return None; // no answer is larger than its question
        }
        Some(Self { datagram, cookie_at, random, cookie })
    }

    /// Whether the client knows the version that we speak.
    pub(super) fn is_of_our_version(&self) -> bool {
        self.datagram[BODY..BODY + VERSION_BYTES] == DTLS_1_2
    }

    /// The ClientHello that this one with a cookie repeats: the same but for the cookie, one message and one record earlier.
    pub(super) fn without_cookie(&self) -> Vec<u8> {
        let cookie_end = self.cookie_at + 1 + self.cookie.len();
        let mut first = [&self.datagram[..self.cookie_at], &[0], &self.datagram[cookie_end..]].concat();
        let body_bytes = (first.len() - BODY) as u32; // less than it was, so it fits
        let [_, length @ ..] = body_bytes.to_be_bytes();
        let record_bytes = ((first.len() - RECORD_HEADER_BYTES) as u16).to_be_bytes();
        let sequence_number = u16::from_be_bytes([first[9], first[10]]).saturating_sub(1).to_be_bytes();
        first[9..11].copy_from_slice(&sequence_number);
        first[11..13].copy_from_slice(&record_bytes);
        first[14..17].copy_from_slice(&length);
        first[17..19].copy_from_slice(&[0, 0]); // message_seq
        first[22..25].copy_from_slice(&length);
        first
    }
}

/// The answer that asks for the hello again, with a cookie. Shorter than any ClientHello that DTLS 1.2 can use.
pub(super) fn verify_request(hello: &Hello<'_>, cookie: &Cookie) -> [u8; VERIFY_REQUEST_BYTES] {
    const COOKIE_BYTES: u8 = size_of::<Cookie>() as u8;
    const BODY_BYTES: u8 = VERSION_BYTES as u8 + 1 + COOKIE_BYTES;
    let mut answer = [0; VERIFY_REQUEST_BYTES];
    answer[0] = HANDSHAKE;
    answer[1..3].copy_from_slice(&DTLS_1_0);
    answer[5..11].copy_from_slice(&hello.datagram[5..11]); // the question's sequence number (RFC 6347 §4.2.1)
    answer[12] = HANDSHAKE_HEADER_BYTES as u8 + BODY_BYTES;
    answer[13] = HELLO_VERIFY_REQUEST;
    answer[16] = BODY_BYTES;
    answer[24] = BODY_BYTES;
    answer[BODY..BODY + VERSION_BYTES].copy_from_slice(&DTLS_1_0);
    answer[BODY + VERSION_BYTES] = COOKIE_BYTES;
    answer[BODY + VERSION_BYTES + 1..].copy_from_slice(cookie);
    answer
}

/// A fatal alert before there are keys. RFC 6347 §4.1.2.7 lets it be believed or not; OpenSSL does.
pub(super) fn alert(hello: &Hello<'_>, description: Alert) -> [u8; ALERT_BYTES] {
    let mut alert = [0; ALERT_BYTES];
    alert[0] = ALERT;
    alert[1..3].copy_from_slice(&DTLS_1_0);
    alert[5..11].copy_from_slice(&hello.datagram[5..11]);
    alert[12..].copy_from_slice(&[2, FATAL, description as u8]);
    alert
}

/// Whether a datagram is one record with one whole handshake message of this type.
fn is_whole(datagram: &[u8], message_type: u8) -> bool {
    let Some(header) = datagram.get(..BODY) else { return false };
    let [l0, l1] = [header[11], header[12]].map(usize::from);
    let length = |at: usize| &header[at..at + 3];
    let body_bytes = ((datagram.len() - BODY) as u32).to_be_bytes();
    header[13] == message_type
        && (l0 << 8 | l1) == datagram.len() - RECORD_HEADER_BYTES
        && length(14) == &body_bytes[1..]
        && length(19) == [0, 0, 0]
        && length(22) == &body_bytes[1..]
}

/// Bytes with their length in one byte before them.
fn sized(datagram: &[u8], at: usize) -> Option<&[u8]> {
    let length = usize::from(*datagram.get(at)?);
    datagram.get(at + 1..at + 1 + length)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A ClientHello whose session id has `session_id` bytes, message and record `sequence`.
    pub(in super::super) fn client_hello(
        random: u8,
        session_id: usize,
        cookie: &[u8],
        sequence: u8,
    ) -> Vec<u8> {
        let mut body = vec![0xfe, 0xfd];
        body.extend_from_slice(&[random; 32]);
        body.push(session_id as u8);
        body.extend(std::iter::repeat_n(7, session_id));
        body.push(cookie.len() as u8);
        body.extend_from_slice(cookie);
        body.extend_from_slice(&[0, 2, 0xc0, 0x2b, 1, 0]); // one cipher suite, no compression
        // supported_groups: P-256; signature_algorithms: ECDSA with SHA-256; extended_master_secret
        let extensions: [u8; 20] = [0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 4, 0, 2, 4, 3, 0, 23, 0, 0];
        body.extend_from_slice(&[0, extensions.len() as u8]);
        body.extend_from_slice(&extensions);
        let length = [0, 0, body.len() as u8];
        let mut datagram = vec![22, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, sequence];
        datagram.extend_from_slice(&[0, (HANDSHAKE_HEADER_BYTES + body.len()) as u8, 1]);
        datagram.extend_from_slice(&length);
        datagram.extend_from_slice(&[0, sequence, 0, 0, 0]);
        datagram.extend_from_slice(&length);
        datagram.extend_from_slice(&body);
        datagram
    }

    #[test]
    fn the_first_hello_is_found_again_in_the_second() {
        for session_id in [0, 5, 32] {
            let first = client_hello(9, session_id, &[], 0);
            let second = client_hello(9, session_id, &[3; 32], 1);
            let hello = Hello::parse(&second).expect("well-formed");
            assert_eq!((hello.random, hello.cookie), ([9; 32], &[3; 32][..]));
            assert_eq!(hello.without_cookie(), first);
        }
    }

    /// The cookie in a HelloVerifyRequest.
    pub(in super::super) fn requested_cookie(datagram: &[u8]) -> Option<&[u8]> {
        is_whole(datagram, HELLO_VERIFY_REQUEST).then(|| sized(datagram, BODY + VERSION_BYTES)).flatten()
    }

    #[test]
    fn a_cookie_is_asked_for_in_a_well_formed_message() {
        let first = client_hello(9, 0, &[], 3);
        let answer = verify_request(&Hello::parse(&first).expect("well-formed"), &[8; 32]);
        assert_eq!(requested_cookie(&answer), Some(&[8; 32][..]));
        assert_eq!(answer[5..11], first[5..11]);
    }

    #[test]
    fn a_part_of_a_hello_is_none() {
        let whole = client_hello(9, 4, &[3; 32], 1);
        for end in 0..whole.len() {
            assert!(Hello::parse(&whole[..end]).is_none(), "{end} bytes");
        }
        let mut fragment = whole.clone();
        fragment[21] = 1; // fragment_offset
        assert!(Hello::parse(&fragment).is_none());
        let mut encrypted = whole;
        encrypted[4] = 1; // epoch
        assert!(Hello::parse(&encrypted).is_none());
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_arrives_is_a_reason_to_panic(datagram in proptest::collection::vec(0u8.., 0..120), change in 0usize..100) {
            let mut near = client_hello(1, 0, &[2; 8], 1);
            for (at, byte) in datagram.iter().take(3).enumerate() {
                let place = (change + at * 17) % near.len();
                near[place] = *byte;
            }
            for bytes in [&datagram, &near] {
                if let Some(hello) = Hello::parse(bytes) {
                    hello.without_cookie();
                    assert!(verify_request(&hello, &[0; 32]).len() <= bytes.len());
                }
            }
        }
    }
}
