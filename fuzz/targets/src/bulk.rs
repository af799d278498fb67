//! Owns the promises of bulk rows over Flight: any messages are batches that a node takes, or one named refusal.

use arrow_flight::FlightData;
use tidewell_codec::BatchLimits;
use tidewell_query::flight::put_batches;

use crate::input::Input;

/// Messages of one call: each has the lengths of its header and its body in front.
///
/// # Panics
/// When a batch is made that breaks the rules of batches.
pub fn put(data: &[u8]) {
    let mut input = Input::new(data);
    let mut messages = Vec::new();
    while !input.is_empty() && messages.len() < 8 {
        let (header, body) = (usize::from(input.u16()), usize::from(input.u16()));
        let (header, body) = (input.take(header).to_vec(), input.take(body).to_vec());
        messages.push(FlightData::new().with_data_header(header).with_data_body(body));
    }
    for batch in put_batches("readings", messages, 3).into_iter().flatten() {
        let runs: usize = batch.devices.iter().map(|(_, rows)| rows.len()).sum();
        assert_eq!(runs, batch.rows(), "runs of devices make up the rows");
        assert!(batch.fields.iter().all(|field| field.column.len() == batch.rows()), "columns are as long as the rows");
        assert!(batch.rows() <= BatchLimits::default().rows, "{} rows in one batch", batch.rows());
    }
}
