//! The SFU: ICE-lite, RTP, RTCP and SRTP by us, DTLS and SCTP by str0m.

pub mod connection;
pub mod dtls;
pub mod ice;
pub mod ortc;
pub mod rtp;
pub mod srtp;
pub mod stun;
