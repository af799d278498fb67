//! Bytes from devices: wire protocol, sessions, QUIC server and client.
//!
//! Modules in the order in which data flows:
//!
//! - [`identity`], [`grants`]: who a peer is, and what it may write
//! - [`tls`], [`authority`]: certificates of both ends, and where they come from
#![forbid(unsafe_code)]

pub mod authority;
pub mod grants;
pub mod identity;
pub mod tls;
