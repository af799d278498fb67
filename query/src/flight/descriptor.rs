//! Owns how a question arrives: JSON in a ticket or a command, or the path of a table; does not parse the JSON.

use arrow_flight::FlightDescriptor;
use arrow_flight::flight_descriptor::DescriptorType;
use arrow_flight::sql::Any;
use prost::Message;
use tonic::Status;

/// A question is a few hundred bytes; lists of devices make it longer.
const QUESTION_BYTES_MAX: usize = 8 << 20;

/// The JSON text in a ticket or command.
pub(crate) fn question(bytes: &[u8]) -> Result<&str, Status> {
    if bytes.is_empty() {
        return Err(Status::invalid_argument(
            "empty ticket: expected JSON such as {\"latest\": {\"table\": \"readings\"}}",
        ));
    }
    if bytes.len() > QUESTION_BYTES_MAX {
        return Err(Status::invalid_argument(format!(
            "ticket of {} bytes: at most {QUESTION_BYTES_MAX} are read; use a glob or attributes for long device lists",
            bytes.len()
        )));
    }
    if let Some(command) = flight_sql_command(bytes) {
        return Err(no_sql(&command));
    }
    std::str::from_utf8(bytes).map_err(|error| {
        Status::invalid_argument(format!(
            "ticket is neither UTF-8 JSON nor Flight SQL: byte {} is not UTF-8",
            error.valid_up_to()
        ))
    })
}

/// What a descriptor asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The JSON of a question.
    Question(String),
    /// All rows of a table.
    Table(String),
}

/// Reads a descriptor: `CMD` with JSON, or `PATH` with one table.
pub(crate) fn asked(descriptor: &FlightDescriptor) -> Result<Asked, Status> {
    match descriptor.r#type() {
        DescriptorType::Cmd => Ok(Asked::Question(question(&descriptor.cmd)?.to_owned())),
        DescriptorType::Path => match descriptor.path.as_slice() {
            [table] => Ok(Asked::Table(table.clone())),
            path => Err(Status::invalid_argument(format!(
                "path of {} parts: expected exactly one, the name of a table",
                path.len()
            ))),
        },
        // Some clients fill `cmd` and leave the type unset.
        DescriptorType::Unknown if !descriptor.cmd.is_empty() => {
            Ok(Asked::Question(question(&descriptor.cmd)?.to_owned()))
        }
        DescriptorType::Unknown => {
            Err(Status::invalid_argument("descriptor without a type: expected CMD with JSON or PATH with a table"))
        }
    }
}

/// The answer to every Flight SQL command and action.
pub(crate) fn no_sql(command: &str) -> Status {
    Status::unimplemented(format!(
        "{command}: SQL is not available in this version; send a question as JSON in the ticket, such as \
         {{\"downsample\": {{\"table\": \"readings\", \"every\": \"1m\", …}}}}"
    ))
}

/// The name of the Flight SQL command in `bytes`, when they are one (a protobuf `Any`).
fn flight_sql_command(bytes: &[u8]) -> Option<String> {
    // 0x0a, the tag of `type_url`, is also a line feed, which JSON may begin with: so the name decides.
    if bytes.first() != Some(&0x0a) {
        return None;
    }
    let any = Any::decode(bytes).ok()?;
    any.type_url.strip_prefix("type.googleapis.com/arrow.flight.protocol.sql.").map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt};

    use super::*;

    #[test]
    fn json_is_taken_with_leading_white_space() {
        assert_eq!(question(b"\n {}").unwrap(), "\n {}");
        assert_eq!(asked(&FlightDescriptor::new_cmd("{}")).unwrap(), Asked::Question("{}".into()));
        assert_eq!(asked(&FlightDescriptor::new_path(vec!["t".into()])).unwrap(), Asked::Table("t".into()));
    }

    #[test]
    fn flight_sql_is_told_apart() {
        let command = CommandStatementQuery { query: "SELECT 1".into(), transaction_id: None };
        let status = question(&command.as_any().encode_to_vec()).unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unimplemented);
        assert!(status.message().starts_with("CommandStatementQuery: SQL is not available"), "{}", status.message());
    }

    #[test]
    fn what_is_neither_is_refused() {
        for bytes in [&b""[..], &[0x0a, 0xff, 0xff], &[0xff; 9]] {
            assert_eq!(question(bytes).unwrap_err().code(), tonic::Code::InvalidArgument);
        }
        assert!(asked(&FlightDescriptor::new_path(vec![])).is_err());
        assert!(asked(&FlightDescriptor::default()).is_err());
    }
}
