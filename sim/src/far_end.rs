//! A client's peer connection: str0m's whole engine (its ICE, DTLS and SRTP, none of ours) at the far end of one transport.
//!
//! Frames carry a [`Tag`] that says whose they are and which, so that whoever receives one can be asked whether it should.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use str0m::config::Fingerprint;
use str0m::format::{Codec, FormatParams};
use str0m::ice::IceCreds;
use str0m::media::{Frequency, KeyframeRequestKind, MediaKind, Mid};
use str0m::net::{DatagramRecv, Protocol, Receive};
use str0m::rtp::{Extension, ExtensionMap, RtpPacket, RtpWrite, Ssrc};
use str0m::{Candidate, Event, IceConnectionState, Input, Output, Rtc, RtcConfig};

use crate::clock::Clock;
use crate::crypto;

const MAGIC: &[u8; 4] = b"cwsm";
/// DTLS waits longer from one try to the next: on a path that has just been mended, a new transport is quicker.
const CONNECT_PATIENCE: Duration = Duration::from_secs(4);
/// Bytes of a [`Tag`] on the wire.
pub const TAG_BYTES: usize = 4 + 2 + 2 + 4 + 8;

/// What a packet says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// The room it was published in.
    pub room: u16,
    /// Who published it.
    pub person: u16,
    /// Which of the publisher's streams, never used twice.
    pub stream: u32,
    /// The packet's number in its stream, without gaps.
    pub number: u64,
}

impl Tag {
    /// As it is put into a payload.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.room.to_be_bytes());
        bytes.extend(self.person.to_be_bytes());
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend(self.number.to_be_bytes());
        bytes
    }

    /// Read from the end of a payload.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let tag = payload.get(payload.len().checked_sub(TAG_BYTES)?..)?;
        let (magic, rest) = tag.split_first_chunk::<4>()?;
        let (room, rest) = rest.split_first_chunk::<2>()?;
        let (person, rest) = rest.split_first_chunk::<2>()?;
        let (stream, number) = rest.split_first_chunk::<4>()?;
        (magic == MAGIC).then_some(Self {
            room: u16::from_be_bytes(*room),
            person: u16::from_be_bytes(*person),
            stream: u32::from_be_bytes(*stream),
            number: u64::from_be_bytes(number.try_into().ok()?),
        })
    }
}

/// Audio or video as the far end publishes it.
#[derive(Debug)]
pub struct Publication {
    /// Audio (opus) or video (VP8).
    pub audio: bool,
    ssrc: Ssrc,
    mid: Mid,
    sequence: u64,
    timestamp: u32,
    picture: u16,
    next_tag: Tag,
    /// A keyframe was asked for, or is the first.
    pub keyframe_due: bool,
}

/// What a subscriber knows of one stream that it receives.
#[derive(Debug)]
pub struct Subscription {
    /// The consumer.
    pub consumer: String,
    /// Audio or video.
    pub audio: bool,
    ssrc: Ssrc,
    /// The next packet that the decoder needs; none before a keyframe.
    expected: Option<u64>,
    /// Keyframe first packets, and everything, by sequence number.
    waiting: BTreeMap<u64, bool>,
    /// When the decoder last got further.
    pub decoded_at: Option<Duration>,
    stuck_since: Duration,
    asked_at: Option<Duration>,
}

/// What comes out of a far end.
#[derive(Debug)]
pub enum Happened {
    /// Send it.
    Transmit(SocketAddr, Vec<u8>),
    /// A packet for a subscription arrived: consumer, extended sequence number, its tag.
    Packet(String, u64, Option<Tag>),
    /// ICE has given up.
    Lost,
}

/// The router's payload types and header extensions, as [`FarEnd`] uses them in both directions.
#[derive(Debug, Clone)]
pub struct Formats {
    opus: u8,
    vp8: u8,
    vp8_rtx: u8,
    extensions: Vec<(u8, String)>,
}

impl Formats {
    /// From the reply to `join-room`.
    pub fn of(capabilities: &Value) -> Option<Self> {
        let list = |key: &str| capabilities[key].as_array().cloned().unwrap_or_default();
        let codecs = list("codecs");
        let number = |value: &Value| value.as_u64().and_then(|n| u8::try_from(n).ok());
        let find = |mime: &str| codecs.iter().find(|c| c["mimeType"] == mime);
        let vp8 = number(&find("video/VP8")?["preferredPayloadType"])?;
        let rtx = codecs.iter().find(|c| c["parameters"]["apt"] == vp8)?;
        let extensions = list("headerExtensions");
        let extensions = extensions.iter().filter_map(|extension| {
            Some((number(&extension["preferredId"])?, extension["uri"].as_str()?.to_owned()))
        });
        Some(Self {
            opus: number(&find("audio/opus")?["preferredPayloadType"])?,
            vp8,
            vp8_rtx: number(&rtx["preferredPayloadType"])?,
            extensions: extensions.collect(),
        })
    }

