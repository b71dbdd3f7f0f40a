//! Cryptography whose every random number comes from the run's seed, so that one seed is one run, byte for byte.
//!
//! Both ends of every handshake use it: the protocol is dimpl's and the ciphers are aws-lc-rs's, as in the product, but keys
//! are drawn here, and ECDSA signs as in RFC 6979. What str0m and its ICE agent draw comes from `fastrand`, which is seeded
//! by the same call. A run lives on one thread, and so does its chance.

use std::cell::RefCell;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey};
use dimpl::crypto::{
    ActiveKeyExchange, Buf, HashAlgorithm, KeyProvider, NamedGroup, SecureRandom, SignatureAlgorithm,
    SigningKey, SupportedKxGroup,
};
use dimpl::{CryptoError as DtlsCryptoError, CryptoOperation};
use media::dtls::Identity;
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey as EcdsaKey};
use rand_chacha::ChaCha12Rng;
use rand_core::{RngCore, SeedableRng};
use str0m::config::{CryptoProvider, DtlsCert, DtlsVersion};
use str0m::crypto::CryptoError;
use str0m::crypto::dtls::{DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, ProtocolVersion};

thread_local! {
    static CHANCE: RefCell<ChaCha12Rng> = RefCell::new(ChaCha12Rng::seed_from_u64(0));
}

/// All chance of this thread, from now on, follows from `seed`.
pub fn seed(seed: u64) {
    fastrand::seed(seed);
    CHANCE.set(ChaCha12Rng::seed_from_u64(seed));
}

/// The server's certificate and cryptography, the same in all runs.
pub fn identity() -> Arc<Identity> {
    static IDENTITY: LazyLock<Arc<Identity>> = LazyLock::new(|| {
        Identity::of_process(); // every Sfu begins with it, and the first one to ask makes it
        seed(0);
        Arc::new(Identity::new(stock()))
    });
    IDENTITY.clone()
}

/// What a far end is built with.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(stock()));
    PROVIDER.clone()
}

fn stock() -> CryptoProvider {
    CryptoProvider { dtls_provider: &SeededDtls, ..str0m::crypto::from_feature_flags() }
}

fn draw<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    CHANCE.with_borrow_mut(|chance| chance.fill_bytes(&mut bytes));
    bytes
}

#[derive(Debug)]
struct SeededDtls;

impl DtlsProvider for SeededDtls {
    fn generate_certificate(&self) -> Option<DtlsCert> {
        let key = EcdsaKey::from_slice(&draw::<32>()).ok()?;
        let mut parameters = rcgen::CertificateParams::new(Vec::<String>::new()).ok()?;
        parameters.serial_number = Some(draw::<16>().to_vec().into());
        let private_key = key.to_bytes().to_vec();
        let public = key.verifying_key().to_sec1_point(false).as_bytes().to_vec();
        let certificate = parameters.self_signed(&CertificateKey { key, public }).ok()?;
        Some(DtlsCert { certificate: certificate.der().to_vec(), private_key })
    }

    fn new_dtls(
        &self,
        certificate: &DtlsCert,
        now: Instant,
        version: DtlsVersion,
        mtu: Option<usize>,
    ) -> Result<Box<dyn DtlsInstance>, CryptoError> {
        let aws = dimpl::crypto::aws_lc_rs::default_provider();
        let crypto = dimpl::crypto::CryptoProvider {
            kx_groups: &[&Group(NamedGroup::X25519), &Group(NamedGroup::Secp256r1)],
            key_provider: &Keys,
            secure_random: &Chance,
            ..aws
        };
        let mut config = dimpl::Config::builder()
            .use_server_cookie(false)
            .with_crypto_provider(crypto)
            .dangerously_set_rng_seed(u64::from_le_bytes(draw()));
        if let Some(mtu) = mtu {
            config = config.mtu(mtu);
        }
        let config = config.build().map_err(|error| CryptoError::Other(error.to_string()))?;
        let (config, certificate) = (Arc::new(config), certificate.clone());
        let dtls = match version {
            DtlsVersion::Dtls13 => dimpl::Dtls::new_13(config, certificate, now),
            DtlsVersion::Auto => dimpl::Dtls::new_auto(config, certificate, now),
            _ => dimpl::Dtls::new_12(config, certificate, now),
        };
        Ok(Box::new(Instance(dtls)))
    }
}

/// For rcgen.
struct CertificateKey {
    key: EcdsaKey,
    public: Vec<u8>,
}

