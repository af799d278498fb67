//! Owns reading CSV rows: header, columns to fields, cells to values; does not send.

use std::collections::HashMap;
use std::io::{BufRead, Read};

use anyhow::{Context, Result, bail};
use csv::ByteRecord;
use tidewell_codec::FieldType;

use super::input::Input;
use super::rows::{Cell, clean_name};
use super::sink::{Flow, Sink};
use super::times::TimeReader;
use super::types::{Guess, Spelling, TypeOverride};
use crate::failure::usage;

/// Rows that are kept to decide types when the input cannot be read twice.
const SAMPLE_ROWS: usize = 100_000;
/// Bytes of them at most.
const SAMPLE_BYTES: usize = 32 << 20;

/// What the caller says about CSV files.
#[derive(Clone, Debug)]
pub struct CsvOptions {
    /// Table of all rows.
    pub table: String,
    /// Between cells; `None` looks at the header: the most frequent of `, ; TAB |`.
    pub delimiter: Option<u8>,
    /// Lines before the header.
    pub skip_lines: usize,
    /// Names of the columns when the file has no header.
    pub columns: Option<Vec<String>>,
    /// Cells may be wrapped in `"`.
    pub quotes: bool,
    /// Bytes are ISO-8859-1 instead of UTF-8.
    pub latin1: bool,
    /// Where the device stands.
    pub device: Device,
    /// Put before the device id.
    pub device_prefix: String,
    /// Characters that are taken out of it.
    pub device_strip: String,
    /// Columns that make the time, joined with a blank.
    pub time_columns: Vec<String>,
    /// Put before the time text.
    pub time_prefix: String,
    /// Reads time stamps.
    pub times: TimeReader,
    /// How cells are spelled.
    pub spelling: Spelling,
    /// Types by column.
    pub types: Vec<TypeOverride>,
    /// Only these columns become fields; empty = all.
    pub fields: Vec<String>,
    /// These columns do not become fields.
    pub exclude: Vec<String>,
    /// Column to field name.
    pub rename: HashMap<String, String>,
}

/// Where the device id comes from.
#[derive(Clone, Debug)]
pub enum Device {
    /// A column.
    Column(String),
    /// A constant; `{file}` stands for the file name without endings.
    Constant(String),
}

/// One column that becomes a field.
struct Field {
    column: usize,
    header: String,
    name: String,
    /// `None` until a value shows up: every cell of the sample was empty.
    field_type: Option<FieldType>,
}

/// The columns of one file.
#[derive(Default)]
struct Plan {
    width: usize,
    device: Option<usize>,
    device_constant: String,
    times: Vec<usize>,
    fields: Vec<Field>,
}

/// A file with a line end behind its last line.
type Lines = std::io::Chain<Box<dyn BufRead + Send>, &'static [u8]>;

/// An opened file after its header.
struct Opened {
    records: csv::Reader<Lines>,
    first_line: u64,
    name: String,
    width: usize,
    plan: Plan,
}

impl Opened {
    /// Reads a record, whose position then tells the line that it begins in.
    fn next(&mut self, record: &mut ByteRecord) -> Result<bool> {
        let read = self.records.read_byte_record(record).with_context(|| format!("read input: {}", self.name))?;
        if let (true, Some(mut position)) = (read, record.position().cloned()) {
            // The reader takes blank lines before a record for a part of it. Every record ends with a line end (one is
            // put behind the last), so its own lines are counted back from where the next would begin.
            let inside = record.as_slice().iter().filter(|byte| **byte == b'\n').count() as u64;
            // A quote that is never closed swallows even that last line end.
            let open =
                record.as_slice().ends_with(b"\n") && self.records.get_mut().fill_buf().is_ok_and(<[u8]>::is_empty);
            position.set_line(self.records.position().line() + u64::from(open) - 1 - inside);
            record.set_position(Some(position));
        }
        Ok(read)
    }
}