    fn id_of(&self, uri: &str) -> Option<u8> {
        self.extensions.iter().find(|(_, known)| known.ends_with(uri)).map(|(id, _)| *id)
    }

    fn config(&self) -> RtcConfig {
        let mut map = ExtensionMap::empty();
        let known = [
            ("sdes:mid", Extension::RtpMid),
            ("abs-send-time", Extension::AbsoluteSendTime),
            ("transport-wide-cc-extensions-01", Extension::TransportSequenceNumber),
        ];
        for (uri, extension) in known {
            if let Some(id) = self.id_of(uri) {
                map.set(id, extension);
            }
        }
        let mut config = RtcConfig::new().clear_codecs().set_rtp_mode(true).set_extension_map(map);
        let codecs = config.codec_config();
        let none = FormatParams::default();
        codecs.add_config(self.opus.into(), None, Codec::Opus, Frequency::FORTY_EIGHT_KHZ, Some(2), none);
        let rtx = Some(self.vp8_rtx.into());
        codecs.add_config(self.vp8.into(), rtx, Codec::Vp8, Frequency::NINETY_KHZ, None, none);
        config
    }
}

fn credentials(parameters: &Value) -> IceCreds {
    let text = |key: &str| parameters[key].as_str().unwrap_or_default().to_owned();
    IceCreds { ufrag: text("usernameFragment"), pass: text("password") }
}

/// One client transport.
#[derive(Debug)]
pub struct FarEnd {
    rtc: Rtc,
    formats: Formats,
    /// Its address before any NAT.
    pub address: SocketAddr,
    clock: Clock,
    /// What it publishes, by the index that [`FarEnd::publish`] returned.
    pub publications: Vec<Publication>,
    /// What it receives.
    pub subscriptions: Vec<Subscription>,
    /// When it wants to be polled.
    pub deadline: Duration,
    /// ICE and DTLS are through.
    pub connected: bool,
    /// When it was made.
    pub born: Duration,
    lost: bool,
}

impl FarEnd {
    /// A far end that begins to connect to the transport in a `create-transport` reply.
    pub fn new(clock: Clock, now: Duration, address: SocketAddr, formats: Formats, made: &Value) -> Self {
        let config = formats.config().set_crypto_provider(crypto::provider());
        let mut rtc = config.build(clock.read(now));
        rtc.add_local_candidate(Candidate::host(address, Protocol::Udp).expect("a usable address"));
        let remote = &made["iceCandidates"][0];
        let ip = remote["ip"].as_str().and_then(|ip| ip.parse().ok()).expect("a candidate has an address");
        let port = remote["port"].as_u64().expect("a candidate has a port") as u16;
        let server = SocketAddr::new(ip, port);
        rtc.add_remote_candidate(Candidate::host(server, Protocol::Udp).expect("a usable address"));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let fingerprint = &made["dtlsParameters"]["fingerprints"][0];
        let bytes = text(&fingerprint["value"]);
        let bytes = bytes.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
        let mut api = rtc.direct_api();
        api.set_ice_controlling(true);
        api.set_remote_ice_credentials(credentials(&made["iceParameters"]));
        api.set_remote_fingerprint(Fingerprint { hash_func: "sha-256".into(), bytes });
        api.start_dtls(true).expect("the first start of DTLS");
        Self {
            rtc,
            formats,
            address,
            clock,
            publications: Vec::new(),
            subscriptions: Vec::new(),
            deadline: now,
            connected: false,
            born: now,
            lost: false,
        }
    }

    /// When an application would no longer wait for it to connect.
    pub fn late_at(&self) -> Duration {
        self.born + CONNECT_PATIENCE
    }

    /// It should have connected by now.
    pub fn overdue(&self, now: Duration) -> bool {
        !self.connected && now >= self.late_at()
    }

    /// Goes on with new credentials of the server, from the reply to `restart-ice`.
    pub fn restart_ice(&mut self, now: Duration, parameters: &Value) {
        self.rtc.direct_api().set_remote_ice_credentials(credentials(parameters));
        self.deadline = now;
    }

    /// For `connect-transport`.
    pub fn dtls_parameters(&mut self) -> Value {
        let api = self.rtc.direct_api();
        let hex: Vec<_> = api.local_dtls_fingerprint().bytes.iter().map(|b| format!("{b:02X}")).collect();
        json!({ "role": "client", "fingerprints": [{ "algorithm": "sha-256", "value": hex.join(":") }] })
    }

