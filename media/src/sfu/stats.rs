//! Statistics on request, shaped like W3C webrtc-stats.

use std::time::Instant;

use common::control::{Done, MediaError, StatsOf};
use serde_json::{Value, json};

use super::Sfu;
use super::control::Owner;

impl Sfu {
    pub(super) fn stats(&self, now: Instant, owner: &Owner<'_>, of: &StatsOf) -> Result<Done, MediaError> {
        let peer = self.peer(owner)?;
        let mut records = Vec::new();
        match of {
            StatsOf::Peer => {
                records.extend(peer.transports.values().map(|slot| self.transport_stats(now, *slot)));
                records.extend(peer.producers.values().flat_map(|key| self.producer_stats(now, *key)));
                records.extend(peer.consumers.values().map(|key| self.consumer_stats(now, *key)));
            }
            StatsOf::Transport(id) => records.push(self.transport_stats(now, self.transport_of(owner, id)?)),
            StatsOf::Producer(id) => records.extend(self.producer_stats(now, self.producer_of(owner, id)?)),
            StatsOf::Consumer(id) => records.push(self.consumer_stats(now, self.consumer_of(owner, id)?)),
        }
        Ok(Done::Stats(records))
    }

    fn timestamp_ms(&self, now: Instant) -> f64 {
        self.unix_time(now).as_secs_f64() * 1000.0
    }

    fn transport_stats(&self, now: Instant, slot: usize) -> Value {
        let transport = &self.transports[slot];
        json!({
            "id": transport.id.as_str(), "type": "transport", "timestamp": self.timestamp_ms(now),
            "dtlsState": if transport.srtp.is_some() { "connected" } else { "new" },
            "bytesReceived": transport.bytes.0, "bytesSent": transport.bytes.1,
            "packetsReceived": transport.packets.0, "packetsSent": transport.packets.1,
            "currentRoundTripTime": transport.round_trip.map(|it| it.as_secs_f64()),
            "availableOutgoingBitrate": transport.estimator.as_ref().and_then(|it| it.bitrate()),
        })
    }

    fn producer_stats(&self, now: Instant, key: usize) -> Vec<Value> {
        let producer = &self.producers[key];
        let encodings = producer.encodings.iter().enumerate().map(|(at, encoding)| {
            let reception = &encoding.reception;
            json!({
                "id": format!("{}-{at}", producer.id), "type": "inbound-rtp", "timestamp": self.timestamp_ms(now),
                "producerId": producer.id.as_str(), "kind": producer.kind, "ssrc": encoding.ssrc, "rid": encoding.rid,
                "packetsReceived": reception.received(), "packetsLost": reception.lost(),
                "bytesReceived": reception.octets,
                "jitter": f64::from(reception.jitter()) / f64::from(producer.clock_rate_hz),
            })
        });
        encodings.collect()
    }

    fn consumer_stats(&self, now: Instant, key: usize) -> Value {
        let consumer = &self.consumers[key];
        json!({
            "id": consumer.id.as_str(), "type": "outbound-rtp", "timestamp": self.timestamp_ms(now),
            "kind": self.producers[consumer.producer].kind, "ssrc": consumer.ssrc,
            "packetsSent": consumer.packets, "bytesSent": consumer.octets,
            "retransmittedPacketsSent": consumer.retransmitted,
            "fractionLost": f64::from(consumer.fraction_lost) / 256.0,
            "currentLayer": consumer.selector.current(),
        })
    }
}
