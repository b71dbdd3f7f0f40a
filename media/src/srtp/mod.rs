//! SRTP and SRTCP of one direction: what `connection` learns from DTLS becomes a [`SrtpContext`] that opens or seals
//! packets in place, without allocation (RFC 3711, RFC 7714; keys as in RFC 5764 §4.2).
//!
//! ```text
//! SRTP        | RTP header | ciphertext | tag |
//! SRTCP, GCM  | 8 bytes    | ciphertext | tag | E + index |
//! SRTCP, CM   | 8 bytes    | ciphertext | E + index | tag |
//! ```

mod cm;
mod gcm;
mod kdf;
mod replay;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;

use str0m::crypto::dtls::SrtpProfile;
use thiserror::Error;

use crate::rtp;
use cm::CmKey;
use gcm::GcmKey;
use kdf::{Kdf, Label};
pub use replay::{Rejected, ReplayWindow, WINDOW_PACKETS};

/// Room that a packet needs behind its end to be sealed, whatever the profile: SRTCP's index and GCM's tag.
pub const OVERHEAD_MAX: usize = 4 + gcm::TAG_LEN;

/// Sources of which one context keeps the replay state; packets of further ones are refused. A browser tab sends about
/// three SSRCs per simulcast video, so this is room for dozens of tracks.
pub const SOURCES_MAX: usize = 256;

/// Header of the first RTCP packet, which stays in the clear.
const RTCP_HEADER_LEN: usize = 8;

/// E flag and 31-bit index.
const RTCP_INDEX_LEN: usize = 4;

/// RFC 3711 §3.4: "encrypted" flag before the SRTCP index.
const ENCRYPTED: u32 = 1 << 31;

/// 48 bits of packet index, after which a key is used up (RFC 3711 §9.2).
const RTP_INDEX_MAX: u64 = (1 << 48) - 1;

/// Why a packet was not opened or sealed, or a context not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SrtpError {
    /// Key or salt of the wrong length.
    #[error("key or salt of the wrong length")]
    BadKey,
    /// A profile that we do not speak.
    #[error("unsupported SRTP profile")]
    UnsupportedProfile,
    /// Not a whole RTP or RTCP packet.
    #[error("malformed packet")]
    Malformed,
    /// The tag does not match.
    #[error("authentication failed")]
    Forged,
    /// Seen before.
    #[error("replayed packet")]
    Replayed,
    /// Older than the replay window.
    #[error("packet too old")]
    TooOld,
    /// More than [`SOURCES_MAX`] SSRCs.
    #[error("too many sources")]
    TooManySources,
    /// SRTCP without encryption, which no WebRTC endpoint sends.
    #[error("unencrypted SRTCP")]
    Unencrypted,
    /// No room for tag and index behind the packet.
    #[error("no room for the tag")]
    TooLong,
    /// The key has sealed all that it may.
    #[error("packet index exhausted")]
    Exhausted,
}

impl From<Rejected> for SrtpError {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::Replayed => Self::Replayed,
            Rejected::TooOld => Self::TooOld,
        }
    }
}

/// A protection profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// AEAD_AES_256_GCM (RFC 7714).
    AeadAes256Gcm,
    /// AEAD_AES_128_GCM (RFC 7714).
    AeadAes128Gcm,
    /// SRTP_AES128_CM_HMAC_SHA1_80 (RFC 5764 §4.1.2).
    Aes128CmSha1_80,
}

impl TryFrom<SrtpProfile> for Profile {
    type Error = SrtpError;

    fn try_from(profile: SrtpProfile) -> Result<Self, SrtpError> {
        if profile == SrtpProfile::AEAD_AES_256_GCM {
            Ok(Self::AeadAes256Gcm)
        } else if profile == SrtpProfile::AEAD_AES_128_GCM {
            Ok(Self::AeadAes128Gcm)
        } else if profile == SrtpProfile::AES128_CM_SHA1_80 {
            Ok(Self::Aes128CmSha1_80)
        } else {
            Err(SrtpError::UnsupportedProfile)
        }
    }
}

