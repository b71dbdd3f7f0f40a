//! Black-box tests: the binary itself on free ports, real sockets, nothing of its insides.

mod api;
mod auth;
mod calls;
mod client;
mod coturn_client;
mod hostile;
mod load;
mod process;
mod relay_only;
mod server;
mod tls;
