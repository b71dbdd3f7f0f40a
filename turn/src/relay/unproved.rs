//! Answers to who has proved nothing: Binding, and challenges (RFC 8489 §6.3.1, §9.2.4).
//!
//! Over UDP their sender may be forged, so that they go to a victim. No such answer should be larger than its request; the
//! first Allocate of real clients does not leave room for that: libwebrtc's has 28 bytes, coturn's client's 36, and REALM and
//! NONCE alone take 32 and more. So what can be left out is left out of an answer that would be larger than its request
//! (SOFTWARE, the error's words), and PASSWORD-ALGORITHMS with the nonce's cookie where it would be more than
//! [`AMPLIFICATION_MAX`] times as large on the wire. That factor holds for all realms of at most 64 bytes; challenges are
//! rationed per network besides.

use super::Relay;
use super::discovery::{self, Vantage, Wish};
use super::io::{ClientAddr, Transport};
use super::requests::unknown_attributes;
use crate::metrics::DropReason;
use crate::stun::attributes::{ErrorCode, Kind};
use crate::stun::header::{Class, HEADER_BYTES, Method};
use crate::stun::integrity::FINGERPRINT_BYTES;
use crate::stun::{Message, Writer};

/// What QUIC allows towards an address that is not validated (RFC 9000 §8.1).
const AMPLIFICATION_MAX: usize = 3;
/// IPv4's and UDP's headers, which a forger pays for too; IPv6's are larger on both sides.
const IP_AND_UDP_BYTES: usize = 28;
/// ERROR-CODE without words.
const ERROR_BYTES: usize = 8;

/// How large an answer may be.
struct Room {
    /// With what nobody needs.
    comfortable: usize,
    /// With what an attentive client can do without.
    most: usize,
}

impl Room {
    fn of(client: &ClientAddr, message: &Message<'_>) -> Self {
        let request = message.bytes();
        match client.transport {
            Transport::Udp => {
                let most = AMPLIFICATION_MAX * (request + IP_AND_UDP_BYTES) - IP_AND_UDP_BYTES;
                Self { comfortable: request, most }
            }
            // Whoever has shaken hands gets the answers.
            Transport::Tcp(_) | Transport::Tls(_) | Transport::Dtls => {
                Self { comfortable: usize::MAX, most: usize::MAX }
            }
        }
    }
}

impl Relay {
    pub(super) fn on_binding(&mut self, client: ClientAddr, message: &Message<'_>) {
        let vantage = Vantage::of(&self.discovery, &client);
        let understood = |kind| vantage.is_some() && discovery::ATTRIBUTES.contains(&kind);
        let unknown = unknown_attributes(message, understood);
        if !unknown.is_empty() {
            let code = ErrorCode::UNKNOWN_ATTRIBUTE;
            let mut answer = self.error(client, message, code, 4 + unknown.len().next_multiple_of(4));
            answer.attribute(Kind::UNKNOWN_ATTRIBUTES, &unknown);
            return self.answer_unsigned(client, message, answer);
        }
        let mut answer = Writer::new(Class::Success, Method::BINDING, message.transaction_id());
        answer.xor_address(Kind::XOR_MAPPED_ADDRESS, client.remote);
        match vantage.map(|vantage| vantage.wish(message)) {
            None => self.answer_unsigned(client, message, answer),
            Some(Ok(wish)) => self.answer_discovery(client, message, answer, &wish),
            Some(Err(code)) => {
                let answer = self.error(client, message, code, 0);
                self.answer_unsigned(client, message, answer);
            }
        }
    }

    fn answer_discovery(
        &mut self,
        mut client: ClientAddr,
        message: &Message<'_>,
        mut answer: Writer,
        wish: &Wish,
    ) {
        if wish.is_special(&client) && !self.strangers.take(client.remote.ip(), self.now) {
            return self.drop(DropReason::StrangerLimit);
        }
        answer.address(Kind::MAPPED_ADDRESS, client.remote); // RFC 5780 §6.1: both, to find who rewrites the one
        answer.address(Kind::RESPONSE_ORIGIN, wish.origin).address(Kind::OTHER_ADDRESS, wish.other);
        let bytes = answer.bytes() + 4 + self.fingerprint_bytes(message);
        if let Some(padding) = message.bytes().checked_sub(bytes).filter(|_| wish.padded) {
            answer.attribute(Kind::PADDING, &vec![0; padding]);
        }
        client.local = wish.from;
        client.remote.set_port(wish.port.unwrap_or(client.remote.port()));
        self.answer_unsigned(client, message, answer);
    }

    /// An error before the credentials were proved, with what the client needs to prove them.
    pub(super) fn challenge(&mut self, client: ClientAddr, message: &Message<'_>, code: ErrorCode) {
        if message.has_integrity() {
            self.metrics.fail_auth(client.transport);
        }
        if client.transport == Transport::Udp && !self.strangers.take(client.remote.ip(), self.now) {
            return self.drop(DropReason::StrangerLimit);
        }
        let room = Room::of(&client, message);
        let challenges = matches!(code, ErrorCode::UNAUTHENTICATED | ErrorCode::STALE_NONCE);
        let least = HEADER_BYTES + ERROR_BYTES + self.fingerprint_bytes(message);
        let algorithms = least + self.auth.challenge_bytes(true) <= room.most;
        let more = if challenges { self.auth.challenge_bytes(algorithms) } else { 0 };
        let mut answer = self.error(client, message, code, more);
        if challenges {
            self.auth.challenge(&mut answer, client.remote, self.unix_seconds(), algorithms);
        }
        self.answer_unsigned(client, message, answer);
    }

    /// An error, with its words when there is room for them beside `more` bytes of other attributes.
    fn error(&self, client: ClientAddr, message: &Message<'_>, code: ErrorCode, more: usize) -> Writer {
        let words = code.reason();
        let bytes = HEADER_BYTES + ERROR_BYTES + more + self.fingerprint_bytes(message);
        let fits = bytes + words.len().next_multiple_of(4) <= Room::of(&client, message).comfortable;
        let mut answer = Writer::new(Class::Error, message.method(), message.transaction_id());
        answer.error_with(code, if fits { words } else { "" });
        answer
    }

    fn answer_unsigned(&mut self, client: ClientAddr, message: &Message<'_>, mut answer: Writer) {
        let fingerprint_bytes = self.fingerprint_bytes(message);
        if let Some(software) = &self.software {
            let bytes = answer.bytes() + 4 + software.len().next_multiple_of(4) + fingerprint_bytes;
            if bytes <= Room::of(&client, message).comfortable {
                answer.attribute(Kind::SOFTWARE, software.as_bytes());
            }
        }
        if fingerprint_bytes > 0 {
            answer.fingerprint();
        }
        self.reply(client, answer.finish());
    }

    /// 0 when the answer has none.
    fn fingerprint_bytes(&self, message: &Message<'_>) -> usize {
        let wanted = self.fingerprint || message.fingerprint_holds().is_some();
        if wanted { FINGERPRINT_BYTES } else { 0 }
    }
}