/// Reads up to the first row; `None` for an empty file.
fn open(input: Input, options: &CsvOptions) -> Result<Option<Opened>> {
    let Input { name, stem, mut reader, .. } = input;
    for _ in 0..options.skip_lines {
        let mut skipped = Vec::new();
        reader.read_until(b'\n', &mut skipped).with_context(|| format!("read input: {name}"))?;
    }
    let delimiter = match options.delimiter {
        Some(delimiter) => delimiter,
        None => sniff(reader.fill_buf().with_context(|| format!("read input: {name}"))?),
    };
    let mut records = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(delimiter)
        .quoting(options.quotes)
        // A `\r` before it is a blank at the end of the last cell, and those are taken off.
        .terminator(csv::Terminator::Any(b'\n'))
        .buffer_capacity(256 * 1024)
        .from_reader(reader.chain(b"\n".as_slice()));
    let header = match &options.columns {
        Some(columns) => columns.clone(),
        None => {
            let mut record = ByteRecord::new();
            if !records.read_byte_record(&mut record).with_context(|| format!("read input: {name}"))? {
                tracing::warn!(file = name, "the file is empty");
                return Ok(None);
            }
            let cells: Option<Vec<String>> = record.iter().map(|cell| text_of(cell, options.latin1)).collect();
            let mut header = cells.ok_or_else(|| {
                usage(format!("read header: {name}: expected UTF-8, found other bytes; try --encoding latin-1"))
            })?;
            if let Some(first) = header.first_mut()
                && let Some(rest) = first.strip_prefix('\u{feff}')
            {
                *first = rest.trim_start_matches('"').trim_end_matches('"').to_owned();
            }
            header
        }
    };
    let plan = plan(&name, &stem, &header, options)?;
    Ok(Some(Opened { records, first_line: options.skip_lines as u64, name, width: header.len(), plan }))
}

/// Takes every row of one file into account for the types of its fields.
///
/// # Errors
/// When the file cannot be read or its header lacks a named column.
pub fn survey(input: Input, options: &CsvOptions, guesses: &mut HashMap<String, Guess>) -> Result<()> {
    let Some(mut opened) = open(input, options)? else { return Ok(()) };
    let plan = std::mem::take(&mut opened.plan);
    let fields: Vec<(usize, String)> = plan.fields.iter().map(|f| (f.column, f.name.clone())).collect();
    let mut seen: Vec<Guess> = fields.iter().map(|(_, name)| guesses.get(name).copied().unwrap_or_default()).collect();
    let mut rows = RowReader::new(options, plan, opened.width);
    let mut record = ByteRecord::new();
    while opened.next(&mut record)? {
        // Rows whose time cannot be read say nothing about types: they will be refused anyway.
        if !rows.has_time(&record) {
            continue;
        }
        for (guess, (column, _)) in seen.iter_mut().zip(&fields) {
            see(guess, record.get(*column).unwrap_or_default(), options);
        }
    }
    guesses.extend(fields.into_iter().map(|(_, name)| name).zip(seen));
    Ok(())
}

fn see(guess: &mut Guess, cell: &[u8], options: &CsvOptions) {
    match std::str::from_utf8(cell) {
        Ok(text) => guess.see(text.trim(), &options.spelling),
        Err(_) if options.latin1 => guess.see("text", &options.spelling),
        Err(_) => {}
    }
}

impl CsvOptions {
    /// The type that the caller gave to a column.
    fn named_type(&self, header: &str, field: &str) -> Option<FieldType> {
        self.types.iter().find(|t| t.column == header || t.column == field).map(|t| t.field_type)
    }

    /// The type of a column with these cells; `None` when all were empty.
    pub fn type_of(&self, guess: Guess) -> Option<FieldType> {
        match guess.field_type() {
            Some(FieldType::I64 | FieldType::F64) if self.types.iter().any(|t| t.column == "*") => {
                self.types.iter().find(|t| t.column == "*").map(|t| t.field_type)
            }
            other => other,
        }
    }

