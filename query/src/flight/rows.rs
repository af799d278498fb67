//! Owns the way from record batches of a client to batches of the engine; does not append them.

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, AsArray, UInt32Array};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Float64Type, Int64Type, Schema, TimeUnit};
use arrow::record_batch::RecordBatch;
use tidewell_codec::{Batch, BatchField, BatchLimits, Bitmap, Column, DeviceRuns, FieldType, Text, Values, shard_of};
use tonic::Status;

use super::auth::Principal;
use crate::export::{DEVICE, TIME};

/// Rows of one engine batch: enough to make its overhead small, few enough to be one log record.
const BATCH_ROWS_MAX: usize = 16_384;
/// Decoded bytes of one engine batch, about.
const BATCH_BYTES: usize = 8 << 20;

/// Where the columns of a client's schema go.
#[derive(Debug)]
pub(crate) struct Incoming {
    table: String,
    device: usize,
    time: usize,
    fields: Vec<(usize, String, FieldType)>,
}

impl Incoming {
    /// Checks a client's schema. Only types whose memory is bounded by the bytes that came are taken: dictionaries and
    /// views let a small message stand for any amount of text.
    pub(crate) fn new(table: &str, schema: &Schema) -> Result<Self, Status> {
        let refuse = |what: String| Err(Status::invalid_argument(format!("DoPut into `{table}`: {what}")));
        let (mut device, mut time, mut fields) = (None, None, Vec::new());
        for (index, field) in schema.fields().iter().enumerate() {
            let found = field.data_type();
            if field.name() == DEVICE {
                if !matches!(found, DataType::Utf8 | DataType::LargeUtf8) {
                    return refuse(format!("column `device`: expected Utf8, found {found}"));
                }
                device = Some(index);
            } else if field.name() == TIME {
                if !matches!(found, DataType::Timestamp(..) | DataType::Int64) {
                    return refuse(format!("column `time`: expected Timestamp or Int64 nanoseconds, found {found}"));
                }
                time = Some(index);
            } else if *found != DataType::Null {
                // A column of nothing but nulls has no type yet: it sets nothing.
                let Some(field_type) = field_type(found) else {
                    return refuse(format!(
                        "column `{}`: expected Float64, Int64, Boolean or Utf8, found {found}; cast it before sending",
                        field.name()
                    ));
                };
                fields.push((index, field.name().clone(), field_type));
            }
        }
        match (device, time) {
            (Some(device), Some(time)) if !fields.is_empty() => {
                Ok(Self { table: table.to_owned(), device, time, fields })
            }
            (Some(_), Some(_)) => refuse("no field beside `device` and `time`".to_owned()),
            _ => refuse("expected the columns `device` and `time`".to_owned()),
        }
    }

    /// The engine batches of one record batch: each of one shard, a device's rows in their order.
    pub(crate) fn batches(
        &self,
        rows: &RecordBatch,
        shard_count: u32,
        caller: &Principal,
    ) -> Result<Vec<Batch>, Status> {
        let refuse = |what: String| Status::invalid_argument(format!("DoPut into `{}`: {what}", self.table));
        let column = |index: usize, data_type: &DataType| -> Result<ArrayRef, Status> {
            cast(rows.column(index), data_type)
                .map_err(|error| refuse(format!("column `{}`: {error}", rows.schema_ref().field(index).name())))
        };
        let times = match rows.schema_ref().field(self.time).data_type() {
            DataType::Timestamp(_, zone) => {
                // Casting between units checks for overflow; a missing zone means UTC.
                let nanoseconds = column(self.time, &DataType::Timestamp(TimeUnit::Nanosecond, zone.clone()))?;
                cast(&nanoseconds, &DataType::Int64).map_err(|error| refuse(format!("column `time`: {error}")))?
            }
            _ => rows.column(self.time).clone(),
        };
        let devices = column(self.device, &DataType::Utf8)?;
        for (name, array) in [(DEVICE, &devices), (TIME, &times)] {
            if let Some(row) = (0..array.len()).find(|&row| array.is_null(row)) {
                return Err(refuse(format!("column `{name}` is null or out of range in row {row}")));
            }
        }
        let mut fields = Vec::with_capacity(self.fields.len());
        for (index, name, field_type) in &self.fields {
            let whole = column(*index, &crate::export::data_type(*field_type))?;
            if whole.null_count() > rows.column(*index).null_count() {
                return Err(refuse(format!("column `{name}` holds values that do not fit {field_type}")));
            }
            fields.push((name, whole));
        }

        let bytes: usize = fields.iter().map(|(_, array)| array.get_buffer_memory_size()).sum();
        let row_bytes = bytes / rows.num_rows().max(1) + 16;
        let cells_max = BatchLimits::default().cells / fields.len().max(1);
        let rows_max = (BATCH_BYTES / row_bytes).min(cells_max).clamp(1, BATCH_ROWS_MAX);
        let mut batches = Vec::new();
        for order in by_shard(&devices, shard_count, caller)? {
            for part in order.chunks(rows_max) {
                let indices = UInt32Array::from(part.to_vec());
                let pick = |array: &ArrayRef| {
                    take(array, &indices, None).map_err(|error| Status::internal(format!("cannot pick rows: {error}")))
                };
                let mut batch = Batch {
                    table: self.table.clone(),
                    devices: runs(&pick(&devices)?),
                    times: pick(&times)?.as_primitive::<Int64Type>().values().to_vec(),
                    fields: Vec::with_capacity(fields.len()),
                };
                for (name, whole) in &fields {
                    batch.fields.push(BatchField { name: (*name).clone(), column: to_column(&pick(whole)?)? });
                }
                batch.check(&BatchLimits::default()).map_err(|error| refuse(error.to_string()))?;
                batches.push(batch);
            }
        }
        Ok(batches)
    }
}

