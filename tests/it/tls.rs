//! TLS: the configured certificate, and a new one without a restart.

use std::path::Path;
use std::sync::Arc;

use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, Error, RootCertStore};

use crate::client::exchange;
use crate::server::{Folder, Server};

/// Writes a new self-signed certificate into the folder.
pub fn write_certificate(folder: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("rcgen works");
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).expect("writable");
    std::fs::write(folder.join("cert.pem"), made.cert.pem()).expect("writable");
    made.cert.der().clone()
}

/// A TLS connection that trusts this certificate only.
async fn connect(
    server: &Server,
    trusted: &CertificateDer<'static>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = TcpStream::connect(server.http).await.expect("the server listens");
    trusting(trusted).connect(name, stream).await
}

/// Trusts this certificate only.
fn trusting(certificate: &CertificateDer<'static>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("a good certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("aws-lc-rs has them")
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// A server with a certificate of its own, which its clients trust.
pub fn start_with(settings: &[&str]) -> Server {
    let folder = Folder::new();
    let certificate = write_certificate(folder.path());
    let path = folder.path().display().to_string();
    let (cert, key) = (format!("http.tls.cert={path}/cert.pem"), format!("http.tls.key={path}/key.pem"));
    let mut server = Server::start_in(folder, &[&[cert.as_str(), key.as_str()], settings].concat());
    server.tls = Some(trusting(&certificate));
    server
}

async fn serves(server: &Server, trusted: &CertificateDer<'static>) -> bool {
    match connect(server, trusted).await {
        Ok(stream) => {
            let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            exchange(stream, request).await.status == 200
        }
        Err(error) => {
            let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>());
            assert!(matches!(cause, Some(Error::InvalidCertificate(_))), "{error:?}");
            false
        }
    }
}

#[tokio::test]
async fn a_new_certificate_is_used_after_sighup_and_a_bad_one_is_not() {
    let folder = Folder::new();
    let first = write_certificate(folder.path());
    let path = folder.path().display().to_string();
    let (cert, key) = (format!("http.tls.cert={path}/cert.pem"), format!("http.tls.key={path}/key.pem"));
    let mut server = Server::start_in(folder, &[&cert, &key]);
    assert!(serves(&server, &first).await);

    std::fs::write(server.folder.path().join("cert.pem"), "half a certificate").expect("writable");
    server.signal(Signal::HUP);
    server.wait_for("a warning", |log| log.contains("the old one stays").then_some(()));
    assert!(serves(&server, &first).await);

    let second = write_certificate(server.folder.path());
    server.signal(Signal::HUP);
    server.wait_for("the new certificate", |log| log.contains("new certificate is in use").then_some(()));
    assert!(serves(&server, &second).await);
    assert!(!serves(&server, &first).await);
}
