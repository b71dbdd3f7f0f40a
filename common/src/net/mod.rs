//! Sockets: UDP in batches, for the media workers and for the relay's listener.

mod batch;
mod udp;

pub use self::batch::{RecvBatch, RecvDatagram, TransmitArena};
pub use self::udp::{BatchSocket, Sent, UdpMetrics};
