//! The query address as a client meets it: a real listener on loopback, TLS, real gRPC.

#![allow(clippy::unwrap_used)]

mod access;
mod bounds;
mod put;
mod queries;
mod support;
