//! `/metrics` for a process that has no other HTTP.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use common::metrics::Registry;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Scrapers at once.
static CONNECTIONS: Semaphore = Semaphore::const_new(16);
/// A scraper says what it wants within this.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that one may stay.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// After an error of accepting, such as no more files.
const PAUSE: Duration = Duration::from_millis(100);

/// Binds, and serves in a task of its own.
pub(super) async fn serve(address: SocketAddr, registry: Registry) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("prometheus-port {address}"))?;
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let Ok(permit) = CONNECTIONS.try_acquire() else { continue };
            let registry = registry.clone();
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let answer = answer(&request, &registry);
                    async move { Ok::<_, Infallible>(answer) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service);
                let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await; // a scraper that has gone is its own affair
                drop(permit);
            });
        }
    });
    Ok(())
}

fn answer(request: &Request<Incoming>, registry: &Registry) -> Response<Full<Bytes>> {
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => (StatusCode::OK, registry.encode()),
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, String::new()),
        _ => (StatusCode::NOT_FOUND, String::new()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
