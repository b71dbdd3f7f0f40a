//! Packet vectors of RFC 7714 §16–17 and libsrtp, and what an attacker may try.

use proptest::prelude::*;

use super::*;

const PROFILES: [Profile; 3] = [Profile::AeadAes256Gcm, Profile::AeadAes128Gcm, Profile::Aes128CmSha1_80];

pub(super) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter_map(|digit| digit.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn pair(profile: Profile) -> (SrtpContext, SrtpContext) {
    let key: Vec<u8> = (0..profile.key_len() as u8).collect();
    let salt: Vec<u8> = (100..100 + profile.salt_len() as u8).collect();
    let context = || SrtpContext::new(profile, &key, &salt).expect("lengths fit");
    (context(), context())
}

fn packet(ssrc: u32, seq: u16) -> Vec<u8> {
    let mut packet = vec![0x80, 96];
    packet.extend_from_slice(&seq.to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0, 7]);
    packet.extend_from_slice(&ssrc.to_be_bytes());
    packet.extend_from_slice(b"a payload of no particular length");
    packet
}

fn sealed(context: &mut SrtpContext, ssrc: u32, index: u64) -> Vec<u8> {
    let mut slot = packet(ssrc, index as u16);
    let len = slot.len();
    slot.resize(len + OVERHEAD_MAX, 0);
    let len = context.seal_rtp(&mut slot, len, index).expect("room for the tag");
    slot.truncate(len);
    slot
}

fn gcm_vectors(key: &str) -> SrtpContext {
    let key = || GcmKey::new(&hex(key), hex("517569642070726f2071756f").try_into().unwrap()).unwrap();
    SrtpContext::with_session_keys(Profile::AeadAes128Gcm, Keys::Gcm { rtp: key(), rtcp: key() })
}

const KEY_128: &str = "000102030405060708090a0b0c0d0e0f";
const KEY_256: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

#[test]
fn rfc_7714_section_16_rtp() {
    let plain = hex("8040f17b 8041f8d3 5501a0b2 47616c6c 69612065 7374206f 6d6e6973 20646976 69736120 \
                     696e2070 61727465 73207472 6573");
    let check = |key, expected: &str| {
        let expected = hex(expected);
        let mut slot = plain.clone();
        slot.resize(expected.len(), 0);
        assert_eq!(gcm_vectors(key).seal_rtp(&mut slot, plain.len(), 0xf17b), Ok(expected.len()));
        assert_eq!(slot, expected);
        let opened = gcm_vectors(key).open_rtp(&mut slot).expect("authentic");
        assert_eq!(slot[..opened.len], plain);
        assert_eq!((opened.index, opened.header_len, opened.ssrc), (0xf17b, 12, 0x5501a0b2));
    };
    check(
        KEY_128,
        "8040f17b 8041f8d3 5501a0b2 f24de3a3 fb34de6c acba861c 9d7e4bca be633bd5 0d294e6f 42a5f47a 51c7d19b \
         36de3adf 8833 899d7f27 beb16a91 52cf765e e4390cce",
    );
    check(
        KEY_256,
        "8040f17b 8041f8d3 5501a0b2 32b1de78 a822fe12 ef9f78fa 332e33aa b1801238 9a58e2f3 b50b2a02 76ffae0f \
         1ba63799 b87b7aa3 db36dfff d6b0f9bb 7878d7a7 6c13",
    );
}

