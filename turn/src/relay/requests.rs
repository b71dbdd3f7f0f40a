//! What clients ask for: Binding, Allocate, Refresh, CreatePermission, ChannelBind (RFC 8489 §6.3, RFC 8656 §7–§12).
//!
//! Order of checks: shape, credentials, unknown attributes, then the method's own. Before the credentials have been
//! proved nothing is remembered, and answers are rationed per network.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rand_core::RngCore;

use super::Relay;
use super::io::{ClientAddr, Output, RelayedPort, Transport};
use super::reservations::Token;
use crate::allocation::{Allocation, Pending, PortWish, State, granted_lifetime};
use crate::auth::{Proof, quota_name};
use crate::channel_data::ChannelNumber;
use crate::metrics::DropReason;
use crate::peer_policy::Verdict;
use crate::routes::{AllocationId, Refusal};
use crate::stun::attributes::{ErrorCode, Kind};
use crate::stun::header::{Class, Method, TransactionId};
use crate::stun::{Message, Writer};

/// IANA protocol number (RFC 8656 §18.7).
const UDP: u8 = 17;
/// REQUESTED-ADDRESS-FAMILY (RFC 8656 §18.6).
const FAMILY_IPV4: u8 = 1;
const FAMILY_IPV6: u8 = 2;
/// EVEN-PORT's R bit: reserve the next port too (RFC 8656 §18.5).
const RESERVE_NEXT: u8 = 0x80;
/// Ports that are tried for one allocation before it is refused.
const BIND_ATTEMPTS: u32 = 10;

/// A request whose sender has proved its credentials.
struct Request<'a> {
    client: ClientAddr,
    message: Message<'a>,
    proof: Proof,
}

impl Request<'_> {
    fn has_fingerprint(&self) -> bool {
        self.message.fingerprint_holds().is_some()
    }

    fn success(&self) -> Writer {
        Writer::new(Class::Success, self.message.method(), self.message.transaction_id())
    }
}

impl Relay {
    pub(super) fn on_stun(&mut self, client: ClientAddr, data: &[u8]) {
        let Ok(message) = Message::parse(data) else { return self.drop(DropReason::Malformed) };
        if message.fingerprint_holds() == Some(false) {
            return self.drop(DropReason::Fingerprint);
        }
        match (message.class(), message.method()) {
            (Class::Request, Method::BINDING) => self.on_binding(client, &message),
            (
                Class::Request,
                Method::ALLOCATE | Method::REFRESH | Method::CREATE_PERMISSION | Method::CHANNEL_BIND,
            ) => self.on_turn_request(client, message),
            (Class::Indication, Method::SEND) => self.on_send(client, &message),
            _ => self.drop(DropReason::Unexpected),
        }
    }

    fn on_binding(&mut self, client: ClientAddr, message: &Message<'_>) {
        let unknown = unknown_attributes(message);
        let mut answer = if unknown.is_empty() {
            let mut answer = Writer::new(Class::Success, Method::BINDING, message.transaction_id());
            answer.xor_address(Kind::XOR_MAPPED_ADDRESS, client.remote);
            answer
        } else {
            refuse_unknown(message, &unknown)
        };
        if message.fingerprint_holds().is_some() {
            answer.fingerprint();
        }
        self.reply(client, answer.finish());
    }

    fn on_turn_request(&mut self, client: ClientAddr, message: Message<'_>) {
        let known = self.by_client.get(&client).map(|&id| &self.allocation(id).proof);
        let proof = match self.auth.check(&message, client.remote, self.unix_seconds(), known) {
            Ok(proof) => proof,
            Err(code) => return self.challenge(client, &message, code),
        };
        let request = Request { client, message, proof };
        let unknown = unknown_attributes(&message);
        if !unknown.is_empty() {
            self.metrics.refuse(ErrorCode::UNKNOWN_ATTRIBUTE);
            return self.answer(&request, refuse_unknown(&message, &unknown));
        }
        let outcome = match message.method() {
            Method::ALLOCATE => self.allocate(&request),
            Method::REFRESH => self.refresh(&request),
            Method::CREATE_PERMISSION => self.create_permission(&request),
            _ => self.channel_bind(&request),
        };
        if let Err(code) = outcome {
            tracing::debug!(method = message.method().0, code = code.0, "request refused");
            self.metrics.refuse(code);
            let mut answer = Writer::new(Class::Error, message.method(), message.transaction_id());
            answer.error(code);
            self.answer(&request, answer);
        }
    }

