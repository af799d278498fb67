//! Owns how answers are printed: table, CSV, JSON, Arrow; does not ask the questions.

use std::fmt::Write as _;
use std::io::Write;

use anyhow::{Context, Result, bail};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, Schema, TimeUnit, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow::ipc::writer::StreamWriter;

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Columns for people
    Table,
    /// Comma-separated, one header line
    Csv,
    /// One object a row and line; times RFC 3339 with nanoseconds, durations in seconds
    Json,
    /// Arrow IPC stream, for other programs
    Arrow,
}

/// Rows that a table collects before it decides how wide columns are.
const TABLE_SAMPLE: usize = 1_000;
/// A cell of a table is cut at this width.
const CELL_CHARS_MAX: usize = 60;

/// Prints batches of one answer.
pub struct Printer<W: Write> {
    /// `None` while the Arrow writer owns it.
    out: Option<W>,
    format: Format,
    state: State<W>,
    rows: u64,
}

enum State<W> {
    Before,
    Table { widths: Vec<usize>, waiting: Vec<Vec<String>>, numeric: Vec<bool>, names: Vec<String>, printed: bool },
    Lines,
    Arrow(Box<StreamWriter<W>>),
}

impl<W: Write> Printer<W> {
    /// A printer to `out`.
    pub fn new(out: W, format: Format) -> Self {
        Self { out: Some(out), format, state: State::Before, rows: 0 }
    }

    /// Rows printed.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The schema, before the first batch; an answer without rows has one too.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn begin(&mut self, schema: &Schema) -> Result<()> {
        if !matches!(self.state, State::Before) {
            return Ok(());
        }
        self.state = match self.format {
            Format::Table => State::Table {
                widths: Vec::new(),
                waiting: Vec::new(),
                numeric: schema.fields().iter().map(|f| f.data_type().is_numeric()).collect(),
                names: schema.fields().iter().map(|f| f.name().clone()).collect(),
                printed: false,
            },
            Format::Csv => {
                let names: Vec<String> = schema.fields().iter().map(|f| csv_text(f.name())).collect();
                self.write_all(&(names.join(",") + "\n"))?;
                State::Lines
            }
            Format::Json => State::Lines,
            Format::Arrow => {
                let out = self.out.take().expect("nothing took it before");
                State::Arrow(Box::new(StreamWriter::try_new(out, schema).context("write Arrow")?))
            }
        };
        Ok(())
    }

    /// Prints the rows of one batch.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn batch(&mut self, batch: &RecordBatch) -> Result<()> {
        self.begin(&batch.schema())?;
        self.rows += batch.num_rows() as u64;
        match &mut self.state {
            State::Before => {}
            State::Arrow(writer) => writer.write(batch).context("write Arrow")?,
            State::Lines => {
                let mut text = String::new();
                for row in 0..batch.num_rows() {
                    match self.format {
                        Format::Json => json_row(batch, row, &mut text)?,
                        _ => csv_row(batch, row, &mut text)?,
                    }
                    text.push('\n');
                }
                self.write_all(&text)?;
            }
            State::Table { waiting, .. } => {
                for row in 0..batch.num_rows() {
                    let cells = (0..batch.num_columns()).map(|column| {
                        let cell = plain(batch.column(column), row)?;
                        Ok(cell.unwrap_or_default())
                    });
                    waiting.push(cells.collect::<Result<Vec<_>>>()?);
                }
                if waiting.len() >= TABLE_SAMPLE {
                    self.print_table()?;
                }
            }
        }
        Ok(())
    }

    fn write_all(&mut self, text: &str) -> Result<()> {
        if let Some(out) = &mut self.out {
            out.write_all(text.as_bytes())?;
        }
        Ok(())
    }

    fn print_table(&mut self) -> Result<()> {
        let mut text = String::new();
        self.table_lines(&mut text);
        self.write_all(&text)
    }

    fn table_lines(&mut self, text: &mut String) {
        let State::Table { widths, waiting, numeric, names, printed } = &mut self.state else { return };
        let chars = |text: &str| text.chars().count();
        if !*printed {
            *widths = names.iter().map(|n| chars(n)).collect();
            for row in waiting.iter() {
                for (width, cell) in widths.iter_mut().zip(row) {
                    *width = (*width).max(chars(cell).min(CELL_CHARS_MAX));
                }
            }
            let mut head = String::new();
            for (column, name) in names.iter().enumerate() {
                pad(&mut head, name, widths[column], numeric[column], column + 1 == names.len());
            }
            let _ = writeln!(text, "{}", head.trim_end());
            let rule: Vec<String> = widths.iter().map(|w| "-".repeat(*w)).collect();
            let _ = writeln!(text, "{}", rule.join("  "));
            *printed = true;
        }
        for row in waiting.drain(..) {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let cut: String;
                let cell = if chars(cell) > CELL_CHARS_MAX {
                    cut = cell.chars().take(CELL_CHARS_MAX - 3).chain("...".chars()).collect();
                    &cut
                } else {
                    cell
                };
                pad(&mut line, cell, widths[column], numeric[column], column + 1 == row.len());
            }
            let _ = writeln!(text, "{}", line.trim_end());
        }
    }

    /// Ends the output.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn finish(mut self) -> Result<u64> {
        if let State::Table { .. } = self.state {
            self.print_table()?;
        }
        if let State::Arrow(writer) = &mut self.state {
            writer.finish().context("write Arrow")?;
            writer.get_mut().flush()?;
        }
        if let Some(out) = &mut self.out {
            out.flush()?;
        }
        Ok(self.rows)
    }
}

