//! A flood of Allocate requests without credentials, from a thousand addresses in as many networks, and one client who has
//! an allocation: how long its packets take before and during the flood.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use serde::Serialize;
use turn::stun::Writer;
use turn::stun::attributes::Kind;
use turn::stun::header::{Class, Method, TransactionId};

use crate::payer::Payer;
use crate::process::{cpu_time, resident_bytes};

const SOURCES: u16 = 1000;
/// Requests of one source before the next has its turn.
const TRAIN: u64 = 4;
/// Sent before anything is measured, so that what is touched once is not counted.
const WARM_UP: usize = 20_000;
/// Before the flood.
const CALM: Duration = Duration::from_secs(1);

#[derive(Serialize)]
pub struct Report {
    requests: u64,
    answers: u64,
    request_bytes: usize,
    answer_bytes: usize,
    cpu_ns_per_request: f64,
    resident_growth_bytes: u64,
    payer_delay_us_p99_before: f64,
    payer_delay_us_p99: f64,
    payer_loss: f64,
}

pub fn run(server: SocketAddr, pid: u32, long: Duration, pace: Option<f64>) -> anyhow::Result<Report> {
    let mut request = Writer::new(Class::Request, Method::ALLOCATE, TransactionId([7; 12]));
    request.attribute(Kind::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
    let request = request.finish();
    let sources = (0..SOURCES).map(|index| source(server, index)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut payer = Payer::new(server)?;
    // All at once, so that each of the server's receive buffers has been in use.
    for _ in 0..WARM_UP / sources.len() {
        sources.iter().for_each(|socket| drop(socket.send(&request)));
        sources.iter().for_each(|socket| while socket.recv(&mut [0; 2048]).is_ok() {});
    }
    let calm = Instant::now() + CALM;
    while Instant::now() < calm {
        payer.turn();
    }
    let (before, _) = payer.verdict()?;
    let (cpu, memory) = (cpu_time(pid)?, resident_bytes(pid)?);
    let (mut requests, mut answers, mut answer_bytes) = (0, 0, 0);
    let mut buffer = [0; 2048];
    let begun = Instant::now();
    for socket in sources.iter().cycle() {
        for _ in 0..TRAIN {
            requests += u64::from(socket.send(&request).is_ok());
        }
        while let Ok(length) = socket.recv(&mut buffer) {
            answers += 1;
            answer_bytes = length;
        }
        payer.turn();
        while pace.is_some_and(|pace| requests as f64 > begun.elapsed().as_secs_f64() * pace) {
            payer.turn();
        }
        if begun.elapsed() >= long {
            break;
        }
    }
    let (p99, loss) = payer.verdict()?; // meanwhile the server works off what is in its buffer
    for socket in &sources {
        answers += std::iter::from_fn(|| socket.recv(&mut buffer).ok()).count() as u64;
    }
    Ok(Report {
        requests,
        answers,
        request_bytes: request.len(),
        answer_bytes,
        cpu_ns_per_request: (cpu_time(pid)? - cpu).as_nanos() as f64 / requests as f64,
        resident_growth_bytes: resident_bytes(pid)?.saturating_sub(memory),
        payer_delay_us_p99_before: before,
        payer_delay_us_p99: p99,
        payer_loss: loss,
    })
}

fn source(server: SocketAddr, index: u16) -> anyhow::Result<UdpSocket> {
    let [high, low] = index.to_be_bytes();
    let socket = UdpSocket::bind((Ipv4Addr::new(127, 64 + high, low, 1), 0))?;
    socket.connect(server)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
