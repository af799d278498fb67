//! Owns comparing a node with the model: every row bit by bit, and answers of every kind.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use tidewell_codec::{Tier, encode_batch};
use tidewell_engine::clock::Clock;
use tidewell_engine::stepped::Step;
use tidewell_engine::storage::Memory;
use tidewell_engine::{
    Append, AppendSink, Durability, Engine, EngineConfig, ProducerId, Refusal, Rows, SeqNo, Skipped, Snapshot,
};
use tidewell_query::{AnswerBatch, AnswerColumn, Query, QueryLimits, QueryOptions, Request};

use crate::model::{DAY_NS, Model};
use crate::rows::{Fields, Row, Value, batch, from_scan, value};

/// What a node answers for all rows of a device, forwards and from the newest back.
fn scan(snapshot: &Snapshot, table: &str, device: &str) -> Result<Vec<(i64, Fields)>, String> {
    let Some(view) = snapshot.table(table) else { return Ok(Vec::new()) };
    let names: Vec<String> = view.schema().fields.iter().map(|field| field.name.to_string()).collect();
    let fields: Vec<usize> = (0..names.len()).collect();
    let (mut all, mut rows) = (Vec::new(), Rows::default());
    let failed = |error| format!("scan of {device} in {table}: {error}");
    for part in view.scan(device, i64::MIN, i64::MAX, &fields).map_err(failed)? {
        part.load(&mut rows).map_err(failed)?;
        all.extend(from_scan(&rows, &names));
    }
    let mut newest = view.scan_back(&device.into(), i64::MAX, &fields.into());
    let mut back = Vec::new();
    while let Some(part) = newest.next_part().map_err(failed)? {
        part.load(&mut rows).map_err(failed)?;
        back.extend(from_scan(&rows, &names).into_iter().rev());
    }
    back.reverse();
    if back != all {
        return Err(format!("rows of {device} in {table} from the newest back are not those from the oldest on"));
    }
    Ok(all)
}

/// The first difference between all rows of the node and of the model.
pub fn rows(snapshot: &Snapshot, model: &Model) -> Result<(), String> {
    let mut tables: BTreeSet<String> = snapshot.tables().iter().map(|table| table.name.to_string()).collect();
    tables.extend(model.tables.keys().cloned());
    for table in &tables {
        let expected = model.devices(table);
        let mut found = BTreeSet::new();
        if let Some(view) = snapshot.table(table) {
            found.extend(
                view.devices().map_err(|e| format!("devices of {table}: {e}"))?.iter().map(ToString::to_string),
            );
        }
        if let Some(device) = expected.difference(&found).next() {
            return Err(format!("device {device} has rows in {table} and is not listed"));
        }
        for device in found.union(&expected) {
            same(table, device, &model.rows(table, device), &scan(snapshot, table, device)?)?;
        }
        if let Some(device) = found.difference(&expected).next() {
            return Err(format!("device {device} is listed in {table} and has no row there"));
        }
    }
    Ok(())
}

fn same(table: &str, device: &str, expected: &[(i64, Fields)], found: &[(i64, Fields)]) -> Result<(), String> {
    let differs = (0..expected.len().max(found.len())).find(|&at| expected.get(at) != found.get(at));
    let Some(at) = differs else { return Ok(()) };
    let side = |rows: &[(i64, Fields)]| rows.get(at).map_or("no row".to_owned(), |row| format!("{row:?}"));
    Err(format!(
        "{device} in {table}: expected {} rows, found {}; the first difference at row {at}: expected {}, found {}",
        expected.len(),
        found.len(),
        side(expected),
        side(found)
    ))
}

struct Deaf;

impl AppendSink for Deaf {
    fn settled(&self, _: u64, outcome: Result<(), Refusal>) {
        outcome.expect("a disk without faults takes every batch");
    }
}

/// That the node holds to the policies of the model.
pub fn policies(engine: &Engine, model: &Model) -> Result<(), String> {
    for table in engine.tables() {
        let Some(expected) = model.tables.get(&*table.schema.name) else { continue };
        let days = table.retention.raw_ns.map(|ns| ns / DAY_NS as u64);
        if (days, table.cut_off) != (expected.kept_days, expected.cut_off) {
            return Err(format!(
                "table {}: expected {:?} days and cut-off {:?}, found {days:?} and {:?}",
                table.schema.name, expected.kept_days, expected.cut_off, table.cut_off
            ));
        }
    }
    Ok(())
}

