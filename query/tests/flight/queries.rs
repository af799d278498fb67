//! Questions to a real engine through the query address: answers, schemas, grants, damage, departures.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::{DurationNanosecondType, Float64Type, Int64Type, TimestampNanosecondType};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use serde_json::{Value, json};
use tidewell_codec::{Batch, BatchField, Bitmap, Column, DeviceRuns, Text, Tier, Values, encode_batch};
use tidewell_engine::clock::SystemClock;
use tidewell_engine::storage::Memory;
use tidewell_engine::{Append, AppendSink, Durability, Engine, EngineConfig, ProducerId, Refusal, SeqNo};
use tidewell_query::QueryLimits;
use tidewell_query::flight::{EngineStore, FlightLimits, QueryClient};
use tonic::Code;

use crate::support::{Server, eventually, refused};

const SECOND: i64 = 1_000_000_000;
/// 2024-01-01T00:00:00Z.
const START: i64 = 1_704_067_200 * SECOND;

/// Counts acknowledgements.
#[derive(Default)]
struct Acks(Mutex<Vec<Result<(), Refusal>>>, Condvar);

impl AppendSink for Acks {
    fn settled(&self, _: u64, outcome: Result<(), Refusal>) {
        self.0.lock().push(outcome);
        self.1.notify_all();
    }
}

/// An engine in memory.
pub struct Node {
    pub storage: Memory,
    pub engine: Arc<Engine>,
    seq: u64,
}

impl Node {
    pub fn open(storage: Memory) -> Self {
        // Rows of days come at the beginning of the first, and none of them counts as one from the future.
        let max_future = Duration::from_secs(30 * 86_400);
        let config = EngineConfig { shards: Some(2), compaction: false, max_future, ..EngineConfig::default() };
        let (engine, _) = Engine::open(Arc::new(storage.clone()), config, Arc::new(SystemClock)).unwrap();
        Self { storage, engine: Arc::new(engine), seq: 0 }
    }

    /// Sends rows of one device and waits for the acknowledgement.
    fn send(&mut self, device: &str, times: Vec<i64>, fields: Vec<(&str, Column)>) {
        let mut devices = DeviceRuns::default();
        devices.push(device, times.len() as u32);
        let fields = fields.into_iter().map(|(name, column)| BatchField { name: name.into(), column }).collect();
        let batch = Batch { table: "readings".into(), devices, times, fields };
        self.engine.check(&batch, i64::MAX / 2).unwrap();
        let mut payload = Vec::new();
        encode_batch(&batch, Tier::Hot, &mut payload);
        let acks = Arc::new(Acks::default());
        self.seq += 1;
        self.engine
            .append(Append {
                producer: ProducerId(u128::from(self.seq)),
                seq: SeqNo(1),
                payload: Bytes::from(payload),
                batch,
                received_ns: START,
                durability: Durability::Durable,
                ticket: 1,
                sink: acks.clone(),
            })
            .unwrap();
        let mut settled = acks.0.lock();
        while settled.is_empty() {
            acks.1.wait(&mut settled);
        }
        settled.pop().unwrap().unwrap();
    }

    /// Rows `range` of a device: one row in 10 s, `velocity` = row % 100 (null in every tenth), `status` = row / 1000.
    fn drive(&mut self, device: &str, rows: std::ops::Range<usize>) {
        let times = rows.clone().map(|row| START + row as i64 * 10 * SECOND).collect();
        let velocity = Values::F64(rows.clone().map(|row| (row % 100) as f64).collect());
        let validity: Bitmap = rows.clone().map(|row| row % 10 != 9).collect();
        let mut notes = Text::default();
        rows.clone().for_each(|row| notes.push(if row % 2 == 0 { "grün" } else { "" }));
        self.send(
            device,
            times,
            vec![
                ("velocity", Column { values: velocity, validity: Some(validity) }),
                (
                    "status",
                    Column { values: Values::I64(rows.clone().map(|r| r as i64 / 1000).collect()), validity: None },
                ),
                ("moving", Column { values: Values::Bool(rows.clone().map(|r| r % 3 == 0).collect()), validity: None }),
                ("note", Column { values: Values::Utf8(notes), validity: None }),
            ],
        );
    }

