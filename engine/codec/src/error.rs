//! Owns the error that every decoder of this crate returns; does not know what the caller was reading.

/// Why a chunk could not be decoded. The bytes are at fault, never the caller; a retry cannot help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The chunk ends before its codec has all it needs.
    #[error("{codec}: chunk ends early: {needed} more bytes needed, {found} left")]
    Truncated {
        /// The codec that was reading.
        codec: &'static str,
        /// Bytes it needed next.
        needed: usize,
        /// Bytes that were left.
        found: usize,
    },
    /// Bytes are left after the last value.
    #[error("{codec}: {bytes} bytes left over after the last value")]
    LeftOver {
        /// The codec that was reading.
        codec: &'static str,
        /// How many bytes are left.
        bytes: usize,
    },
    /// No codec of the expected type has this number.
    #[error("{codec}: kind {kind} is not known")]
    UnknownKind {
        /// What was being read: the type of a column or of a stream.
        codec: &'static str,
        /// The number found.
        kind: u8,
    },
    /// A count, width, position or checked property does not hold.
    #[error("{codec}: {what}: found {found}, allowed up to {allowed}")]
    OutOfRange {
        /// The codec that was reading.
        codec: &'static str,
        /// What the number stands for.
        what: &'static str,
        /// The number found.
        found: u64,
        /// The largest number that would have been right.
        allowed: u64,
    },
    /// The bytes contradict themselves in another way.
    #[error("{codec}: {what}")]
    Invalid {
        /// The codec that was reading.
        codec: &'static str,
        /// What does not hold.
        what: &'static str,
    },
    /// The caller's column has another type than the chunk was asked to hold.
    #[error("{codec}: column to append to has type {found}")]
    WrongColumn {
        /// The type asked for.
        codec: &'static str,
        /// The type of the column given.
        found: &'static str,
    },
}

/// What decoders return.
pub(crate) type Result<T> = std::result::Result<T, CodecError>;
