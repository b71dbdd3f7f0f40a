//! The SFU: ICE-lite, RTP, RTCP and SRTP by us, DTLS and SCTP by str0m.
//!
//! [`sfu::Sfu`] is the core, one worker's world; `net` (feature `net`) is its shell.

pub mod allocate;
pub mod arrivals;
pub mod codec;
pub mod connection;
pub mod consumer;
pub mod demux;
pub mod dtls;
pub mod effort;
pub mod estimate;
pub mod feedback;
pub mod framing;
pub mod ice;
pub mod keyframe;
#[cfg(feature = "net")]
pub mod net;
pub mod ortc;
pub mod outbox;
pub mod pacer;
pub mod parcel;
pub mod producer;
pub mod rates;
pub mod reception;
pub mod rewrite;
pub mod rtp;
pub mod select;
pub mod sfu;
pub mod speaker;
pub mod srtp;
pub mod stun;
pub mod transport;
pub mod wanted;
