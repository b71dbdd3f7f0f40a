//! TLS on loopback: on the ports of `tls_listen` and beside plain TCP, on both families, with and without ALPN.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use common::config::TlsFiles;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use turn::settings::Settings;

use crate::client::addr;
use crate::loopback::{Stream, connect, relays_to_a_peer, start_with};

/// A certificate and its key in a folder that goes with the test.
pub struct Pem {
    folder: PathBuf,
}

impl Pem {
    pub fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("causeway-turn-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("the temporary folder is writable");
        let pem = Self { folder };
        pem.renew();
        pem
    }

    /// Writes another certificate into the same files.
    pub fn renew(&self) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("rcgen works");
        std::fs::write(self.files().cert, made.cert.pem()).expect("writable");
        std::fs::write(self.files().key, made.signing_key.serialize_pem()).expect("writable");
    }

    pub fn files(&self) -> TlsFiles {
        TlsFiles { cert: self.folder.join("cert.pem"), key: self.folder.join("key.pem") }
    }

    /// Trusts this certificate only.
    pub fn client(&self, protocols: &[&str]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.files().cert).expect("a certificate")).expect("taken");
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("aws-lc-rs has them")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

impl Drop for Pem {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

pub fn with_tls(pem: &Pem) -> impl FnOnce(&mut Settings) {
    let files = pem.files();
    move |settings| {
        settings.tls = Some(files);
        settings.tls_listen = vec![addr("127.0.0.1:0"), addr("[::1]:0")];
    }
}

pub fn secure(
    to: SocketAddr,
    config: Arc<ClientConfig>,
) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let name = ServerName::try_from("localhost").expect("a name");
    let mut tls = StreamOwned::new(ClientConnection::new(config, name).expect("a client"), connect(to));
    while tls.conn.is_handshaking() {
        tls.conn.complete_io(&mut tls.sock)?;
    }
    Ok(tls)
}

#[test]
fn a_tls_client_is_relayed_on_every_port_and_family() {
    let pem = Pem::new("tls");
    let (handle, _media, registry) = start_with(with_tls(&pem));
    let [tls4, tls6] = *handle.tls_addresses() else { panic!("two listeners") };
    for to in [tls4, tls6, handle.addresses()[0]] {
        relays_to_a_peer(&mut Stream(secure(to, pem.client(&[])).expect("trusted")));
    }
    relays_to_a_peer(&mut Stream(connect(tls4))); // plain TCP has the same ports, as with coturn
    let text = registry.encode();
    assert!(text.contains("causeway_turn_connections_total{transport=\"tls\"} 3"), "{text}");
    assert!(text.contains("causeway_turn_connections_total{transport=\"tcp\"} 1"), "{text}");
}

#[test]
fn the_protocols_of_rfc_7443_are_known_and_others_are_no_reason_to_refuse() {
    let pem = Pem::new("alpn");
    let (handle, _media, _registry) = start_with(with_tls(&pem));
    let chosen = |offered: &[&str]| {
        let tls = secure(handle.tls_addresses()[0], pem.client(offered)).expect("a connection");
        tls.conn.alpn_protocol().map(<[u8]>::to_vec)
    };
    assert_eq!(chosen(&["stun.turn"]).as_deref(), Some(&b"stun.turn"[..]));
    assert_eq!(chosen(&["h2", "stun.nat-discovery"]).as_deref(), Some(&b"stun.nat-discovery"[..]));
    assert_eq!(chosen(&["http/1.1"]), None);
}

#[test]
fn a_renewed_certificate_is_used_without_a_restart() {
    let pem = Pem::new("renewed");
    let (handle, _media, _registry) = start_with(with_tls(&pem));
    let old = pem.client(&[]);
    let to = handle.tls_addresses()[0];
    assert!(secure(to, Arc::clone(&old)).is_ok());
    pem.renew();
    handle.reload();
    assert!(secure(to, old).is_err(), "no longer shown");
    assert!(secure(to, pem.client(&[])).is_ok());
}

#[test]
fn a_broken_handshake_is_cut_off_and_counted() {
    let pem = Pem::new("broken");
    let (handle, _media, registry) = start_with(with_tls(&pem));
    let mut stream = connect(handle.tls_addresses()[0]);
    stream.write_all(b"\x16\x03\x01\x00\x05hello").expect("sent");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("an alert and the end");
    handle.shutdown(); // what was begun is counted then
    let text = registry.encode();
    assert!(text.contains("causeway_turn_tcp_refused_total{reason=\"tls\"} 1"), "{text}");
}