    /// Declares a stream; the answer is the `rtpParameters` for `produce`. `first` is its first sequence number and
    /// timestamp, which may be about to wrap.
    pub fn publish(&mut self, audio: bool, tag: Tag, first: (u16, u32)) -> Value {
        let mid_text = self.publications.len().to_string();
        let mid = Mid::from(mid_text.as_str());
        let ssrc: u32 = 0x1000_0000 | tag.stream << 1;
        let kind = if audio { MediaKind::Audio } else { MediaKind::Video };
        let mut api = self.rtc.direct_api();
        api.declare_media(mid, kind);
        api.declare_stream_tx(ssrc.into(), (!audio).then(|| (ssrc + 1).into()), mid, None);
        self.publications.push(Publication {
            audio,
            ssrc: ssrc.into(),
            mid,
            sequence: u64::from(first.0),
            timestamp: first.1,
            picture: 0,
            next_tag: tag,
            keyframe_due: true,
        });
        let formats = &self.formats;
        let extensions: Vec<_> = ["sdes:mid", "abs-send-time", "transport-wide-cc-extensions-01"]
            .iter()
            .filter_map(|uri| formats.extensions.iter().find(|(_, known)| known.ends_with(uri)))
            .map(|(id, uri)| json!({ "uri": uri, "id": id }))
            .collect();
        let codecs = if audio {
            json!([{ "mimeType": "audio/opus", "payloadType": formats.opus, "clockRate": 48000, "channels": 2 }])
        } else {
            json!([
                { "mimeType": "video/VP8", "payloadType": formats.vp8, "clockRate": 90000,
                  "rtcpFeedback": [{ "type": "nack", "parameter": "" }, { "type": "nack", "parameter": "pli" },
                                   { "type": "transport-cc", "parameter": "" }] },
                { "mimeType": "video/rtx", "payloadType": formats.vp8_rtx, "clockRate": 90000,
                  "parameters": { "apt": formats.vp8 } },
            ])
        };
        let encoding = if audio {
            json!({ "ssrc": ssrc })
        } else {
            json!({ "ssrc": ssrc, "rtx": { "ssrc": ssrc + 1 } })
        };
        json!({ "mid": mid_text, "codecs": codecs, "headerExtensions": extensions, "encodings": [encoding],
                "rtcp": { "cname": format!("p{}", tag.person) } })
    }

    /// Gets ready for a consumer, from the reply to `consume`.
    pub fn subscribe(&mut self, now: Duration, reply: &Value) {
        let rtp = &reply["rtpParameters"];
        let mid = Mid::from(rtp["mid"].as_str().unwrap_or_default());
        let number = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
        let encoding = &rtp["encodings"][0];
        let Some(ssrc) = number(&encoding["ssrc"]) else { return };
        let audio = reply["kind"] == "audio";
        let mut api = self.rtc.direct_api();
        api.declare_media(mid, if audio { MediaKind::Audio } else { MediaKind::Video });
        api.expect_stream_rx(ssrc.into(), number(&encoding["rtx"]["ssrc"]).map(Into::into), mid, None);
        self.subscriptions.push(Subscription {
            consumer: reply["id"].as_str().unwrap_or_default().to_owned(),
            audio,
            ssrc: ssrc.into(),
            expected: None,
            waiting: BTreeMap::new(),
            decoded_at: None,
            stuck_since: now,
            asked_at: None,
        });
    }

    /// Forgets a consumer.
    pub fn unsubscribe(&mut self, consumer: &str) {
        self.subscriptions.retain(|subscription| subscription.consumer != consumer);
    }

    /// Sends the next frame of a publication.
    pub fn write_frame(&mut self, now: Duration, index: usize) {
        if !self.connected {
            return;
        }
        let publication = &mut self.publications[index];
        let key = std::mem::take(&mut publication.keyframe_due) && !publication.audio;
        publication.timestamp =
            publication.timestamp.wrapping_add(if publication.audio { 2400 } else { 9000 });
        publication.picture = publication.picture.wrapping_add(1) & 0x7fff;
        // A keyframe is three packets, so that one of them can be missing.
        for part in 0..if key { 3 } else { 1 } {
            let publication = &mut self.publications[index];
            let mut payload = if publication.audio {
                vec![0xfc]
            } else {
                let [high, low] = publication.picture.to_be_bytes();
                let start = if part == 0 { 0x10 } else { 0 };
                vec![0x80 | start, 0x80, 0x80 | high, low, u8::from(!key)]
            };
            payload.extend(publication.next_tag.bytes());
            publication.next_tag.number += 1;
            let payload_type = if publication.audio { self.formats.opus } else { self.formats.vp8 };
            let write = RtpWrite::new(
                payload_type.into(),
                publication.sequence.into(),
                publication.timestamp,
                self.clock.read(now),
                payload,
            )
            .marker(!key || part == 2)
            .nackable(!publication.audio);
            publication.sequence += 1;
            let ssrc = publication.ssrc;
            if let Some(stream) = self.rtc.direct_api().stream_tx(&ssrc) {
                stream.write_rtp(write);
            }
        }
        self.deadline = now;
    }

