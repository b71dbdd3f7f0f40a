//! A room that spans workers: what is published on one of them is there on the others, too.
//!
//! The hub names what is shared ([`Action::Export`](common::control::Action), `Import`). The publisher's worker opens, counts and
//! repairs its packets as ever, and says each of them once more to every worker that imports it. There they take the same way
//! (`rtp`) to the consumers, from a ring of their own that also serves retransmissions. Keyframe requests go back. What is lost in
//! between is like what is lost on the way to the publisher's worker, only that nobody repairs it: it means overload.

use std::time::{Duration, Instant};

use common::control::{Done, Imported, MediaError, PublishedId};
use common::ids::ProducerId;
use common::rtp_parameters::{MediaKind, RtpParameters};

use super::Sfu;
use super::control::{Owner, PRODUCERS_PER_PEER_MAX};
use super::objects::MAPPED_SSRC;
use crate::ortc;
use crate::parcel::{self, Saying};
use crate::producer::{NO_TRANSPORT, Producer, Span};

/// A worker is not asked again sooner for the same encoding's keyframe; it merges requests further.
const ASK_INTERVAL: Duration = Duration::from_millis(50);

/// What a pipe leads to here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shared {
    /// Slab key of a producer.
    Producer(usize),
    /// Of a data producer.
    Data(usize),
}

impl Span {
    /// Another worker wants it. `false` when it is not ours to give.
    fn add(&mut self, pipe: u64, worker: usize) -> bool {
        match self {
            // Until it says what its subscribers watch, it may be all.
            Self::None => *self = Self::Exported { pipe, to: vec![(worker, usize::MAX)] },
            Self::Exported { to, .. } if to.iter().all(|(it, _)| *it != worker) => {
                to.push((worker, usize::MAX))
            }
            Self::Exported { .. } => {}
            Self::Imported { .. } => return false,
        }
        true
    }

    /// It no longer does. The pipe's name, when it was the last.
    fn remove(&mut self, worker: usize) -> Option<u64> {
        let Self::Exported { pipe, to } = self else { return None };
        to.retain(|(it, _)| *it != worker);
        if !to.is_empty() {
            return None;
        }
        let pipe = *pipe;
        *self = Self::None;
        Some(pipe)
    }
}

impl Sfu {
    pub(super) fn begin_export(
        &mut self,
        owner: &Owner<'_>,
        published: &PublishedId,
        pipe: u64,
        to: usize,
    ) -> Result<Done, MediaError> {
        let shared = self.shared(owner, published)?;
        if self.span_mut(shared).add(pipe, to) {
            self.pipes.insert(pipe, shared);
        }
        Ok(Done::Ok)
    }

    pub(super) fn end_export(
        &mut self,
        owner: &Owner<'_>,
        published: &PublishedId,
        to: usize,
    ) -> Result<Done, MediaError> {
        let shared = self.shared(owner, published)?;
        if let Some(pipe) = self.span_mut(shared).remove(to) {
            self.pipes.remove(&pipe);
        }
        Ok(Done::Ok)
    }

    fn shared(&self, owner: &Owner<'_>, published: &PublishedId) -> Result<Shared, MediaError> {
        match published {
            PublishedId::Media(id) => self.producer_of(owner, id).map(Shared::Producer),
            PublishedId::Data(id) => self.data_producer_of(owner, id).map(Shared::Data),
        }
    }

    fn span_mut(&mut self, shared: Shared) -> &mut Span {
        match shared {
            Shared::Producer(key) => &mut self.producers[key].span,
            Shared::Data(key) => &mut self.data_producers[key].span,
        }
    }

    /// Adds what a peer publishes elsewhere, and the peer.
    pub(super) fn import(
        &mut self,
        owner: &Owner<'_>,
        pipe: u64,
        from: usize,
        published: Imported,
    ) -> Result<Done, MediaError> {
        let room = self.rooms.get_mut(owner.room).ok_or(MediaError::RoomNotFound)?;
        room.peers.entry(owner.peer.clone()).or_default();
        if self.pipes.contains_key(&pipe) {
            return Ok(Done::Ok);
        }
        let span = Span::Imported { pipe, from };
        let shared = match published {
            Imported::Media { id, kind, rtp, paused } => {
                Shared::Producer(self.import_media(owner, id, kind, &rtp, paused, span)?)
            }
            Imported::Data { id, sctp, label, protocol } => {
                let texts = [label, protocol];
                Shared::Data(self.add_data_producer(owner, NO_TRANSPORT, id, sctp, texts, span)?)
            }
        };
        self.pipes.insert(pipe, shared);
        Ok(Done::Ok)
    }

    fn import_media(
        &mut self,
        owner: &Owner<'_>,
        id: ProducerId,
        kind: MediaKind,
        rtp: &RtpParameters,
        paused: bool,
        span: Span,
    ) -> Result<usize, MediaError> {
        let refused = |error: ortc::OrtcError| MediaError::InvalidParameters(error.to_string());
        let room = self.rooms.get(owner.room).ok_or(MediaError::RoomNotFound)?;
        let peer = self.peer(owner)?;
        if peer.producers.len() >= PRODUCERS_PER_PEER_MAX {
            return Err(MediaError::LimitReached("producers"));
        }
        // One name for all that a peer publishes, so that its sound and picture belong together (contract §4.2).
        let other = peer.producers.values().next().map(|key| &self.producers[*key].consumable.rtcp.cname);
        let cname = other.unwrap_or(&rtp.rtcp.cname).clone().filter(|name| !name.is_empty());
        let cname = cname.unwrap_or_else(|| owner.peer.to_string());
        let mapping =
            ortc::map_producer(kind, rtp, &room.capabilities, &cname, MAPPED_SSRC).map_err(refused)?;
        let names = (owner.room.clone(), owner.peer.clone(), id.clone());
        let producer = Producer { span, ..Producer::new(names, NO_TRANSPORT, kind, rtp, mapping, paused) };
        let key = self.producers.insert(producer);
        self.peer_mut(owner)?.producers.insert(id, key);
        Ok(key)
    }