impl Profile {
    /// Bytes of the master key.
    pub const fn key_len(self) -> usize {
        match self {
            Self::AeadAes256Gcm => 32,
            Self::AeadAes128Gcm | Self::Aes128CmSha1_80 => 16,
        }
    }

    /// Bytes of the master salt.
    pub const fn salt_len(self) -> usize {
        match self {
            Self::AeadAes256Gcm | Self::AeadAes128Gcm => gcm::SALT_LEN,
            Self::Aes128CmSha1_80 => cm::SALT_LEN,
        }
    }

    /// Bytes that sealing adds to an RTP packet.
    pub const fn rtp_overhead(self) -> usize {
        match self {
            Self::AeadAes256Gcm | Self::AeadAes128Gcm => gcm::TAG_LEN,
            Self::Aes128CmSha1_80 => cm::TAG_LEN,
        }
    }

    /// Bytes that sealing adds to an RTCP packet.
    pub const fn rtcp_overhead(self) -> usize {
        self.rtp_overhead() + RTCP_INDEX_LEN
    }
}

/// What came out of an SRTP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenedRtp {
    /// Bytes of the plain packet at the start of the buffer: header, payload and RTP padding.
    pub len: usize,
    /// Bytes of the RTP header with its extension.
    pub header_len: usize,
    /// The source.
    pub ssrc: u32,
    /// The extended sequence number: rollover counter × 65536 + sequence number.
    pub index: u64,
}

enum Keys {
    Gcm { rtp: GcmKey, rtcp: GcmKey },
    Cm { rtp: Box<CmKey>, rtcp: Box<CmKey> },
}

/// Keys and replay state of one direction. Use one context for what arrives and another for what leaves.
pub struct SrtpContext {
    profile: Profile,
    keys: Keys,
    rtp_sources: Sources,
    rtcp_sources: Sources,
    /// One counter serves all our SSRCs: an index is unique per key all the more.
    rtcp_index: u32,
    #[cfg(debug_assertions)]
    sealed: std::collections::HashMap<u32, ReplayWindow>,
}

impl fmt::Debug for SrtpContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SrtpContext({:?})", self.profile)
    }
}

/// The contexts of a connection from its DTLS keying material (RFC 5764 §4.2: client key, server key, client salt, server
/// salt): first what opens, then what seals.
pub fn contexts(
    profile: Profile,
    material: &[u8],
    we_are_dtls_client: bool,
) -> Result<(SrtpContext, SrtpContext), SrtpError> {
    let (key_len, salt_len) = (profile.key_len(), profile.salt_len());
    if material.len() < 2 * (key_len + salt_len) {
        return Err(SrtpError::BadKey);
    }
    let (client_key, rest) = material.split_at(key_len);
    let (server_key, rest) = rest.split_at(key_len);
    let (client_salt, rest) = rest.split_at(salt_len);
    let client = SrtpContext::new(profile, client_key, client_salt)?;
    let server = SrtpContext::new(profile, server_key, &rest[..salt_len])?;
    Ok(if we_are_dtls_client { (server, client) } else { (client, server) })
}

impl SrtpContext {
    /// One direction's context from its master key and salt.
    pub fn new(profile: Profile, master_key: &[u8], master_salt: &[u8]) -> Result<Self, SrtpError> {
        if master_key.len() != profile.key_len() || master_salt.len() != profile.salt_len() {
            return Err(SrtpError::BadKey);
        }
        let kdf = Kdf::new(master_key, master_salt)?;
        let keys = match profile {
            Profile::AeadAes256Gcm => gcm_keys::<32>(&kdf)?,
            Profile::AeadAes128Gcm => gcm_keys::<16>(&kdf)?,
            Profile::Aes128CmSha1_80 => cm_keys(&kdf)?,
        };
        Ok(Self::with_session_keys(profile, keys))
    }