    /// A datagram arrives.
    pub fn receive(&mut self, now: Duration, source: SocketAddr, datagram: &[u8]) {
        let Ok(contents) = DatagramRecv::try_from(datagram) else { return };
        let receive = Receive { proto: Protocol::Udp, source, destination: self.address, contents };
        let input = Input::Receive(self.clock.read(now), receive);
        if self.rtc.accepts(&input) {
            // What str0m refuses was damaged on the way.
            let _ = self.rtc.handle_input(input);
        }
        self.deadline = now;
    }

    /// Lets time pass, and says what there is to say.
    pub fn poll(&mut self, now: Duration) -> Vec<Happened> {
        let mut happened = Vec::new();
        let _ = self.rtc.handle_input(Input::Timeout(self.clock.read(now)));
        self.ask_for_keyframes(now);
        // Bounded: an engine that never rests is a bug of its own, and is met again at the next poll.
        for _ in 0..10_000 {
            match self.rtc.poll_output() {
                Ok(Output::Timeout(at)) => {
                    let at = self.clock.due(at);
                    self.deadline = at.clamp(now + Duration::from_millis(1), now + Duration::from_secs(1));
                    break;
                }
                Ok(Output::Transmit(transmit)) => {
                    happened.push(Happened::Transmit(transmit.destination, transmit.contents.to_vec()));
                }
                Ok(Output::Event(event)) => self.on_event(now, event, &mut happened),
                Err(_) => {
                    self.give_up(&mut happened);
                    break;
                }
            }
        }
        if !self.rtc.is_alive() {
            self.give_up(&mut happened);
        }
        happened
    }

    fn give_up(&mut self, happened: &mut Vec<Happened>) {
        if !std::mem::replace(&mut self.lost, true) {
            happened.push(Happened::Lost);
        }
    }

    fn on_event(&mut self, now: Duration, event: Event, happened: &mut Vec<Happened>) {
        match event {
            Event::Connected => self.connected = true,
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) | Event::Closed => {
                self.give_up(happened);
            }
            Event::KeyframeRequest(request) => {
                let asked = self.publications.iter_mut().find(|publication| publication.mid == request.mid);
                if let Some(publication) = asked {
                    publication.keyframe_due = true;
                }
            }
            Event::RtpPacket(packet) => {
                if let Some(subscription) =
                    self.subscriptions.iter_mut().find(|known| known.ssrc == packet.header.ssrc)
                {
                    subscription.take(now, &packet);
                    let tag = Tag::parse(&packet.payload);
                    happened.push(Happened::Packet(subscription.consumer.clone(), *packet.seq_no, tag));
                }
            }
            _ => {}
        }
    }

    /// What a browser's decoder does that waits too long.
    fn ask_for_keyframes(&mut self, now: Duration) {
        for subscription in &mut self.subscriptions {
            let due = !subscription.audio
                && !subscription.waiting.is_empty()
                && now.saturating_sub(subscription.stuck_since) > Duration::from_millis(500)
                && subscription.asked_at.is_none_or(|at| now.saturating_sub(at) > Duration::from_secs(1));
            if due {
                subscription.asked_at = Some(now);
                let ssrc = subscription.ssrc;
                if let Some(stream) = self.rtc.direct_api().stream_rx(&ssrc) {
                    stream.request_keyframe(KeyframeRequestKind::Pli);
                }
            }
        }
    }
}

impl Subscription {
    fn take(&mut self, now: Duration, packet: &RtpPacket) {
        let sequence = *packet.seq_no;
        if self.audio {
            self.decoded_at = Some(now);
            return;
        }
        let begins_keyframe = packet.payload.first().is_some_and(|first| first & 0x10 != 0)
            && packet.payload.get(4).is_some_and(|byte| byte & 1 == 0);
        if self.expected.is_some_and(|expected| sequence < expected) {
            return;
        }
        if self.waiting.is_empty() {
            self.stuck_since = now;
        }
        self.waiting.insert(sequence, begins_keyframe);
        // The newest keyframe is where a decoder that misses something goes on.
        let restart = self.waiting.iter().rev().find(|(_, key)| **key).map(|(sequence, _)| *sequence);
        if let Some(at) = restart
            && self.expected.is_none_or(|expected| !self.waiting.contains_key(&expected))
        {
            self.expected = Some(at);
            self.waiting = self.waiting.split_off(&at);
        }
        while let Some(expected) = self.expected.filter(|expected| self.waiting.contains_key(expected)) {
            self.waiting.remove(&expected);
            self.expected = Some(expected + 1);
            self.decoded_at = Some(now);
            self.stuck_since = now;
        }
        while self.waiting.len() > 1000 {
            self.waiting.pop_first();
        }
    }
}
