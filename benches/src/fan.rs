//! The floor of an SFU: each packet of a frame is sealed with AES-256-GCM for each subscriber and leaves with the kernel's
//! offloads. Nothing is received, looked up, rewritten or kept.
//!
//! Frames are those of `causeway load`. A second thread reads what arrives, on another core; it is not in the figure.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use clap::Args;
use common::metrics::Registry;
use common::net::{BatchSocket, RecvBatch, TransmitArena, UdpMetrics};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::Serialize;

use crate::poll::Poll;
use crate::process;

const HEADER_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
/// A frame for all subscribers.
const ARENA_BYTES: usize = 4 << 20;
const ARENA_DATAGRAMS: usize = 4096;

/// Who sends what to how many.
#[derive(Args)]
pub struct Options {
    /// Rooms.
    #[arg(long, default_value_t = 1)]
    rooms: usize,
    /// Publishers in each room.
    #[arg(long)]
    publishers: usize,
    /// Subscribers in each room.
    #[arg(long)]
    subscribers: usize,
    /// 1.2 Mb/s of video: thirty frames of five packets.
    #[arg(long)]
    video: bool,
    /// Fifty packets a second.
    #[arg(long)]
    audio: bool,
    /// For how long.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Core of what is measured.
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// Core of what reads.
    #[arg(long, default_value_t = 1)]
    reading_core: usize,
}

/// What it cost.
#[derive(Serialize)]
pub struct Report {
    packets_per_second: f64,
    cpu_ns_per_packet: f64,
}

/// One publisher's audio or video.
#[derive(Clone, Copy)]
struct Stream {
    room: usize,
    packets: usize,
    payload_bytes: usize,
    every: Duration,
    due: Instant,
}

fn streams(options: &Options) -> Vec<Stream> {
    let now = Instant::now();
    let video = options.video.then_some((5, 999, Duration::from_nanos(1_000_000_000 / 30)));
    let audio = options.audio.then_some((1, 80, Duration::from_millis(20)));
    let publishers = options.rooms * options.publishers;
    let of = |publisher: usize| {
        video.into_iter().chain(audio).map(move |(packets, payload_bytes, every)| {
            // Nobody's clock is another's.
            let due = now + every * publisher as u32 / publishers as u32;
            Stream { room: publisher / options.publishers, packets, payload_bytes, every, due }
        })
    };
    (0..publishers).flat_map(of).collect()
}

fn pin(core: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

/// A socket for each subscriber, and the thread that reads them.
struct Readers {
    rooms: Vec<Vec<SocketAddr>>,
    read: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<anyhow::Result<()>>,
}

impl Readers {
    fn start(options: &Options) -> anyhow::Result<Self> {
        let metrics = UdpMetrics::register(&Registry::new());
        let (mut sockets, mut rooms) = (Vec::new(), vec![Vec::new(); options.rooms]);
        for subscriber in 0..options.rooms * options.subscribers {
            let socket = BatchSocket::bind((Ipv4Addr::LOCALHOST, 0).into(), metrics.clone())?;
            rooms[subscriber / options.subscribers].push(socket.local_addr());
            sockets.push(socket);
        }
        let (read, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stopped, core) = (read.clone(), stop.clone(), options.reading_core);
        let thread = thread::spawn(move || {
            pin(core)?;
            let (mut poll, mut batch) = (Poll::new()?, RecvBatch::new());
            for (at, socket) in sockets.iter().enumerate() {
                poll.add(socket, at)?;
            }
            while !stopped.load(Ordering::Relaxed) {
                for at in poll.wait(Duration::from_millis(100))? {
                    while sockets[at].recv(&mut batch).is_ok() {
                        count.fetch_add(batch.datagrams().count() as u64, Ordering::Relaxed);
                    }
                }
            }
            Ok(())
        });
        Ok(Self { rooms, read, stop, thread })
    }
}

/// Sends in time, and asks the kernel what that took.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let readers = Readers::start(options)?;
    pin(options.core)?;
    let socket = BatchSocket::bind((Ipv4Addr::LOCALHOST, 0).into(), UdpMetrics::register(&Registry::new()))?;
    let key = UnboundKey::new(&AES_256_GCM, &[1; 32]).ok().context("a key of 32 bytes")?;
    let (key, mut arena) = (LessSafeKey::new(key), TransmitArena::new(ARENA_BYTES, ARENA_DATAGRAMS));
    let mut streams = streams(options);
    let mut packet = [0x55; 1500];
    let (mut sent, mut number) = (0u64, 0u64);
    let (began, before) = (Instant::now(), process::own_thread_cpu_time()?);
    while began.elapsed().as_secs_f64() < options.seconds {
        let stream = streams.iter_mut().min_by_key(|stream| stream.due).context("nothing to send")?;
        thread::sleep(stream.due.saturating_duration_since(Instant::now()));
        stream.due += stream.every;
        let length = HEADER_BYTES + stream.payload_bytes;
        for to in &readers.rooms[stream.room] {
            for _ in 0..stream.packets {
                number += 1;
                let mut nonce = [0; 12];
                nonce[4..].copy_from_slice(&number.to_be_bytes());
                let (header, rest) = packet.split_at_mut(HEADER_BYTES);
                let (text, after) = rest.split_at_mut(stream.payload_bytes);
                let tag = key
                    .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(header), text)
                    .ok()
                    .context("sealed")?;
                after[..TAG_BYTES].copy_from_slice(tag.as_ref());
                arena.push(&packet[..length + TAG_BYTES], *to, None);
                sent += 1;
            }
        }
        socket.send(&mut arena);
        arena.clear();
    }
    let cpu = process::own_thread_cpu_time()? - before;
    let seconds = began.elapsed().as_secs_f64();
    readers.stop.store(true, Ordering::Relaxed);
    readers.thread.join().expect("the reader does not panic")?;
    anyhow::ensure!(readers.read.load(Ordering::Relaxed) * 100 >= sent * 99, "the reader could not follow");
    let cpu_ns_per_packet = cpu.as_nanos() as f64 / sent as f64;
    Ok(Report { packets_per_second: sent as f64 / seconds, cpu_ns_per_packet })
}