    fn with_session_keys(profile: Profile, keys: Keys) -> Self {
        Self {
            profile,
            keys,
            rtp_sources: Sources::default(),
            rtcp_sources: Sources::default(),
            rtcp_index: 0,
            #[cfg(debug_assertions)]
            sealed: Default::default(),
        }
    }

    /// No more is expected of a source. What is known of its packets is forgotten when there are too many others, the oldest
    /// first; until then none of them is opened again.
    pub fn retire(&mut self, ssrc: u32) {
        self.rtp_sources.retire(ssrc);
        self.rtcp_sources.retire(ssrc);
    }

    /// More is expected of a source that was retired.
    pub fn keep(&mut self, ssrc: u32) {
        self.rtp_sources.keep(ssrc);
        self.rtcp_sources.keep(ssrc);
    }

    /// The profile in use.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Verifies and decrypts an SRTP packet in place. A packet that fails leaves no trace but spoiled bytes.
    pub fn open_rtp(&mut self, packet: &mut [u8]) -> Result<OpenedRtp, SrtpError> {
        let header_len = rtp::header_len(packet).ok_or(SrtpError::Malformed)?;
        let tag_len = self.profile.rtp_overhead();
        let len =
            packet.len().checked_sub(tag_len).filter(|len| *len >= header_len).ok_or(SrtpError::Malformed)?;
        let (seq, ssrc) = (be16(&packet[2..]), be32(&packet[8..]));

        let source = self.rtp_sources.find(ssrc)?;
        let index = source.map_or(u64::from(seq), |at| self.rtp_sources.windows[at].estimate(seq));
        if let Some(at) = source {
            self.rtp_sources.windows[at].check(index)?;
        }
        if index > RTP_INDEX_MAX {
            return Err(SrtpError::Exhausted);
        }
        match &self.keys {
            Keys::Gcm { rtp, .. } => {
                let (header, text) = packet.split_at_mut(header_len);
                rtp.open(ssrc, index, header, text)?;
            }
            Keys::Cm { rtp, .. } => {
                let (protected, tag) = packet.split_at_mut(len);
                rtp.verify(protected, &rollover(index), tag)?;
                rtp.crypt(ssrc, index, &mut protected[header_len..]);
            }
        }
        self.rtp_sources.accept(source, ssrc, index);
        Ok(OpenedRtp { len, header_len, ssrc, index })
    }

    /// Encrypts the RTP packet in `slot[..len]` in place and appends the tag; returns the new length. `ext_seq` is the
    /// packet's sequence number extended by the rollover counter, which starts at zero for every SSRC: a fresh source
    /// begins below 65536. No (SSRC, `ext_seq`) may ever be sealed twice.
    pub fn seal_rtp(&mut self, slot: &mut [u8], len: usize, ext_seq: u64) -> Result<usize, SrtpError> {
        let sealed_len = len + self.profile.rtp_overhead();
        let slot = slot.get_mut(..sealed_len).ok_or(SrtpError::TooLong)?;
        let header_len = rtp::header_len(&slot[..len]).ok_or(SrtpError::Malformed)?;
        if ext_seq > RTP_INDEX_MAX {
            return Err(SrtpError::Exhausted);
        }
        let ssrc = be32(&slot[8..]);
        debug_assert_eq!(
            be16(&slot[2..]),
            ext_seq as u16,
            "the header's sequence number is that of the index"
        );
        #[cfg(debug_assertions)]
        self.assert_never_sealed(ssrc, ext_seq);

        let (packet, tag) = slot.split_at_mut(len);
        match &self.keys {
            Keys::Gcm { rtp, .. } => {
                let (header, text) = packet.split_at_mut(header_len);
                tag.copy_from_slice(&rtp.seal(ssrc, ext_seq, header, text)?);
            }
            Keys::Cm { rtp, .. } => {
                rtp.crypt(ssrc, ext_seq, &mut packet[header_len..]);
                tag.copy_from_slice(&rtp.tag(packet, &rollover(ext_seq)));
            }
        }
        Ok(sealed_len)
    }

