//! What fuzzing runs: one function for each kind of bytes from outside, which panics when the product breaks a promise.
//!
//! The drivers in `fuzz/fuzz_targets` call them with libFuzzer on a nightly toolchain; `tests/corpus.rs` gives them every
//! kept input on the ordinary one. No function looks at anything but its bytes: no clock, no file, no random number.
//!
//! - [`columns`]: chunks of columns and payloads of batches
//! - [`files`]: what a disk gives back: logs, segments, summaries, manifests, heads
//! - [`wire`], [`session`]: what peers send; [`bulk`], [`questions`]: what clients of the query address send
//! - [`text`]: what people write: files to load, settings, and listings of backups
//! - [`sums`]: right checksums for changed bytes, so that what lies behind them is reached
//! - [`input`]: choices out of bytes

pub mod bulk;
pub mod columns;
pub mod files;
pub mod input;
pub mod questions;
pub mod session;
pub mod sums;
pub mod text;
pub mod wire;

/// One kind of input.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, and that of its corpus.
    pub name: &'static str,
    /// Takes one input.
    pub run: fn(&[u8]),
}

/// All kinds.
pub const TARGETS: &[Target] = &[
    Target { name: "batch", run: columns::batch },
    Target { name: "client_session", run: session::client },
    Target { name: "column", run: columns::column },
    Target { name: "column_round_trip", run: columns::column_round_trip },
    Target { name: "condition", run: questions::condition },
    Target { name: "configuration", run: text::configuration },
    Target { name: "csv_load", run: text::csv_load },
    Target { name: "frames", run: wire::frames },
    Target { name: "heads", run: files::heads },
    Target { name: "identity", run: wire::identity },
    Target { name: "line_protocol", run: text::line_protocol },
    Target { name: "listing", run: text::listing },
    Target { name: "log", run: files::log },
    Target { name: "manifest", run: files::manifest },
    Target { name: "put", run: bulk::put },
    Target { name: "question", run: questions::question },
    Target { name: "segment", run: files::segment },
    Target { name: "server_session", run: session::server },
    Target { name: "summary", run: files::summary },
];

/// The kind called `name`.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
