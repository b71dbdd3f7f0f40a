//! What clients ask for: Binding, Allocate, Refresh, CreatePermission, ChannelBind (RFC 8489 §6.3, RFC 8656 §7–§12).
//!
//! Order of checks: shape, credentials, unknown attributes, then the method's own. Before the credentials have been
//! proved nothing is remembered, and answers are rationed per network.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rand_core::RngCore;

use super::Relay;
use super::addresses::{Family, Protocol, RelayedAddr};
use super::families::{AddressError, Offer, additional_family, family_of};
use super::io::{ClientAddr, Output};
use super::ledger::WorkerId;
use super::reservations::Token;
use super::tcp::is_tcp;
use crate::allocation::{Allocation, Pending, PortWish, Side, State};
use crate::auth::Proof;
use crate::channel_data::ChannelNumber;
use crate::metrics::DropReason;
use crate::peer_policy::Verdict;
use crate::routes::{AllocationId, Refusal};
use crate::stun::attributes::{ErrorCode, Kind};
use crate::stun::header::{Class, Method, TransactionId};
use crate::stun::{Message, Writer};

/// IANA protocol numbers (RFC 8656 §18.7, RFC 6062 §4.1).
const UDP: u8 = 17;
const TCP: u8 = 6;
/// EVEN-PORT's R bit: reserve the next port too (RFC 8656 §18.5).
const RESERVE_NEXT: u8 = 0x80;
/// Ports that are tried for one allocation before it is refused.
const BIND_ATTEMPTS: u8 = 10;
/// No address of the family that is meant.
const WRONG_FAMILY: ErrorCode = ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH;

/// A request whose sender has proved its credentials.
pub(super) struct Request<'a> {
    pub(super) client: ClientAddr,
    pub(super) message: Message<'a>,
    pub(super) proof: Proof,
}