#[test]
fn rfc_7714_section_17_rtcp() {
    let plain =
        hex("81c8000d 4d617273 4e545031 4e545032 52545020 0000042a 0000e930 4c756e61 deadbeef deadbeef \
                     deadbeef deadbeef deadbeef");
    let check = |key, expected: &str| {
        let expected = hex(expected);
        let mut slot = plain.clone();
        slot.resize(expected.len(), 0);
        let mut context = gcm_vectors(key);
        context.rtcp_index = 0x5d3;
        assert_eq!(context.seal_rtcp(&mut slot, plain.len()), Ok(expected.len()));
        assert_eq!(slot, expected);
        assert_eq!(gcm_vectors(key).open_rtcp(&mut slot), Ok(plain.len()));
        assert_eq!(slot[..plain.len()], plain);
    };
    check(
        KEY_128,
        "81c8000d 4d617273 63e94885 dcdab67c a727d766 2f6b7e99 7ff5c0f7 6c06f32d c676a5f1 730d6fda 4ce09b46 \
         86303ded 0bb9275b c84aa458 96cf4d2f c5abf872 45d9eade 800005d4",
    );
    check(
        KEY_256,
        "81c8000d 4d617273 d50ae4d1 f5ce5d30 4ba297e4 7d470c28 2c3ece5d bffe0a50 a2eaa5c1 110555be 8415f658 \
         c61de047 6f1b6fad 1d1eb30c 4446839f 57ff6f6c b26ac3be 800005d4",
    );
}

#[test]
fn libsrtp_counter_mode_packets() {
    let (key, salt) = (hex("e1f97a0d3e018be0d64fa32c06de4139"), hex("0ec675ad498afeebb6960b3aabe6"));
    let context = || SrtpContext::new(Profile::Aes128CmSha1_80, &key, &salt).unwrap();

    let plain = hex("800f1234 decafbad cafebabe abababab abababab abababab abababab");
    let expected =
        hex("800f1234 decafbad cafebabe 4e55dc4c e79978d8 8ca4d215 949d2402 b78d6acc 99ea179b 8dbb");
    let mut slot = plain.clone();
    slot.resize(expected.len(), 0);
    assert_eq!(context().seal_rtp(&mut slot, plain.len(), 0x1234), Ok(expected.len()));
    assert_eq!(slot, expected);

    let plain = hex("81c8000b cafebabe abababab abababab abababab abababab");
    let expected =
        hex("81c8000b cafebabe 7128035b e487b9bd bef89041 f977a5a8 80000001 993e08cd 54d6c123 0798");
    let mut slot = plain.clone();
    slot.resize(expected.len(), 0);
    assert_eq!(context().seal_rtcp(&mut slot, plain.len()), Ok(expected.len()));
    assert_eq!(slot, expected);
    assert_eq!(context().open_rtcp(&mut slot), Ok(plain.len()));
}

#[test]
fn both_ends_of_a_dtls_connection_agree() {
    for profile in PROFILES {
        let material: Vec<u8> = (0..2 * (profile.key_len() + profile.salt_len()) as u8).collect();
        let (mut client_in, mut client_out) = contexts(profile, &material, true).unwrap();
        let (mut server_in, mut server_out) = contexts(profile, &material, false).unwrap();
        assert!(server_in.open_rtp(&mut sealed(&mut client_out, 1, 1)).is_ok());
        assert!(client_in.open_rtp(&mut sealed(&mut server_out, 1, 1)).is_ok());
        assert_eq!(client_in.open_rtp(&mut sealed(&mut client_out, 2, 1)), Err(SrtpError::Forged));
        assert!(contexts(profile, &material[1..], true).is_err());
    }
}

#[test]
fn sequence_numbers_wrap_and_replays_are_refused() {
    for profile in PROFILES {
        let (mut out, mut inn) = pair(profile);
        for index in 65_500..66_500u64 {
            let wire = sealed(&mut out, 9, index + 65_536);
            // The receiver hears of the source only in its second rollover, so its own counter is one behind.
            assert_eq!(inn.open_rtp(&mut wire.clone()), Err(SrtpError::Forged));
        }
        for index in (65_000..140_000u64).step_by(7) {
            let wire = sealed(&mut out, 10, index);
            assert_eq!(inn.open_rtp(&mut wire.clone()).map(|opened| opened.index), Ok(index), "{profile:?}");
            assert_eq!(inn.open_rtp(&mut wire.clone()), Err(SrtpError::Replayed));
        }
    }
}

