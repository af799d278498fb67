//! Who may connect, ask and act, and how refusals read.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt};
use arrow_flight::{Action, FlightDescriptor, Ticket};
use bytes::Bytes;
use futures::TryStreamExt;
use prost::Message;
use tidewell_query::flight::{ClientError, ClientOptions, FlightLimits, QueryClient};
use tonic::Code;

use crate::support::{Authority, Script, Server, ask, refused, schema};

async fn server() -> (Arc<Script>, Server) {
    let store = Arc::new(Script::default());
    let server = Server::start(store.clone(), FlightLimits::default()).await;
    (store, server)
}

fn text(results: &[Bytes]) -> Vec<String> {
    results.iter().map(|r| String::from_utf8(r.to_vec()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_tokens_both_name_a_caller() {
    let (_, server) = server().await;
    for client in [server.admin().await, server.reader().await, server.bearer("secret").await] {
        let batches = client.query(&ask("tiny")).await.unwrap().collect().await.unwrap();
        assert_eq!(batches.iter().map(|b| b.num_rows()).sum::<usize>(), 30);
    }
    let nobody = QueryClient::connect(server.options(None)).await.unwrap();
    assert_eq!(refused(nobody.query(&ask("tiny")).await).0, Code::Unauthenticated);
    let wrong = server.bearer("wrong").await;
    let (code, words) = refused(wrong.action("stats", "").await);
    assert_eq!((code, words.as_str()), (Code::Unauthenticated, "unknown token"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_authority_is_not_let_in() {
    let (_, server) = server().await;
    let stranger = Authority::new().certify("admin");
    let failed = match QueryClient::connect(server.options(Some(&stranger))).await {
        // TLS 1.3 lets the client finish first; the refusal then meets the first call.
        Ok(client) => client.query(&ask("tiny")).await.err().unwrap(),
        Err(error) => error,
    };
    assert!(!matches!(failed, ClientError::Refused { code: Code::NotFound, .. }), "{failed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_check_the_node() {
    let (_, server) = server().await;
    let options = ClientOptions { authority_pem: Some(Authority::new().pem), ..server.options(None) };
    let error = QueryClient::connect(options).await.unwrap_err();
    assert!(error.to_string().contains("cannot connect"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_is_kept_per_connection_until_grants_change() {
    let (_, server) = server().await;
    let client = server.admin().await;
    client.action("stats", "").await.unwrap();
    client.action("stats", "").await.unwrap();
    assert_eq!(server.callers.asked.load(Ordering::SeqCst), 1);

    server.callers.revoked.store(true, Ordering::SeqCst);
    server.callers.generation.fetch_add(1, Ordering::SeqCst);
    let (code, words) = refused(client.action("stats", "").await);
    assert_eq!((code, words.as_str()), (Code::Unauthenticated, "the certificate is revoked"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn actions_need_their_role() {
    let (store, server) = server().await;
    let (admin, reader, writer) = (server.admin().await, server.reader().await, server.bearer("writes").await);

    assert_eq!(text(&admin.action("flush", "").await.unwrap()), [r#"{"flushed":true}"#]);
    for name in ["flush", "compact"] {
        assert_eq!(refused(reader.action(name, "").await).0, Code::PermissionDenied);
        assert_eq!(refused(writer.action(name, "").await).0, Code::PermissionDenied);
    }
    assert_eq!(store.flushed.load(Ordering::SeqCst), 1);

    for (name, body) in [
        ("delete", r#"{"device": "truck_1"}"#),
        ("retention.set", r#"{"table": "tiny", "raw": "1d"}"#),
        ("table.drop", r#"{"table": "tiny"}"#),
        ("table.rename", r#"{"from": "tiny", "to": "small"}"#),
    ] {
        for client in [&reader, &writer] {
            let (code, words) = refused(client.action(name, body).await);
            assert_eq!(code, Code::PermissionDenied);
            assert!(words.contains(name), "{words}");
        }
    }
    let body = r#"{"devices": ["truck_1", "truck_2"], "table": "tiny", "start": "1970-01-01T00:00:01Z"}"#;
    assert_eq!(text(&admin.action("delete", body).await.unwrap()), [r#"{"deleted":2}"#]);
    {
        let deleted = store.deleted.lock();
        assert_eq!((deleted.len(), &*deleted[1].device), (2, "truck_2"));
        assert_eq!(deleted[0].range, Some((1_000_000_000, i64::MAX)));
    }
    for (body, words) in [("{}", "expected device or devices"), (r#"{"device": "d", "from": 1}"#, "unknown field")] {
        let (code, found) = refused(admin.action("delete", body).await);
        assert_eq!(code, Code::InvalidArgument);
        assert!(found.contains(words), "{found}");
    }

    let body = r#"{"device": "truck_1", "attributes": {"fleet": "south"}}"#;
    assert_eq!(refused(reader.action("describe", body).await).0, Code::PermissionDenied);
    assert_eq!(text(&writer.action("describe", body).await.unwrap()), [r#"{"described":"truck_1"}"#]);
    let foreign = r#"{"device": "pump_1", "attributes": {}}"#;
    let (code, words) = refused(writer.action("describe", foreign).await);
    assert_eq!(code, Code::PermissionDenied);
    assert!(words.contains("pump_1"), "{words}");
    assert_eq!(store.described.lock().len(), 1);
    assert_eq!(refused(writer.query(&ask("tiny")).await).0, Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_lists_what_the_caller_may_read() {
    let (_, server) = server().await;
    let (admin, reader) = (server.admin().await, server.reader().await);
    assert_eq!(admin.action("devices", "").await.unwrap().len(), 3);
    let seen = text(&reader.action("devices", r#"{"glob": "*_1"}"#).await.unwrap());
    assert_eq!(
        seen,
        [concat!(
            r#"{"id":"truck_1","attributes":{"fleet":"north"},"first_seen":"1970-01-01T00:00:00.000000000Z","#,
            r#""last_seen":"1970-01-01T00:00:01.500000000Z"}"#
        )]
    );
    for body in [r#"{"globs": "*"}"#, "[", r#"{"glob": "[a"}"#] {
        assert_eq!(refused(reader.action("devices", body).await).0, Code::InvalidArgument, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_data_loss_with_file_and_offset() {
    let (_, server) = server().await;
    let (code, words) = refused(server.admin().await.action("compact", "").await);
    assert_eq!(code, Code::DataLoss);
    assert!(words.contains("seg/9.seg") && words.contains("512"), "{words}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_and_schemas_agree_with_answers() {
    let (_, server) = server().await;
    let (admin, reader) = (server.admin().await, server.reader().await);
    let names = |flights: Vec<arrow_flight::FlightInfo>| {
        let name = |f: arrow_flight::FlightInfo| f.flight_descriptor.unwrap().path.join("/");
        flights.into_iter().map(name).collect::<Vec<String>>()
    };
    assert_eq!(names(admin.tables().await.unwrap()), ["other", "tiny"]);
    // No device that this caller may read has rows in `other`.
    assert_eq!(names(reader.tables().await.unwrap()), ["tiny"]);

    let listed = reader.tables().await.unwrap().remove(0);
    let path = listed.flight_descriptor.clone().unwrap();
    let info = reader.flight().unwrap().get_flight_info(path.clone()).await.unwrap();
    assert_eq!(listed.endpoint, info.endpoint);
    assert_eq!(info.endpoint.len(), 1);
    assert!(info.endpoint[0].location.is_empty());
    assert_eq!(info.clone().try_decode_schema().unwrap(), *schema());
    assert_eq!(reader.flight().unwrap().get_schema(path).await.unwrap(), *schema());

    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let answer = reader.flight().unwrap().do_get(ticket).await.unwrap();
    let batches: Vec<_> = answer.try_collect().await.unwrap();
    assert_eq!(batches[0].schema(), schema());

    let question = ask("tiny");
    let info = reader.info(&question).await.unwrap();
    assert_eq!(info.endpoint[0].ticket, Some(Ticket::new(question.clone())));
    assert_eq!(reader.schema(&question).await.unwrap(), *schema());
    assert_eq!(refused(reader.schema(&ask("missing")).await).0, Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_answer_still_has_its_schema() {
    let (_, server) = server().await;
    let mut answer = server.admin().await.query(&ask("empty")).await.unwrap();
    assert!(answer.next().await.unwrap().is_none());
    assert_eq!(answer.schema(), Some(&schema()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_names_the_next_step() {
    let (_, server) = server().await;
    let client = server.admin().await;
    let flight = || client.flight().unwrap();
    let sql = CommandStatementQuery { query: "SELECT 1".into(), transaction_id: None }.as_any().encode_to_vec();

    let words = |error: arrow_flight::error::FlightError| refused::<()>(Err(error.into()));
    let (code, text) = words(flight().get_flight_info(FlightDescriptor::new_cmd(sql.clone())).await.unwrap_err());
    assert_eq!(code, Code::Unimplemented);
    assert!(text.contains("SQL is not available in this version"), "{text}");
    let (code, _) = words(flight().do_get(Ticket::new(sql)).await.err().unwrap());
    assert_eq!(code, Code::Unimplemented);

    let (code, text) = words(flight().handshake("").await.unwrap_err());
    assert!(code == Code::Unimplemented && text.contains("authorization: Bearer"), "{text}");
    let (code, _) = words(flight().do_exchange(futures::stream::empty()).await.err().unwrap());
    assert_eq!(code, Code::Unimplemented);
    let (code, text) = words(flight().poll_flight_info(FlightDescriptor::new_cmd("{}")).await.unwrap_err());
    assert!(code == Code::Unimplemented && text.contains("GetFlightInfo"), "{text}");
    let (code, text) = words(flight().do_action(Action::new("rules.put", "")).await.err().unwrap());
    assert!(code == Code::Unimplemented && text.contains("this version has flush"), "{text}");

    let listed: Vec<_> = flight().list_actions().await.unwrap().try_collect().await.unwrap();
    let names: Vec<&str> = listed.iter().map(|a| a.r#type.as_str()).collect();
    assert_eq!(names[..5], ["flush", "compact", "stats", "devices", "describe"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_in_questions_are_the_callers() {
    let (_, server) = server().await;
    let client = server.reader().await;
    for question in ["", "{", "{}", r#"{"range": {"table": "tiny"}}"#, r#"{"fly": {}}"#] {
        let (code, words) = refused(client.query(question).await);
        assert_eq!(code, Code::InvalidArgument, "{question}: {words}");
    }
    let (code, words) = refused(client.query(&ask("missing")).await);
    assert_eq!(code, Code::NotFound);
    assert!(words.contains("missing"), "{words}");
}