impl Request<'_> {
    pub(super) fn has_fingerprint(&self) -> bool {
        self.message.fingerprint_holds().is_some()
    }

    pub(super) fn success(&self) -> Writer {
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
            (Class::Request, Method::BINDING) if !self.services.stun => self.drop(DropReason::SwitchedOff),
            (Class::Request, Method::BINDING) if self.services.secure_stun => {
                self.on_proved_request(client, message)
            }
            (Class::Request, Method::BINDING) => self.on_binding(client, &message),
            _ if !self.services.turn => self.drop(DropReason::SwitchedOff),
            (
                Class::Request,
                Method::ALLOCATE
                | Method::REFRESH
                | Method::CREATE_PERMISSION
                | Method::CHANNEL_BIND
                | Method::CONNECT
                | Method::CONNECTION_BIND,
            ) => self.on_proved_request(client, message),
            (Class::Indication, Method::SEND) => self.on_send(client, &message),
            _ => self.drop(DropReason::Unexpected),
        }
    }

    fn on_proved_request(&mut self, client: ClientAddr, message: Message<'_>) {
        let known = self.by_client.get(&client).map(|&id| &self.allocation(id).proof);
        let known = known.or_else(|| self.proof_of_connection(&message));
        let proof = match self.auth.check(&message, client.remote, self.unix_seconds(), known) {
            Ok(proof) => proof,
            Err(code) => return self.challenge(client, &message, code),
        };
        let foreign = known.is_some_and(|known| known.username() != proof.username());
        let request = Request { client, message, proof };
        let unknown = unknown_attributes(&message, |_| false);
        if !unknown.is_empty() {
            self.metrics.refuse(ErrorCode::UNKNOWN_ATTRIBUTE);
            return self.answer(&request, refuse_unknown(&message, &unknown));
        }
        let outcome = match message.method() {
            Method::CONNECTION_BIND => self.connection_bind(&request),
            _ if foreign => Err(ErrorCode::WRONG_CREDENTIALS),
            Method::BINDING => self.binding(&request),
            Method::ALLOCATE => self.allocate(&request),
            Method::REFRESH => self.refresh(&request),
            Method::CREATE_PERMISSION => self.create_permission(&request),
            Method::CONNECT => self.connect(&request),
            _ => self.channel_bind(&request),
        };
        if let Err(code) = outcome {
            tracing::debug!(method = message.method().0, code = code.0, "request refused");
            self.metrics.refuse(code);
            let mut answer = Writer::new(Class::Error, message.method(), message.transaction_id());
            answer.error(code);
            if code == ErrorCode::TRY_ALTERNATE
                && let Some(server) = self.elsewhere.next(client.remote)
            {
                answer.address(Kind::ALTERNATE_SERVER, server);
            }
            self.answer(&request, answer);
        }
    }

    pub(super) fn answer(&mut self, request: &Request<'_>, answer: Writer) {
        let data = self.sealed(answer, &request.proof, request.has_fingerprint());
        self.reply(request.client, data);
    }

    pub(super) fn sealed(&self, mut answer: Writer, proof: &Proof, fingerprint: bool) -> Vec<u8> {
        if let Some(software) = &self.software {
            answer.attribute(Kind::SOFTWARE, software.as_bytes());
        }
        proof.sign(&mut answer);
        if fingerprint || self.fingerprint {
            answer.fingerprint();
        }
        answer.finish()
    }

    /// Binding of who has to prove a password for it.
    fn binding(&mut self, request: &Request<'_>) -> Result<(), ErrorCode> {
        let mut answer = request.success();
        answer.xor_address(Kind::XOR_MAPPED_ADDRESS, request.client.remote);
        self.answer(request, answer);
        Ok(())
    }

    fn allocate(&mut self, request: &Request<'_>) -> Result<(), ErrorCode> {
        if let Some(&id) = self.by_client.get(&request.client) {
            return self.allocate_again(id, request);
        }
        self.elsewhere.check(request.client.remote)?;
        let message = &request.message;
        let protocol = match message.attribute(Kind::REQUESTED_TRANSPORT) {
            Some([UDP, _, _, _]) => Protocol::Udp,
            Some([TCP, _, _, _]) => Protocol::Tcp,
            Some([_, _, _, _]) => return Err(ErrorCode::UNSUPPORTED_TRANSPORT),
            _ => return Err(ErrorCode::BAD_REQUEST),
        };
        if protocol == Protocol::Tcp {
            self.check_tcp_allocate(request)?;
        }
        let wish = port_wish(message)?;
        let redeemed = self.redeem(request)?;
        let Offer { relayed, missing } = match redeemed {
            Some((relayed, _)) => relayed.into(), // a reservation has been counted
            None => self.admit(request, protocol, wish)?,
        };
        let lifetime = self.lifetimes.granted(message.number(Kind::LIFETIME));
        let pending =
            Pending { lifetime, fingerprint: request.has_fingerprint(), wish, token: None, missing };
        let (transaction_id, proof) = (message.transaction_id(), request.proof.clone());
        let expires = self.now + lifetime;
        // A redeemed port is that one or none.
        let failures = if redeemed.is_some() { BIND_ATTEMPTS } else { 0 };
        let side = |relayed| Side { failures, ..Side::new(relayed, expires) };
        let sides = relayed.into_iter().flatten().map(side);
        self.insert(Allocation::new(request.client, sides, proof, transaction_id, pending));
        match redeemed {
            Some((relayed, from)) if from == self.worker => self.on_relay_bound(relayed),
            Some((relayed, from)) => self.outputs.push_back(Output::FetchRelay { relayed, from }),
            None => relayed.into_iter().flatten().for_each(|relayed| self.open(relayed)),
        }
        Ok(())
    }

    /// Addresses for an allocation that the quotas allow, which is counted then.
    fn admit(
        &mut self,
        request: &Request<'_>,
        protocol: Protocol,
        wish: PortWish,
    ) -> Result<Offer, ErrorCode> {
        let user = request.proof.account();
        self.ledger.admit(self.worker, user)?;
        let offer = if wish == PortWish::EvenAndNext && self.reservations.is_full() {
            Err(ErrorCode::INSUFFICIENT_CAPACITY)
        } else {
            self.offer(&request.client, &request.message, protocol, wish)
        };
        if offer.is_err() {
            self.ledger.leave(self.worker, user);
        }
        offer
    }

    /// The address that RESERVATION-TOKEN stands for, and the worker that has its socket open.
    fn redeem(&mut self, request: &Request<'_>) -> Result<Option<(RelayedAddr, WorkerId)>, ErrorCode> {
        let message = &request.message;
        let Some(token) = message.attribute(Kind::RESERVATION_TOKEN) else { return Ok(None) };
        let token = Token::try_from(token).map_err(|_| ErrorCode::BAD_REQUEST)?;
        let others = [Kind::EVEN_PORT, Kind::REQUESTED_ADDRESS_FAMILY];
        if additional_family(message).is_some()
            || others.iter().any(|kind| message.attribute(*kind).is_some())
        {
            return Err(ErrorCode::BAD_REQUEST);
        }
        let redeemed = self.ledger.redeem(self.worker, token, request.proof.account());
        redeemed.map(Some).ok_or(ErrorCode::INSUFFICIENT_CAPACITY)
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

    pub(super) fn on_relay_bound(&mut self, relayed: RelayedAddr) {
        let Some(&id) = self.by_relayed.get(&relayed) else {
            return self.close(relayed); // ended while its socket was being bound
        };
        let State::Binding { pending } = self.allocation(id).state else { return };
        if self.allocation(id).relayed(relayed.family) != Some(relayed) {
            let token = Some(self.reserve(id, relayed));
            self.allocation_mut(id).state = State::Binding { pending: Pending { token, ..pending } };
        } else {
            let bound = |side: &&mut Side| side.relayed == relayed;
            self.allocation_mut(id).sides_mut().filter(bound).for_each(|side| side.is_bound = true);
            if pending.wish == PortWish::EvenAndNext {
                self.by_relayed.insert(relayed.next(), id); // reserved once it is bound
                return self.open(relayed.next());
            }
        }
        self.grant_if_bound(id);
    }

    /// Answers the Allocate request once all its sockets are there.
    fn grant_if_bound(&mut self, id: AllocationId) {
        let State::Binding { pending } = self.allocation(id).state else { return };
        if !self.allocation(id).sides().all(|side| side.is_bound) {
            return;
        }
        let allocation = self.allocation(id);
        let Pending { lifetime, fingerprint, token, missing, .. } = pending;
        let mut answer = Writer::new(Class::Success, Method::ALLOCATE, allocation.transaction_id);
        for side in allocation.sides() {
            answer.xor_address(Kind::XOR_RELAYED_ADDRESS, self.ips.shown(side.relayed));
        }
        answer
            .number(Kind::LIFETIME, lifetime.as_secs() as u32)
            .xor_address(Kind::XOR_MAPPED_ADDRESS, allocation.client.remote);
        if let Some(token) = token {
            answer.attribute(Kind::RESERVATION_TOKEN, &token);
        }
        if let Some(missing) = missing {
            answer.attribute(Kind::ADDRESS_ERROR_CODE, &address_error(missing));
        }
        let answer = self.sealed(answer, &allocation.proof, fingerprint);
        let client = allocation.client;
        let expires = self.now + lifetime;
        self.change_sides(id, |allocation| {
            allocation.state = State::Ready { answer: answer.as_slice().into() };
            allocation.sides_mut().for_each(|side| side.expires = expires);
        });
        self.reply(client, answer);
        tracing::debug!(lifetime = lifetime.as_secs(), "allocated");
    }

    /// Makes the port after an allocation's own a reservation.
    fn reserve(&mut self, id: AllocationId, relayed: RelayedAddr) -> Token {
        let mut token = Token::default();
        self.rng.fill_bytes(&mut token);
        let user = self.allocations[id.0 as usize].proof.account();
        self.ledger.reserve(self.worker, relayed, token, user);
        self.reservations.add(relayed, token, self.now);
        self.by_relayed.remove(&relayed);
        token
    }

    pub(super) fn on_relay_bind_failed(&mut self, relayed: RelayedAddr) {
        let Some(&id) = self.by_relayed.get(&relayed) else { return };
        let State::Binding { pending } = self.allocation(id).state else { return };
        let Some(&own) = self.allocation(id).side(relayed.family) else { return };
        self.forget_relayed(relayed);
        if own.relayed != relayed {
            // The port after it is taken: its own is not wanted either.
            self.forget_relayed(own.relayed);
            self.close(own.relayed);
        } else if pending.wish == PortWish::EvenAndNext {
            self.ledger.release(self.worker, relayed.next()); // claimed with it
        }
        let failures = own.failures + 1;
        let next = match failures < BIND_ATTEMPTS {
            true => self.free_address(relayed.family, relayed.protocol, pending.wish).ok(),
            false => None,
        };
        if let Some(next) = next {
            self.allocation_mut(id).put(Side { failures, ..Side::new(next, own.expires) });
            self.by_relayed.insert(next, id);
            return self.open(next);
        }
        if self.allocation(id).sides().count() == 1 {
            return self.give_up_binding(id, pending);
        }
        let missing = Some((relayed.family, ErrorCode::INSUFFICIENT_CAPACITY));
        self.change_sides(id, |allocation| {
            allocation.take(relayed.family);
            allocation.state = State::Binding { pending: Pending { missing, ..pending } };
        });
        self.grant_if_bound(id);
    }

    fn give_up_binding(&mut self, id: AllocationId, pending: Pending) {
        self.metrics.refuse(ErrorCode::INSUFFICIENT_CAPACITY);
        let allocation = self.allocation(id);
        let transaction_id: TransactionId = allocation.transaction_id;
        let mut answer = Writer::new(Class::Error, Method::ALLOCATE, transaction_id);
        answer.error(ErrorCode::INSUFFICIENT_CAPACITY);
        let data = self.sealed(answer, &allocation.proof, pending.fingerprint);
        let client = allocation.client;
        self.remove(id);
        self.reply(client, data);
    }

    fn refresh(&mut self, request: &Request<'_>) -> Result<(), ErrorCode> {
        let id = self.ready(&request.client).ok_or(ErrorCode::ALLOCATION_MISMATCH)?;
        let family = family_of(&request.message, Kind::REQUESTED_ADDRESS_FAMILY)
            .map_err(|code| if code == ErrorCode::BAD_REQUEST { code } else { WRONG_FAMILY })?;
        if family.is_some_and(|family| self.allocation(id).side(family).is_none()) {
            return Err(WRONG_FAMILY);
        }
        let lifetime = match request.message.number(Kind::LIFETIME) {
            Some(0) => Duration::ZERO,
            requested => self.lifetimes.granted(requested),
        };
        if !lifetime.is_zero() {
            let now = self.now;
            self.change_routes(id, |routes, owner, share| routes.sweep(owner.id, share, now));
            self.change_sides(id, |allocation| {
                let meant = |side: &&mut Side| family.is_none_or(|family| side.relayed.family == family);
                allocation.sides_mut().filter(meant).for_each(|side| side.expires = now + lifetime);
            });
        } else if let Some(family) = family {
            self.remove_side(id, family);
        } else {
            self.remove(id);
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
        ips.iter().try_for_each(|ip| self.check_peer(id, *ip).map(drop))?;
        let now = self.now;
        self.change_routes(id, |routes, owner, share| routes.permit(owner, share, &ips, now))
            .map_err(refusal_code)?;
        self.answer(request, request.success());
        Ok(())
    }

    fn channel_bind(&mut self, request: &Request<'_>) -> Result<(), ErrorCode> {
        let id = self.ready(&request.client).ok_or(ErrorCode::ALLOCATION_MISMATCH)?;
        if is_tcp(self.allocation(id)) {
            return Err(ErrorCode::BAD_REQUEST); // channels are for datagrams
        }
        let number = match request.message.attribute(Kind::CHANNEL_NUMBER) {
            Some(&[c0, c1, _, _]) => ChannelNumber::new(u16::from_be_bytes([c0, c1])),
            _ => None,
        };
        let peer = request.message.xor_address(Kind::XOR_PEER_ADDRESS).filter(|peer| peer.port() != 0);
        let (Some(number), Some(peer)) = (number, peer) else { return Err(ErrorCode::BAD_REQUEST) };
        if self.check_peer(id, peer.ip())? == Verdict::OwnOnly && !self.is_own(peer) {
            return Err(ErrorCode::FORBIDDEN);
        }
        let now = self.now;
        self.change_routes(id, |routes, owner, share| routes.bind(owner, share, number, peer, now))
            .map_err(refusal_code)?;
        self.answer(request, request.success());
        Ok(())
    }

    pub(super) fn check_peer(&self, id: AllocationId, ip: IpAddr) -> Result<Verdict, ErrorCode> {
        if self.allocation(id).side(Family::of(ip)).is_none() {
            return Err(WRONG_FAMILY);
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

/// ADDRESS-ERROR-CODE's value (RFC 8656 §18.12).
fn address_error((family, code): AddressError) -> Vec<u8> {
    let mut value = vec![family.to_wire(), 0, (code.0 / 100) as u8, (code.0 % 100) as u8];
    value.extend_from_slice(code.reason().as_bytes());
    value
}

fn refusal_code(refusal: Refusal) -> ErrorCode {
    match refusal {
        Refusal::Mismatch => ErrorCode::BAD_REQUEST,
        Refusal::Full => ErrorCode::INSUFFICIENT_CAPACITY,
    }
}

/// The attributes that must be understood and are not, unless they are `understood` here.
pub(super) fn unknown_attributes(message: &Message<'_>, understood: impl Fn(Kind) -> bool) -> Vec<u8> {
    let kinds = message.attributes().map(|attribute| attribute.kind);
    let unknown =
        kinds.filter(|kind| kind.is_comprehension_required() && !kind.is_known() && !understood(*kind));
    unknown.flat_map(|kind| kind.0.to_be_bytes()).collect()
}

fn refuse_unknown(message: &Message<'_>, unknown: &[u8]) -> Writer {
    let mut answer = Writer::new(Class::Error, message.method(), message.transaction_id());
    answer.error(ErrorCode::UNKNOWN_ATTRIBUTE).attribute(Kind::UNKNOWN_ATTRIBUTES, unknown);
    answer
}
