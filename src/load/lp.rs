//! Owns reading line protocol rows: measurements to tables, tags to devices and fields; does not own the grammar (`line`).

use std::collections::HashMap;
use std::io::BufRead;

use anyhow::{Context, Result};
use tidewell_codec::FieldType;

use super::input::Input;
use super::line::{self, LineError, Value};
use super::rows::{Cell, RowBuffer, clean_name};
use super::sink::{Flow, Sink};
use super::times::TimeUnit;

/// Longest line, quoted line ends included.
const LINE_BYTES_MAX: usize = 16 << 20;

/// What becomes of tags other than the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Tags {
    /// Each becomes a utf8 field
    Fields,
    /// They are left out
    Drop,
}

/// What the caller says about line protocol files.
#[derive(Clone, Debug)]
pub struct LpOptions {
    /// Table of all rows; `None` = the measurement.
    pub table: Option<String>,
    /// Tag that holds the device; `None` = `device`, or the only tag of a line.
    pub device_tag: Option<String>,
    /// Device of all rows, instead of a tag; `{file}` stands for the file name without endings.
    pub device: Option<String>,
    /// Put before the device id.
    pub device_prefix: String,
    /// Other tags.
    pub tags: Tags,
    /// Unit of the time at the end of a line.
    pub precision: TimeUnit,
    /// Only these fields; empty = all.
    pub fields: Vec<String>,
    /// Not these fields.
    pub exclude: Vec<String>,
    /// Field to another name.
    pub rename: HashMap<String, String>,
    /// Time of lines that carry none.
    pub now_ns: i64,
}

/// Reads one file into `sink`.
///
/// # Errors
/// When the file cannot be read, or the sink refuses to go on.
pub fn read(input: Input, options: &LpOptions, sink: &mut dyn Sink) -> Result<()> {
    let Input { name, stem, mut reader, .. } = input;
    let constant = options.device.as_ref().map(|d| format!("{}{}", options.device_prefix, d.replace("{file}", &stem)));
    let mut bytes = Vec::new();
    let mut number = 0u64;
    loop {
        bytes.clear();
        if read_line(&mut *reader, &mut bytes).with_context(|| format!("read input: {name}"))? == 0 {
            return Ok(());
        }
        number += 1;
        let first = number;
        let result = loop {
            if bytes.len() > LINE_BYTES_MAX {
                // The rest of the line is not worth keeping; what follows it is.
                break Err(format!("a line of more than {} MiB", LINE_BYTES_MAX >> 20));
            }
            let text = match std::str::from_utf8(&bytes) {
                Ok(text) => text,
                Err(_) => break Err("not UTF-8".to_owned()),
            };
            match line::parse(text) {
                Ok(None) => break Ok(false),
                Ok(Some(line)) => break row(&line, options, constant.as_deref(), sink).map(|()| true),
                Err(LineError::Wrong(reason)) => break Err(reason),
                Err(LineError::OpenQuote) => {
                    // A quoted text may hold line ends.
                    if read_line(&mut *reader, &mut bytes).with_context(|| format!("read input: {name}"))? == 0 {
                        break Err("a quoted text that does not end".to_owned());
                    }
                    number += 1;
                }
            }
        };
        let flow = match result {
            Ok(false) => Flow::Continue,
            Ok(true) => sink.after_row()?,
            Err(reason) => sink.bad(first, &reason)?,
        };
        if flow == Flow::Stop {
            return Ok(());
        }
    }
}

/// Appends one line with its end, at most a little more than the bound; drops the rest of a longer one.
fn read_line(reader: &mut dyn BufRead, bytes: &mut Vec<u8>) -> std::io::Result<usize> {
    let mut read = 0;
    loop {
        let available = reader.fill_buf()?;
        if available.is_empty() {
            return Ok(read);
        }
        let (used, ended) = match available.iter().position(|b| *b == b'\n') {
            Some(at) => (at + 1, true),
            None => (available.len(), false),
        };
        if bytes.len() <= LINE_BYTES_MAX {
            bytes.extend_from_slice(&available[..used]);
        }
        reader.consume(used);
        read += used;
        if ended {
            return Ok(read);
        }
    }
}

