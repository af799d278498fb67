//! Owns the codes that refuse a batch (nack) and that end a lane (close); does not decide when.

/// Declares a code enum whose numbers are part of the protocol, so that a number is written down once.
macro_rules! codes {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $value:literal, $text:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$doc])* $variant,)*
            /// A code that a newer peer knows and this one does not.
            Unknown(u16),
        }

        impl $name {
            /// Every code of this version.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The number on the wire.
            pub fn value(self) -> u16 {
                match self {
                    $(Self::$variant => $value,)*
                    Self::Unknown(value) => value,
                }
            }

            /// The code of a number on the wire.
            pub fn from_value(value: u16) -> Self {
                match value {
                    $($value => Self::$variant,)*
                    other => Self::Unknown(other),
                }
            }

            /// The name in messages, metrics and the protocol document.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                    Self::Unknown(_) => "unknown",
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    Self::Unknown(value) => write!(f, "unknown code {value}"),
                    known => f.write_str(known.name()),
                }
            }
        }
    };
}

codes! {
    /// Why one batch was refused. The lane goes on.
    RejectCode {
        /// The payload is not a batch: the message names field and offset.
        Malformed = 1, "malformed";
        /// The payload's format version is not known here.
        UnsupportedVersion = 2, "unsupported_version";
        /// The certificate's grant does not cover a device of the batch.
        NotAuthorised = 3, "not_authorised";
        /// The devices of the batch belong to more than one shard.
        MixedShards = 4, "mixed_shards";
        /// A field's type contradicts the table.
        TypeConflict = 5, "type_conflict";
        /// A row is further in the future than the node allows. Earlier nodes sent it; now such rows are set aside.
        TooFarInFuture = 6, "too_far_in_future";
        /// More bytes, rows, devices or fields than the welcome allows.
        TooLarge = 7, "too_large";
        /// The payload's checksum does not match its bytes; the same batch may be sent again.
        BadChecksum = 8, "bad_checksum";
        /// The number is not above the one before it on this lane.
        OutOfOrder = 9, "out_of_order";
        /// The disk is full; the node takes batches again by itself when there is room.
        DiskFull = 64, "disk_full";
        /// A write to the shard's log failed; it refuses work until the node restarts.
        ShardPoisoned = 65, "shard_poisoned";
        /// The shard's queue is full.
        Overloaded = 66, "overloaded";
        /// An earlier batch of this producer was refused and has not come again.
        AfterRefused = 67, "after_refused";
        /// The node is stopping.
        ShuttingDown = 68, "shutting_down";
        /// The node failed in a way that has no code of its own.
        Internal = 69, "internal";
    }
}

impl RejectCode {
    /// Whether the same batch may be accepted later. A nack carries this too, so that an old client can act on a
    /// new code.
    pub fn retryable(self) -> bool {
        match self {
            Self::BadChecksum => true,
            other => (64..128).contains(&other.value()),
        }
    }
}

codes! {
    /// Why a lane ends. The number is the application error code of the QUIC stream or connection, and the reason of a
    /// goaway frame.
    CloseCode {
        /// Everything was settled.
        Done = 0, "done";
        /// A frame header has a wrong magic, checksum or a reserved bit: where the next frame starts is unknown.
        BadHeader = 1, "bad_header";
        /// No version in common, or a header version that is not known.
        UnsupportedVersion = 2, "unsupported_version";
        /// A frame type that is not known and must not be skipped.
        UnknownFrame = 3, "unknown_frame";
        /// A control frame whose payload cannot be read.
        MalformedFrame = 4, "malformed_frame";
        /// A frame longer than its type may ever be.
        FrameTooLarge = 5, "frame_too_large";
        /// A control frame whose payload checksum does not match.
        BadChecksum = 6, "bad_checksum";
        /// A frame that this side does not take, or not now.
        UnexpectedFrame = 7, "unexpected_frame";
        /// A batch of a producer that was not resumed on this lane.
        NotResumed = 8, "not_resumed";
        /// More producers on one lane than the node allows.
        TooManyProducers = 9, "too_many_producers";
        /// Nothing came for longer than the idle time, or no hello in time.
        IdleTimeout = 10, "idle_timeout";
        /// The node is stopping.
        ShuttingDown = 11, "shutting_down";
        /// The certificate may not write here, or not any more.
        NotAuthorised = 12, "not_authorised";
        /// More connections or lanes than the node allows.
        TooManyLanes = 13, "too_many_lanes";
        /// The same identity connected again, or a producer was resumed on a newer lane; the older one ends.
        Superseded = 14, "superseded";
        /// The node failed in a way that has no code of its own.
        Internal = 15, "internal";
        /// Far more batches without an acknowledgement than the welcome allows.
        WindowExceeded = 16, "window_exceeded";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_come_back_from_their_numbers() {
        for &code in RejectCode::ALL {
            assert_eq!(RejectCode::from_value(code.value()), code);
        }
        for &code in CloseCode::ALL {
            assert_eq!(CloseCode::from_value(code.value()), code);
        }
        assert_eq!(RejectCode::from_value(999), RejectCode::Unknown(999));
        assert_eq!(RejectCode::Unknown(999).to_string(), "unknown code 999");
    }

    #[test]
    fn what_the_batch_itself_did_wrong_is_permanent() {
        assert!(!RejectCode::Malformed.retryable() && !RejectCode::TypeConflict.retryable());
        assert!(RejectCode::DiskFull.retryable() && RejectCode::AfterRefused.retryable());
        assert!(RejectCode::BadChecksum.retryable());
    }
}