    /// Whether the caller decided about the type of this field.
    pub fn overrides(&self, field: &str) -> bool {
        self.types.iter().any(|t| t.column == field || clean_name(&t.column) == field)
    }
}

/// Reads one file into `sink`. `known` holds the type of each field name, from the node and from surveys; what is in
/// neither is decided by the first rows.
///
/// # Errors
/// When the file cannot be read, its header lacks a named column, or the sink refuses to go on.
pub fn read(
    input: Input,
    options: &CsvOptions,
    known: &mut HashMap<String, FieldType>,
    sink: &mut dyn Sink,
) -> Result<()> {
    let Some(mut opened) = open(input, options)? else { return Ok(()) };
    let first_line = opened.first_line;
    let mut rows = RowReader::new(options, std::mem::take(&mut opened.plan), opened.width);
    for field in &mut rows.plan.fields {
        field.field_type = options.named_type(&field.header, &field.name).or_else(|| known.get(&field.name).copied());
    }
    let mut record = ByteRecord::new();
    let mut sample = Vec::new();
    if rows.plan.fields.iter().any(|f| f.field_type.is_none()) {
        let mut sample_bytes = 0;
        while sample.len() < SAMPLE_ROWS && sample_bytes < SAMPLE_BYTES && opened.next(&mut record)? {
            sample_bytes += record.as_slice().len();
            sample.push(record.clone());
        }
        let good: Vec<bool> = sample.iter().map(|record| rows.has_time(record)).collect();
        rows.times = options.times.clone();
        for field in rows.plan.fields.iter_mut().filter(|f| f.field_type.is_none()) {
            let mut guess = Guess::default();
            for (record, _) in sample.iter().zip(&good).filter(|(_, good)| **good) {
                see(&mut guess, record.get(field.column).unwrap_or_default(), options);
            }
            field.field_type = options.type_of(guess);
        }
    }
    for field in &rows.plan.fields {
        if let Some(field_type) = field.field_type {
            known.insert(field.name.clone(), field_type);
        }
    }
    for record in sample.drain(..) {
        if let Flow::Stop = rows.take(&record, first_line, known, sink)? {
            return Ok(());
        }
    }
    while opened.next(&mut record)? {
        if let Flow::Stop = rows.take(&record, first_line, known, sink)? {
            break;
        }
    }
    Ok(())
}

fn text_of(cell: &[u8], latin1: bool) -> Option<String> {
    let text =
        if latin1 { cell.iter().map(|b| *b as char).collect() } else { std::str::from_utf8(cell).ok()?.to_owned() };
    Some(text.trim().to_owned())
}

/// The most frequent candidate in the first line.
fn sniff(head: &[u8]) -> u8 {
    let line = head.split(|b| *b == b'\n').next().unwrap_or_default();
    let mut quoted = false;
    let mut counts = [(b',', 0), (b';', 0), (b'\t', 0), (b'|', 0)];
    for byte in line {
        quoted ^= *byte == b'"';
        if !quoted && let Some((_, count)) = counts.iter_mut().find(|(candidate, _)| candidate == byte) {
            *count += 1;
        }
    }
    // `max_by_key` keeps the last of equals; the comma is to win when nothing was found.
    counts.iter().rev().max_by_key(|(_, count)| *count).map_or(b',', |(byte, _)| *byte)
}