    /// Verifies and decrypts an SRTCP packet in place; returns the length of the compound packet.
    pub fn open_rtcp(&mut self, packet: &mut [u8]) -> Result<usize, SrtpError> {
        let overhead = self.profile.rtcp_overhead();
        let len = packet
            .len()
            .checked_sub(overhead)
            .filter(|len| *len >= RTCP_HEADER_LEN)
            .ok_or(SrtpError::Malformed)?;
        if packet[0] >> 6 != 2 {
            return Err(SrtpError::Malformed);
        }
        let ssrc = be32(&packet[4..]);
        let trailer_at = match self.keys {
            Keys::Gcm { .. } => packet.len() - RTCP_INDEX_LEN,
            Keys::Cm { .. } => len,
        };
        let word = be32(&packet[trailer_at..]);
        if word & ENCRYPTED == 0 {
            return Err(SrtpError::Unencrypted);
        }
        let index = u64::from(word & !ENCRYPTED);
        let source = self.rtcp_sources.find(ssrc)?;
        if let Some(at) = source {
            self.rtcp_sources.windows[at].check(index)?;
        }
        match &self.keys {
            Keys::Gcm { rtcp, .. } => {
                let aad = rtcp_aad(packet, word);
                rtcp.open(ssrc, index, &aad, &mut packet[RTCP_HEADER_LEN..trailer_at])?;
            }
            Keys::Cm { rtcp, .. } => {
                let (protected, tag) = packet.split_at_mut(len + RTCP_INDEX_LEN);
                rtcp.verify(protected, &[], tag)?;
                rtcp.crypt(ssrc, index, &mut protected[RTCP_HEADER_LEN..len]);
            }
        }
        self.rtcp_sources.accept(source, ssrc, index);
        Ok(len)
    }

    /// Encrypts the RTCP compound packet in `slot[..len]` in place and appends tag and index; returns the new length.
    pub fn seal_rtcp(&mut self, slot: &mut [u8], len: usize) -> Result<usize, SrtpError> {
        let sealed_len = len + self.profile.rtcp_overhead();
        let slot = slot.get_mut(..sealed_len).ok_or(SrtpError::TooLong)?;
        if len < RTCP_HEADER_LEN {
            return Err(SrtpError::Malformed);
        }
        let index = self.rtcp_index + 1;
        if index & ENCRYPTED != 0 {
            return Err(SrtpError::Exhausted);
        }
        let (ssrc, word) = (be32(&slot[4..]), index | ENCRYPTED);
        match &self.keys {
            Keys::Gcm { rtcp, .. } => {
                let aad = rtcp_aad(slot, word);
                let tag = rtcp.seal(ssrc, index.into(), &aad, &mut slot[RTCP_HEADER_LEN..len])?;
                slot[len..len + gcm::TAG_LEN].copy_from_slice(&tag);
                slot[len + gcm::TAG_LEN..].copy_from_slice(&word.to_be_bytes());
            }
            Keys::Cm { rtcp, .. } => {
                let (protected, tag) = slot.split_at_mut(len + RTCP_INDEX_LEN);
                rtcp.crypt(ssrc, index.into(), &mut protected[RTCP_HEADER_LEN..len]);
                protected[len..].copy_from_slice(&word.to_be_bytes());
                tag.copy_from_slice(&rtcp.tag(protected, &[]));
            }
        }
        self.rtcp_index = index;
        Ok(sealed_len)
    }