    pub async fn serve(&self) -> Server {
        let store = EngineStore::new(self.engine.clone(), QueryLimits::default());
        Server::start(Arc::new(store), FlightLimits::default()).await
    }
}

/// A day of `truck_1`, half of it in a segment, and a little of two others.
fn day() -> Node {
    let mut node = Node::open(Memory::new());
    node.drive("truck_1", 0..4000);
    node.drive("pump_1", 0..50);
    node.engine.flush().unwrap();
    node.drive("truck_1", 4000..8640);
    node.drive("truck_2", 0..20);
    node
}

pub async fn ask(client: &QueryClient, question: &Value) -> Vec<RecordBatch> {
    client.query(&question.to_string()).await.unwrap().collect().await.unwrap()
}

pub fn rows(batches: &[RecordBatch]) -> usize {
    batches.iter().map(RecordBatch::num_rows).sum()
}

fn floats(batches: &[RecordBatch], name: &str) -> Vec<Option<f64>> {
    let column = |b: &RecordBatch| b.column_by_name(name).unwrap().as_primitive::<Float64Type>().iter().collect();
    batches.iter().flat_map(|b| -> Vec<_> { column(b) }).collect()
}

fn integers(batches: &[RecordBatch], name: &str) -> Vec<i64> {
    let column = |b: &RecordBatch| b.column_by_name(name).unwrap().as_primitive::<Int64Type>().values().to_vec();
    batches.iter().flat_map(column).collect()
}

fn times(batches: &[RecordBatch], name: &str) -> Vec<i64> {
    let column =
        |b: &RecordBatch| b.column_by_name(name).unwrap().as_primitive::<TimestampNanosecondType>().values().to_vec();
    batches.iter().flat_map(column).collect()
}

pub fn texts(batches: &[RecordBatch], name: &str) -> Vec<String> {
    let column = |b: &RecordBatch| -> Vec<String> {
        b.column_by_name(name).unwrap().as_string::<i32>().iter().map(|t| t.unwrap().to_owned()).collect()
    };
    batches.iter().flat_map(column).collect()
}

/// `body` over the whole day.
fn over_the_day(kind: &str, mut body: Value) -> Value {
    body["table"] = json!("readings");
    body["start"] = json!("2024-01-01T00:00:00Z");
    body["end"] = json!("2024-01-02T00:00:00Z");
    json!({ kind: body })
}

