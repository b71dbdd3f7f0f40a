//! DTLS 1.2 on the UDP listeners (RFC 6347, RFC 7350): datagrams in, plaintext and datagrams out.
//!
//! Who has not shown that it receives at its address costs no memory: it is asked for a cookie (`cookie`, `hello`), and only
//! the ClientHello with the right one makes an engine. Half-open sessions are bounded, the oldest goes first; open ones live
//! as long as their allocation. `worker` owns this.

mod cookie;
mod hello;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::metrics::{Counter, Counters, Registry};
use common::net::Certificate;
use dimpl::{Config, Dtls, DtlsCertificate, Output};

use self::cookie::{Cookie, Cookies, granting, provider};
use self::hello::{Alert, Hello, Random, alert, verify_request};
use crate::auth::StrangerLimit;
use crate::peer_policy::canonical;
use crate::relay::{ClientAddr, Transport};
use crate::settings::STRANGER_ANSWERS_PER_SECOND;

/// First bytes of DTLS records (RFC 7983 §7): neither STUN's nor ChannelData's.
const FIRST_BYTES: std::ops::RangeInclusive<u8> = 20..=63;
/// Handshakes at once; one more ends the oldest. About 30 kB each.
const HALF_OPEN_MAX: usize = 512;
/// The same for one network (/24, /64).
const HALF_OPEN_PER_NETWORK: usize = 32;
/// Sessions of one worker, about 20 kB each; one more is refused.
const SESSIONS_MAX: usize = 16_384;
/// From the ClientHello with its cookie to the end of the handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A session that has no allocation after this long, or has lost it for this long, is closed, as TCP connections are.
const IDLE: Duration = Duration::from_secs(15);
/// The longest plaintext of one record (RFC 5246 §6.2.1).
const PLAINTEXT_BYTES_MAX: usize = 1 << 14;
/// Handshake messages are cut to fit IPv6's least MTU behind a tunnel.
const MTU_BYTES: usize = 1200;

/// What comes of a datagram, of time, or of a message to send.
pub(super) enum Event<'a> {
    /// Send this to the client.
    Transmit(&'a [u8]),
    /// The client said this.
    Plain(&'a [u8]),
    /// The session has ended.
    Gone,
}

/// Whether a datagram is for [`Sessions`].
pub(super) fn is_dtls(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| FIRST_BYTES.contains(first))
}

/// All sessions of one worker.
pub(super) struct Sessions {
    certificate: Arc<Certificate>,
    /// The certificate in dimpl's form; `None` when it is not one for DTLS.
    usable: Option<DtlsCertificate>,
    config: Arc<Config>,
    cookies: Cookies,
    started: Instant,
    strangers: StrangerLimit,
    by_client: HashMap<ClientAddr, Session>,
    /// Those in their handshake, oldest first.
    half_open: BTreeMap<u64, ClientAddr>,
    next_place: u64,
    deadlines: BTreeSet<(Instant, ClientAddr)>,
    buffer: Vec<u8>,
    opened: Counter,
    refused: Counters,
}

struct Session {
    dtls: Dtls,
    random: Random,
    /// Its place among those in their handshake.
    place: Option<u64>,
    /// When to look at it again: a retransmission, or whether it is still of use.
    deadline: Instant,
    /// When it was seen to be of use.
    useful: Instant,
}

/// What an engine had to say.
#[derive(Default)]
struct Said {
    connected: bool,
    closed: bool,
    next: Option<Instant>,
}

impl Sessions {
    /// `secret` keys the cookies.
    pub(super) fn new(
        certificate: Arc<Certificate>,
        secret: &[u8; 32],
        registry: &Registry,
        now: Instant,
    ) -> Self {
        let config = Config::builder()
            .mtu(MTU_BYTES)
            .require_client_certificate(false)
            .handshake_timeout(HANDSHAKE)
            .with_crypto_provider(provider())
            .build()
            .expect("all of it is constant");
        let salt = u64::from_ne_bytes(*secret.first_chunk().expect("32 bytes have 8"));
        let mut sessions = Self {
            certificate,
            usable: None,
            config: Arc::new(config),
            cookies: Cookies::new(secret),
            started: now,
            strangers: StrangerLimit::new(STRANGER_ANSWERS_PER_SECOND, salt, now),
            by_client: HashMap::new(),
            half_open: BTreeMap::new(),
            next_place: 0,
            deadlines: BTreeSet::new(),
            buffer: vec![0; PLAINTEXT_BYTES_MAX + 256],
            opened: super::connections(registry).with(Transport::Dtls.as_str()),
            refused: registry.counters(
                "turn_dtls_refused",
                "DTLS handshakes and sessions that were refused or cut off",
                "reason",
            ),
        };
        if sessions.follow_certificate().is_none() {
            tracing::warn!("DTLS needs an ECDSA certificate: clients are served over TLS only");
        }
        sessions
    }

