//! The DTLS provider that str0m is given: str0m's own, with the SRTP keys taken out as they pass (RFC 5764 §4.2).
//!
//! Media is sealed and opened by `srtp`, not by str0m, and one key must never have two owners (a GCM nonce used twice
//! reveals the authentication key). So the keying material stops here: an `Rtc` whose DTLS came from this provider never
//! gets any, and could not send RTP if it tried. `connection` collects the keys.

use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use common::rtp_parameters::DtlsFingerprint;
use str0m::config::{CryptoProvider, DtlsCert, DtlsVersion};
use str0m::crypto::CryptoError;
use str0m::crypto::dtls::{
    DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, KeyingMaterial, ProtocolVersion, SrtpProfile,
};

/// Keys of both directions, in the order of RFC 5764 §4.2.
pub struct SrtpKeys {
    /// client key, server key, client salt, server salt.
    pub material: KeyingMaterial,
    /// What was negotiated.
    pub profile: SrtpProfile,
}

impl fmt::Debug for SrtpKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SrtpKeys({})", self.profile)
    }
}

/// Where the keys of one connection appear when its handshake is through.
pub type KeySlot = Arc<OnceLock<SrtpKeys>>;

thread_local! {
    /// `RtcConfig::build` calls `new_dtls` on the same thread, which is the only way to tell one instance from another.
    static NEXT_SLOT: RefCell<Option<KeySlot>> = const { RefCell::new(None) };
}

/// Who we are in every handshake: a certificate (its hash travels in signaling, which is trusted) and the cryptography.
#[derive(Debug)]
pub struct Identity {
    provider: Arc<CryptoProvider>,
    certificate: DtlsCert,
}

impl Identity {
    /// A new certificate of `stock`, whose DTLS is watched. Lasts as long as the process: one per process is meant, and one
    /// more where a simulator brings cryptography that draws its keys from a seed.
    pub fn new(stock: CryptoProvider) -> Self {
        let taker: &'static KeyTaker = Box::leak(Box::new(KeyTaker { inner: stock.dtls_provider }));
        let certificate = taker.generate_certificate().expect("the provider makes ECDSA certificates");
        Self { provider: Arc::new(CryptoProvider { dtls_provider: taker, ..stock }), certificate }
    }

    /// The process's own, of aws-lc-rs.
    pub fn of_process() -> Arc<Self> {
        static IDENTITY: OnceLock<Arc<Identity>> = OnceLock::new();
        IDENTITY.get_or_init(|| Arc::new(Self::new(str0m::crypto::from_feature_flags()))).clone()
    }

    /// For an `Rtc`'s configuration.
    pub fn provider(&self) -> Arc<CryptoProvider> {
        self.provider.clone()
    }

    /// The same for every client.
    pub fn certificate(&self) -> &DtlsCert {
        &self.certificate
    }

    /// The certificate's hash, as clients are told.
    pub fn fingerprint(&self) -> DtlsFingerprint {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &self.certificate.certificate);
        let hex: Vec<String> = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
        DtlsFingerprint { algorithm: "sha-256".into(), value: hex.join(":") }
    }
}

/// Runs `build`, and returns with its result where the keys of the instance that it makes will appear.
pub fn with_key_slot<T>(build: impl FnOnce() -> T) -> (T, KeySlot) {
    let slot = KeySlot::default();
    NEXT_SLOT.with(|next| *next.borrow_mut() = Some(slot.clone()));
    let built = build();
    NEXT_SLOT.with(|next| *next.borrow_mut() = None);
    (built, slot)
}

#[derive(Debug)]
struct KeyTaker {
    inner: &'static dyn DtlsProvider,
}

impl DtlsProvider for KeyTaker {
    fn generate_certificate(&self) -> Option<DtlsCert> {
        self.inner.generate_certificate()
    }

    fn new_dtls(
        &self,
        certificate: &DtlsCert,
        now: Instant,
        version: DtlsVersion,
        mtu: Option<usize>,
    ) -> Result<Box<dyn DtlsInstance>, CryptoError> {
        let inner = self.inner.new_dtls(certificate, now, version, mtu)?;
        let slot = NEXT_SLOT.with(|next| next.borrow_mut().take()).unwrap_or_default();
        Ok(Box::new(KeyTakingInstance { inner, slot, scratch: Vec::new() }))
    }
}

struct KeyTakingInstance {
    inner: Box<dyn DtlsInstance>,
    slot: KeySlot,
    scratch: Vec<u8>,
}

impl fmt::Debug for KeyTakingInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl DtlsInstance for KeyTakingInstance {
    fn set_active(&mut self, active: bool) {
        self.inner.set_active(active);
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        self.inner.handle_packet(packet)
    }

    fn poll_output<'a>(&mut self, buffer: &'a mut [u8]) -> DtlsOutput<'a> {
        // Polled through a buffer of our own, because an output that borrows `buffer` could not be skipped.
        self.scratch.resize(buffer.len(), 0);
        loop {
            return match self.inner.poll_output(&mut self.scratch) {
                DtlsOutput::KeyingMaterial(material, profile) => {
                    // A second handshake cannot happen: dimpl does not renegotiate.
                    let _ = self.slot.set(SrtpKeys { material, profile });
                    continue;
                }
                DtlsOutput::Packet(bytes) => DtlsOutput::Packet(copy(bytes, buffer)),
                DtlsOutput::PeerCert(bytes) => DtlsOutput::PeerCert(copy(bytes, buffer)),
                DtlsOutput::ApplicationData(bytes) => DtlsOutput::ApplicationData(copy(bytes, buffer)),
                DtlsOutput::Timeout(at) => DtlsOutput::Timeout(at),
                DtlsOutput::Connected => DtlsOutput::Connected,
                DtlsOutput::CloseNotify => DtlsOutput::CloseNotify,
                DtlsOutput::BufferTooSmall { needed } => DtlsOutput::BufferTooSmall { needed },
                // `DtlsOutput` may grow; what we do not know we cannot pass on, and str0m would refuse it.
                _ => DtlsOutput::CloseNotify,
            };
        }
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        self.inner.handle_timeout(now)
    }

    fn send_application_data(&mut self, data: &[u8]) -> Result<usize, DtlsImplError> {
        self.inner.send_application_data(data)
    }

    fn is_active(&self) -> bool {
        self.inner.is_active()
    }

    fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.inner.protocol_version()
    }

    fn is_closing(&self) -> bool {
        self.inner.is_closing()
    }

    fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }

    fn close(&mut self) -> Result<(), DtlsImplError> {
        self.inner.close()
    }
}

/// `bytes` fit: they were written into a scratch buffer of the same length.
fn copy<'a>(bytes: &[u8], buffer: &'a mut [u8]) -> &'a [u8] {
    let copy = &mut buffer[..bytes.len()];
    copy.copy_from_slice(bytes);
    copy
}
