//! Owns the proof that a damaged file costs what it holds and nothing else, as users and operators see it: the real node
//! starts, answers, says what is missing, and is repaired.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use common::{Node, batch, run};
use serde_json::{Value, json};
use tidewell_ingest::client::{Client, ClientConfig};

const DEVICES: [&str; 3] = ["truck_1", "truck_2", "truck_3"];
const ROWS: usize = 1_000;

/// A stopped node's directory with one segment.
async fn fill(data: &Path) -> PathBuf {
    let node = Node::start(data, &["engine.shards=1"], None);
    let client = Client::connect(ClientConfig::new(node.ready.ingest), &node.material("dev")).await.unwrap();
    client.send(batch(&DEVICES, ROWS, 0)).await.unwrap().wait().await.unwrap();
    drop(client);
    node.terminate();
    let segments: Vec<_> = std::fs::read_dir(data.join("seg")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(segments.len(), 1, "{segments:?}");
    segments.into_iter().next().unwrap()
}

fn flip(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(file, bytes).unwrap();
}

/// All rows, and what the answer went without.
async fn ask(node: &Node, on_damage: &str) -> Result<(usize, Option<Value>), String> {
    let question = json!({"range": {"table": "readings", "start": 0, "end": i64::MAX, "damage": on_damage}});
    let client = node.query().await;
    let mut answer = client.query(&question.to_string()).await.map_err(|error| error.to_string())?;
    let mut rows = 0;
    while let Some(batch) = answer.next().await.map_err(|error| error.to_string())? {
        rows += batch.num_rows();
    }
    Ok((rows, answer.damage().cloned()))
}

fn health(node: &Node) -> (u16, Value) {
    let (status, body) = node.admin("/healthz");
    (status, serde_json::from_str(&body).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_block_is_named_by_everything_and_repaired() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let segment = fill(&data).await;
    // Behind the header, whose length is in it, is the data of the first device.
    let header = std::fs::read(&segment).unwrap()[12..16].try_into().unwrap();
    flip(&segment, u32::from_le_bytes(header) as usize + 4);

    let node = Node::start(&data, &["engine.shards=1"], None);
    let (rows, damage) = ask(&node, "skip").await.unwrap();
    assert_eq!(rows, (DEVICES.len() - 1) * ROWS);
    let damage = damage.expect("the answer says what is missing");
    assert_eq!((&damage["places"][0]["device"], &damage["places"][0]["rows"]), (&json!("truck_1"), &json!(ROWS)));
    let refused = ask(&node, "refuse").await.unwrap_err();
    assert!(refused.contains("DATA_LOSS") && refused.contains("offset"), "{refused}");
    let (status, body) = health(&node);
    assert_eq!((status, &body["status"], &body["damage"]["place_count"]), (200, &json!("degraded"), &json!(1)));
    assert_eq!(node.admin("/readyz").0, 200);
    assert_eq!(node.metric("tidewell_damaged_places"), 1);
    node.terminate();

    let data_dir = data.to_str().unwrap();
    assert_eq!(run(&["verify", data_dir]).code, Some(1));
    let planned = run(&["repair", data_dir, "--dry-run"]);
    assert!(planned.code == Some(1) && planned.out.contains("lost: table readings, device truck_1"), "{planned:?}");
    assert_eq!(run(&["verify", data_dir]).code, Some(1), "a dry run repairs nothing");
    let done = run(&["repair", data_dir, "--json"]);
    let report: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(
        (done.code, &report["rows_kept"], &report["lost"][0]["rows"]),
        (Some(1), &json!(2 * ROWS), &json!(ROWS))
    );
    assert_eq!(run(&["verify", data_dir]).code, Some(0));
    assert_eq!(run(&["repair", data_dir]).code, Some(0), "there is nothing left to repair");
    assert!(data.join("lost").join(segment.file_name().unwrap()).exists());

    let node = Node::start(&data, &["engine.shards=1"], None);
    assert_eq!(ask(&node, "refuse").await.unwrap(), ((DEVICES.len() - 1) * ROWS, None));
    assert_eq!(health(&node).1["status"], json!("ok"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_that_cannot_be_opened_does_not_stop_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let segment = fill(&data).await;
    flip(&segment, std::fs::metadata(&segment).unwrap().len() as usize - 40);

    let node = Node::start(&data, &["engine.shards=1"], None);
    let (rows, damage) = ask(&node, "skip").await.unwrap();
    assert!(rows == 0 && damage.is_some(), "{rows} {damage:?}");
    assert_eq!(node.metric("tidewell_segments_set_aside"), 1);
    // What comes now is served.
    let client = Client::connect(ClientConfig::new(node.ready.ingest), &node.material("dev")).await.unwrap();
    client.send(batch(&["truck_9"], 10, 0)).await.unwrap().wait().await.unwrap();
    assert_eq!(ask(&node, "skip").await.unwrap().0, 10);
    drop(client);
    node.terminate();

    // One byte of the trailer is all that is wrong.
    let done = run(&["repair", data.to_str().unwrap()]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let node = Node::start(&data, &["engine.shards=1"], None);
    assert_eq!(ask(&node, "refuse").await.unwrap(), (DEVICES.len() * ROWS + 10, None));
}