    /// Takes in a datagram for which [`is_dtls`] holds. `client` is as if it talked UDP.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        client: ClientAddr,
        datagram: &[u8],
        on_event: &mut impl FnMut(Event<'_>),
    ) {
        let client = ClientAddr { transport: Transport::Dtls, ..client };
        let known = self.by_client.get(&client).map(|session| session.random);
        match Hello::parse(datagram) {
            Some(hello) if known != Some(hello.random) => self.greet(now, client, datagram, hello, on_event),
            _ if known.is_some() => self.continue_session(now, client, datagram, on_event),
            _ => self.refused.inc("unknown"),
        }
    }

    /// Encrypts a message in parts; `false` when there is no session that can.
    pub(super) fn send(
        &mut self,
        client: &ClientAddr,
        parts: [&[u8]; 3],
        on_event: &mut impl FnMut(Event<'_>),
    ) -> bool {
        let Some(session) = self.by_client.get_mut(client) else { return false };
        let message = parts.concat();
        if message.len() > PLAINTEXT_BYTES_MAX || session.dtls.send_application_data(&message).is_err() {
            return false;
        }
        drain(&mut session.dtls, &mut self.buffer, on_event);
        true
    }

    /// Retransmits what is due and closes what is of no use: nobody's who `has_allocation`.
    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        has_allocation: impl Fn(&ClientAddr) -> bool,
        mut on_event: impl FnMut(ClientAddr, Event<'_>),
    ) {
        while let Some(&(at, client)) = self.deadlines.first().filter(|(at, _)| *at <= now) {
            let mut on_event = |event: Event<'_>| on_event(client, event);
            let session = self.by_client.get_mut(&client).expect("deadlines are of sessions");
            debug_assert_eq!(at, session.deadline);
            if has_allocation(&client) {
                session.useful = now;
            }
            let half_open = session.place.is_some();
            let failed = session.dtls.handle_timeout(now).is_err();
            let said = drain(&mut session.dtls, &mut self.buffer, &mut on_event);
            if failed || said.closed {
                self.end(client, half_open.then_some("handshake"), &mut on_event);
            } else if !half_open && now.duration_since(session.useful) >= IDLE {
                self.close(client, &mut on_event);
            } else {
                self.wait(now, client, said);
            }
        }
    }

    /// A ClientHello that no session knows: a stranger's, or of a client that begins anew (RFC 6347 §4.2.8).
    fn greet(
        &mut self,
        now: Instant,
        client: ClientAddr,
        datagram: &[u8],
        hello: Hello<'_>,
        on_event: &mut impl FnMut(Event<'_>),
    ) {
        let age = now.duration_since(self.started);
        if hello.cookie.is_empty() {
            if !self.strangers.take(client.remote.ip(), now) {
                return self.refused.inc("stranger_limit");
            }
            if !hello.is_of_our_version() {
                self.refused.inc("version");
                return on_event(Event::Transmit(&alert(&hello, Alert::ProtocolVersion)));
            }
            let cookie = self.cookies.cookie(&client, &hello.random, age);
            return on_event(Event::Transmit(&verify_request(&hello, &cookie)));
        }
        let Some(cookie) = self.cookies.check(&client, &hello.random, age, hello.cookie) else {
            return self.refused.inc("cookie");
        };
        let Some(certificate) = self.follow_certificate() else {
            self.refused.inc("certificate");
            return on_event(Event::Transmit(&alert(&hello, Alert::HandshakeFailure)));
        };
        if self.by_client.contains_key(&client) {
            self.end(client, None, on_event);
        }
        if self.by_client.len() >= SESSIONS_MAX {
            return self.refused.inc("too-many");
        }
        self.make_room(client.remote.ip());
        let Some(dtls) = self.engine(now, certificate, cookie, &hello, datagram) else {
            return self.refused.inc("handshake");
        };
        let place = self.next_place;
        self.next_place += 1;
        self.half_open.insert(place, client);
        let session = Session { dtls, random: hello.random, place: Some(place), deadline: now, useful: now };
        self.by_client.insert(client, session);
        self.deadlines.insert((now, client));
        let session = self.by_client.get_mut(&client).expect("inserted above");
        let said = drain(&mut session.dtls, &mut self.buffer, on_event);
        self.wait(now, client, said);
    }

    fn continue_session(
        &mut self,
        now: Instant,
        client: ClientAddr,
        datagram: &[u8],
        on_event: &mut impl FnMut(Event<'_>),
    ) {
        let Some(session) = self.by_client.get_mut(&client) else { return };
        let taken = session.dtls.handle_timeout(now).is_ok() && session.dtls.handle_packet(datagram).is_ok();
        let said = drain(&mut session.dtls, &mut self.buffer, on_event);
        if said.connected
            && let Some(place) = session.place.take()
        {
            session.useful = now;
            self.half_open.remove(&place);
            self.opened.inc();
        }
        if !taken || said.closed {
            let half_open = session.place.is_some();
            self.end(client, half_open.then_some("handshake"), on_event);
        } else {
            self.wait(now, client, said);
        }
    }

    /// Sets the deadline: the engine's while it shakes hands, afterwards when its use is looked at.
    fn wait(&mut self, now: Instant, client: ClientAddr, said: Said) {
        let Some(session) = self.by_client.get_mut(&client) else { return };
        let deadline = match said.next.filter(|_| session.place.is_some()) {
            Some(next) => next.max(now + Duration::from_millis(1)),
            None => session.useful + IDLE,
        };
        let deadline = if deadline <= now { now + IDLE } else { deadline };
        if deadline != session.deadline {
            self.deadlines.remove(&(session.deadline, client));
            session.deadline = deadline;
            self.deadlines.insert((deadline, client));
        }
    }

    /// Ends the oldest handshake where there are too many.
    fn make_room(&mut self, ip: IpAddr) {
        let near = |client: &ClientAddr| network(client.remote.ip()) == network(ip);
        let of_network = self.half_open.values().filter(|client| near(client)).count();
        let oldest = if of_network >= HALF_OPEN_PER_NETWORK {
            self.half_open.values().find(|client| near(client)).copied()
        } else if self.half_open.len() >= HALF_OPEN_MAX {
            self.half_open.values().next().copied()
        } else {
            None
        };
        if let Some(oldest) = oldest {
            self.end(oldest, Some("evicted"), &mut |_| {}); // it had no allocation yet
        }
    }

    fn close(&mut self, client: ClientAddr, on_event: &mut impl FnMut(Event<'_>)) {
        if let Some(session) = self.by_client.get_mut(&client) {
            let _ = session.dtls.close(); // what cannot be said politely is not said
            drain(&mut session.dtls, &mut self.buffer, on_event);
        }
        self.end(client, Some("idle"), on_event);
    }

    fn end(
        &mut self,
        client: ClientAddr,
        reason: Option<&'static str>,
        on_event: &mut impl FnMut(Event<'_>),
    ) {
        let Some(session) = self.by_client.remove(&client) else { return };
        self.deadlines.remove(&(session.deadline, client));
        if let Some(place) = session.place {
            self.half_open.remove(&place);
        }
        if let Some(reason) = reason {
            self.refused.inc(reason);
        }
        on_event(Event::Gone);
    }

    /// An engine that has been given both ClientHellos, and whose answer waits in it.
    fn engine(
        &mut self,
        now: Instant,
        certificate: DtlsCertificate,
        cookie: Cookie,
        hello: &Hello<'_>,
        datagram: &[u8],
    ) -> Option<Dtls> {
        let mut dtls = Dtls::new_12(Arc::clone(&self.config), certificate, now);
        let greeted = granting(cookie, || {
            dtls.handle_timeout(now)?;
            dtls.handle_packet(&hello.without_cookie())?;
            drain(&mut dtls, &mut self.buffer, &mut |_| {}); // the same cookie that the client has been sent
            dtls.handle_packet(datagram)
        });
        greeted.ok().map(|()| dtls)
    }

    /// The certificate in use now, when it is one for DTLS.
    fn follow_certificate(&mut self) -> Option<DtlsCertificate> {
        let (certificate, private_key) = self.certificate.leaf_and_key();
        if self.usable.as_ref().is_none_or(|usable| usable.certificate != certificate) {
            // dimpl knows ECDSA only, and panics when it is given another key.
            let keys = self.config.crypto_provider().key_provider;
            let known = keys.load_private_key(&private_key).is_ok();
            self.usable = known.then_some(DtlsCertificate { certificate, private_key });
        }
        self.usable.clone()
    }
}

/// Hears an engine out.
fn drain(dtls: &mut Dtls, buffer: &mut Vec<u8>, on_event: &mut impl FnMut(Event<'_>)) -> Said {
    let mut said = Said::default();
    loop {
        match dtls.poll_output(buffer) {
            Output::Packet(packet) => on_event(Event::Transmit(packet)),
            Output::ApplicationData(data) => on_event(Event::Plain(data)),
            Output::BufferTooSmall { needed } => buffer.resize(needed, 0),
            Output::Connected => said.connected = true,
            Output::CloseNotify => said.closed = true,
            Output::Timeout(next) => {
                said.next = Some(next);
                return said;
            }
            _ => {}
        }
    }
}

fn network(ip: IpAddr) -> [u8; 8] {
    let mut network = [0; 8];
    match canonical(ip) {
        IpAddr::V4(ip) => network[..3].copy_from_slice(&ip.octets()[..3]),
        IpAddr::V6(ip) => network.copy_from_slice(&ip.octets()[..8]),
    }
    network
}

#[cfg(test)]
mod tests;
