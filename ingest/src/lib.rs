//! Bytes from devices: the wire protocol, sessions, the QUIC server and the client library.
//!
//! - [`wire`]: frames and codes
//! - [`session`]: both ends of a lane as state machines without sockets or clocks

pub mod session;
pub mod wire;
