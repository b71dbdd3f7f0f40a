//! When runs begin, for str0m: at the same wall time in every process, so that a seed sends the same bytes everywhere.
//!
//! str0m turns an `Instant` into wall time (sender reports hold it) by a pair of readings that it takes once per process and
//! does not show. Two of its engines, joined by a perfect wire, tell it in the first report that one sends.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use str0m::media::MediaKind;
use str0m::net::{DatagramRecv, Protocol, Receive};
use str0m::rtp::RawPacket;
use str0m::rtp::rtcp::Rtcp;
use str0m::{Candidate, Event, Input, Output, Rtc, RtcConfig};

use crate::crypto;

/// The wall clock at the run's beginning, since the Unix epoch: in the future, because str0m knows no time before its
/// process, and before 2036, because its NTP time ends there (RFC 5905 §6). Not a whole second: dimpl writes seconds, of a
/// pair of readings of its own, and must not be near the edge of one.
pub const UNIX_START: Duration = Duration::new(2_000_000_000, 123_456_789);
/// A pair that has sent no report by then never will.
const PATIENCE: Duration = Duration::from_secs(60);

/// The `Instant` that every run of this process begins at.
pub fn origin() -> Instant {
    static ORIGIN: LazyLock<Instant> = LazyLock::new(|| {
        #[allow(clippy::disallowed_methods)] // an origin to count from: no decision depends on it
        let provisional = Instant::now();
        let (later, shown) = measure(provisional);
        let wanted = SystemTime::UNIX_EPOCH + UNIX_START;
        provisional + later + wanted.duration_since(shown).expect("this was written before 2033")
    });
    *ORIGIN
}

struct End {
    rtc: Rtc,
    address: SocketAddr,
    deadline: Duration,
}

/// Some time after `start`, and what str0m takes the wall time to be then.
fn measure(start: Instant) -> (Duration, SystemTime) {
    crypto::seed(0);
    let mut ends = [1, 2].map(|number| {
        let config = RtcConfig::new().set_rtp_mode(true).enable_raw_packets(true);
        let rtc = config.set_crypto_provider(crypto::provider()).build(start);
        End { rtc, address: ([10, 0, 0, number], 5000).into(), deadline: Duration::ZERO }
    });
    for at in 0..2 {
        let other = &mut ends[1 - at];
        let (theirs, api) = (other.address, other.rtc.direct_api());
        let (credentials, fingerprint) = (api.local_ice_credentials(), api.local_dtls_fingerprint().clone());
        let host = |address| Candidate::host(address, Protocol::Udp).expect("a usable address");
        let end = &mut ends[at];
        end.rtc.add_local_candidate(host(end.address));
        end.rtc.add_remote_candidate(host(theirs));
        let mut api = end.rtc.direct_api();
        api.set_ice_controlling(at == 0);
        api.set_remote_ice_credentials(credentials);
        api.set_remote_fingerprint(fingerprint);
        api.start_dtls(at == 0).expect("the first start of DTLS");
        let mid = "0".into();
        api.declare_media(mid, MediaKind::Audio);
        api.declare_stream_tx(7.into(), None, mid, None);
    }
    let mut now = Duration::ZERO;
    while now < PATIENCE {
        for at in 0..2 {
            let _ = ends[at].rtc.handle_input(Input::Timeout(start + now));
            if let Some(shown) = carry(&mut ends, at, start, now) {
                return (now, shown);
            }
        }
        now = ends[0].deadline.min(ends[1].deadline).max(now + Duration::from_millis(1));
    }
    unreachable!("str0m sends reports of every stream");
}

/// Brings what one end sends to the other; the wall time, if it was told.
fn carry(ends: &mut [End; 2], from: usize, start: Instant, now: Duration) -> Option<SystemTime> {
    loop {
        match ends[from].rtc.poll_output().ok()? {
            Output::Timeout(at) => {
                ends[from].deadline = at.saturating_duration_since(start);
                return None;
            }
            Output::Transmit(sent) => {
                let to = &mut ends[1 - from];
                let contents = DatagramRecv::try_from(&sent.contents[..]).ok()?;
                let (proto, source, destination) = (Protocol::Udp, sent.source, to.address);
                let receive = Receive { proto, source, destination, contents };
                let _ = to.rtc.handle_input(Input::Receive(start + now, receive));
                to.deadline = now;
            }
            Output::Event(Event::RawPacket(packet)) => {
                if let RawPacket::RtcpTx(Rtcp::SenderReport(report)) = *packet {
                    return Some(report.sender_info.ntp_time);
                }
            }
            Output::Event(_) => {}
        }
    }
}