/// One question of each kind.
fn questions() -> Vec<Value> {
    vec![
        over_the_day("range", json!({"devices": ["truck_1"]})),
        over_the_day("range", json!({"fields": ["note", "velocity"], "where": "velocity > 50", "limit": 7})),
        json!({"latest": {"table": "readings"}}),
        over_the_day(
            "downsample",
            json!({"every": "1h", "fields": ["velocity", "status"], "aggregates": ["mean", "count"]}),
        ),
        over_the_day("downsample", json!({"every": "1h", "fields": ["velocity"], "group": "all"})),
        over_the_day("threshold", json!({"where": "velocity > 95 AND status = 2"})),
        over_the_day("threshold", json!({"where": "velocity > 95", "return": "rows"})),
        over_the_day("threshold", json!({"where": "velocity > 95", "return": "devices"})),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_give_back_what_was_sent() {
    let node = day();
    let server = node.serve().await;
    let client = server.admin().await;
    let batches = ask(&client, &over_the_day("range", json!({"devices": ["truck_1"]}))).await;
    assert_eq!(rows(&batches), 8640);
    assert!(times(&batches, "time").iter().enumerate().all(|(row, &time)| time == START + row as i64 * 10 * SECOND));
    let expected: Vec<Option<f64>> = (0..8640).map(|row| (row % 10 != 9).then_some((row % 100) as f64)).collect();
    assert_eq!(floats(&batches, "velocity"), expected);
    assert_eq!(integers(&batches, "status"), (0..8640).map(|row| row / 1000).collect::<Vec<i64>>());
    assert_eq!(texts(&batches, "note")[..3], ["grün", "", "grün"]);

    // All devices, ordered by device and time.
    let batches = ask(&client, &over_the_day("range", json!({"fields": ["velocity"]}))).await;
    let devices = texts(&batches, "device");
    assert_eq!(devices.len(), 50 + 8640 + 20);
    assert!(devices.is_sorted());
    assert_eq!(rows(&ask(&client, &over_the_day("range", json!({"limit": 60}))).await), 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn latest_downsample_and_threshold_answer() {
    let node = day();
    let server = node.serve().await;
    let client = server.admin().await;

    let batches = ask(&client, &json!({"latest": {"table": "readings", "fields": ["velocity"]}})).await;
    assert_eq!(texts(&batches, "device"), ["pump_1", "truck_1", "truck_2"]);
    // Row 49, 8639 and 19 have no velocity: the value is that of the row before, the time that of the newest row.
    assert_eq!(floats(&batches, "velocity"), [Some(48.0), Some(38.0), Some(18.0)]);
    assert_eq!(times(&batches, "time")[1], START + 8639 * 10 * SECOND);

    let question =
        json!({"every": "1h", "devices": ["truck_1"], "fields": ["velocity"], "aggregates": ["max", "count"]});
    let batches = ask(&client, &over_the_day("downsample", question)).await;
    assert_eq!(rows(&batches), 24);
    assert_eq!(integers(&batches, "velocity_count"), [324; 24]);
    assert_eq!(floats(&batches, "velocity_max")[0], Some(98.0));

    let question = json!({"devices": ["truck_1"], "where": "status = 2 AND velocity >= 98"});
    let batches = ask(&client, &over_the_day("threshold", question.clone())).await;
    // Rows 2098, 2198 … 2998 and, as a row without velocity does not match, one row each.
    assert_eq!(rows(&batches), 10);
    assert_eq!(times(&batches, "start")[0], START + 2098 * 10 * SECOND);
    assert_eq!(integers(&batches, "samples"), [1; 10]);
    let durations = batches[0].column_by_name("duration").unwrap();
    assert_eq!(durations.as_primitive::<DurationNanosecondType>().value(0), 0);
    assert_eq!(floats(&batches, "velocity_max"), [Some(98.0); 10]);

    let mut question = question;
    question["return"] = json!("devices");
    let batches = ask(&client, &over_the_day("threshold", question)).await;
    assert_eq!(integers(&batches, "matches"), [10]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schemas_agree_whichever_way_they_are_asked() {
    let node = day();
    let server = node.serve().await;
    let client = server.admin().await;
    for question in questions() {
        let text = question.to_string();
        let schema = client.schema(&text).await.unwrap();
        let info = client.info(&text).await.unwrap();
        assert_eq!(info.endpoint.len(), 1, "{text}");
        assert_eq!(info.try_decode_schema().unwrap(), schema, "{text}");
        let batches = ask(&client, &question).await;
        assert!(rows(&batches) > 0, "{text}");
        assert!(batches.iter().all(|b| *b.schema() == schema), "{text}");
    }
    let table = client.tables().await.unwrap().remove(0);
    let schema = client.schema(&over_the_day("range", json!({})).to_string()).await.unwrap();
    assert_eq!(table.clone().try_decode_schema().unwrap(), schema);
    let ticket = table.endpoint[0].ticket.clone().unwrap();
    let text = String::from_utf8(ticket.ticket.to_vec()).unwrap();
    assert_eq!(rows(&client.query(&text).await.unwrap().collect().await.unwrap()), 50 + 8640 + 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_do_not_change_with_flush_and_compaction() {
    let node = day();
    let server = node.serve().await;
    let client = server.admin().await;
    let mut before = Vec::new();
    for question in questions() {
        let batches = ask(&client, &question).await;
        before.push(arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap());
    }
    for action in ["flush", "compact"] {
        client.action(action, "").await.unwrap();
        for (question, before) in questions().iter().zip(&before) {
            let batches = ask(&client, question).await;
            let after = arrow::compute::concat_batches(&before.schema(), &batches).unwrap();
            assert_eq!(after, *before, "{question} after {action}");
        }
    }
    let stats: Value = serde_json::from_slice(&client.action("stats", "").await.unwrap()[0]).unwrap();
    assert_eq!(stats["tables"][0]["fields"]["velocity"], "f64");
    assert!(stats["shards"].as_array().unwrap().iter().all(|s| s["segments"] == 1), "{stats}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_sees_its_devices_alone() {
    let node = day();
    let server = node.serve().await;
    let client = server.reader().await;
    for question in questions() {
        for device in ask(&client, &question).await.iter().flat_map(|b| texts(std::slice::from_ref(b), "device")) {
            assert!(device.starts_with("truck_") || device == "all", "{question}: {device}");
        }
    }
    assert_eq!(rows(&ask(&client, &over_the_day("range", json!({"devices": ["pump_1"]}))).await), 0);
    assert_eq!(rows(&ask(&client, &over_the_day("range", json!({"devices": {"glob": "*_1"}}))).await), 8640);
    let question = json!({"every": "1d", "fields": ["velocity"], "aggregates": ["count"], "group": "all"});
    let counts = ask(&client, &over_the_day("downsample", question)).await;
    assert_eq!(integers(&counts, "velocity_count"), [7776 + 18]);
    assert_eq!(client.action("devices", "").await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn described_devices_are_found_by_attribute() {
    let node = day();
    let server = node.serve().await;
    let client = server.admin().await;
    let body = r#"{"device": "truck_2", "attributes": {"fleet": "north"}}"#;
    client.action("describe", body).await.unwrap();
    let question = over_the_day("range", json!({"devices": {"attributes": {"fleet": "north"}}}));
    assert_eq!(texts(&ask(&client, &question).await, "device"), vec!["truck_2"; 20]);
    let devices = client.action("devices", r#"{"glob": "truck_2"}"#).await.unwrap();
    let device: Value = serde_json::from_slice(&devices[0]).unwrap();
    assert_eq!(device["attributes"], json!({"fleet": "north"}));
    assert_eq!(device["first_seen"], "2024-01-01T00:00:00.000000000Z");
    let too_long = json!({"device": "truck_2", "attributes": {"x": "y".repeat(1 << 20)}}).to_string();
    assert_eq!(refused(client.action("describe", too_long).await).0, Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_say_whose_fault_and_what_there_is() {
    let node = day();
    let server = node.serve().await;
    let client = server.admin().await;
    let question = |body: Value| over_the_day("range", body).to_string();
    let mut unknown_table = over_the_day("range", json!({}));
    unknown_table["range"]["table"] = json!("reading");
    let cases = [
        (unknown_table.to_string(), Code::NotFound, "readings"),
        (question(json!({"fields": ["speed"]})), Code::NotFound, "velocity"),
        (question(json!({"where": "speed > 1"})), Code::InvalidArgument, "velocity"),
        (question(json!({"where": "velocity >"})), Code::InvalidArgument, "column"),
        (question(json!({"where": "velocity = 'x'"})), Code::InvalidArgument, "velocity"),
        (question(json!({"devices": {"glob": "[a"}})), Code::InvalidArgument, "devices"),
        (question(json!({"colour": 1})), Code::InvalidArgument, "colour"),
        (over_the_day("downsample", json!({"every": "0s"})).to_string(), Code::InvalidArgument, "window"),
        (
            over_the_day("downsample", json!({"every": "1h", "timezone": "Mars"})).to_string(),
            Code::InvalidArgument,
            "Mars",
        ),
        (over_the_day("downsample", json!({"every": "1ns"})).to_string(), Code::ResourceExhausted, "windows"),
        (r#"{"watch": {"rules": ["x"]}}"#.to_owned(), Code::Unimplemented, "watch"),
    ];
    for (question, code, word) in cases {
        // What is known before the first row is refused by every call alike.
        let (found, words) = match client.query(&question).await {
            Ok(answer) => refused(answer.collect().await),
            Err(error) => refused::<()>(Err(error)),
        };
        assert_eq!(found, code, "{question}: {words}");
        assert!(words.contains(word), "{question}: {words}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_blocks_are_left_out_by_name_or_refused_and_the_rest_answers() {
    let mut node = day();
    node.engine.flush().unwrap();
    node.engine.close().unwrap();
    let storage = node.storage.clone();
    drop(node.engine);
    for name in tidewell_engine::storage::Storage::list(&storage, "seg").unwrap() {
        let name = if name.starts_with("seg/") { name } else { format!("seg/{name}") };
        // Blocks come first, after a header of about 100 bytes; index and footer stay whole, or nothing would open.
        storage.damage(&name, |bytes| (512..bytes.len() / 2).for_each(|at| bytes[at] ^= 0x55));
    }
    node = Node::open(storage);
    node.drive("truck_9", 0..10);
    let server = node.serve().await;
    let client = server.admin().await;
    let all_or_nothing = over_the_day("range", json!({"devices": ["truck_1"], "damage": "refuse"}));
    let (code, words) = match client.query(&all_or_nothing.to_string()).await {
        Ok(answer) => refused(answer.collect().await),
        Err(error) => refused::<()>(Err(error)),
    };
    assert_eq!(code, Code::DataLoss, "{words}");
    assert!(words.contains("seg/") && words.contains("offset"), "{words}");
    assert_eq!(rows(&ask(&client, &over_the_day("range", json!({"devices": ["truck_9"]}))).await), 10);
    // Every kind of question goes without the blocks, and says so behind its rows.
    for (kind, more) in [
        ("range", json!({})),
        ("range", json!({"where": "velocity > 0"})),
        ("downsample", json!({"every": "1h"})),
        ("threshold", json!({"where": "velocity > 0"})),
        ("threshold", json!({"where": "velocity > 0", "return": "devices"})),
        ("threshold", json!({"where": "velocity > 0", "return": "rows"})),
    ] {
        let question = over_the_day(kind, more).to_string();
        let mut answer = client.query(&question).await.unwrap();
        while answer.next().await.unwrap_or_else(|error| panic!("{question}: {error}")).is_some() {}
        let places =
            answer.damage().unwrap_or_else(|| panic!("{question}: nothing is said of damage"))["places"].clone();
        let named = places.as_array().unwrap().iter().all(|place| place["path"].as_str().unwrap().starts_with("seg/"));
        assert!(named && places.to_string().contains("truck_1"), "{question}: {places}");
    }
    let mut answer = client.query(r#"{"latest": {"table": "readings"}}"#).await.unwrap();
    let mut latest = 0;
    while let Some(batch) = answer.next().await.unwrap() {
        latest += batch.num_rows();
    }
    assert!(latest >= 1, "the undamaged device is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_huge_scan_stops_when_its_client_leaves() {
    let mut node = Node::open(Memory::new());
    for device in 0..64 {
        node.drive(&format!("truck_{device:02}"), 0..30_000);
    }
    let server = node.serve().await;
    let client = server.reader().await;
    let all = json!({"range": {"table": "readings", "start": i64::MIN, "end": i64::MAX}});
    let mut answer = client.query(&all.to_string()).await.unwrap();
    assert!(answer.next().await.unwrap().is_some());
    assert_eq!(server.service.running_queries(), 1);
    drop(answer);
    eventually("its turn came back", || server.service.running_queries() == 0).await;

    // The memory of an answer that nobody reads stays bounded, and so it does not end by itself.
    let answer = client.query(&all.to_string()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(server.service.running_queries(), 1);
    let mut rows = 0;
    let mut answer = answer;
    while let Some(batch) = answer.next().await.unwrap() {
        rows += batch.num_rows();
    }
    assert_eq!(rows, 64 * 30_000);
}
