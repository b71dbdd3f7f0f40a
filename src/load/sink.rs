//! A subscriber: what it receives, what it tells the server of it (`listener`), and how long each packet was under way.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use media::feedback::{self, Item};
use media::srtp::OpenedRtp;
use tokio::sync::{mpsc, watch};

use super::Shared;
use super::leg::{CONSENT_EVERY, Datagram, Leg};
use super::listener::{Listener, Sort, Stream, Totals};

/// What one subscriber has seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Packets.
    pub totals: Totals,
    /// From the publisher's send to here, of the packets in the window that came when they were first sent.
    pub delays_ns: Vec<u64>,
}

/// Receives until told to stop; `announced` are the streams that are going to come.
pub async fn subscribe(
    mut leg: Leg,
    shared: Arc<Shared>,
    mut announced: mpsc::UnboundedReceiver<Stream>,
    mut stopped: watch::Receiver<bool>,
) -> Seen {
    let (mut seen, mut listener) = (Seen::default(), Listener::new(Instant::now()));
    let mut consent = Instant::now() + Duration::from_secs(1);
    let (mut datagram, mut said) = ([0; 2048], Vec::new());
    loop {
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => break,
            () = tokio::time::sleep_until(consent.into()) => {
                leg.consent().await;
                let _ = leg.poll().await;
                consent = Instant::now() + CONSENT_EVERY;
            }
            () = tokio::time::sleep_until(listener.next().into()) => {
                said.clear();
                listener.tell(Instant::now(), &mut said);
                leg.send_rtcp(&said);
            }
            _ = leg.readable() => while let Some(length) = leg.try_recv(&mut datagram) {
                while let Ok(stream) = announced.try_recv() {
                    listener.expect(stream);
                }
                match leg.take(&mut datagram[..length]) {
                    Some(Datagram::Rtp(opened)) => take(&mut seen, &mut listener, &shared, &datagram, opened),
                    Some(Datagram::Rtcp(length)) => feedback::parse(&datagram[..length], |item| {
                        if let Item::SenderReport { ssrc, ntp, timestamp } = item {
                            listener.on_sender_report(Instant::now(), ssrc, ntp, timestamp);
                        }
                    }),
                    None => {}
                }
            }
        }
    }
    seen.totals = listener.totals();
    seen
}

fn take(seen: &mut Seen, listener: &mut Listener, shared: &Shared, packet: &[u8], opened: OpenedRtp) {
    let packet = &packet[..opened.len];
    let sort = listener.take(Instant::now(), packet, opened.index);
    if sort == Sort::Nothing {
        return;
    }
    shared.received.fetch_add(1, Ordering::Relaxed);
    let is_measured = sort == Sort::Media && shared.measuring.load(Ordering::Relaxed);
    if let Some(moment) = packet.last_chunk::<8>().filter(|_| is_measured) {
        seen.delays_ns.push(shared.now_ns().saturating_sub(u64::from_be_bytes(*moment)));
    }
}
