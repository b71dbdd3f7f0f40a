//! Sockets: UDP in batches, for the media workers and for the relay's listener; what every TCP listener needs.

mod batch;
mod gate;
mod listener;
mod udp;

pub use self::batch::{RecvBatch, RecvDatagram, TransmitArena};
pub use self::gate::{Gate, Pass};
pub use self::listener::{AcceptErrors, open_files, raise_open_files};
pub use self::udp::{BatchSocket, Sent, UdpMetrics};
