//! TLS and DTLS of the listeners: one certificate, re-read when its files change, shared by all connections.
//!
//! A new certificate that cannot be used (half written, key of another) is refused with a warning and the old one stays.
//! HTTP and the relay have one each; DTLS takes the leaf and the key from it.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::config::TlsFiles;

/// How often the files' modification times are looked at: ACME clients renew weeks ahead, so seconds do not matter.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds no PEM of the wanted kind.
    #[error("{setting}.{which} {path}: {why}")]
    Unreadable {
        /// `http.tls`, or whatever names the files.
        setting: &'static str,
        /// `cert` or `key`.
        which: &'static str,
        /// The file.
        path: String,
        /// The system's or the parser's words.
        why: String,
    },
    /// The key is not the certificate's, or of an unknown sort.
    #[error("{setting}: {error}")]
    Unusable {
        /// As above.
        setting: &'static str,
        /// Why.
        error: rustls::Error,
    },
}

/// Modification time and length of both files: what tells that they changed.
type Stamp = [Option<(SystemTime, u64)>; 2];

/// A chain with its key, in the forms that TLS and DTLS want.
#[derive(Debug)]
struct Pair {
    certified: Arc<CertifiedKey>,
    key: PrivateKeyDer<'static>,
}

/// The certificate in use and where it comes from.
#[derive(Debug)]
pub struct Certificate {
    setting: &'static str,
    files: TlsFiles,
    current: ArcSwap<Pair>,
    seen: Mutex<Stamp>,
}

impl Certificate {
    /// Reads the files that `setting` names.
    pub fn load(setting: &'static str, files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let seen = Mutex::new(stamp(&files));
        let current = ArcSwap::from_pointee(read(setting, &files)?);
        Ok(Arc::new(Self { setting, files, current, seen }))
    }

    /// Takes the files' certificate when they changed since the last look, and says in the log what came of it.
    pub fn reload(&self) {
        let setting = self.setting;
        match self.reload_if_changed() {
            Ok(true) => tracing::info!("{setting}: the new certificate is in use"),
            Ok(false) => tracing::debug!("{setting}: the certificate has not changed"),
            Err(error) => tracing::warn!(%error, "the new certificate cannot be used; the old one stays"),
        }
    }

    fn reload_if_changed(&self) -> Result<bool, TlsError> {
        let now = stamp(&self.files);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == now {
            return Ok(false);
        }
        *seen = now;
        self.current.store(Arc::new(read(self.setting, &self.files)?));
        Ok(true)
    }

    /// The configuration of a TLS acceptor that offers these protocols (ALPN).
    pub fn server_config(self: &Arc<Self>, protocols: &[&[u8]]) -> Arc<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("aws-lc-rs supports TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }

    /// The certificate without its chain, and its private key, both DER; the key as its file has it.
    pub fn leaf_and_key(&self) -> (Vec<u8>, Vec<u8>) {
        let current = self.current.load();
        (current.certified.cert[0].to_vec(), current.key.secret_der().to_vec())
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.load().certified))
    }
}

fn stamp(files: &TlsFiles) -> Stamp {
    [&files.cert, &files.key].map(|path| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.modified().ok()?, meta.len()))
    })
}

fn read(setting: &'static str, files: &TlsFiles) -> Result<Pair, TlsError> {
    let unreadable = |which, path: &Path, why: String| {
        let path = path.display().to_string();
        TlsError::Unreadable { setting, which, path, why }
    };
    let chain = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable("cert", &files.cert, error.to_string()))?;
    if chain.is_empty() {
        return Err(unreadable("cert", &files.cert, "no certificate in it".into()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| unreadable("key", &files.key, error.to_string()))?;
    let certified = CertifiedKey::from_der(chain, key.clone_key(), &aws_lc_rs::default_provider())
        .map_err(|error| TlsError::Unusable { setting, error })?;
    Ok(Pair { certified: Arc::new(certified), key })
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
        let certificate = Certificate::load("http.tls", folder.files()).expect("a good pair");
        let first = certificate.leaf_and_key();
        assert!(!certificate.reload_if_changed().expect("nothing changed"));

        folder.write("-----BEGIN CERTIFICATE-----\nhalf", &key);
        assert!(certificate.reload_if_changed().is_err());
        assert_eq!(certificate.leaf_and_key(), first);

        let (cert, key) = generated();
        folder.write(&format!("{cert}\n"), &key);
        assert!(certificate.reload_if_changed().expect("a good pair"));
        assert_ne!(certificate.leaf_and_key(), first);
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let folder = Folder::new("mismatch");
        folder.write(&generated().0, &generated().1);
        assert!(matches!(Certificate::load("http.tls", folder.files()), Err(TlsError::Unusable { .. })));
    }

    #[test]
    fn the_message_names_the_setting() {
        let files = TlsFiles { cert: "/nonexistent/cert.pem".into(), key: "/nonexistent/key.pem".into() };
        let error = Certificate::load("turn.tls", files).expect_err("there is no such file");
        assert!(error.to_string().starts_with("turn.tls.cert /nonexistent/cert.pem: "), "{error}");
    }
}
