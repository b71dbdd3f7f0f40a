//! A client's peer connection: str0m's whole engine (its ICE, DTLS and SRTP, none of ours) at the far end of one transport.
//!
//! `sending` is what it publishes, `receiving` what it makes of what others do. Frames carry a [`Tag`] that says whose they
//! are and which, so that whoever receives one can be asked whether it should.

mod receiving;
mod sending;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use str0m::config::Fingerprint;
use str0m::format::{Codec, FormatParams};
use str0m::ice::IceCreds;
use str0m::media::{Frequency, KeyframeRequestKind, MediaKind, Mid};
use str0m::net::{DatagramRecv, Protocol, Receive};
use str0m::rtp::{Extension, ExtensionMap, RtpWrite};
use str0m::{Candidate, Event, IceConnectionState, Input, Output, Rtc, RtcConfig};

use crate::clock::Clock;
use crate::crypto;

pub use receiving::{Received, Subscription};
use sending::Encoding;
pub use sending::{Publication, Tag};

/// By the ends of their URIs: what publishers write.
const KNOWN_EXTENSIONS: [&str; 5] = [
    "sdes:mid",
    "sdes:rtp-stream-id",
    "sdes:repaired-rtp-stream-id",
    "abs-send-time",
    "transport-wide-cc-extensions-01",
];
/// DTLS waits longer from one try to the next: on a path that has just been mended, a new transport is quicker.
const CONNECT_PATIENCE: Duration = Duration::from_secs(4);
/// What comes out of a far end.
#[derive(Debug)]
pub enum Happened {
    /// Send it.
    Transmit(SocketAddr, Vec<u8>),
    /// A packet for a subscription arrived.
    Packet(Received),
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
            ("sdes:rtp-stream-id", Extension::RtpStreamId),
            ("sdes:repaired-rtp-stream-id", Extension::RepairedRtpStreamId),
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
        api.enable_twcc_feedback();
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

    /// Declares audio, or video of so many encodings; the answer is the `rtpParameters` for `produce`. `first` is the first
    /// sequence number and timestamp, which may be about to wrap.
    pub fn publish(&mut self, audio: bool, encodings: u8, tag: Tag, first: (u16, u32)) -> Value {
        let mid_text = self.publications.len().to_string();
        let mid = Mid::from(mid_text.as_str());
        let kind = if audio { MediaKind::Audio } else { MediaKind::Video };
        let mut api = self.rtc.direct_api();
        api.declare_media(mid, kind);
        let (mut streams, mut described) = (Vec::new(), Vec::new());
        for layer in 0..encodings {
            let ssrc = 0x1000_0000 | tag.stream << 4 | u32::from(layer) << 1;
            let rid = (encodings > 1).then(|| format!("r{layer}"));
            let stream = Encoding::new(ssrc, rid.as_deref(), audio, Tag { layer, ..tag }, first);
            api.declare_stream_tx(stream.ssrc, (!audio).then(|| (ssrc + 1).into()), mid, stream.rid);
            streams.push(stream);
            described.push(match rid {
                Some(rid) => json!({ "rid": rid, "scalabilityMode": "L1T3" }),
                None if audio => json!({ "ssrc": ssrc }),
                None => json!({ "ssrc": ssrc, "rtx": { "ssrc": ssrc + 1 } }),
            });
        }
        self.publications.push(Publication { audio, mid, encodings: streams });
        let formats = &self.formats;
        let extensions: Vec<_> = KNOWN_EXTENSIONS
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
        json!({ "mid": mid_text, "codecs": codecs, "headerExtensions": extensions, "encodings": described,
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
        let consumer = reply["id"].as_str().unwrap_or_default().to_owned();
        self.subscriptions.push(Subscription::new(now, consumer, audio, ssrc.into()));
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
        let payload_type = if publication.audio { self.formats.opus } else { self.formats.vp8 };
        for encoding in &mut publication.encodings {
            for packet in encoding.frame(now, publication.audio) {
                let at = self.clock.read(now);
                let sequence = packet.sequence.into();
                let write =
                    RtpWrite::new(payload_type.into(), sequence, packet.timestamp, at, packet.payload)
                        .marker(packet.marker)
                        .nackable(!publication.audio);
                if let Some(stream) = self.rtc.direct_api().stream_tx(&encoding.ssrc) {
                    stream.write_rtp(write);
                }
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
                let asked = self.publications.iter_mut().filter(|publication| publication.mid == request.mid);
                let encodings = asked.flat_map(|publication| &mut publication.encodings);
                for encoding in encodings.filter(|encoding| encoding.rid == request.rid) {
                    encoding.keyframe_due = true;
                }
            }
            Event::RtpPacket(packet) => {
                if let Some(subscription) =
                    self.subscriptions.iter_mut().find(|known| known.ssrc == packet.header.ssrc)
                {
                    happened.push(Happened::Packet(subscription.take(now, &packet)));
                }
            }
            _ => {}
        }
    }

    /// What a browser's decoder does that waits too long.
    fn ask_for_keyframes(&mut self, now: Duration) {
        for subscription in &mut self.subscriptions {
            if subscription.is_stuck(now) {
                subscription.asked_at = Some(now);
                let ssrc = subscription.ssrc;
                if let Some(stream) = self.rtc.direct_api().stream_rx(&ssrc) {
                    stream.request_keyframe(KeyframeRequestKind::Pli);
                }
            }
        }
    }
}
