//! One client's DTLS association and its data channels: a str0m `Rtc`, always drained.
//!
//! str0m sends DTLS only after its own ICE agent has seen a nomination. Ours (`ice`) is the one that talks to the client,
//! so the `Rtc` is shown a single Binding request, made here with credentials that never leave this file, between two
//! placeholder addresses; whatever it then transmits goes to the address that `ice` has selected. This was less work and
//! less risk than teaching str0m's agent two sets of credentials and unknown remote ones. str0m's events become ours
//! here and nowhere else; the SRTP keys come through `dtls`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use common::rtp_parameters::{DtlsFingerprint, DtlsParameters, DtlsRole, SctpStreamParameters};
use str0m::change::SdpOffer;
use str0m::channel::{ChannelConfig, ChannelId, Reliability};
use str0m::ice::IceCreds;
use str0m::net::{DatagramRecv, Protocol, Receive};
use str0m::{Candidate, Event, Input, Output, Rtc, RtcConfig};

use crate::dtls::{self, Identity, KeySlot, SrtpKeys};
use crate::stun;

/// Both ends announce this (contract §8).
pub const MESSAGE_BYTES_MAX: u32 = 262_144;
/// What one client's unsent messages may hold before more are dropped: a few of the largest.
const BUFFERED_BYTES_MAX: usize = 4 * MESSAGE_BYTES_MAX as usize;

/// str0m refuses unspecified and link-local addresses, so private ones stand for the two ends.
const INSIDE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 9);
const OUTSIDE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), 9);
const INSIDE_UFRAG: &str = "inside";
const OUTSIDE_UFRAG: &str = "outside";
/// Not a secret: it authenticates this file to the `Rtc` in the same struct.
const PLACEHOLDER_PASSWORD: &str = "placeholder-of-22-chars+";

/// Why `connect` was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// It was called before.
    #[error("already connected")]
    Already,
    /// No sha-256 fingerprint, or not one.
    #[error("a sha-256 fingerprint is required")]
    Fingerprint,
}

/// News of a connection.
#[derive(Debug)]
pub enum ConnectionEvent {
    /// The certificate is the announced one and the keys are there; media may flow. `active` says that we were client.
    Connected {
        /// We sent the ClientHello.
        active: bool,
    },
    /// A message arrived on a stream.
    Message {
        /// The SCTP stream.
        stream_id: u16,
        /// Binary or text.
        binary: bool,
        /// At most [`MESSAGE_BYTES_MAX`].
        data: Vec<u8>,
    },
    /// It is over; the reason is one of `TransportClosed`'s.
    Closed(&'static str),
}

/// What polling yields.
#[derive(Debug)]
pub enum ConnectionOutput {
    /// Send this to the selected address.
    Transmit(Vec<u8>),
    /// Tell.
    Event(ConnectionEvent),
    /// Nothing more until then; `None` when it is over.
    Timeout(Option<Instant>),
}

/// The streams that we choose from, as many as clients announce (`numStreams` of mediasoup-client).
const STREAMS_CHOSEN_MAX: u16 = 1024;

/// A data channel's stream, for as long as either its owner or str0m holds it: str0m panics when one that it has not
/// forgotten is opened again, and it never forgets one that is closed while an earlier reset of it is under way.
#[derive(Debug)]
struct Stream {
    channel: ChannelId,
    id: u16,
    /// Its producer or consumer has not closed it.
    wanted: bool,
    /// str0m has not closed it.
    held: bool,
}

/// The association of one transport.
#[derive(Debug)]
pub struct Connection {
    rtc: Rtc,
    keys: KeySlot,
    started: bool,
    active: bool,
    closed: bool,
    streams: Vec<Stream>,
}

impl Connection {
    /// An association under this identity that waits for [`Connection::connect`].
    pub fn new(now: Instant, identity: &Identity) -> Self {
        let inside = IceCreds { ufrag: INSIDE_UFRAG.into(), pass: PLACEHOLDER_PASSWORD.into() };
        let (mut rtc, keys) = dtls::with_key_slot(|| {
            RtcConfig::new()
                .set_crypto_provider(identity.provider())
                .set_dtls_cert(identity.certificate().clone())
                .set_ice_lite(true)
                .set_local_ice_credentials(inside)
                .clear_codecs()
                .clear_extension_map()
                .set_sctp_max_message_size(MESSAGE_BYTES_MAX)
                .set_sctp_max_buffered_amount(BUFFERED_BYTES_MAX)
                .build(now)
        });
        rtc.add_local_candidate(
            Candidate::host(INSIDE, Protocol::Udp).expect("a private address is acceptable"),
        );
        Self { rtc, keys, started: false, active: false, closed: false, streams: Vec::new() }
    }

