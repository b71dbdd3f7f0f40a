//! SRTP and SRTCP: nothing opens but what was sealed, once, unchanged; and it opens to what it was.

use media::srtp::{OVERHEAD_MAX, Profile, SrtpContext, contexts};

use crate::bytes::Bytes;

const PROFILES: [Profile; 3] = [Profile::AeadAes256Gcm, Profile::AeadAes128Gcm, Profile::Aes128CmSha1_80];

/// First byte: profile, RTP or RTCP. Then where to change what byte, then the packet.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let (which, at, flip) = (bytes.byte(), usize::from(bytes.u16()), bytes.byte());
    let packet = bytes.rest();
    let profile = PROFILES[usize::from(which & 0x7f) % PROFILES.len()];
    let (mut receiver, mut sender) = pair(profile);
    let rtcp = which & 0x80 != 0;
    assert!(open(&mut receiver, rtcp, packet).is_none(), "a packet that nobody sealed");

    let Some(sealed) = seal(&mut sender, rtcp, packet) else { return };
    let mut changed = sealed.clone();
    changed[at % sealed.len()] ^= flip;
    if flip != 0 {
        assert!(open(&mut receiver, rtcp, &changed).is_none(), "a packet that was changed");
    }
    for cut in [sealed.len() - 1, sealed.len() / 2] {
        assert!(open(&mut receiver, rtcp, &sealed[..cut]).is_none(), "a packet that was cut");
    }
    assert_eq!(open(&mut receiver, rtcp, &sealed).as_deref(), Some(packet));
    assert!(open(&mut receiver, rtcp, &sealed).is_none(), "a packet that was replayed");
}

/// What opens is the other's, so the two ends of one association are two calls.
fn pair(profile: Profile) -> (SrtpContext, SrtpContext) {
    let material: Vec<u8> = (0..2 * (profile.key_len() + profile.salt_len()) as u8).collect();
    let (receiver, _) = contexts(profile, &material, true).expect("enough material");
    let (_, sender) = contexts(profile, &material, false).expect("enough material");
    (receiver, sender)
}

fn seal(sender: &mut SrtpContext, rtcp: bool, packet: &[u8]) -> Option<Vec<u8>> {
    let mut slot = packet.to_vec();
    slot.resize(packet.len() + OVERHEAD_MAX, 0);
    let length = if rtcp {
        // What is no RTCP is never given to be sealed.
        if packet.len() < 8 || packet[0] >> 6 != 2 {
            return None;
        }
        sender.seal_rtcp(&mut slot, packet.len()).ok()?
    } else {
        let header = media::rtp::header_len(packet)?;
        assert!(header >= 12);
        let sequence = u16::from_be_bytes([packet[2], packet[3]]);
        sender.seal_rtp(&mut slot, packet.len(), sequence.into()).ok()?
    };
    slot.truncate(length);
    Some(slot)
}

fn open(receiver: &mut SrtpContext, rtcp: bool, sealed: &[u8]) -> Option<Vec<u8>> {
    let mut packet = sealed.to_vec();
    let length =
        if rtcp { receiver.open_rtcp(&mut packet).ok()? } else { receiver.open_rtp(&mut packet).ok()?.len };
    packet.truncate(length);
    Some(packet)
}

/// A packet for each profile.
pub fn seeds() -> Vec<Vec<u8>> {
    let rtp = [0x90, 111, 0, 7, 0, 0, 0, 8, 0, 0, 0, 9, 0xbe, 0xde, 0, 1, 0x10, b'0', 0, 0, b'o', b'p'];
    let rtcp = [0x80, 201, 0, 1, 0, 0, 0, 1];
    let seed = |which: u8, packet: &[u8]| [&[which, 0, 14, 1][..], packet].concat();
    (0..3).flat_map(|profile| [seed(profile, &rtp), seed(0x81 + profile, &rtcp)]).collect()
}
