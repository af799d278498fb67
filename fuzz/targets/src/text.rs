//! Owns the promises about text from people: files to load, settings, listings of backups.

use std::collections::HashMap;
use std::io::Cursor;

use tidewell::backup::listing::Listing;
use tidewell::config;
use tidewell::load::csv::{self, CsvOptions, Device};
use tidewell::load::input::{Format, Input as File};
use tidewell::load::lp::{self, LpOptions, Tags};
use tidewell::load::sink::{BatchSink, OnError};
use tidewell::load::times::{TimeFormat, TimeReader, TimeUnit};
use tidewell::load::types::Spelling;
use tidewell_codec::{Batch, BatchLimits, Tier, decode_batch, encode_batch};

use crate::input::Input;

const UNITS: [TimeUnit; 5] = [TimeUnit::Auto, TimeUnit::S, TimeUnit::Ms, TimeUnit::Us, TimeUnit::Ns];

fn file(bytes: &[u8], format: Format) -> File {
    let reader = Box::new(Cursor::new(bytes.to_vec()));
    File { name: "input".into(), stem: "input".into(), format, reader }
}

/// Checks what a node would: that every batch which is sent is one that is taken.
fn sink() -> BatchSink<impl FnMut(Batch) -> bool> {
    let limits = BatchLimits::default();
    let send = move |batch: Batch| {
        batch.check(&limits).expect("what is sent is within the limits");
        let mut payload = Vec::new();
        encode_batch(&batch, Tier::Hot, &mut payload);
        let taken = decode_batch(&payload, &limits).expect("what is sent is taken");
        assert_eq!(taken.rows(), batch.rows());
        true
    };
    BatchSink::new(2, OnError::Skip, send, Box::new(|_| ()))
}

/// A file of line protocol; the first byte chooses how it is read.
///
/// # Panics
/// When a batch is made that a node would refuse.
pub fn line_protocol(data: &[u8]) {
    let mut input = Input::new(data);
    let choice = input.u8();
    let on = |bit: u8| choice >> bit & 1 == 1;
    let options = LpOptions {
        table: on(0).then(|| "readings".to_owned()),
        device_tag: on(1).then(|| "host".to_owned()),
        device: on(2).then(|| "{file}".to_owned()),
        device_prefix: if on(3) { "site/".to_owned() } else { String::new() },
        tags: if on(4) { Tags::Fields } else { Tags::Drop },
        precision: UNITS[usize::from(choice >> 5) % UNITS.len()],
        fields: Vec::new(),
        exclude: Vec::new(),
        rename: HashMap::new(),
        now_ns: 5,
    };
    let mut sink = sink();
    let _ = lp::read(file(input.rest(), Format::Lp), &options, &mut sink);
    let _ = sink.finish();
}

/// A CSV file; the first bytes choose how it is read.
///
/// # Panics
/// When a batch is made that a node would refuse.
pub fn csv_load(data: &[u8]) {
    let mut input = Input::new(data);
    let (choice, more) = (input.u8(), input.u8());
    let on = |bit: u8| choice >> bit & 1 == 1;
    let format = match more & 3 {
        0 => TimeFormat::Epoch,
        1 => TimeFormat::Pattern("%d.%m.%Y %H:%M:%S".into()),
        _ => TimeFormat::Auto,
    };
    let zone = if more & 4 == 0 { "UTC" } else { "Europe/Berlin" };
    let zone = tidewell::load::times::zone(zone).expect("a time zone that there is");
    let options = CsvOptions {
        table: "readings".into(),
        delimiter: on(0).then_some(b';'),
        skip_lines: usize::from(on(1)),
        columns: on(2).then(|| ["time", "device", "a", "b"].map(str::to_owned).to_vec()),
        quotes: !on(3),
        latin1: on(4),
        device: if on(5) { Device::Constant("{file}".into()) } else { Device::Column("device".into()) },
        device_prefix: String::new(),
        device_strip: if on(6) { "\" ".into() } else { String::new() },
        time_columns: if on(7) { vec!["date".into(), "time".into()] } else { vec!["time".into()] },
        time_prefix: String::new(),
        times: TimeReader::new(format, UNITS[usize::from(more >> 3) % UNITS.len()], zone),
        spelling: Spelling { decimal_comma: more & 0x80 != 0, ..Spelling::default() },
        types: Vec::new(),
        fields: Vec::new(),
        exclude: Vec::new(),
        rename: HashMap::new(),
    };
    let bytes = input.rest();
    let mut guesses = HashMap::new();
    let _ = csv::survey(file(bytes, Format::Csv), &options, &mut guesses);
    let mut known = guesses.iter().filter_map(|(name, guess)| Some((name.clone(), guess.field_type()?))).collect();
    let mut sink = sink();
    let _ = csv::read(file(bytes, Format::Csv), &options, &mut known, &mut sink);
    let _ = sink.finish();
}

/// A configuration file.
///
/// # Panics
/// When settings that were taken do not come back from their own text.
pub fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(settings) = config::read_text("tidewell.toml", text) {
        let again = config::read_text("tidewell.toml", &settings.to_toml());
        assert_eq!(again.expect("settings' own text"), settings);
    }
}

/// The listing of a backup.
///
/// # Panics
/// When a listing that was taken does not come back from its own bytes.
pub fn listing(data: &[u8]) {
    let key = format!("backups/x.{:08x}.json", crc32c::crc32c(data));
    if let Ok(listing) = Listing::decode(&key, data) {
        let (key, bytes) = listing.encode();
        assert_eq!(Listing::decode(&key, &bytes).expect("a listing's own bytes"), listing);
        let _ = (listing.bytes(), listing.to_json());
    }
}
