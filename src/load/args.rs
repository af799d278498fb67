//! Owns the flags of `tidewell load` and their help; does not act on them.

use std::path::PathBuf;

use clap::Args;

use super::input::Format;
use super::lp;
use super::sink::OnError;
use super::times::{self, TimeFormat, TimeUnit};
use super::types;
use crate::cli::NodeArgs;

const EXAMPLES: &str = "\
Examples:
  tidewell load trips.csv.gz --table trips --device-column Bike --device-prefix bike_ --time-column Date --skip-lines 2
  tidewell load obd.csv --table obd --device seat_leon --time-column Time --time-prefix '2018-02-14 ' --time-zone Europe/Berlin
  tidewell load air.csv --table air --device-column station --time-column year,month,day,hour \\
      --time-format '%Y %m %d %H' --null NA --exclude No
  tidewell load solar/*.csv --table controller --device solar --time-column 'Datum & Uhrzeit' --encoding latin-1 \\
      --time-format '%d.%m.%Y %H:%M' --time-zone +01:00 --decimal-comma --null 888,8 --on-error skip
  zcat weather.lp.gz | tidewell load - --format lp --device-tag location

Headers become field names: `Engine RPM [RPM]` is stored as Engine_RPM_RPM. Use --rename to choose another name, and --dry-run to see
names and types without sending. Loading the same file again changes nothing: rows with the same device and time replace themselves.";

/// Flags of `load`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct LoadArgs {
    /// Files; `-` is standard input. gzip and zstd are undone
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// How rows are written
    #[arg(long, value_enum, default_value_t = Format::Auto)]
    pub format: Format,
    /// Table of all rows; line protocol may leave it out and use the measurement
    #[arg(long)]
    pub table: Option<String>,
    /// Which node.
    #[command(flatten)]
    pub node: NodeArgs,

    /// Column that holds the device id (CSV)
    #[arg(long, value_name = "COLUMN", conflicts_with = "device", help_heading = "Devices")]
    pub device_column: Option<String>,
    /// Device of all rows; `{file}` stands for the file name without endings
    #[arg(long, value_name = "NAME", conflicts_with = "device_tag", help_heading = "Devices")]
    pub device: Option<String>,
    /// Put before each device id
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, help_heading = "Devices")]
    pub device_prefix: String,
    /// Characters taken out of each device id, e.g. ',' of "1,072" (CSV)
    #[arg(long, value_name = "CHARS", default_value = "", hide_default_value = true, help_heading = "Devices")]
    pub device_strip: String,
    /// Tag that holds the device id (line protocol) [default: `device`, or the only tag]
    #[arg(long, value_name = "TAG", help_heading = "Devices")]
    pub device_tag: Option<String>,

    /// Column that holds the time (CSV); several, separated by commas, are joined with a blank
    #[arg(long, value_name = "COLUMN,...", value_delimiter = ',', help_heading = "Time")]
    pub time_column: Vec<String>,
    /// `auto` (RFC 3339, YYYY-MM-DD HH:MM:SS, numbers), `epoch`, or a pattern such as '%d.%m.%Y %H:%M'
    #[arg(long, value_name = "FORMAT", default_value = "auto", help_heading = "Time")]
    pub time_format: TimeFormat,
    /// Unit of numeric times (CSV)
    #[arg(long, value_enum, default_value_t = TimeUnit::Auto, help_heading = "Time")]
    pub time_unit: TimeUnit,
    /// Zone of times that name none: UTC, Europe/Berlin, +01:00
    #[arg(long, value_name = "ZONE", default_value = "UTC", value_parser = parse_zone, help_heading = "Time")]
    pub time_zone: jiff::tz::TimeZone,
    /// Put before each time, e.g. a date that only the file name has
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, help_heading = "Time")]
    pub time_prefix: String,
    /// Unit of times in line protocol
    #[arg(long, value_enum, default_value_t = TimeUnit::Ns, help_heading = "Time")]
    pub precision: TimeUnit,

    /// Between cells: one character, or `tab` [default: the most frequent of , ; tab | in the header]
    #[arg(long, value_name = "CHAR", value_parser = parse_delimiter, help_heading = "CSV")]
    pub delimiter: Option<u8>,
    /// Lines before the header
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "CSV")]
    pub skip_lines: usize,
    /// Names of the columns of a file without a header
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', help_heading = "CSV")]
    pub columns: Vec<String>,
    /// Quotes have no meaning
    #[arg(long, help_heading = "CSV")]
    pub no_quotes: bool,
    /// Bytes of the file
    #[arg(long, value_enum, default_value_t = Encoding::Utf8, help_heading = "CSV")]
    pub encoding: Encoding,
    /// Text that means "no value", beside the empty cell; may be repeated
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, help_heading = "CSV")]
    pub null: Vec<String>,
    /// Numbers are written 1,5
    #[arg(long, help_heading = "CSV")]
    pub decimal_comma: bool,

    /// Types of columns instead of what the files suggest (i64, else f64, bool, utf8); `*=f64` makes every number f64
    ///
    /// Files are read twice: first to find types that fit every row, then to send. Of standard input the first 100,000 rows
    /// decide. A field that the table has already keeps its type.
    #[arg(long, value_name = "COLUMN=TYPE,...", value_delimiter = ',', help_heading = "Fields")]
    pub types: Vec<types::TypeOverride>,
    /// Only these columns or fields
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', conflicts_with = "exclude", help_heading = "Fields")]
    pub fields: Vec<String>,
    /// All columns or fields but these
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', help_heading = "Fields")]
    pub exclude: Vec<String>,
    /// Another name for a column or field; may be repeated
    #[arg(long, value_name = "OLD=NEW", help_heading = "Fields")]
    pub rename: Vec<String>,
    /// Tags of line protocol other than the device
    #[arg(long, value_enum, default_value_t = lp::Tags::Fields, help_heading = "Fields")]
    pub tags: lp::Tags,

    /// What to do with a line that is not a row
    #[arg(long, value_enum, default_value_t = OnError::Stop, help_heading = "Run")]
    pub on_error: OnError,
    /// Read and check everything, show names and types, send nothing
    #[arg(long, help_heading = "Run")]
    pub dry_run: bool,
    /// Print the summary as one JSON object
    #[arg(long, help_heading = "Run")]
    pub json: bool,
    /// No progress bar
    #[arg(long, help_heading = "Run")]
    pub quiet: bool,
}

/// Bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Encoding {
    /// UTF-8
    #[value(name = "utf-8")]
    Utf8,
    /// ISO-8859-1
    #[value(name = "latin-1")]
    Latin1,
}

fn parse_zone(text: &str) -> Result<jiff::tz::TimeZone, String> {
    times::zone(text)
}

fn parse_delimiter(text: &str) -> Result<u8, String> {
    match (text, text.as_bytes()) {
        ("tab" | "\\t" | "\t", _) => Ok(b'\t'),
        (_, [one]) if one.is_ascii() && *one != b'"' && *one != b'\n' => Ok(*one),
        _ => Err("expected one ASCII character, or tab".into()),
    }
}