#[test]
fn a_late_packet_of_the_previous_rollover_is_opened() {
    let (mut out, mut inn) = pair(Profile::AeadAes128Gcm);
    let mut late = sealed(&mut out, 1, 65_535);
    assert!(inn.open_rtp(&mut sealed(&mut out, 1, 65_534)).is_ok());
    assert!(inn.open_rtp(&mut sealed(&mut out, 1, 65_537)).is_ok());
    assert_eq!(inn.open_rtp(&mut late).map(|opened| opened.index), Ok(65_535));
}

#[test]
fn forgeries_make_no_state() {
    for profile in PROFILES {
        let (mut out, mut inn) = pair(profile);
        for ssrc in 0..1000 {
            let mut wire = sealed(&mut out, ssrc, 5);
            *wire.last_mut().unwrap() ^= 1;
            assert_eq!(inn.open_rtp(&mut wire), Err(SrtpError::Forged));
        }
        assert!(inn.rtp_sources.ssrcs.is_empty());
    }
}

#[test]
fn sources_are_bounded() {
    let (mut out, mut inn) = pair(Profile::AeadAes256Gcm);
    for ssrc in 0..SOURCES_MAX as u32 {
        assert!(inn.open_rtp(&mut sealed(&mut out, ssrc, 1)).is_ok());
    }
    assert_eq!(inn.open_rtp(&mut sealed(&mut out, 4000, 1)), Err(SrtpError::TooManySources));
    assert!(inn.open_rtp(&mut sealed(&mut out, 7, 2)).is_ok());
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "twice")]
fn sealing_an_index_twice_is_a_bug() {
    let (mut out, _) = pair(Profile::AeadAes256Gcm);
    sealed(&mut out, 1, 1);
    sealed(&mut out, 1, 1);
}

#[test]
fn rtcp_round_trips_once_and_only_encrypted() {
    for profile in PROFILES {
        let (mut out, mut inn) = pair(profile);
        let plain = hex("80c90001 00000005 81ce0002 00000005 00000006");
        let mut slot = plain.clone();
        slot.resize(plain.len() + OVERHEAD_MAX, 0);
        let len = out.seal_rtcp(&mut slot, plain.len()).unwrap();
        assert_eq!(len, plain.len() + profile.rtcp_overhead());
        slot.truncate(len);
        let mut again = slot.clone();
        assert_eq!(inn.open_rtcp(&mut slot), Ok(plain.len()));
        assert_eq!(slot[..plain.len()], plain);
        assert_eq!(inn.open_rtcp(&mut again), Err(SrtpError::Replayed));
        assert_eq!(inn.open_rtcp(&mut [0x80; 40]), Err(SrtpError::Forged));
        let mut clear = plain.clone();
        clear.resize(len, 0);
        assert_eq!(inn.open_rtcp(&mut clear), Err(SrtpError::Unencrypted));
    }
}

#[test]
fn truncated_packets_are_refused() {
    for profile in PROFILES {
        let (mut out, mut inn) = pair(profile);
        let wire = sealed(&mut out, 3, 3);
        for len in 0..wire.len() {
            assert!(inn.open_rtp(&mut wire[..len].to_vec()).is_err());
            assert!(inn.open_rtcp(&mut wire[..len].to_vec()).is_err());
        }
        let mut short = packet(1, 1);
        let len = short.len();
        assert_eq!(out.seal_rtp(&mut short, len, 1), Err(SrtpError::TooLong));
    }
}

proptest! {
    #[test]
    fn random_bytes_never_open(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for profile in PROFILES {
            let (_, mut inn) = pair(profile);
            prop_assert!(inn.open_rtp(&mut bytes).is_err());
            prop_assert!(inn.open_rtcp(&mut bytes).is_err());
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed(bit in 0usize..45 * 8) {
        for profile in PROFILES {
            let (mut out, mut inn) = pair(profile);
            let mut wire = sealed(&mut out, 77, 900);
            wire[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(inn.open_rtp(&mut wire).is_err());
        }
    }
}
