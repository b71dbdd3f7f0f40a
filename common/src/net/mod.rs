//! Sockets: UDP in batches, for the media workers and for the relay's listener; what every TCP and TLS listener needs.

mod batch;
mod gate;
mod icmp;
mod listener;
mod tls;
mod udp;

pub use self::batch::{RecvBatch, RecvDatagram, TransmitArena};
pub use self::gate::{Gate, Pass};
pub use self::icmp::IcmpError;
pub use self::listener::{AcceptErrors, open_files, raise_open_files};
pub use self::tls::{CHECK_INTERVAL, Certificate, TlsError};
pub use self::udp::{BatchSocket, Sent, UdpMetrics};
