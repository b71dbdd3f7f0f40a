//! What the parts of forwarding cost alone: `demux`, `rewrite`, `srtp` beside the ciphers themselves, `estimate`, and
//! `room_churn`, somebody's coming to and going from a room of nine.

#[allow(dead_code)] // other benches use the rest
mod work;

use std::hint::black_box;

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_128, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::hmac;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use media::srtp::Profile;
use work::churn::Room;
use work::forward::packet;
use work::parts::{self, BATCH, Sealer, Trace};

const HEADER_BYTES: usize = 12;

fn batches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parts");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("demux", |bencher| bencher.iter(parts::demux()));
    group.bench_function("rewrite", |bencher| bencher.iter(parts::rewrite()));
    let trace = Trace::new();
    group.throughput(Throughput::Elements(trace.packets as u64));
    group.bench_function("estimate", |bencher| bencher.iter(|| trace.play()));
    let mut room = Room::new();
    group.throughput(Throughput::Elements(1));
    group.bench_function("room_churn", |bencher| bencher.iter(|| room.visit()));
    group.finish();
}

/// A 1.2 kB packet: what `media` does for it, and what no one can leave out.
fn srtp(criterion: &mut Criterion) {
    let profiles = [
        ("aes-256-gcm", Profile::AeadAes256Gcm),
        ("aes-128-gcm", Profile::AeadAes128Gcm),
        ("aes-128-cm-sha1-80", Profile::Aes128CmSha1_80),
    ];
    let mut group = criterion.benchmark_group("srtp");
    group.throughput(Throughput::Elements(1));
    for (name, profile) in profiles {
        let mut sealer = Sealer::new(profile);
        group.bench_function(format!("seal/{name}"), |bencher| bencher.iter(|| sealer.seal().len()));
        let (mut sealer, mut opener) = (Sealer::new(profile), parts::context(profile));
        group.bench_function(format!("open/{name}"), |bencher| {
            let sealed = || sealer.seal().to_vec();
            bencher.iter_batched_ref(sealed, |sealed| opener.open_rtp(sealed), BatchSize::SmallInput);
        });
    }
    raw_gcm(&mut group, "raw/aes-256-gcm", &AES_256_GCM);
    raw_gcm(&mut group, "raw/aes-128-gcm", &AES_128_GCM);
    raw_cm(&mut group);
    group.finish();
}

type Group<'a> = criterion::BenchmarkGroup<'a, criterion::measurement::WallTime>;

fn raw_gcm(group: &mut Group<'_>, name: &str, algorithm: &'static Algorithm) {
    let key = UnboundKey::new(algorithm, &[1; 32][..algorithm.key_len()]).expect("a key");
    let (key, mut packet) = (LessSafeKey::new(key), packet(1, false));
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            let (header, payload) = packet.split_at_mut(HEADER_BYTES);
            let nonce = Nonce::assume_unique_for_key(black_box([2; 12]));
            key.seal_in_place_separate_tag(nonce, Aad::from(header), payload).expect("sealed")
        });
    });
}

fn raw_cm(group: &mut Group<'_>) {
    let key = UnboundCipherKey::new(&AES_128, &[1; 16]).expect("a key");
    let (key, mut packet) = (EncryptingKey::ctr(key).expect("a cipher"), packet(1, false));
    let authentication = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &[3; 20]);
    group.bench_function("raw/aes-128-cm-sha1-80", |bencher| {
        bencher.iter(|| {
            let iv = EncryptionContext::Iv128(black_box([2; 16]).into());
            key.less_safe_encrypt(&mut packet[HEADER_BYTES..], iv).expect("encrypted");
            hmac::sign(&authentication, &packet)
        });
    });
}

criterion_group!(benches, batches, srtp);
criterion_main!(benches);
