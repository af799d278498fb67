//! Bulk rows by DoPut: durable when acknowledged, refused by name, never half a record batch.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::ipc::CompressionType;
use arrow::ipc::writer::IpcWriteOptions;
use arrow::record_batch::RecordBatch;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::{FlightData, FlightDescriptor, PutResult};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use tidewell_engine::storage::Memory;
use tidewell_query::flight::{ClientError, FlightLimits, QueryClient};
use tonic::Code;

use crate::queries::{Node, ask, rows, texts};
use crate::support::{Script, Server, refused};

fn sample(devices: &[&str], from: i64) -> RecordBatch {
    let times: Vec<i64> = (0..devices.len() as i64).map(|row| from + row).collect();
    let velocity: Vec<Option<f64>> = (0..devices.len()).map(|row| (row % 3 != 2).then_some(row as f64)).collect();
    RecordBatch::try_from_iter([
        ("device", Arc::new(StringArray::from(devices.to_vec())) as ArrayRef),
        ("time", Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"))),
        ("velocity", Arc::new(Float64Array::from(velocity))),
    ])
    .unwrap()
}

/// Sends record batches and returns the acknowledgements.
async fn put(
    client: &QueryClient,
    descriptor: Option<FlightDescriptor>,
    batches: Vec<RecordBatch>,
    options: IpcWriteOptions,
) -> Result<Vec<String>, ClientError> {
    let messages = FlightDataEncoderBuilder::new()
        .with_flight_descriptor(descriptor)
        .with_options(options)
        .build(stream::iter(batches.into_iter().map(Ok)));
    let results = client.flight()?.do_put(messages).await?;
    let acks = results.map_ok(|result| String::from_utf8(result.app_metadata.to_vec()).unwrap());
    Ok(acks.try_collect().await?)
}

async fn put_rows(client: &QueryClient, batches: Vec<RecordBatch>) -> Result<Vec<String>, ClientError> {
    put(client, Some(FlightDescriptor::new_path(vec!["trips".into()])), batches, IpcWriteOptions::default()).await
}

/// Sends a record batch whose buffers are said to lie behind the end of its message.
async fn put_cut(client: &QueryClient, table: FlightDescriptor) -> Result<Vec<PutResult>, ClientError> {
    let rows = stream::iter([Ok(sample(&["truck_1"; 50], 0))]);
    let whole = FlightDataEncoderBuilder::new().with_flight_descriptor(Some(table)).build(rows);
    let cut = whole
        .map_ok(|message| FlightData { data_body: message.data_body.slice(..message.data_body.len() / 2), ..message });
    let messages: Vec<FlightData> = cut.try_collect().await.unwrap();
    Ok(client.flight()?.do_put(stream::iter(messages.into_iter().map(Ok))).await?.try_collect().await?)
}

fn all() -> serde_json::Value {
    json!({"range": {"table": "trips", "start": i64::MIN, "end": i64::MAX}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_rows_are_durable_and_repeating_them_changes_nothing() {
    let node = Node::open(Memory::new());
    let server = node.serve().await;
    let client = server.admin().await;
    let devices = ["truck_2", "truck_1", "pump_1", "truck_1", "truck_2"];
    for _ in 0..2 {
        let acks = put_rows(&client, vec![sample(&devices, 0), sample(&devices, 100)]).await.unwrap();
        assert_eq!(acks, [r#"{"rows":5}"#, r#"{"rows":10}"#]);
        let batches = ask(&client, &all()).await;
        assert_eq!(rows(&batches), 10);
        assert_eq!(texts(&batches, "device")[..4], ["pump_1", "pump_1", "truck_1", "truck_1"]);
    }

    // What was acknowledged survives a process that just dies.
    let reopened = Node::open(node.storage.kill());
    let server = reopened.serve().await;
    assert_eq!(rows(&ask(&server.admin().await, &all()).await), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_record_batch_leaves_nothing_and_blocks_nobody() {
    let node = Node::open(Memory::new());
    let server = node.serve().await;
    let client = server.admin().await;
    put_rows(&client, vec![sample(&["truck_1"], 0)]).await.unwrap();

    let wrong: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let mut columns: Vec<(String, ArrayRef)> = vec![("velocity".into(), wrong)];
    let good = sample(&["truck_1", "truck_2"], 50);
    for name in ["device", "time"] {
        columns.push((name.into(), good.column_by_name(name).unwrap().clone()));
    }
    let conflict = RecordBatch::try_from_iter(columns).unwrap();
    let (code, words) = refused(put_rows(&client, vec![conflict]).await);
    assert_eq!(code, Code::InvalidArgument, "{words}");
    assert!(words.contains("velocity"), "{words}");

    let far = sample(&["truck_1"], 9_000_000_000_000_000);
    // Rows from the future are kept apart, and are in no answer.
    put_rows(&client, vec![good.clone(), far]).await.unwrap();
    assert_eq!(rows(&ask(&client, &all()).await), 3);
    for _ in 0..20 {
        put_rows(&client, vec![good.clone()]).await.unwrap();
    }
    // The engine remembers every producer for good, so calls share a few.
    assert!(node.engine.figures().iter().all(|shard| shard.producers <= 8), "{:?}", node.engine.figures());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_and_forgives() {
    let node = Node::open(Memory::new());
    let server = node.serve().await;
    let client = server.admin().await;
    node.storage.set_capacity(Some(0));
    for from in 0..3 {
        let (code, words) = refused(put_rows(&client, vec![sample(&["truck_1"; 5_000], from)]).await);
        assert_eq!(code, Code::ResourceExhausted, "{words}");
    }
    node.storage.set_capacity(None);
    // After a refusal the engine waits for that number of that producer: the next call must not be taken for it.
    for _ in 0..500 {
        match put_rows(&client, vec![sample(&["truck_1"], 0)]).await {
            Ok(_) => return,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    panic!("still refused 5 s after there is room again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_put_rows_of_their_devices_alone() {
    let node = Node::open(Memory::new());
    let server = node.serve().await;
    let (reader, writer) = (server.reader().await, server.bearer("writes").await);
    assert_eq!(refused(put_rows(&reader, vec![sample(&["truck_1"], 0)]).await).0, Code::PermissionDenied);
    let (code, words) = refused(put_rows(&writer, vec![sample(&["truck_1", "pump_1"], 0)]).await);
    assert_eq!(code, Code::PermissionDenied);
    assert!(words.contains("pump_1"), "{words}");
    assert!(server.admin().await.tables().await.unwrap().is_empty());
    put_rows(&writer, vec![sample(&["truck_1"], 0)]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_taken_is_named() {
    let node = Node::open(Memory::new());
    let server = node.serve().await;
    let client = server.admin().await;
    let table = || Some(FlightDescriptor::new_path(vec!["trips".into()]));
    let batch = || vec![sample(&["truck_1"; 500], 0)];
    let plain = IpcWriteOptions::default;

    let squeezed = plain().try_with_compression(Some(CompressionType::LZ4_FRAME)).unwrap();
    let (code, words) = refused(put(&client, table(), batch(), squeezed).await);
    assert!(code == Code::InvalidArgument && words.contains("compressed"), "{words}");
    let (code, words) = refused(put(&client, None, batch(), plain()).await);
    assert!(code == Code::InvalidArgument && words.contains("descriptor"), "{words}");
    let cmd = Some(FlightDescriptor::new_cmd(all().to_string()));
    let (code, words) = refused(put(&client, cmd, batch(), plain()).await);
    assert!(code == Code::InvalidArgument && words.contains("PATH"), "{words}");
    let messages = stream::iter([Ok(arrow_flight::FlightData::new()
        .with_descriptor(table().unwrap())
        .with_data_header(vec![0xff; 40]))]);
    let garbage = async {
        let results = client.flight().unwrap().do_put(messages).await?;
        results.collect::<Vec<_>>().await.into_iter().collect::<Result<Vec<_>, _>>()
    };
    let (code, _) = refused(garbage.await.map_err(ClientError::from));
    assert_eq!(code, Code::InvalidArgument);
    let (code, words) = refused(put_cut(&client, table().unwrap()).await);
    assert!(code == Code::InvalidArgument && words.contains("contradicts itself"), "{words}");
    assert!(client.tables().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_full_says_that_it_passes() {
    let server = Server::start(Arc::new(Script::default()), FlightLimits::default()).await;
    let client = server.admin().await;
    for _ in 0..10 {
        let (code, words) = refused(put_rows(&client, vec![sample(&["truck_1"], 0)]).await);
        assert_eq!((code, words.as_str()), (Code::Unavailable, "scripted"));
    }
}