fn row(line: &line::Line<'_>, options: &LpOptions, constant: Option<&str>, sink: &mut dyn Sink) -> Result<(), String> {
    let device_tag = match (&options.device_tag, constant) {
        (_, Some(_)) => None,
        (Some(tag), None) => Some(tag.as_str()),
        (None, None) => match line
            .tags
            .iter()
            .find(|(key, _)| key == "device")
            .or(line.tags.first().filter(|_| line.tags.len() == 1))
        {
            Some((key, _)) => Some(key.as_ref()),
            None => return Err(format!("no tag `device` among {}; name the tag with --device-tag", tag_names(line))),
        },
    };
    let from_tag;
    let device = match (constant, device_tag) {
        (Some(device), _) => device,
        (None, Some(tag)) => {
            let Some((_, value)) = line.tags.iter().find(|(key, _)| key == tag) else {
                return Err(format!("no tag `{tag}` among {}", tag_names(line)));
            };
            from_tag = format!("{}{value}", options.device_prefix);
            &from_tag
        }
        (None, None) => unreachable!("without a constant there is a tag"),
    };
    let time = match line.time {
        None => options.now_ns,
        Some(time) => {
            let factor = match options.precision {
                TimeUnit::S => 1_000_000_000,
                TimeUnit::Ms => 1_000_000,
                TimeUnit::Us => 1_000,
                TimeUnit::Ns | TimeUnit::Auto => 1,
            };
            time.checked_mul(factor)
                .ok_or_else(|| format!("time {time}: outside of 1677 to 2262; check --precision"))?
        }
    };
    let wanted = |name: &str| {
        if options.fields.is_empty() {
            !options.exclude.iter().any(|e| e == name)
        } else {
            options.fields.iter().any(|f| f == name)
        }
    };
    let measurement = clean_name(&line.measurement);
    let buffer = sink.table(options.table.as_deref().unwrap_or(&measurement));
    let mut cells: Vec<(usize, Cell<'_>)> = Vec::with_capacity(line.fields.len() + line.tags.len());
    for (name, value) in &line.fields {
        if !wanted(name) {
            continue;
        }
        let (field_type, cell) = match value {
            Value::F64(v) => (FieldType::F64, Cell::F64(*v)),
            Value::I64(v) => (FieldType::I64, Cell::I64(*v)),
            Value::Bool(v) => (FieldType::Bool, Cell::Bool(*v)),
            Value::Utf8(v) => (FieldType::Utf8, Cell::Utf8(v)),
        };
        let at = field(buffer, name, field_type, options)?;
        if cells.iter().any(|(other, _)| *other == at) {
            return Err(format!("field `{name}` is there twice after --rename"));
        }
        cells.push((at, cell));
    }
    if options.tags == Tags::Fields {
        for (name, value) in line.tags.iter().filter(|(name, _)| Some(name.as_ref()) != device_tag && wanted(name)) {
            let at = field(buffer, name, FieldType::Utf8, options)?;
            if cells.iter().any(|(other, _)| *other == at) {
                return Err(format!("`{name}` is a tag and a field; leave one out with --exclude or --tags drop"));
            }
            cells.push((at, Cell::Utf8(value)));
        }
    }
    buffer.push(device, time, &cells)
}

/// The column of `name`, under the name that it gets.
fn field(buffer: &mut RowBuffer, name: &str, field_type: FieldType, options: &LpOptions) -> Result<usize, String> {
    buffer.field(&clean_name(options.rename.get(name).map_or(name, String::as_str)), field_type)
}

fn tag_names(line: &line::Line<'_>) -> String {
    if line.tags.is_empty() {
        return "no tags".into();
    }
    line.tags.iter().map(|(key, _)| format!("`{key}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use tidewell_codec::{Batch, Values};

    use super::*;
    use crate::load::input::Format;
    use crate::load::sink::{BatchSink, OnError};

    fn options() -> LpOptions {
        LpOptions {
            table: None,
            device_tag: None,
            device: None,
            device_prefix: String::new(),
            tags: Tags::Fields,
            precision: TimeUnit::Ns,
            fields: Vec::new(),
            exclude: Vec::new(),
            rename: HashMap::new(),
            now_ns: 42,
        }
    }

    fn load(text: &str, options: &LpOptions) -> (Vec<Batch>, Vec<String>) {
        let input = Input {
            name: "a.lp".into(),
            stem: "a".into(),
            format: Format::Lp,
            reader: Box::new(std::io::Cursor::new(text.as_bytes().to_vec())),
        };
        let mut batches = Vec::new();
        let reports = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
        let told = reports.clone();
        let mut sink = BatchSink::new(
            1,
            OnError::Skip,
            |batch| {
                batches.push(batch);
                true
            },
            Box::new(move |line| told.lock().push(line)),
        );
        sink.begin_file("a.lp");
        read(input, options, &mut sink).unwrap();
        sink.finish();
        drop(sink);
        batches.sort_by(|a, b| a.table.cmp(&b.table));
        let reports = reports.lock().clone();
        (batches, reports)
    }

    #[test]
    fn measurements_become_tables_and_tags_devices_and_fields() {
        let text = "\nweather,location=San\\ Francisco wind=2.5,ok=t 10\nweather,location=Hayward wind=3 5\ncpu,device=h1,dc=north load=5i\n";
        let (batches, reports) = load(text, &options());
        assert_eq!(reports, Vec::<String>::new());
        assert_eq!(batches.iter().map(|b| b.table.as_str()).collect::<Vec<_>>(), ["cpu", "weather"]);
        assert_eq!(batches[0].times, [42]);
        assert_eq!(batches[0].fields.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["load", "dc"]);
        let devices: Vec<_> = batches[1].devices.iter().map(|(d, _)| d.to_owned()).collect();
        assert_eq!(devices, ["San Francisco", "Hayward"]);
        assert!(matches!(&batches[1].fields[0].column.values, Values::F64(v) if v == &[2.5, 3.0]));
    }

    #[test]
    fn bad_lines_are_named_and_skipped_whole() {
        let text = "m,device=a f=1 1\nm,device=a f=1i,g=2 2\nm,device=a f=\"x\ny 3\nm,x=1,y=2 f=1 4\nm,device=a f=2 5";
        let (batches, reports) = load(text, &options());
        // The open quote swallows the rest of the file, as it does in any reader that allows line ends in texts.
        assert_eq!(reports.len(), 2, "{reports:?}");
        assert!(reports[0].starts_with("a.lp:2: field `f` of table `m`: has f64, got i64"), "{reports:?}");
        assert!(reports[1].starts_with("a.lp:3: a quoted text"), "{reports:?}");
        assert_eq!(batches[0].times, [1]);
        assert_eq!(batches[0].fields.len(), 1, "a row that was refused leaves no value behind");
        let (_, reports) = load("m,x=1,y=2 f=1 4", &options());
        assert!(reports[0].contains("--device-tag"), "{reports:?}");
    }

    #[test]
    fn precision_constant_device_and_renaming() {
        let changed = LpOptions {
            precision: TimeUnit::Ms,
            device: Some("{file}".into()),
            table: Some("t".into()),
            tags: Tags::Drop,
            rename: HashMap::from([("f".to_owned(), "g".to_owned())]),
            ..options()
        };
        let (batches, _) = load("m,x=1,y=2 f=1 4", &changed);
        assert_eq!(
            (batches[0].table.as_str(), batches[0].times[0], batches[0].devices.get(0).0),
            ("t", 4_000_000, "a")
        );
        assert_eq!(batches[0].fields[0].name, "g");
    }
}
