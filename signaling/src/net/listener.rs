//! Accepting connections: bounds first, then TLS, then HTTP/1.1; every step has a time limit.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::net::{AcceptErrors, Pass};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::route;

/// Connections that the kernel keeps for us while we accept others.
const BACKLOG: i32 = 1024;

/// A TLS handshake takes two round trips; ten seconds is a bad mobile network.
const TLS_TIMEOUT: Duration = Duration::from_secs(10);

/// From the first byte of a request to the end of its headers, and between two requests on one connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);

/// Request line and headers: a token of [`common::token::TOKEN_BYTES_MAX`] and what browsers add.
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// Browsers send about 20.
const HEADERS_MAX: usize = 64;

/// A client that reads nothing of an answer for so long is gone (TCP_USER_TIMEOUT). Two heartbeats of a WebSocket.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(30);

/// One end of a connection, as far as requests on it care.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub address: IpAddr,
    /// Counted for as long as anything of this connection lives, its WebSocket too.
    pub pass: Arc<Pass>,
}

/// Binds. An IPv6 address takes IPv6 only, so that `0.0.0.0` and `[::]` can stand beside each other.
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts until `stop`; the connections live on as tasks.
pub(super) async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    stop: CancellationToken,
) {
    let mut errors = AcceptErrors::new(&shared.registry, "http");
    while let Some((stream, peer)) = next(&listener, &mut errors, &stop).await {
        admit(stream, peer.ip(), tls.clone(), &shared, &stop);
    }
}

/// The next connection; `None` when the server stops.
pub(super) async fn next(
    listener: &TcpListener,
    errors: &mut AcceptErrors,
    stop: &CancellationToken,
) -> Option<(TcpStream, SocketAddr)> {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return None,
        };
        match accepted {
            Ok(connection) => return Some(connection),
            Err(error) => {
                if let Some(pause) = errors.pause(Instant::now(), &error) {
                    sleep(pause).await;
                }
            }
        }
    }
}

fn admit(
    stream: TcpStream,
    address: IpAddr,
    tls: Option<TlsAcceptor>,
    shared: &Arc<Shared>,
    stop: &CancellationToken,
) {
    let Some(pass) = shared.admit(address) else { return };
    let _ = stream.set_nodelay(true); // without it messages are only slower
    let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(UNREAD_TIMEOUT)); // without it only per-address limits hold
    let client = Client { address, pass: Arc::new(pass) };
    let (shared, stop) = (Arc::clone(shared), stop.clone());
    shared.tasks.clone().spawn(async move {
        match tls {
            None => serve(stream, client, shared, stop).await,
            Some(acceptor) => match timeout(TLS_TIMEOUT, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => serve(stream, client, shared, stop).await,
                _ => shared.metrics.refused.inc("tls"),
            },
        }
    });
}

/// HTTP/1.1 on one connection, until it ends, becomes a WebSocket, or the server stops and its request is answered.
async fn serve<S>(stream: S, client: Client, shared: Arc<Shared>, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let metrics = shared.metrics.clone();
    let service = service_fn(move |request| route::handle(request, client.clone(), Arc::clone(&shared)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
        if let Some(reason) = fault(&error) {
            metrics.refused.inc(reason);
        }
    }
}

/// What was wrong with a client's HTTP; `None` when the network, or the client's patience, ended the connection.
fn fault(error: &hyper::Error) -> Option<&'static str> {
    if error.is_timeout() {
        Some("slow")
    } else if error.is_parse_too_large() {
        Some("too-large")
    } else if error.is_parse() {
        Some("malformed")
    } else {
        None
    }
}
