//! A member of a room whose media is real: ICE checks, DTLS and SRTP on a socket of its own, through the running SFU.
//!
//! The far end is made of `media`'s own DTLS and SRTP, as in its scripts; that others understand it too is what `sim` (str0m's
//! whole engine) and the browsers show.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use common::rtp_parameters::{DtlsParameters, DtlsRole, IceParameters};
use media::connection::{Connection, ConnectionEvent, ConnectionOutput};
use media::dtls::Identity;
use media::feedback;
use media::srtp::{self, OVERHEAD_MAX, Profile, SrtpContext};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::relayed::udp;
use crate::client::Client;
use crate::server::{PATIENCE, Server};

/// Asks something of the room and returns the reply's data.
pub async fn ask(client: &mut Client, mut request: Value) -> Value {
    request["requestId"] = json!(1);
    client.send(request).await;
    let mut reply = client.expect("response").await;
    assert_eq!(reply["ok"], Value::Bool(true), "{reply}");
    reply["data"].take()
}

/// Joins and returns what the room can carry.
pub async fn join(client: &mut Client, room: &str) -> Value {
    ask(client, json!({"type": "join-room", "roomId": room})).await["rtpCapabilities"].take()
}

/// A Binding request with the credentials of a transport, or wrong ones.
pub fn check(id: u8, ufrag: &str, password: &str) -> Vec<u8> {
    let mut request = Vec::new();
    let username = format!("{ufrag}:them");
    media::stun::write_request(&mut request, &[id; 12], &username, &media::stun::key(password));
    request
}

fn field<T: DeserializeOwned>(from: &Value, name: &str) -> T {
    serde_json::from_value(from[name].clone()).unwrap_or_else(|error| panic!("{name}: {error}: {from}"))
}

/// One transport of a member, at the member's end.
pub struct Leg {
    pub id: String,
    pub ice: IceParameters,
    pub socket: UdpSocket,
    connection: Connection,
    srtp: Option<(SrtpContext, SrtpContext)>,
}

impl Leg {
    /// Makes a transport without connecting it.
    pub async fn create(server: &Server, client: &mut Client, direction: &str) -> Self {
        let made = ask(client, json!({"type": "create-transport", "direction": direction})).await;
        let socket = udp().await;
        let port = SocketAddr::from((Ipv4Addr::LOCALHOST, server.media_port));
        socket.connect(port).await.expect("loopback");
        let identity = Identity::of_process();
        let mut connection = Connection::new(Instant::now(), &identity);
        let theirs: DtlsParameters = field(&made, "dtlsParameters");
        let theirs = DtlsParameters { role: DtlsRole::Server, ..theirs };
        connection.connect(Instant::now(), &theirs).expect("first connect");
        let (id, ice) = (field(&made, "id"), field(&made, "iceParameters"));
        Self { id, ice, socket, connection, srtp: None }
    }

    /// Tells the server whose certificate to expect.
    pub async fn announce(&self, client: &mut Client) {
        let fingerprints = vec![Identity::of_process().fingerprint()];
        let dtls = DtlsParameters { role: DtlsRole::Client, fingerprints };
        let request = json!({"type": "connect-transport", "transportId": self.id, "dtlsParameters": dtls});
        ask(client, request).await;
    }

    /// Makes a transport and finishes its handshake.
    pub async fn connect(server: &Server, client: &mut Client, direction: &str) -> Self {
        let mut leg = Self::create(server, client, direction).await;
        leg.announce(client).await;
        leg.consent().await;
        let handshake = async {
            while leg.srtp.is_none() {
                leg.poll().await;
                let mut datagram = [0; 1500];
                let received = timeout(Duration::from_millis(20), leg.socket.recv(&mut datagram)).await;
                if let Ok(Ok(length)) = received {
                    leg.take(&mut datagram[..length]);
                }
            }
        };
        timeout(PATIENCE, handshake).await.expect("a handshake in time");
        leg
    }

    /// Sends an ICE check: the address is ours, and we want what comes (RFC 7675).
    pub async fn consent(&self) {
        let _ = self.socket.send(&check(1, &self.ice.username_fragment, &self.ice.password)).await;
    }

    /// Lets time pass and sends what DTLS has to say.
    pub async fn poll(&mut self) {
        self.connection.handle_timeout(Instant::now());
        loop {
            match self.connection.poll_output() {
                ConnectionOutput::Transmit(datagram) => {
                    let _ = self.socket.send(&datagram).await; // loopback takes it
                }
                ConnectionOutput::Event(ConnectionEvent::Connected { active }) => {
                    let keys = self.connection.keys().expect("keys");
                    let profile = Profile::try_from(keys.profile).expect("a profile");
                    self.srtp = Some(srtp::contexts(profile, &keys.material, active).expect("contexts"));
                }
                ConnectionOutput::Event(_) => {}
                ConnectionOutput::Timeout(_) => return,
            }
        }
    }