/// The engine's type for what a client sends.
fn field_type(data_type: &DataType) -> Option<FieldType> {
    use DataType::*;
    Some(match data_type {
        Float64 | Float32 | Float16 => FieldType::F64,
        Int64 | Int32 | Int16 | Int8 | UInt64 | UInt32 | UInt16 | UInt8 => FieldType::I64,
        Boolean => FieldType::Bool,
        Utf8 | LargeUtf8 => FieldType::Utf8,
        _ => return None,
    })
}

/// Row numbers per shard, device by device in order of first appearance.
fn by_shard(devices: &ArrayRef, shard_count: u32, caller: &Principal) -> Result<Vec<Vec<u32>>, Status> {
    let devices = devices.as_string::<i32>();
    let mut slots: HashMap<&str, usize> = HashMap::new();
    let mut rows_of: Vec<(u32, Vec<u32>)> = Vec::new();
    let mut last: Option<(&str, usize)> = None;
    for row in 0..devices.len() {
        let device = devices.value(row);
        let slot = match last {
            Some((known, slot)) if known == device => slot,
            _ => match slots.get(device) {
                Some(&slot) => slot,
                None => {
                    if !caller.devices.contains(device) {
                        return Err(Status::permission_denied(format!(
                            "DoPut: the grant of '{}' does not cover device '{device}' (row {row})",
                            caller.name
                        )));
                    }
                    slots.insert(device, rows_of.len());
                    rows_of.push((shard_of(device, shard_count), Vec::new()));
                    rows_of.len() - 1
                }
            },
        };
        last = Some((device, slot));
        rows_of[slot].1.push(row as u32);
    }
    let mut shards = vec![Vec::new(); shard_count as usize];
    for (shard, rows) in rows_of {
        shards[shard as usize].extend_from_slice(&rows);
    }
    shards.retain(|rows: &Vec<u32>| !rows.is_empty());
    Ok(shards)
}

/// Neighbours of the same device as runs.
fn runs(devices: &ArrayRef) -> DeviceRuns {
    let devices = devices.as_string::<i32>();
    let mut runs = DeviceRuns::default();
    let mut start = 0;
    for row in 1..=devices.len() {
        if row == devices.len() || devices.value(row) != devices.value(start) {
            runs.push(devices.value(start), (row - start) as u32);
            start = row;
        }
    }
    runs
}

/// An array of one of the four engine types as a column; null slots hold 0, false or the empty string.
fn to_column(array: &ArrayRef) -> Result<Column, Status> {
    let rows = array.len();
    let valid = |row: usize| array.is_valid(row);
    let values = match array.data_type() {
        DataType::Float64 => {
            let mut values = array.as_primitive::<Float64Type>().values().to_vec();
            zero_nulls(&mut values, array);
            Values::F64(values)
        }
        DataType::Int64 => {
            let mut values = array.as_primitive::<Int64Type>().values().to_vec();
            zero_nulls(&mut values, array);
            Values::I64(values)
        }
        DataType::Boolean => {
            let bits = array.as_boolean();
            Values::Bool((0..rows).map(|row| valid(row) && bits.value(row)).collect())
        }
        DataType::Utf8 => {
            let texts = array.as_string::<i32>();
            let mut text = Text::default();
            (0..rows).for_each(|row| text.push(if valid(row) { texts.value(row) } else { "" }));
            Values::Utf8(text)
        }
        other => return Err(Status::internal(format!("no column for {other}"))),
    };
    let validity: Option<Bitmap> = (array.null_count() > 0).then(|| (0..rows).map(valid).collect());
    Ok(Column { values, validity })
}

