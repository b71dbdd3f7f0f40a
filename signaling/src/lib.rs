//! placeholder

#[cfg(feature = "net")]
pub mod store;
