//! Owns the first inputs of bulk rows: messages of Flight, as `bulk::put` cuts them apart.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray,
};
use arrow::record_batch::RecordBatch;
use arrow_flight::FlightData;
use arrow_flight::utils::batches_to_flight_data;

use crate::Folder;

/// Rows of all types that are taken.
pub fn write(folder: &Folder) {
    let devices: ArrayRef = Arc::new(StringArray::from(vec!["truck_1", "truck_2", "truck_1"]));
    let plain = RecordBatch::try_from_iter([
        ("device", Arc::clone(&devices)),
        ("time", Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef),
        ("velocity", Arc::new(Float64Array::from(vec![Some(1.5), None, Some(f64::NAN)]))),
    ]);
    let mixed = RecordBatch::try_from_iter([
        ("device", devices),
        ("time", Arc::new(TimestampMicrosecondArray::from(vec![1, 2, 3]).with_timezone("UTC")) as ArrayRef),
        ("open", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
        ("status", Arc::new(Int32Array::from(vec![7, -1, 0]))),
        ("driver", Arc::new(StringArray::from(vec![Some("anna"), Some(""), None]))),
    ]);
    for (at, batch) in [plain.unwrap(), mixed.unwrap()].into_iter().enumerate() {
        let messages = batches_to_flight_data(&batch.schema(), vec![batch.clone(), batch]).unwrap();
        folder.put("put", &at.to_string(), &packed(&messages));
        folder.put("put", &format!("{at}-one"), &packed(&messages[..2]));
    }
}

fn packed(messages: &[FlightData]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in messages {
        bytes.extend_from_slice(&(message.data_header.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&(message.data_body.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&message.data_header);
        bytes.extend_from_slice(&message.data_body);
    }
    bytes
}