fn zero_nulls<T: Default>(values: &mut [T], array: &ArrayRef) {
    if array.null_count() > 0 {
        values.iter_mut().enumerate().filter(|(row, _)| array.is_null(*row)).for_each(|(_, v)| *v = T::default());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        BooleanArray, Float32Array, Int8Array, NullArray, StringArray, TimestampMillisecondArray, UInt64Array,
    };
    use arrow::datatypes::Int32Type;

    use super::*;
    use crate::flight::auth::{DeviceScope, Roles};

    fn record_batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter(columns).unwrap()
    }

    fn sample() -> Vec<(&'static str, ArrayRef)> {
        vec![
            ("device", Arc::new(StringArray::from(vec!["a", "b", "a", "c"]))),
            ("time", Arc::new(TimestampMillisecondArray::from(vec![1, 2, 3, 4]))),
            ("speed", Arc::new(Float32Array::from(vec![Some(1.5), None, Some(3.0), Some(4.0)]))),
            ("count", Arc::new(Int8Array::from(vec![1, 2, 3, 4]))),
            ("on", Arc::new(BooleanArray::from(vec![Some(true), Some(true), None, Some(false)]))),
            ("note", Arc::new(StringArray::from(vec![Some("x"), None, Some("ü"), Some("")]))),
            ("nothing", Arc::new(NullArray::new(4))),
        ]
    }

    #[test]
    fn rows_are_grouped_by_shard_and_device() {
        let rows = record_batch(sample());
        let incoming = Incoming::new("t", rows.schema_ref()).unwrap();
        let batches = incoming.batches(&rows, 1, &Principal::admin("a")).unwrap();
        assert_eq!(batches.len(), 1);
        let batch = &batches[0];
        assert_eq!(batch.devices.iter().collect::<Vec<_>>(), [("a", 0..2), ("b", 2..3), ("c", 3..4)]);
        assert_eq!(batch.times, [1_000_000, 3_000_000, 2_000_000, 4_000_000]);
        let speed = batch.field("speed").unwrap();
        assert_eq!(speed.values, Values::F64(vec![1.5, 3.0, 0.0, 4.0]));
        assert_eq!(speed.validity, Some([true, true, false, true].into_iter().collect()));
        assert_eq!(batch.field("count").unwrap().values, Values::I64(vec![1, 3, 2, 4]));
        assert_eq!(batch.field("on").unwrap().values, Values::Bool([true, false, true, false].into_iter().collect()));
        assert!(batch.field("note").unwrap().null_count() == 1 && batch.field("nothing").is_none());

        let spread = incoming.batches(&rows, 64, &Principal::admin("a")).unwrap();
        assert_eq!(spread.iter().map(Batch::rows).sum::<usize>(), 4);
        assert!(spread.iter().all(|batch| batch.devices.shard(64).is_ok()));
    }

    #[test]
    fn long_batches_are_cut() {
        let rows = 40_000;
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("device", Arc::new(StringArray::from(vec!["a"; rows]))),
            ("time", Arc::new(arrow::array::Int64Array::from((0..rows as i64).collect::<Vec<_>>()))),
            ("v", Arc::new(arrow::array::Int64Array::from(vec![7; rows]))),
        ];
        let rows = record_batch(columns);
        let batches = Incoming::new("t", rows.schema_ref()).unwrap().batches(&rows, 2, &Principal::admin("a")).unwrap();
        assert_eq!(batches.iter().map(Batch::rows).collect::<Vec<_>>(), [16_384, 16_384, 7_232]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let refused = |columns: Vec<(&str, ArrayRef)>| {
            let rows = record_batch(columns);
            match Incoming::new("t", rows.schema_ref()) {
                Err(status) => status.message().to_owned(),
                Ok(incoming) => incoming.batches(&rows, 1, &Principal::admin("a")).unwrap_err().message().to_owned(),
            }
        };
        let with = |name: &'static str, array: ArrayRef| {
            let mut columns = sample();
            match columns.iter_mut().find(|(known, _)| *known == name) {
                Some(slot) => slot.1 = array,
                None => columns.push((name, array)),
            }
            refused(columns)
        };
        let dictionary: arrow::array::DictionaryArray<Int32Type> = vec!["a", "b", "a", "c"].into_iter().collect();
        assert!(with("device", Arc::new(dictionary)).contains("`device`: expected Utf8"));
        let missing = StringArray::from(vec![Some("a"), None, Some("a"), Some("a")]);
        assert!(with("device", Arc::new(missing)).contains("row 1"));
        assert!(with("time", Arc::new(TimestampMillisecondArray::from(vec![0, 0, i64::MAX, 0]))).contains("`time`"));
        assert!(with("big", Arc::new(UInt64Array::from(vec![0, u64::MAX, 0, 0]))).contains("`big`"));
        assert!(refused(sample().into_iter().skip(1).collect()).contains("expected the columns `device` and `time`"));
        assert!(refused(sample().into_iter().take(2).collect()).contains("no field"));
    }

    #[test]
    fn grants_cover_each_device() {
        let rows = record_batch(sample());
        let devices = DeviceScope::from_patterns(["a", "b"]).unwrap();
        let caller = Principal { name: "gateway".into(), roles: Roles::WRITER, devices };
        let status = Incoming::new("t", rows.schema_ref()).unwrap().batches(&rows, 1, &caller).unwrap_err();
        assert_eq!(status.code(), tonic::Code::PermissionDenied);
        assert!(status.message().contains("'c' (row 3)"), "{}", status.message());
    }
}
