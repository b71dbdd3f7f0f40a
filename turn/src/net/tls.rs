//! TLS in front of TCP: handshakes bounded in time, beside plain STUN on the same port.
//!
//! As with coturn, every TCP port takes both; a TLS record and a STUN message differ in their first byte (RFC 7983 §7). The
//! protocols of RFC 7443 are offered to clients that know them; others get no answer to their ALPN rather than an alert.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use common::net::Certificate;
use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

/// A TLS handshake takes two round trips; ten seconds is a bad mobile network.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// RFC 7443 §3.
const PROTOCOLS: [&[u8]; 2] = [b"stun.turn", b"stun.nat-discovery"];
/// TLS's content type of a handshake record; STUN and ChannelData begin with less than 128 in other ranges.
const HANDSHAKE_RECORD: u8 = 22;

/// What makes TLS of TCP, when there is a certificate.
#[derive(Clone)]
pub(super) struct Tls {
    with_protocols: Arc<ServerConfig>,
    without: Arc<ServerConfig>,
}

/// A connection that is ready for STUN.
pub(super) enum Opened {
    Plain(TcpStream),
    Secure(Box<TlsStream<TcpStream>>),
}

impl Tls {
    pub(super) fn new(certificate: &Arc<Certificate>) -> Self {
        Self {
            with_protocols: certificate.server_config(&PROTOCOLS),
            without: certificate.server_config(&[]),
        }
    }

    /// Waits for the client's first byte, and for the handshake if it begins one.
    pub(super) async fn open(&self, stream: TcpStream) -> io::Result<Opened> {
        let opened = timeout(HANDSHAKE, async {
            match first_byte(&stream).await? {
                HANDSHAKE_RECORD => self.handshake(stream).await.map(Box::new).map(Opened::Secure),
                _ => Ok(Opened::Plain(stream)),
            }
        });
        opened.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn handshake(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let knows_ours = start
            .client_hello()
            .alpn()
            .is_some_and(|mut offered| offered.any(|protocol| PROTOCOLS.contains(&protocol)));
        let config = if knows_ours { &self.with_protocols } else { &self.without };
        start.into_stream(Arc::clone(config)).await
    }
}

async fn first_byte(stream: &TcpStream) -> io::Result<u8> {
    let mut first = [0];
    match stream.peek(&mut first).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(first[0]),
    }
}
