//! One transport at the load's end: ICE checks (RFC 8445 §7), DTLS and SRTP by `media`, on a socket of its own.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Context;
use common::rtp_parameters::{DtlsParameters, DtlsRole, IceParameters};
use media::connection::{Connection, ConnectionEvent, ConnectionOutput};
use media::dtls::Identity;
use media::feedback;
use media::rtp;
use media::srtp::{self, OVERHEAD_MAX, OpenedRtp, Profile, SrtpContext};
use media::stun::{self, BindingRequest};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::PATIENCE;
use super::signal::Signal;

/// A burst of keyframes from every publisher of a room fits; the kernel clips what is too large.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// How often consent is refreshed (RFC 7675 §5.1), and DTLS asked.
pub const CONSENT_EVERY: Duration = Duration::from_secs(5);

/// How often DTLS is asked during the handshake.
const HANDSHAKE_TICK: Duration = Duration::from_millis(20);

/// Of our side, for a server that checks too (RFC 8445 §7.3). Causeway does not, and its protocol has no place for it.
const PASSWORD: &str = "the-load-answers-every-check";

#[derive(Deserialize)]
struct Candidate {
    ip: IpAddr,
    port: u16,
    protocol: String,
}

/// A connected transport.
pub struct Leg {
    /// The server's name for it.
    pub id: String,
    ice: IceParameters,
    socket: UdpSocket,
    connection: Connection,
    srtp: Option<(SrtpContext, SrtpContext)>,
}

/// What a datagram held.
pub enum Datagram {
    /// An RTP packet, opened in place.
    Rtp(OpenedRtp),
    /// A compound RTCP packet of this length, opened in place.
    Rtcp(usize),
}

impl Leg {
    /// Makes a transport and finishes its handshake.
    pub async fn connect(signal: &mut Signal, direction: &str) -> anyhow::Result<Self> {
        let mut made = signal.ask(json!({"type": "create-transport", "direction": direction})).await?;
        let theirs: DtlsParameters = serde_json::from_value(made["dtlsParameters"].take())?;
        let mut connection = Connection::new(Instant::now(), &Identity::of_process());
        connection.connect(Instant::now(), &DtlsParameters { role: DtlsRole::Server, ..theirs })?;
        let id = made["id"].as_str().context("a transport without id")?.to_owned();
        let ice = serde_json::from_value(made["iceParameters"].take())?;
        let socket = socket(candidate(&mut made)?).await?;
        let mut leg = Self { id, ice, socket, connection, srtp: None };
        let ours = DtlsParameters {
            role: DtlsRole::Client,
            fingerprints: vec![Identity::of_process().fingerprint()],
        };
        let request = json!({"type": "connect-transport", "transportId": leg.id, "dtlsParameters": ours});
        signal.ask(request).await?;
        timeout(PATIENCE, leg.handshake())
            .await
            .with_context(|| format!("no {direction} media connection in time"))??;
        Ok(leg)
    }

    async fn handshake(&mut self) -> anyhow::Result<()> {
        let mut datagram = [0; 2048];
        while self.srtp.is_none() {
            self.consent().await;
            self.poll().await?;
            if let Ok(Ok(length)) = timeout(HANDSHAKE_TICK, self.socket.recv(&mut datagram)).await {
                self.take(&mut datagram[..length]);
                self.poll().await?;
            }
        }
        Ok(())
    }

    /// Sends an ICE check: the address is ours, and we want what comes.
    pub async fn consent(&self) {
        let (mut request, username) = (Vec::new(), format!("{}:load", self.ice.username_fragment));
        stun::write_request(&mut request, &[1; 12], &username, &stun::key(&self.ice.password));
        let _ = self.socket.send(&request).await; // like any datagram, it may be lost
    }

    fn answer(&self, datagram: &[u8]) {
        let (Ok(request), Ok(peer)) = (BindingRequest::parse(datagram), self.socket.peer_addr()) else {
            return;
        };
        let mut success = Vec::new();
        stun::write_success(&mut success, &request.transaction_id, peer, &stun::key(PASSWORD));
        let _ = self.socket.try_send(&success); // as above
    }

    /// Lets time pass and sends what DTLS has to say.
    pub async fn poll(&mut self) -> anyhow::Result<()> {
        self.connection.handle_timeout(Instant::now());
        loop {
            match self.connection.poll_output() {
                ConnectionOutput::Transmit(datagram) => {
                    let _ = self.socket.send(&datagram).await;
                }
                ConnectionOutput::Event(ConnectionEvent::Connected { active }) => {
                    let keys = self.connection.keys().context("connected without keys")?;
                    let profile = Profile::try_from(keys.profile)?;
                    self.srtp = Some(srtp::contexts(profile, &keys.material, active)?);
                }
                ConnectionOutput::Event(_) => {}
                ConnectionOutput::Timeout(_) => return Ok(()),
            }
        }
    }

    /// Takes a datagram apart in place.
    pub fn take(&mut self, datagram: &mut [u8]) -> Option<Datagram> {
        match datagram.first()? {
            0..=3 => self.answer(datagram),
            20..=63 => self.connection.handle_datagram(Instant::now(), datagram),
            128..=191 => {
                let (inbound, _) = self.srtp.as_mut()?;
                return if rtp::is_rtcp(datagram) {
                    inbound.open_rtcp(datagram).ok().map(Datagram::Rtcp)
                } else {
                    inbound.open_rtp(datagram).ok().map(Datagram::Rtp)
                };
            }
            _ => {}
        }
        None
    }

    /// Waits for datagrams.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// A datagram that has come already.
    pub fn try_recv(&self, datagram: &mut [u8]) -> Option<usize> {
        self.socket.try_recv(datagram).ok()
    }

    /// Seals a compound RTCP packet, cut between its packets where it is long, and sends it.
    pub fn send_rtcp(&mut self, compound: &[u8]) {
        let Some((_, outbound)) = &mut self.srtp else { return };
        for part in feedback::split_compound(compound) {
            let mut packet = part.to_vec();
            packet.resize(part.len() + OVERHEAD_MAX, 0);
            if let Ok(length) = outbound.seal_rtcp(&mut packet, part.len()) {
                let _ = self.socket.try_send(&packet[..length]); // like any datagram, it may be lost
            }
        }
    }

    /// Seals an RTP packet and sends it; whether it went.
    pub fn send(&mut self, packet: &mut Vec<u8>, index: u64) -> bool {
        let Some((_, outbound)) = &mut self.srtp else { return false };
        let length = packet.len();
        packet.resize(length + OVERHEAD_MAX, 0);
        outbound
            .seal_rtp(packet, length, index)
            .is_ok_and(|length| self.socket.try_send(&packet[..length]).is_ok())
    }
}

fn candidate(made: &mut Value) -> anyhow::Result<SocketAddr> {
    let candidates: Vec<Candidate> = serde_json::from_value(made["iceCandidates"].take())?;
    let udp = candidates.iter().find(|candidate| candidate.protocol == "udp").context("no UDP candidate")?;
    Ok(SocketAddr::new(udp.ip, udp.port))
}

async fn socket(server: SocketAddr) -> anyhow::Result<UdpSocket> {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await.context("a UDP socket")?;
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES); // clipped is good enough
    socket.connect(server).await?;
    Ok(socket)
}