    /// An error before the credentials were proved, with what the client needs to prove them.
    fn challenge(&mut self, client: ClientAddr, message: &Message<'_>, code: ErrorCode) {
        if message.has_integrity() {
            self.metrics.auth_failures.inc();
        }
        if client.transport == Transport::Udp && !self.strangers.take(client.remote.ip(), self.now) {
            return self.drop(DropReason::StrangerLimit);
        }
        let mut answer = Writer::new(Class::Error, message.method(), message.transaction_id());
        answer.error(code);
        if matches!(code, ErrorCode::UNAUTHENTICATED | ErrorCode::STALE_NONCE) {
            let nonce = self.auth.nonce(client.remote, self.unix_seconds());
            answer
                .attribute(Kind::REALM, self.auth.realm().as_bytes())
                .attribute(Kind::NONCE, nonce.as_bytes());
        }
        if message.fingerprint_holds().is_some() {
            answer.fingerprint();
        }
        self.reply(client, answer.finish());
    }

    fn answer(&mut self, request: &Request<'_>, answer: Writer) {
        let data = sealed(answer, &request.proof, request.has_fingerprint());
        self.reply(request.client, data);
    }

    fn allocate(&mut self, request: &Request<'_>) -> Result<(), ErrorCode> {
        if let Some(&id) = self.by_client.get(&request.client) {
            return self.allocate_again(id, request);
        }
        let message = &request.message;
        match message.attribute(Kind::REQUESTED_TRANSPORT) {
            Some([UDP, _, _, _]) => {}
            Some([_, _, _, _]) => return Err(ErrorCode::UNSUPPORTED_TRANSPORT),
            _ => return Err(ErrorCode::BAD_REQUEST),
        }
        self.check_requested_family(message, ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED, Some(FAMILY_IPV4))?;
        let wish = port_wish(message)?;
        let redeemed = self.redeem(request)?;
        if redeemed.is_none() {
            self.check_quotas(&request.proof)?; // a reservation has been counted
        }
        if wish == PortWish::EvenAndNext && self.reservations.is_full() {
            return Err(ErrorCode::INSUFFICIENT_CAPACITY);
        }
        let port = redeemed.or_else(|| self.free_port(wish)).ok_or(ErrorCode::INSUFFICIENT_CAPACITY)?;
        let lifetime = granted_lifetime(message.number(Kind::LIFETIME));
        let pending = Pending { lifetime, fingerprint: request.has_fingerprint(), wish };
        let (id, proof) = (message.transaction_id(), request.proof.clone());
        self.insert(Allocation::new(request.client, port, proof, id, pending, self.now + lifetime));
        match redeemed {
            Some(port) => self.on_relay_bound(port),
            None => self.outputs.push_back(Output::OpenRelay { port }),
        }
        Ok(())
    }

    /// The port that RESERVATION-TOKEN stands for. Its socket is open.
    fn redeem(&mut self, request: &Request<'_>) -> Result<Option<RelayedPort>, ErrorCode> {
        let message = &request.message;
        let Some(token) = message.attribute(Kind::RESERVATION_TOKEN) else { return Ok(None) };
        let token = Token::try_from(token).map_err(|_| ErrorCode::BAD_REQUEST)?;
        if message.attribute(Kind::EVEN_PORT).is_some()
            || message.attribute(Kind::REQUESTED_ADDRESS_FAMILY).is_some()
        {
            return Err(ErrorCode::BAD_REQUEST);
        }
        let port = self.reservations.redeem(token, quota_name(&request.proof.username));
        port.map(Some).ok_or(ErrorCode::INSUFFICIENT_CAPACITY)
    }

    /// A retransmission gets the same answer; another Allocate on the same 5-tuple is a mismatch (RFC 8656 §7.2).
    fn allocate_again(&mut self, id: AllocationId, request: &Request<'_>) -> Result<(), ErrorCode> {
        if self.allocation(id).transaction_id != request.message.transaction_id() {
            return Err(ErrorCode::ALLOCATION_MISMATCH);
        }
        if let Some(answer) = self.given_answer(id).map(<[u8]>::to_vec) {
            self.reply(request.client, answer);
        }
        Ok(())
    }

    fn check_quotas(&self, proof: &Proof) -> Result<(), ErrorCode> {
        let user = quota_name(&proof.username);
        let used = self.per_user.get(user).copied().unwrap_or(0);
        if self.user_quota != 0 && used + self.reservations.of_user(user) >= self.user_quota {
            return Err(ErrorCode::ALLOCATION_QUOTA_REACHED);
        }
        if self.total_quota != 0 && self.allocations.len() + self.reservations.len() >= self.total_quota {
            return Err(ErrorCode::INSUFFICIENT_CAPACITY);
        }
        Ok(())
    }