fn plan(name: &str, stem: &str, header: &[String], options: &CsvOptions) -> Result<Plan> {
    let find = |column: &str, flag: &str| {
        let mut found = header.iter().enumerate().filter(|(_, h)| *h == column);
        match (found.next(), found.next()) {
            (Some((at, _)), None) => Ok(at),
            (Some(_), Some(_)) => {
                Err(usage(format!("read header: {name}: column `{column}` ({flag}) is there more than once")))
            }
            _ => Err(usage(format!(
                "read header: {name}: expected a column `{column}` ({flag}), found {}; check --delimiter and --skip-lines",
                shown(header)
            ))),
        }
    };
    let times = options.time_columns.iter().map(|column| find(column, "--time-column")).collect::<Result<Vec<_>>>()?;
    let (device, device_constant) = match &options.device {
        Device::Column(column) => (Some(find(column, "--device-column")?), String::new()),
        Device::Constant(text) => (None, format!("{}{}", options.device_prefix, text.replace("{file}", stem))),
    };
    for (list, flag) in [(&options.fields, "--fields"), (&options.exclude, "--exclude")] {
        for column in list {
            find(column, flag)?;
        }
    }
    let mut fields: Vec<Field> = Vec::new();
    for (column, title) in header.iter().enumerate() {
        let wanted =
            if options.fields.is_empty() { !options.exclude.contains(title) } else { options.fields.contains(title) };
        // A header that ends with the delimiter has an unnamed last column.
        if title.is_empty() || !wanted || Some(column) == device || times.contains(&column) {
            continue;
        }
        let field = clean_name(options.rename.get(title).unwrap_or(title)).into_owned();
        if let Some(other) = fields.iter().find(|f| f.name == field) {
            return Err(usage(format!(
                "read header: {name}: columns {} and {} would both be the field `{field}`; leave one out with --exclude or name it with --rename",
                other.column + 1,
                column + 1
            )));
        }
        if field != *title {
            tracing::info!(column = title, field, "the column has another name as a field");
        }
        fields.push(Field { column, header: title.clone(), name: field, field_type: None });
    }
    if fields.is_empty() {
        bail!(usage(format!(
            "read header: {name}: no column is left for a field, found {}; check --delimiter, --fields and --exclude",
            shown(header)
        )));
    }
    Ok(Plan { width: header.len(), device, device_constant, times, fields })
}

fn shown(header: &[String]) -> String {
    let mut text = header.iter().take(30).map(|h| format!("`{h}`")).collect::<Vec<_>>().join(", ");
    if header.len() > 30 {
        text += &format!(" and {} more", header.len() - 30);
    }
    text
}

/// Turns records into rows, with buffers that are used again.
struct RowReader<'o> {
    options: &'o CsvOptions,
    plan: Plan,
    times: TimeReader,
    /// Decoded cells that are not plain ASCII, by column.
    latin1: Vec<String>,
    time: String,
    device: String,
}

impl<'o> RowReader<'o> {
    fn new(options: &'o CsvOptions, plan: Plan, width: usize) -> Self {
        let latin1 = vec![String::new(); width];
        Self { options, plan, times: options.times.clone(), latin1, time: String::new(), device: String::new() }
    }

    fn take(
        &mut self,
        record: &ByteRecord,
        first_line: u64,
        known: &mut HashMap<String, FieldType>,
        sink: &mut dyn Sink,
    ) -> Result<Flow> {
        let line = first_line + record.position().map_or(0, |p| p.line());
        // A blank line is nothing, not a bad row; the reader itself only skips lines that are quite empty.
        if record.len() <= 1 && record.get(0).is_none_or(|cell| cell.trim_ascii().is_empty()) {
            return Ok(Flow::Continue);
        }
        match self.row(record, known, sink) {
            Ok(()) => sink.after_row(),
            Err(reason) => sink.bad(line, &reason),
        }
    }

    /// Whether the row has the right number of cells and a time.
    fn has_time(&mut self, record: &ByteRecord) -> bool {
        if record.len() < self.needed() {
            return false;
        }
        let cell = |column: usize| {
            std::str::from_utf8(record.get(column).unwrap_or_default()).map(str::trim).map_err(|e| e.to_string())
        };
        read_time(&self.plan.times, &self.options.time_prefix, &mut self.time, &mut self.times, cell).is_ok()
    }