fn pad(line: &mut String, cell: &str, width: usize, right: bool, last: bool) {
    let blanks = width.saturating_sub(cell.chars().count());
    if right {
        line.extend(std::iter::repeat_n(' ', blanks));
    }
    // Control characters of a text value must not move the cursor of a terminal.
    line.extend(cell.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }));
    if !right {
        line.extend(std::iter::repeat_n(' ', blanks));
    }
    if !last {
        line.push_str("  ");
    }
}

/// RFC 3339 in UTC with nine digits.
pub fn rfc3339(ns: i64) -> String {
    let stamp = jiff::Timestamp::from_nanosecond(i128::from(ns)).expect("every i64 of nanoseconds is a time");
    format!("{stamp:.9}")
}

/// The cell as text; `None` = null.
fn plain(array: &dyn Array, row: usize) -> Result<Option<String>> {
    if array.is_null(row) {
        return Ok(None);
    }
    Ok(Some(match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().value(row).to_owned(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(row).to_owned(),
        DataType::Utf8View => array.as_string_view().value(row).to_owned(),
        DataType::Dictionary(_, _) => {
            let any = array.as_any_dictionary();
            return plain(any.values().as_ref(), any.normalized_keys()[row]);
        }
        DataType::Timestamp(unit, _) => rfc3339(timestamp_ns(array, row, unit)?),
        DataType::Duration(unit) => seconds(duration_ns(array, row, unit)?),
        DataType::Boolean => array.as_boolean().value(row).to_string(),
        DataType::Float64 => float(array.as_primitive::<Float64Type>().value(row)),
        _ => integer(array, row)?.to_string(),
    }))
}

fn float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity".into() } else { "-Infinity".into() };
    }
    // The shortest text that reads back to the same bits. It always has a point or an exponent, so that a program that
    // reads the JSON sees a double in every row of the column.
    format!("{value:?}")
}

fn integer(array: &dyn Array, row: usize) -> Result<i128> {
    Ok(match array.data_type() {
        DataType::Int8 => array.as_primitive::<Int8Type>().value(row).into(),
        DataType::Int16 => array.as_primitive::<Int16Type>().value(row).into(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).into(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).into(),
        DataType::UInt8 => array.as_primitive::<UInt8Type>().value(row).into(),
        DataType::UInt16 => array.as_primitive::<UInt16Type>().value(row).into(),
        DataType::UInt32 => array.as_primitive::<UInt32Type>().value(row).into(),
        DataType::UInt64 => array.as_primitive::<UInt64Type>().value(row).into(),
        other => bail!("print answer: a column of type {other} is not understood by this release; use --format arrow"),
    })
}

fn timestamp_ns(array: &dyn Array, row: usize, unit: &TimeUnit) -> Result<i64> {
    use arrow::datatypes::{
        TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
    };
    Ok(match unit {
        TimeUnit::Nanosecond => array.as_primitive::<TimestampNanosecondType>().value(row),
        TimeUnit::Microsecond => array.as_primitive::<TimestampMicrosecondType>().value(row).saturating_mul(1_000),
        TimeUnit::Millisecond => array.as_primitive::<TimestampMillisecondType>().value(row).saturating_mul(1_000_000),
        TimeUnit::Second => array.as_primitive::<TimestampSecondType>().value(row).saturating_mul(1_000_000_000),
    })
}

fn duration_ns(array: &dyn Array, row: usize, unit: &TimeUnit) -> Result<i64> {
    use arrow::datatypes::{
        DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType,
    };
    Ok(match unit {
        TimeUnit::Nanosecond => array.as_primitive::<DurationNanosecondType>().value(row),
        TimeUnit::Microsecond => array.as_primitive::<DurationMicrosecondType>().value(row).saturating_mul(1_000),
        TimeUnit::Millisecond => array.as_primitive::<DurationMillisecondType>().value(row).saturating_mul(1_000_000),
        TimeUnit::Second => array.as_primitive::<DurationSecondType>().value(row).saturating_mul(1_000_000_000),
    })
}