/// A node that has the rows of the model in memory and nothing anywhere else.
pub fn reference(model: &Model, clock: &Arc<dyn Clock>) -> Engine {
    let config = EngineConfig { shards: Some(1), compaction: false, block_cache_bytes: 0, ..EngineConfig::default() };
    let opened = Engine::open_stepped(Arc::new(Memory::new()), config, Arc::clone(clock));
    let engine = opened.expect("an empty disk without faults opens").0;
    let mut seq = 0;
    for (name, table) in &model.tables {
        let rows: Vec<Row> = table
            .rows
            .iter()
            .map(|((device, time), fields)| Row { device: device.clone(), time: *time, fields: fields.clone() })
            .collect();
        if rows.is_empty() {
            continue;
        }
        seq += 1;
        let batch = batch(name, &rows);
        let mut payload = Vec::new();
        encode_batch(&batch, Tier::Hot, &mut payload);
        engine.check(&batch, clock.now_ns()).expect("rows of a model fit");
        let append = Append {
            producer: ProducerId(1),
            seq: SeqNo(seq),
            payload: Bytes::from(payload),
            batch,
            received_ns: clock.now_ns(),
            durability: Durability::Durable,
            ticket: 0,
            sink: Arc::new(Deaf),
        };
        engine.append(append).expect("an empty queue has room");
        engine.step(Step::Group(0)).expect("a group is no merge");
    }
    engine
}

/// Asks both the same; the first difference.
pub fn answers(snapshot: &Snapshot, reference: &Snapshot, request: &str) -> Result<usize, String> {
    let expected = ask(reference, request)?;
    let found = ask(snapshot, request)?;
    match (expected, found) {
        // Fields that only deleted rows had are unknown to a node that never had them.
        (None, _) | (_, None) => Ok(0),
        (Some(expected), Some(found)) => {
            let rows = expected.len();
            let differs = (0..rows.max(found.len())).find(|&at| expected.get(at) != found.get(at));
            differs.map_or(Ok(rows), |at| {
                Err(format!(
                    "{request}: expected {rows} rows, found {}; at row {at} expected {:?}, found {:?}",
                    found.len(),
                    expected.get(at),
                    found.get(at)
                ))
            })
        }
    }
}

/// The answer as text, a line a row; `None` when the request does not fit the tables.
fn ask(snapshot: &Snapshot, request: &str) -> Result<Option<Vec<String>>, String> {
    let limits = QueryLimits { threads: 1, ..QueryLimits::default() };
    let options = QueryOptions { limits, ..QueryOptions::default() };
    let parsed = Request::parse(request.as_bytes()).map_err(|e| format!("{request}: {e}"))?;
    let skipped = Arc::new(Skipped::default());
    let Ok(query) = Query::prepare(&snapshot.clone().going_without(Arc::clone(&skipped)), &parsed, options) else {
        return Ok(None);
    };
    let answer = query.run().map_err(|e| format!("{request}: {e}"))?;
    let mut lines = Vec::new();
    for batch in answer {
        lines.extend(lines_of(&batch.map_err(|e| format!("{request}: {e}"))?));
    }
    if !skipped.is_empty() {
        return Err(format!("{request}: the answer went without {:?} on a disk without rot", skipped.places().0));
    }
    Ok(Some(lines))
}

fn lines_of(batch: &AnswerBatch) -> Vec<String> {
    let cell = |column: &AnswerColumn, row: usize| {
        let column = match column {
            AnswerColumn::Names(names) => return names.get(row).map_or(String::new(), ToString::to_string),
            AnswerColumn::Values(column) => column,
        };
        match value(column, row) {
            None => "null".to_owned(),
            Some(Value::F64(bits)) if f64::from_bits(bits).is_nan() => "NaN".to_owned(),
            Some(Value::F64(bits)) => format!("{}#{bits:x}", f64::from_bits(bits)),
            Some(Value::I64(v)) => v.to_string(),
            Some(Value::Bool(v)) => v.to_string(),
            Some(Value::Utf8(v)) => format!("{v:?}"),
        }
    };
    (0..batch.rows).map(|row| batch.columns.iter().map(|c| cell(c, row)).collect::<Vec<_>>().join(" ")).collect()
}