    /// Starts DTLS in the role that the client leaves to us, expecting its certificate.
    pub fn connect(&mut self, now: Instant, parameters: &DtlsParameters) -> Result<(), ConnectError> {
        if self.started {
            return Err(ConnectError::Already);
        }
        let fingerprint =
            parameters.fingerprints.iter().rfind(|it| is_sha256(it)).ok_or(ConnectError::Fingerprint)?;
        // Contract §3: "auto" leaves the choice to us, and then we are the client.
        self.active = parameters.role != DtlsRole::Client;
        let setup = if self.active { "passive" } else { "active" };
        // str0m learns the peer's largest message only from SDP.
        let offer = format!(
            "v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
             m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\n\
             a=ice-ufrag:{OUTSIDE_UFRAG}\r\na=ice-pwd:{PLACEHOLDER_PASSWORD}\r\n\
             a=fingerprint:sha-256 {}\r\na=setup:{setup}\r\na=sctp-port:5000\r\n\
             a=max-message-size:{MESSAGE_BYTES_MAX}\r\n",
            fingerprint.value.to_ascii_uppercase(),
        );
        self.handle_timeout(now);
        let offer = SdpOffer::from_sdp_string(&offer).map_err(|_| ConnectError::Fingerprint)?;
        self.rtc.sdp_api().accept_offer(offer).map_err(|_| ConnectError::Fingerprint)?;
        self.started = true;
        self.nominate(now);
        Ok(())
    }

    /// Whether [`Connection::connect`] has been called.
    pub fn is_started(&self) -> bool {
        self.started
    }

    fn nominate(&mut self, now: Instant) {
        let mut request = Vec::new();
        let username = format!("{INSIDE_UFRAG}:{OUTSIDE_UFRAG}");
        stun::write_request(&mut request, &[0; 12], &username, &stun::key(PLACEHOLDER_PASSWORD));
        self.receive(now, &request);
    }

    /// Takes one DTLS datagram.
    pub fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) {
        debug_assert!(datagram.first().is_some_and(|first| (20..64).contains(first)));
        if self.started && !self.closed {
            self.receive(now, datagram);
        }
    }

