//! Owns how a question arrives: JSON in a ticket or a command, or the path of a table; does not check it against tables.

use arrow_flight::flight_descriptor::DescriptorType;
use arrow_flight::sql::Any;
use arrow_flight::{FlightDescriptor, Ticket};
use prost::Message;
use tonic::Status;

use super::status::query_status;
use crate::request::{DeviceSelection, OnDamage, RangeRequest, Request, Time};

/// The question in a ticket or command.
pub(crate) fn question(bytes: &[u8]) -> Result<Request, Status> {
    if bytes.is_empty() {
        return Err(Status::invalid_argument(
            "empty ticket: expected JSON such as {\"latest\": {\"table\": \"readings\"}}",
        ));
    }
    if let Some(command) = flight_sql_command(bytes) {
        return Err(no_sql(&command));
    }
    Request::parse(bytes).map_err(|error| query_status(&error))
}

/// Reads a descriptor, `CMD` with JSON or `PATH` with one table: the question, and the ticket that asks it.
pub(crate) fn asked(descriptor: &FlightDescriptor) -> Result<(Request, Ticket), Status> {
    let command = || Ok((question(&descriptor.cmd)?, Ticket::new(descriptor.cmd.clone())));
    match descriptor.r#type() {
        DescriptorType::Cmd => command(),
        DescriptorType::Path => match descriptor.path.as_slice() {
            [table] => {
                let request = whole_table(table);
                let ticket = ticket(&request);
                Ok((request, ticket))
            }
            path => Err(Status::invalid_argument(format!(
                "path of {} parts: expected exactly one, the name of a table",
                path.len()
            ))),
        },
        // Some clients fill `cmd` and leave the type unset.
        DescriptorType::Unknown if !descriptor.cmd.is_empty() => command(),
        DescriptorType::Unknown => {
            Err(Status::invalid_argument("descriptor without a type: expected CMD with JSON or PATH with a table"))
        }
    }
}

/// The question for all rows of a table.
pub(crate) fn whole_table(table: &str) -> Request {
    Request::Range(RangeRequest {
        table: table.to_owned(),
        devices: DeviceSelection::All,
        start: Time(i64::MIN),
        end: Time(i64::MAX),
        fields: None,
        condition: None,
        limit: None,
        damage: OnDamage::default(),
    })
}

/// The ticket that asks `request`.
pub(crate) fn ticket(request: &Request) -> Ticket {
    Ticket::new(serde_json::to_vec(request).expect("a request is plain data with string keys"))
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
        let json = "\n {\"latest\": {\"table\": \"t\"}}";
        let request = question(json.as_bytes()).unwrap();
        assert_eq!(request.table(), Some("t"));
        assert_eq!(asked(&FlightDescriptor::new_cmd(json)).unwrap(), (request, Ticket::new(json)));
    }

    #[test]
    fn a_path_asks_for_all_rows_and_its_ticket_asks_the_same() {
        let (request, ticket) = asked(&FlightDescriptor::new_path(vec!["t".into()])).unwrap();
        assert_eq!(request, whole_table("t"));
        assert_eq!(question(&ticket.ticket).unwrap(), request);
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
