//! TLS of the listeners: one certificate, re-read when its files change, shared by all connections.
//!
//! A new certificate that cannot be used (half written, key of another) is refused with a warning and the old one stays.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use common::config::TlsFiles;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// How often the files' modification times are looked at: ACME clients renew weeks ahead, so seconds do not matter.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Why a certificate cannot be used. The setting is `http.tls`.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds no PEM of the wanted kind.
    #[error("http.tls.{which} {path}: {why}")]
    Unreadable {
        /// `cert` or `key`.
        which: &'static str,
        /// The file.
        path: String,
        /// The system's or the parser's words.
        why: String,
    },
    /// The key is not the certificate's, or of an unknown sort.
    #[error("http.tls: {0}")]
    Unusable(rustls::Error),
}

/// Modification time and length of both files: what tells that they changed.
type Stamp = [Option<(SystemTime, u64)>; 2];

/// The certificate in use and where it comes from.
#[derive(Debug)]
pub(super) struct Certificate {
    files: TlsFiles,
    current: ArcSwap<CertifiedKey>,
    seen: Mutex<Stamp>,
}

impl Certificate {
    pub(super) fn load(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let seen = Mutex::new(stamp(&files));
        let current = ArcSwap::from_pointee(read(&files)?);
        Ok(Arc::new(Self { files, current, seen }))
    }

    /// Takes the files' certificate when they changed since the last look. `Ok(true)` when it did.
    pub(super) fn reload_if_changed(&self) -> Result<bool, TlsError> {
        let now = stamp(&self.files);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == now {
            return Ok(false);
        }
        *seen = now;
        self.current.store(Arc::new(read(&self.files)?));
        Ok(true)
    }

    /// The configuration of the TLS acceptor; HTTP/1.1 only, because WebSockets need it.
    pub(super) fn server_config(self: &Arc<Self>) -> Arc<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("aws-lc-rs supports TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn stamp(files: &TlsFiles) -> Stamp {
    [&files.cert, &files.key].map(|path| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.modified().ok()?, meta.len()))
    })
}

fn read(files: &TlsFiles) -> Result<CertifiedKey, TlsError> {
    let chain = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable("cert", &files.cert, &error.to_string()))?;
    if chain.is_empty() {
        return Err(unreadable("cert", &files.cert, "no certificate in it"));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| unreadable("key", &files.key, &error.to_string()))?;
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(TlsError::Unusable)
}

fn unreadable(which: &'static str, path: &Path, why: &str) -> TlsError {
    TlsError::Unreadable { which, path: path.display().to_string(), why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(std::path::PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("causeway-tls-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).expect("the temporary folder is writable");
            Self(path)
        }

        fn files(&self) -> TlsFiles {
            TlsFiles { cert: self.0.join("cert.pem"), key: self.0.join("key.pem") }
        }

        fn write(&self, cert: &str, key: &str) {
            std::fs::write(self.0.join("cert.pem"), cert).expect("writable");
            std::fs::write(self.0.join("key.pem"), key).expect("writable");
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn generated() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("rcgen works");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn a_changed_certificate_is_taken_and_a_bad_one_is_not() {
        let folder = Folder::new("reload");
        let (cert, key) = generated();
        folder.write(&cert, &key);
        let certificate = Certificate::load(folder.files()).expect("a good pair");
        let first = certificate.current.load_full().cert[0].clone();
        assert!(!certificate.reload_if_changed().expect("nothing changed"));

        folder.write("-----BEGIN CERTIFICATE-----\nhalf", &key);
        assert!(certificate.reload_if_changed().is_err());
        assert_eq!(certificate.current.load_full().cert[0], first);

        let (cert, key) = generated();
        folder.write(&format!("{cert}\n"), &key);
        assert!(certificate.reload_if_changed().expect("a good pair"));
        assert_ne!(certificate.current.load_full().cert[0], first);
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let folder = Folder::new("mismatch");
        folder.write(&generated().0, &generated().1);
        assert!(matches!(Certificate::load(folder.files()), Err(TlsError::Unusable(_))));
    }

    #[test]
    fn the_message_names_the_setting() {
        let files = TlsFiles { cert: "/nonexistent/cert.pem".into(), key: "/nonexistent/key.pem".into() };
        let error = Certificate::load(files).expect_err("there is no such file");
        assert!(error.to_string().starts_with("http.tls.cert /nonexistent/cert.pem: "), "{error}");
    }
}