impl rcgen::PublicKeyData for CertificateKey {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for CertificateKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature: Signature = self.key.sign(message);
        Ok(signature.to_der().as_bytes().to_vec())
    }
}

/// Private keys are the 32 bytes of their scalar.
#[derive(Debug)]
struct Keys;

impl KeyProvider for Keys {
    fn load_private_key(&self, scalar: &[u8]) -> Result<Box<dyn SigningKey>, DtlsCryptoError> {
        let key = EcdsaKey::from_slice(scalar).map_err(|_| DtlsCryptoError::InvalidPrivateKey)?;
        Ok(Box::new(Rfc6979(key)))
    }
}

#[derive(Debug)]
struct Rfc6979(EcdsaKey);

impl SigningKey for Rfc6979 {
    fn sign(&mut self, data: &[u8], hash: HashAlgorithm, out: &mut Buf) -> Result<(), DtlsCryptoError> {
        if hash != HashAlgorithm::SHA256 {
            return Err(DtlsCryptoError::OperationFailed(CryptoOperation::Sign));
        }
        let signature: Signature = self.0.sign(data);
        out.clear();
        out.extend_from_slice(signature.to_der().as_bytes());
        Ok(())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }

    fn hash_algorithm(&self) -> HashAlgorithm {
        HashAlgorithm::SHA256
    }

    fn supported_hash_algorithms(&self) -> &[HashAlgorithm] {
        &[HashAlgorithm::SHA256]
    }
}

#[derive(Debug)]
struct Chance;

impl SecureRandom for Chance {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), DtlsCryptoError> {
        CHANCE.with_borrow_mut(|chance| chance.fill_bytes(bytes));
        Ok(())
    }
}

/// A group of aws-lc-rs, X25519 or P-256, with our private keys.
#[derive(Debug)]
struct Group(NamedGroup);

impl SupportedKxGroup for Group {
    fn name(&self) -> NamedGroup {
        self.0
    }

    fn start_exchange(&self, mut public: Buf) -> Result<Box<dyn ActiveKeyExchange>, DtlsCryptoError> {
        let failed = |_| DtlsCryptoError::OperationFailed(CryptoOperation::GenerateEphemeralKey);
        let private = PrivateKey::from_private_key(algorithm(self.0), &draw::<32>()).map_err(failed)?;
        let computed = private
            .compute_public_key()
            .map_err(|_| DtlsCryptoError::OperationFailed(CryptoOperation::ComputePublicKey))?;
        public.clear();
        public.extend_from_slice(computed.as_ref());
        Ok(Box::new(Exchange { group: self.0, private, public }))
    }
}

fn algorithm(group: NamedGroup) -> &'static agreement::Algorithm {
    match group {
        NamedGroup::X25519 => &agreement::X25519,
        _ => &agreement::ECDH_P256,
    }
}

#[derive(Debug)]
struct Exchange {
    group: NamedGroup,
    private: PrivateKey,
    public: Buf,
}

impl ActiveKeyExchange for Exchange {
    fn pub_key(&self) -> &[u8] {
        &self.public
    }

    fn complete(self: Box<Self>, peer: &[u8], out: &mut Buf) -> Result<(), DtlsCryptoError> {
        let peer = UnparsedPublicKey::new(algorithm(self.group), peer);
        agreement::agree(&self.private, peer, DtlsCryptoError::InvalidPublicKey(self.group), |secret| {
            out.clear();
            out.extend_from_slice(secret);
            Ok(())
        })
    }

    fn group(&self) -> NamedGroup {
        self.group
    }
}

struct Instance(dimpl::Dtls);

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Instance")
    }
}

impl DtlsInstance for Instance {
    fn set_active(&mut self, active: bool) {
        self.0.set_active(active);
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        self.0.handle_packet(packet)
    }

    fn poll_output<'a>(&mut self, buffer: &'a mut [u8]) -> DtlsOutput<'a> {
        self.0.poll_output(buffer)
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        self.0.handle_timeout(now)
    }

    fn send_application_data(&mut self, data: &[u8]) -> Result<usize, DtlsImplError> {
        self.0.send_application_data(data)
    }

    fn is_active(&self) -> bool {
        self.0.is_active()
    }

    fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.0.protocol_version()
    }

    fn is_closing(&self) -> bool {
        self.0.is_closing()
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    fn close(&mut self) -> Result<(), DtlsImplError> {
        self.0.close()
    }
}