    /// REQUESTED-ADDRESS-FAMILY, or the family meant without it, against the relay's own.
    fn check_requested_family(
        &self,
        message: &Message<'_>,
        otherwise: ErrorCode,
        default: Option<u8>,
    ) -> Result<(), ErrorCode> {
        let wanted = match message.attribute(Kind::REQUESTED_ADDRESS_FAMILY) {
            Some([family, _, _, _]) => Some(*family),
            Some(_) => return Err(ErrorCode::BAD_REQUEST),
            None => default,
        };
        let ours = if self.shown_ip.is_ipv4() { FAMILY_IPV4 } else { FAMILY_IPV6 };
        if wanted.is_none_or(|family| family == ours) { Ok(()) } else { Err(otherwise) }
    }

    pub(super) fn on_relay_bound(&mut self, port: RelayedPort) {
        let Some(&id) = self.by_port.get(&port) else {
            return self.outputs.push_back(Output::CloseRelay { port }); // ended while its socket was being bound
        };
        let State::Binding { pending, .. } = self.allocation(id).state else { return };
        if pending.wish == PortWish::EvenAndNext && port == self.allocation(id).port {
            self.by_port.insert(port.next(), id); // reserved once it is bound
            return self.outputs.push_back(Output::OpenRelay { port: port.next() });
        }
        let token = (port != self.allocation(id).port).then(|| self.reserve(id, port));
        let relayed = self.relayed_address(self.allocation(id).port);
        let now = self.now;
        let allocation = self.allocation_mut(id);
        let Pending { lifetime, fingerprint, .. } = pending;
        let mut answer = Writer::new(Class::Success, Method::ALLOCATE, allocation.transaction_id);
        answer
            .xor_address(Kind::XOR_RELAYED_ADDRESS, relayed)
            .number(Kind::LIFETIME, lifetime.as_secs() as u32)
            .xor_address(Kind::XOR_MAPPED_ADDRESS, allocation.client.remote);
        if let Some(token) = token {
            answer.attribute(Kind::RESERVATION_TOKEN, &token);
        }
        let answer = sealed(answer, &allocation.proof, fingerprint);
        let client = allocation.client;
        allocation.state = State::Ready { answer: answer.as_slice().into() };
        self.set_expiry(id, now + lifetime);
        self.reply(client, answer);
        tracing::debug!(port = relayed.port(), lifetime = lifetime.as_secs(), "allocated");
    }

    /// Makes the port after an allocation's own a reservation.
    fn reserve(&mut self, id: AllocationId, port: RelayedPort) -> Token {
        let mut token = Token::default();
        self.rng.fill_bytes(&mut token);
        let user = quota_name(&self.allocations[id.0 as usize].proof.username);
        self.reservations.add(port, token, user, self.now);
        self.by_port.remove(&port);
        token
    }

    pub(super) fn on_relay_bind_failed(&mut self, port: RelayedPort) {
        let Some(&id) = self.by_port.get(&port) else { return };
        let State::Binding { failures, pending } = self.allocation(id).state else { return };
        self.by_port.remove(&port);
        let own = self.allocation(id).port;
        if own != port {
            // The port after it is taken: its own is not wanted either.
            self.by_port.remove(&own);
            self.outputs.push_back(Output::CloseRelay { port: own });
        }
        let next = if failures + 1 < BIND_ATTEMPTS { self.free_port(pending.wish) } else { None };
        match next {
            Some(next) => {
                let allocation = self.allocation_mut(id);
                allocation.state = State::Binding { failures: failures + 1, pending };
                allocation.port = next;
                self.by_port.insert(next, id);
                self.outputs.push_back(Output::OpenRelay { port: next });
            }
            None => self.give_up_binding(id, pending),
        }
    }

    fn give_up_binding(&mut self, id: AllocationId, pending: Pending) {
        self.metrics.refuse(ErrorCode::INSUFFICIENT_CAPACITY);
        let allocation = self.allocation(id);
        let transaction_id: TransactionId = allocation.transaction_id;
        let mut answer = Writer::new(Class::Error, Method::ALLOCATE, transaction_id);
        answer.error(ErrorCode::INSUFFICIENT_CAPACITY);
        let data = sealed(answer, &allocation.proof, pending.fingerprint);
        let client = allocation.client;
        self.remove(id);
        self.reply(client, data);
    }