    /// A nonce used twice under GCM gives the authentication key away, so debug builds watch.
    #[cfg(debug_assertions)]
    fn assert_never_sealed(&mut self, ssrc: u32, ext_seq: u64) {
        let window = self.sealed.entry(ssrc).or_default();
        match window.check(ext_seq) {
            Ok(()) => window.accept(ext_seq),
            Err(Rejected::Replayed) => panic!("SSRC {ssrc} seals index {ext_seq} twice"),
            // Older than what is remembered: a late retransmission, or the very bug; there is no telling.
            Err(Rejected::TooOld) => {}
        }
    }
}

/// Replay windows by SSRC. A scan over at most 1 kB of numbers beats hashing.
#[derive(Default)]
struct Sources {
    ssrcs: Vec<u32>,
    windows: Vec<ReplayWindow>,
    /// Those that no more is expected of, the oldest first. They make room for new ones.
    retired: VecDeque<u32>,
}

impl Sources {
    /// Where the state of `ssrc` is; `None` for a new source for which there is room.
    fn find(&self, ssrc: u32) -> Result<Option<usize>, SrtpError> {
        match self.ssrcs.iter().position(|known| *known == ssrc) {
            None if self.ssrcs.len() >= SOURCES_MAX && self.retired.is_empty() => {
                Err(SrtpError::TooManySources)
            }
            found => Ok(found),
        }
    }

    /// Remembers an authenticated packet.
    fn accept(&mut self, source: Option<usize>, ssrc: u32, index: u64) {
        let at = source.unwrap_or_else(|| {
            if self.ssrcs.len() >= SOURCES_MAX {
                self.forget_oldest();
            }
            self.ssrcs.push(ssrc);
            self.windows.push(ReplayWindow::default());
            self.ssrcs.len() - 1
        });
        self.windows[at].accept(index);
    }

    fn forget_oldest(&mut self) {
        let oldest = self.retired.pop_front();
        if let Some(at) = oldest.and_then(|oldest| self.ssrcs.iter().position(|ssrc| *ssrc == oldest)) {
            self.ssrcs.swap_remove(at);
            self.windows.swap_remove(at);
        }
    }

    fn retire(&mut self, ssrc: u32) {
        if self.ssrcs.contains(&ssrc) && !self.retired.contains(&ssrc) {
            self.retired.push_back(ssrc);
        }
    }

    fn keep(&mut self, ssrc: u32) {
        self.retired.retain(|retired| *retired != ssrc);
    }
}

fn gcm_keys<const N: usize>(kdf: &Kdf) -> Result<Keys, SrtpError> {
    Ok(Keys::Gcm {
        rtp: GcmKey::new(&kdf.derive::<N>(Label::RtpEncryption), kdf.derive(Label::RtpSalt))?,
        rtcp: GcmKey::new(&kdf.derive::<N>(Label::RtcpEncryption), kdf.derive(Label::RtcpSalt))?,
    })
}

fn cm_keys(kdf: &Kdf) -> Result<Keys, SrtpError> {
    let key = |encryption, authentication, salt| {
        CmKey::new(&kdf.derive(encryption), &kdf.derive(authentication), kdf.derive(salt)).map(Box::new)
    };
    Ok(Keys::Cm {
        rtp: key(Label::RtpEncryption, Label::RtpAuthentication, Label::RtpSalt)?,
        rtcp: key(Label::RtcpEncryption, Label::RtcpAuthentication, Label::RtcpSalt)?,
    })
}

/// RFC 7714 §9.2: the clear header, then the E flag and index.
fn rtcp_aad(packet: &[u8], word: u32) -> [u8; RTCP_HEADER_LEN + RTCP_INDEX_LEN] {
    let mut aad = [0; RTCP_HEADER_LEN + RTCP_INDEX_LEN];
    aad[..RTCP_HEADER_LEN].copy_from_slice(&packet[..RTCP_HEADER_LEN]);
    aad[RTCP_HEADER_LEN..].copy_from_slice(&word.to_be_bytes());
    aad
}

fn rollover(index: u64) -> [u8; 4] {
    ((index >> 16) as u32).to_be_bytes()
}

fn be16(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