/// Nanoseconds as seconds, exactly: a number in JSON and short for people.
fn seconds(ns: i64) -> String {
    let (sign, ns) = if ns < 0 { ("-", ns.unsigned_abs()) } else { ("", ns.unsigned_abs()) };
    let text = format!("{sign}{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn csv_text(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) || text.starts_with(' ') || text.ends_with(' ') {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

fn csv_row(batch: &RecordBatch, row: usize, line: &mut String) -> Result<()> {
    for column in 0..batch.num_columns() {
        if column > 0 {
            line.push(',');
        }
        let array = batch.column(column);
        match plain(array, row)? {
            None => {}
            // An empty text is not a null: it keeps its quotes.
            Some(text) if text.is_empty() => line.push_str("\"\""),
            Some(text) if is_text(array.data_type()) => line.push_str(&csv_text(&text)),
            Some(text) => line.push_str(&text),
        }
    }
    Ok(())
}

fn json_row(batch: &RecordBatch, row: usize, line: &mut String) -> Result<()> {
    line.push('{');
    let schema = batch.schema_ref();
    for column in 0..batch.num_columns() {
        if column > 0 {
            line.push(',');
        }
        let array = batch.column(column);
        let _ = write!(line, "{}:", json_text(schema.field(column).name()));
        match (plain(array, row)?, array.data_type()) {
            (None, _) => line.push_str("null"),
            // JSON has no NaN and no infinity; as texts they are at least not lost.
            (Some(text), DataType::Float64) if text.ends_with(['N', 'y']) => line.push_str(&json_text(&text)),
            (Some(text), DataType::Timestamp(..)) => line.push_str(&json_text(&text)),
            (Some(text), data_type) if is_text(data_type) => line.push_str(&json_text(&text)),
            (Some(text), _) => line.push_str(&text),
        }
    }
    line.push('}');
    Ok(())
}

fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        BooleanArray, DurationNanosecondArray, Float64Array, Int64Array, StringArray, TimestampNanosecondArray,
    };

    use super::*;

    fn batch() -> RecordBatch {
        let time = TimestampNanosecondArray::from(vec![0, 1_500_000_001]).with_timezone("UTC");
        RecordBatch::try_from_iter([
            ("device", Arc::new(StringArray::from(vec!["truck, 1", "b"])) as Arc<dyn Array>),
            ("time", Arc::new(time)),
            ("speed", Arc::new(Float64Array::from(vec![Some(96.5), Some(f64::NAN)]))),
            ("count", Arc::new(Int64Array::from(vec![Some(i64::MAX), None]))),
            ("ok", Arc::new(BooleanArray::from(vec![true, false]))),
            ("note", Arc::new(StringArray::from(vec![Some(""), None]))),
            ("duration", Arc::new(DurationNanosecondArray::from(vec![90_000_000_000, 1_500_000_000]))),
        ])
        .unwrap()
    }

    fn print(format: Format) -> String {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, format);
        printer.batch(&batch()).unwrap();
        assert_eq!(printer.finish().unwrap(), 2);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn json_is_one_object_a_row_with_numbers_as_numbers() {
        let text = print(Format::Json);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "{\"device\":\"truck, 1\",\"time\":\"1970-01-01T00:00:00.000000000Z\",\"speed\":96.5,\"count\":9223372036854775807,\"ok\":true,\"note\":\"\",\"duration\":90}"
        );
        let second: serde_json::Value = serde_json::from_str(lines[1]).unwrap();
        assert_eq!(second["time"], "1970-01-01T00:00:01.500000001Z");
        assert_eq!(second["speed"], "NaN");
        assert_eq!(second["count"], serde_json::Value::Null);
        assert_eq!(second["duration"], 1.5);
    }

    #[test]
    fn csv_tells_empty_from_null() {
        let text = print(Format::Csv);
        assert_eq!(
            text,
            "device,time,speed,count,ok,note,duration\n\"truck, 1\",1970-01-01T00:00:00.000000000Z,96.5,9223372036854775807,true,\"\",90\nb,1970-01-01T00:00:01.500000001Z,NaN,,false,,1.5\n"
        );
    }

    #[test]
    fn tables_line_up() {
        let text = print(Format::Table);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("device    time "), "{text}");
        assert!(lines[2].starts_with("truck, 1  1970-"), "{text}");
        assert_eq!(lines.len(), 4);
    }

    #[test]
    fn floats_read_back() {
        for value in [0.1, 1e-9, 1e300, -0.0, 42.11536666666667, 5e-324, 123_456_789.0] {
            assert_eq!(float(value).parse::<f64>().unwrap().to_bits(), value.to_bits());
        }
    }
}