    fn refresh(&mut self, request: &Request<'_>) -> Result<(), ErrorCode> {
        let id = self.ready(&request.client).ok_or(ErrorCode::ALLOCATION_MISMATCH)?;
        self.check_requested_family(&request.message, ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH, None)?;
        let lifetime = match request.message.number(Kind::LIFETIME) {
            Some(0) => Duration::ZERO,
            requested => granted_lifetime(requested),
        };
        if lifetime.is_zero() {
            self.remove(id);
        } else {
            let now = self.now;
            self.change_routes(id, |routes, owner, share| routes.sweep(owner, share, now));
            self.set_expiry(id, self.now + lifetime);
        }
        let mut answer = request.success();
        answer.number(Kind::LIFETIME, lifetime.as_secs() as u32);
        self.answer(request, answer);
        Ok(())
    }

    fn create_permission(&mut self, request: &Request<'_>) -> Result<(), ErrorCode> {
        let id = self.ready(&request.client).ok_or(ErrorCode::ALLOCATION_MISMATCH)?;
        let peers = request.message.attributes().filter(|a| a.kind == Kind::XOR_PEER_ADDRESS);
        let peers: Option<Vec<SocketAddr>> = peers
            .map(|a| crate::stun::attributes::read_xor_address(a.value, request.message.transaction_id()))
            .collect();
        let peers = peers.filter(|peers| !peers.is_empty()).ok_or(ErrorCode::BAD_REQUEST)?;
        let ips: Vec<IpAddr> = peers.iter().map(SocketAddr::ip).collect();
        ips.iter().try_for_each(|ip| self.check_peer(*ip).map(drop))?;
        let now = self.now;
        self.change_routes(id, |routes, owner, share| routes.permit(owner, share, &ips, now))
            .map_err(refusal_code)?;
        self.answer(request, request.success());
        Ok(())
    }

    fn channel_bind(&mut self, request: &Request<'_>) -> Result<(), ErrorCode> {
        let id = self.ready(&request.client).ok_or(ErrorCode::ALLOCATION_MISMATCH)?;
        let number = match request.message.attribute(Kind::CHANNEL_NUMBER) {
            Some(&[c0, c1, _, _]) => ChannelNumber::new(u16::from_be_bytes([c0, c1])),
            _ => None,
        };
        let peer = request.message.xor_address(Kind::XOR_PEER_ADDRESS).filter(|peer| peer.port() != 0);
        let (Some(number), Some(peer)) = (number, peer) else { return Err(ErrorCode::BAD_REQUEST) };
        if self.check_peer(peer.ip())? == Verdict::OwnOnly && !self.is_own(peer) {
            return Err(ErrorCode::FORBIDDEN);
        }
        let now = self.now;
        self.change_routes(id, |routes, owner, share| routes.bind(owner, share, number, peer, now))
            .map_err(refusal_code)?;
        self.answer(request, request.success());
        Ok(())
    }

    fn check_peer(&self, ip: IpAddr) -> Result<Verdict, ErrorCode> {
        if ip.is_ipv4() != self.shown_ip.is_ipv4() {
            return Err(ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH);
        }
        match self.policy.verdict(ip) {
            Verdict::Denied => Err(ErrorCode::FORBIDDEN),
            verdict => Ok(verdict),
        }
    }
}

fn port_wish(message: &Message<'_>) -> Result<PortWish, ErrorCode> {
    match message.attribute(Kind::EVEN_PORT) {
        None => Ok(PortWish::Any),
        Some([flags, ..]) if flags & RESERVE_NEXT != 0 => Ok(PortWish::EvenAndNext),
        Some([_, ..]) => Ok(PortWish::Even),
        Some([]) => Err(ErrorCode::BAD_REQUEST),
    }
}

fn sealed(mut answer: Writer, proof: &Proof, fingerprint: bool) -> Vec<u8> {
    answer.integrity(&proof.key.ready());
    if fingerprint {
        answer.fingerprint();
    }
    answer.finish()
}

fn refusal_code(refusal: Refusal) -> ErrorCode {
    match refusal {
        Refusal::Mismatch => ErrorCode::BAD_REQUEST,
        Refusal::Full => ErrorCode::INSUFFICIENT_CAPACITY,
    }
}

fn unknown_attributes(message: &Message<'_>) -> Vec<u8> {
    let unknown = message.attributes().filter(|a| a.kind.is_comprehension_required() && !a.kind.is_known());
    unknown.flat_map(|a| a.kind.0.to_be_bytes()).collect()
}

fn refuse_unknown(message: &Message<'_>, unknown: &[u8]) -> Writer {
    let mut answer = Writer::new(Class::Error, message.method(), message.transaction_id());
    answer.error(ErrorCode::UNKNOWN_ATTRIBUTE).attribute(Kind::UNKNOWN_ATTRIBUTES, unknown);
    answer
}