    /// Takes a datagram; the RTP packet that was in it, opened.
    pub fn take(&mut self, datagram: &mut [u8]) -> Option<Vec<u8>> {
        match datagram.first()? {
            20..=63 => self.connection.handle_datagram(Instant::now(), datagram),
            128..=191 if !media::rtp::is_rtcp(datagram) => {
                let opened = self.srtp.as_mut()?.0.open_rtp(datagram).ok()?;
                return Some(datagram[..opened.len].to_vec());
            }
            _ => {}
        }
        None
    }

    /// Seals a packet as a browser does.
    pub fn seal(&mut self, packet: &[u8], index: u64) -> Vec<u8> {
        let (_, outbound) = self.srtp.as_mut().expect("connected");
        let mut slot = packet.to_vec();
        slot.resize(packet.len() + OVERHEAD_MAX, 0);
        let length = outbound.seal_rtp(&mut slot, packet.len(), index).expect("sealed");
        slot.truncate(length);
        slot
    }
}

impl Leg {
    /// Seals a compound RTCP packet (RFC 3711 §3.4).
    pub fn seal_rtcp(&mut self, compound: &[u8]) -> Vec<u8> {
        let (_, outbound) = self.srtp.as_mut().expect("connected");
        let mut slot = compound.to_vec();
        slot.resize(compound.len() + OVERHEAD_MAX, 0);
        let length = outbound.seal_rtcp(&mut slot, compound.len()).expect("sealed");
        slot.truncate(length);
        slot
    }

    /// How many requests for a keyframe are in what waits to be read.
    pub async fn keyframe_requests(&mut self) -> usize {
        let (mut datagram, mut count) = ([0; 1500], 0);
        while let Ok(Ok(length)) = timeout(Duration::from_millis(200), self.socket.recv(&mut datagram)).await
        {
            let datagram = &mut datagram[..length];
            if !media::rtp::is_rtcp(datagram) {
                continue;
            }
            let (inbound, _) = self.srtp.as_mut().expect("connected");
            let length = inbound.open_rtcp(datagram).expect("the server's opens");
            feedback::parse(&datagram[..length], |item| {
                count += usize::from(matches!(item, feedback::Item::KeyframeRequest { .. }));
            });
        }
        count
    }
}

/// Publishes and returns the producer's id.
pub async fn produce(client: &mut Client, leg: &Leg, kind: &str, rtp: Value) -> String {
    let request = json!({"type": "produce", "transportId": leg.id, "kind": kind, "source": kind,
                         "rtpParameters": rtp});
    field(&ask(client, request).await, "id")
}

/// Subscribes, from now on; returns the consumer's SSRC.
pub async fn consume(client: &mut Client, leg: &Leg, producer: &str, capabilities: &Value) -> u32 {
    let request = json!({"type": "consume", "transportId": leg.id, "producerId": producer,
                         "rtpCapabilities": capabilities});
    let made = ask(client, request).await;
    ask(client, json!({"type": "resume-consumer", "consumerId": made["id"]})).await;
    field(&made["rtpParameters"]["encodings"][0], "ssrc")
}

/// Opus, as Chromium announces it.
pub fn opus(ssrc: u32) -> Value {
    json!({
        "mid": "0",
        "codecs": [{"mimeType": "audio/opus", "payloadType": 111, "clockRate": 48000, "channels": 2,
                    "parameters": {}, "rtcpFeedback": []}],
        "headerExtensions": [], "encodings": [{"ssrc": ssrc}], "rtcp": {"cname": "paying"}
    })
}

/// VP8 in one encoding.
pub fn vp8(ssrc: u32) -> Value {
    json!({
        "mid": "1",
        "codecs": [
            {"mimeType": "video/VP8", "payloadType": 96, "clockRate": 90000, "parameters": {},
             "rtcpFeedback": [{"type": "nack", "parameter": ""}, {"type": "nack", "parameter": "pli"}]},
            {"mimeType": "video/rtx", "payloadType": 97, "clockRate": 90000, "parameters": {"apt": 96}}],
        "headerExtensions": [], "encodings": [{"ssrc": ssrc, "rtx": {"ssrc": ssrc + 1}}], "rtcp": {"cname": ""}
    })
}

/// An RTP packet (RFC 3550 §5.1) without extensions.
pub fn rtp(payload_type: u8, sequence: u16, timestamp: u32, ssrc: u32, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x80, payload_type];
    packet.extend_from_slice(&sequence.to_be_bytes());
    packet.extend_from_slice(&timestamp.to_be_bytes());
    packet.extend_from_slice(&ssrc.to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

/// A keyframe of VP8 in one packet (RFC 7741 §4.2), at whose end is `mark`.
pub fn vp8_frame(sequence: u16, ssrc: u32, mark: [u8; 4]) -> Vec<u8> {
    let [high, low] = sequence.to_be_bytes();
    let mut payload = vec![0x90, 0x80, 0x80 | high, low, 0, 1, 2, 3];
    payload.extend_from_slice(&mark);
    rtp(96 | 0x80, sequence, 3000 * u32::from(sequence), ssrc, &payload)
}
