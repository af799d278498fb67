//! Owns which gRPC status an error becomes; does not make the errors.
//!
//! The caller's faults are INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED and UNAUTHENTICATED; damaged files are
//! DATA_LOSS with file and offset; what passes by itself is UNAVAILABLE or RESOURCE_EXHAUSTED. INTERNAL is a defect.

use tidewell_engine::{Error, Refusal, RefusalCode};
use tonic::{Code, Status};

use crate::error::{Fault, QueryError};

/// The status of a query's error.
pub(crate) fn query_status(error: &QueryError) -> Status {
    let code = match error.fault() {
        _ if let QueryError::Engine(error) = error => return engine_status(error),
        Fault::Caller => Code::InvalidArgument,
        Fault::NotFound => Code::NotFound,
        Fault::Limit => Code::ResourceExhausted,
        Fault::Stopped if matches!(error, QueryError::TimedOut { .. }) => Code::DeadlineExceeded,
        Fault::Stopped => Code::Cancelled,
        Fault::Unsupported => Code::Unimplemented,
        Fault::Node => Code::Internal,
    };
    if code == Code::Internal {
        tracing::error!(%error, "a query failed by a defect");
    }
    Status::new(code, error.to_string())
}

/// The status of a refused batch.
pub(crate) fn refusal_status(refusal: &Refusal) -> Status {
    let code = match refusal.code {
        RefusalCode::DiskFull => Code::ResourceExhausted,
        code if code.retryable() => Code::Unavailable,
        _ => Code::InvalidArgument,
    };
    Status::new(code, refusal.message.clone())
}

/// The status of an engine error.
pub(crate) fn engine_status(error: &Error) -> Status {
    let code = match error {
        Error::Corruption { .. } => Code::DataLoss,
        Error::NewerFormat { .. } => Code::FailedPrecondition,
        Error::Io { .. } if error.is_disk_full() => Code::ResourceExhausted,
        Error::Memory(_) => Code::ResourceExhausted,
        Error::Io { .. } | Error::Poisoned { .. } | Error::Locked => Code::Unavailable,
        Error::RowsGone { .. } => Code::OutOfRange,
        Error::Invalid(_) => Code::InvalidArgument,
    };
    if code == Code::DataLoss {
        tracing::error!(%error, "damaged data met by a query");
    }
    Status::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_names_file_and_offset() {
        let status = engine_status(&Error::corruption("seg/7.seg", 4096, "checksum 1", "checksum 2"));
        assert_eq!(status.code(), Code::DataLoss);
        assert!(status.message().contains("seg/7.seg") && status.message().contains("4096"), "{}", status.message());
    }

    #[test]
    fn a_full_disk_passes() {
        let full = Error::io("write", "log/1")(std::io::ErrorKind::StorageFull.into());
        assert_eq!(engine_status(&full).code(), Code::ResourceExhausted);
        let broken = Error::io("read", "log/1")(std::io::ErrorKind::Other.into());
        assert_eq!(engine_status(&broken).code(), Code::Unavailable);
    }
}