    fn receive(&mut self, now: Instant, datagram: &[u8]) {
        let Ok(contents) = DatagramRecv::try_from(datagram) else { return };
        let receive = Receive { proto: Protocol::Udp, source: OUTSIDE, destination: INSIDE, contents };
        // A datagram that DTLS refuses may be forged; whether the association survives is seen when it is polled.
        if let Err(error) = self.rtc.handle_input(Input::Receive(now, receive)) {
            tracing::debug!(%error, "DTLS datagram refused");
        }
    }

    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Err(error) = self.rtc.handle_input(Input::Timeout(now)) {
            tracing::debug!(%error, "DTLS timer");
        }
    }

    /// The SRTP keys, once [`ConnectionEvent::Connected`] has been seen.
    pub fn keys(&self) -> Option<&SrtpKeys> {
        self.keys.get()
    }

    /// To be called until [`ConnectionOutput::Timeout`].
    pub fn poll_output(&mut self) -> ConnectionOutput {
        loop {
            if self.closed {
                return ConnectionOutput::Timeout(None);
            }
            let output = match self.rtc.poll_output() {
                Ok(output) => output,
                Err(error) => {
                    tracing::debug!(%error, "DTLS failed");
                    return self.close("dtls-failed");
                }
            };
            match output {
                Output::Transmit(transmit) => {
                    let first = transmit.contents.first().copied().unwrap_or_default();
                    debug_assert!(!(128..=191).contains(&first), "an Rtc has sent RTP");
                    // Its answer to our nomination goes nowhere.
                    if (20..64).contains(&first) {
                        return ConnectionOutput::Transmit(transmit.contents.into());
                    }
                }
                Output::Timeout(_) if !self.rtc.is_alive() => return self.close("dtls-failed"),
                Output::Timeout(at) => return ConnectionOutput::Timeout(Some(at)),
                Output::Event(Event::Connected) => return self.on_connected(),
                Output::Event(Event::Closed) => return self.close("dtls-closed"),
                Output::Event(Event::ChannelData(message)) => {
                    if let Some(stream_id) = self.stream_of(message.id) {
                        let (binary, data) = (message.binary, message.data);
                        return ConnectionOutput::Event(ConnectionEvent::Message { stream_id, binary, data });
                    }
                }
                Output::Event(Event::ChannelClose(channel)) => self.on_channel_closed(channel),
                Output::Event(_) => {}
            }
        }
    }

    fn on_channel_closed(&mut self, channel: ChannelId) {
        if let Some(stream) = self.streams.iter_mut().find(|stream| stream.channel == channel) {
            stream.held = false;
        }
        self.streams.retain(|stream| stream.wanted || stream.held);
    }

    fn on_connected(&mut self) -> ConnectionOutput {
        // The peer's certificate comes before this in every DTLS version; without it there would be no proof of who it is.
        let verified = self.rtc.direct_api().remote_dtls_fingerprint().is_some();
        if verified && self.rtc.is_alive() && self.keys.get().is_some() {
            ConnectionOutput::Event(ConnectionEvent::Connected { active: self.active })
        } else {
            self.close("dtls-failed")
        }
    }

    fn close(&mut self, reason: &'static str) -> ConnectionOutput {
        self.closed = true;
        self.rtc.disconnect();
        ConnectionOutput::Event(ConnectionEvent::Closed(reason))
    }

    /// Opens a stream that both ends have agreed on in signaling.
    pub fn open_stream(&mut self, sctp: &SctpStreamParameters) {
        let reliability = match (sctp.max_packet_life_time, sctp.max_retransmits) {
            (Some(lifetime), _) => Reliability::MaxPacketLifetime { lifetime },
            (None, Some(retransmits)) => Reliability::MaxRetransmits { retransmits },
            (None, None) => Reliability::Reliable,
        };
        let ordered = sctp.ordered.unwrap_or(reliability == Reliability::Reliable);
        let negotiated = Some(sctp.stream_id);
        let config = ChannelConfig { ordered, reliability, negotiated, ..ChannelConfig::default() };
        let channel = self.rtc.direct_api().create_data_channel(config);
        self.streams.push(Stream { channel, id: sctp.stream_id, wanted: true, held: true });
    }

    /// Whether a stream is in use, or was and is not reset yet.
    pub fn has_stream(&self, stream_id: u16) -> bool {
        self.streams.iter().any(|stream| stream.id == stream_id)
    }

    /// The lowest stream that is not in use; `None` when too many are, or were closed before the client opened them.
    pub fn free_stream(&self) -> Option<u16> {
        (0..STREAMS_CHOSEN_MAX).find(|stream| !self.has_stream(*stream))
    }

    /// Resets a stream.
    pub fn close_stream(&mut self, stream_id: u16) {
        let Some(stream) = self.streams.iter_mut().find(|stream| stream.id == stream_id) else { return };
        stream.wanted = false;
        if stream.held {
            let channel = stream.channel;
            self.rtc.direct_api().close_data_channel(channel);
        }
        self.streams.retain(|stream| stream.wanted || stream.held);
    }

    /// Queues a message; `false` when it was dropped because the client reads too slowly or the stream is not open.
    ///
    /// An empty message is dropped too. RFC 8831 §6.6 sends it as one zero byte under a payload protocol identifier of its
    /// own. str0m 0.25 chooses that identifier but hands over no byte, for which sctp-proto 0.10.8 makes no chunk and yet
    /// uses up a stream sequence number, after which an ordered stream would wait for ever; neither lets a caller name the
    /// identifier.
    pub fn send(&mut self, stream_id: u16, binary: bool, data: &[u8]) -> bool {
        if data.is_empty() {
            return false;
        }
        let Some(stream) = self.streams.iter().find(|stream| stream.id == stream_id && stream.wanted) else {
            return false;
        };
        self.rtc
            .channel(stream.channel)
            .is_some_and(|mut channel| channel.write(binary, data).unwrap_or(false))
    }

    fn stream_of(&self, id: ChannelId) -> Option<u16> {
        self.streams.iter().find(|stream| stream.channel == id && stream.wanted).map(|stream| stream.id)
    }
}

fn is_sha256(fingerprint: &DtlsFingerprint) -> bool {
    fingerprint.algorithm.eq_ignore_ascii_case("sha-256")
        && fingerprint.value.len() == 32 * 3 - 1
        && fingerprint
            .value
            .split(':')
            .all(|byte| byte.len() == 2 && byte.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests;