    fn row(
        &mut self,
        record: &ByteRecord,
        known: &mut HashMap<String, FieldType>,
        sink: &mut dyn Sink,
    ) -> Result<(), String> {
        let mut width = record.len();
        while width > self.plan.width && record.get(width - 1).is_some_and(|cell| cell.trim_ascii().is_empty()) {
            width -= 1;
        }
        // A header that ends with the delimiter counts one column that rows need not have.
        if width != self.plan.width && width < self.needed() || width > self.plan.width {
            return Err(format!("expected {} columns, found {}", self.plan.width, record.len()));
        }
        if self.options.latin1 {
            for (column, decoded) in self.latin1.iter_mut().enumerate() {
                decoded.clear();
                let cell = record.get(column).unwrap_or_default();
                if !cell.is_ascii() {
                    decoded.extend(cell.iter().map(|b| *b as char));
                }
            }
        }
        let latin1 = &self.latin1;
        let cell = |column: usize| -> Result<&str, String> {
            if let Some(decoded) = latin1.get(column).filter(|d| !d.is_empty()) {
                return Ok(decoded.trim());
            }
            let text = std::str::from_utf8(record.get(column).unwrap_or_default());
            text.map(str::trim).map_err(|_| format!("column {}: not UTF-8; try --encoding latin-1", column + 1))
        };
        let time = read_time(&self.plan.times, &self.options.time_prefix, &mut self.time, &mut self.times, cell)?;
        let device = match self.plan.device {
            None => self.plan.device_constant.as_str(),
            Some(column) => {
                let id = cell(column)?;
                if self.options.spelling.is_null(id) {
                    return Err("the device is empty".into());
                }
                if self.options.device_prefix.is_empty() && self.options.device_strip.is_empty() {
                    id
                } else {
                    self.device.clear();
                    self.device.push_str(&self.options.device_prefix);
                    self.device.extend(id.chars().filter(|c| !self.options.device_strip.contains(*c)));
                    &self.device
                }
            }
        };
        let mut cells: Vec<(usize, Cell<'_>)> = Vec::with_capacity(self.plan.fields.len());
        let buffer = sink.table(&self.options.table);
        for field in &mut self.plan.fields {
            let text = cell(field.column)?;
            let field_type = match field.field_type {
                Some(field_type) => field_type,
                None if self.options.spelling.is_null(text) => continue,
                None => {
                    // The sample had no value here. A lone `1` may be the start of `1.5`, so numbers are doubles.
                    let mut guess = Guess::default();
                    guess.see(text, &self.options.spelling);
                    let late = match guess.field_type() {
                        Some(FieldType::I64) | None => FieldType::F64,
                        Some(other) => other,
                    };
                    field.field_type = Some(late);
                    known.insert(field.name.clone(), late);
                    late
                }
            };
            let value = self.options.spelling.cell(text, field_type).map_err(|e| {
                let hint = if field_type == FieldType::I64 {
                    format!("; --types '{}=f64' takes fractions", field.header)
                } else {
                    String::new()
                };
                format!("column `{}`: {e}{hint}", field.header)
            })?;
            cells.push((buffer.field(&field.name, field_type)?, value));
        }
        buffer.push(device, time, &cells)
    }

    /// The last column that is used, plus one.
    fn needed(&self) -> usize {
        let named =
            self.plan.fields.iter().map(|f| f.column).chain(self.plan.times.iter().copied()).chain(self.plan.device);
        named.max().map_or(0, |last| last + 1).max(self.plan.width.saturating_sub(1))
    }
}

/// The time of one row: one cell, or several joined with a blank, after the prefix.
fn read_time<'r>(
    columns: &[usize],
    prefix: &str,
    joined: &mut String,
    reader: &mut TimeReader,
    cell: impl Fn(usize) -> Result<&'r str, String>,
) -> Result<i64, String> {
    if let ([one], true) = (columns, prefix.is_empty()) {
        return reader.read(cell(*one)?);
    }
    joined.clear();
    joined.push_str(prefix);
    for (at, column) in columns.iter().enumerate() {
        if at > 0 {
            joined.push(' ');
        }
        joined.push_str(cell(*column)?);
    }
    reader.read(joined)
}

#[cfg(test)]
mod tests;