    pub(super) fn close_import(
        &mut self,
        now: Instant,
        owner: &Owner<'_>,
        published: &PublishedId,
    ) -> Result<Done, MediaError> {
        match self.shared(owner, published)? {
            Shared::Producer(key) => self.close_producer(key, true),
            Shared::Data(key) => self.close_data_producer(now, key, false),
        }
        Ok(Done::Ok)
    }

    /// What stood on no transport of this peer.
    pub(super) fn close_imports_of(&mut self, now: Instant, owner: &Owner<'_>) {
        let Ok(peer) = self.peer(owner) else { return };
        let producers: Vec<usize> = peer.producers.values().copied().collect();
        let data: Vec<usize> = peer.data_producers.values().copied().collect();
        for key in producers {
            self.close_producer(key, true);
        }
        for key in data {
            self.close_data_producer(now, key, false);
        }
    }

    /// Says something of a producer to all workers that import it.
    pub(super) fn export(&mut self, key: usize, saying: &Saying<'_>) {
        if let Span::Exported { pipe, to } = &self.producers[key].span {
            for (worker, _) in to {
                parcel::write(self.parcels.entry(*worker).or_default(), *pipe, saying);
            }
        }
    }

    pub(super) fn export_message(&mut self, key: usize, binary: bool, data: &[u8]) {
        if let Some(producer) = self.data_producers.get(key)
            && let Span::Exported { pipe, to } = &producer.span
        {
            for (worker, _) in to {
                let parcels = self.parcels.entry(*worker).or_default();
                parcel::write(parcels, *pipe, &Saying::Message { binary, data });
            }
        }
    }

    pub(super) fn request_keyframe_afar(&mut self, now: Instant, key: usize, encoding: usize) {
        let producer = &mut self.producers[key];
        let Span::Imported { pipe, from } = producer.span else { return };
        let Some(wanted) = producer.encodings.get_mut(encoding) else { return };
        if wanted.asked_afar.is_some_and(|at| now.saturating_duration_since(at) < ASK_INTERVAL) {
            return;
        }
        wanted.asked_afar = Some(now);
        parcel::write(self.parcels.entry(from).or_default(), pipe, &Saying::Keyframe { encoding });
    }

    /// Tells the producer's worker what is watched here.
    pub(super) fn tell_wanted_afar(&mut self, key: usize, encoding: usize) {
        if let Span::Imported { pipe, from } = self.producers[key].span {
            parcel::write(self.parcels.entry(from).or_default(), pipe, &Saying::Wanted { encoding });
        }
    }

    fn on_wanted_afar(&mut self, now: Instant, key: usize, worker: usize, encoding: usize) {
        if let Span::Exported { to, .. } = &mut self.producers[key].span
            && let Some((_, wanted)) = to.iter_mut().find(|(it, _)| *it == worker)
        {
            *wanted = encoding;
            self.review_wanted(now, key);
        }
    }

    fn on_score_afar(&mut self, now: Instant, key: usize, encoding: usize, score: u8) {
        if let Some(known) = self.producers[key].encodings.get_mut(encoding) {
            known.layers.turn();
            (known.score, known.told_score) = (score, Some(score));
        }
        if encoding == 0 {
            self.review_wanted(now, key); // once a second, in case that it was lost
        }
    }

    /// Another worker says something. What it says of what is not shared any more comes to nothing.
    pub(super) fn on_parcel(&mut self, now: Instant, worker: usize, parcel: &[u8]) {
        let Some((pipe, saying)) = parcel::read(parcel) else { return };
        let Some(shared) = self.pipes.get(&pipe).copied() else { return };
        let is_theirs = matches!(self.span_mut(shared), Span::Imported { from, .. } if *from == worker);
        match (shared, saying, is_theirs) {
            (Shared::Producer(key), Saying::Packet(packet), true) => self.on_plain(now, key, &packet),
            (Shared::Producer(key), Saying::SenderReport { encoding, ntp, timestamp }, true) => {
                if let Some(encoding) = self.producers[key].encodings.get_mut(encoding) {
                    encoding.reception.on_sender_report(now, ntp, timestamp);
                }
            }
            (Shared::Producer(key), Saying::Score { encoding, score }, true) => {
                self.on_score_afar(now, key, encoding, score);
            }
            (Shared::Producer(key), Saying::Wanted { encoding }, false) => {
                self.on_wanted_afar(now, key, worker, encoding);
            }
            (Shared::Producer(key), Saying::Keyframe { encoding }, false) => {
                self.request_keyframe(now, key, encoding);
            }
            (Shared::Data(key), Saying::Message { binary, data }, true) => {
                self.pass_message(now, key, binary, data);
            }
            _ => {}
        }
    }
}
