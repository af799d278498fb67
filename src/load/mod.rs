//! Owns `tidewell load`: flags, the way from files through parsers to the client library, progress and summary.
//!
//! `input` opens and decompresses; `csv` with `types` and `times`, and `lp` with `line` parse; `rows` and `sink` group rows
//! into batches; this file sends them. A second run of the same files sends the same keys, so it changes nothing.

pub mod csv;
pub mod input;
pub mod line;
pub mod lp;
pub mod rows;
pub mod sink;
pub mod times;
pub mod types;

use std::collections::{BTreeMap, HashMap};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tidewell_codec::{Batch, FieldType};

use crate::cli::NodeArgs;
use crate::connect::{Feed, Purpose, Target};
use crate::failure::{EXIT_FAILED, EXIT_OK, usage};
use crate::units::{human_bytes, thousands};
use input::{BytesRead, Format};
use sink::{BatchSink, Flow, OnError};
use times::{TimeFormat, TimeReader, TimeUnit};

/// Batches between the parser and the client.
const BATCHES_WAITING: usize = 4;

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

/// What a load did.
#[derive(Debug, Default, serde::Serialize)]
struct Summary {
    files: usize,
    tables: Vec<String>,
    rows: u64,
    acknowledged_rows: u64,
    refused_rows: u64,
    bad_lines: u64,
    seconds: f64,
    rows_per_second: f64,
    input_bytes: u64,
    sent_bytes: u64,
    stopped: bool,
}

/// Options of both parsers, checked.
struct Plan {
    csv: Option<csv::CsvOptions>,
    lp: lp::LpOptions,
}

fn plan(args: &LoadArgs) -> Result<Plan> {
    let mut rename = HashMap::new();
    for pair in &args.rename {
        let (old, new) =
            pair.split_once('=').ok_or_else(|| usage(format!("flag --rename: expected OLD=NEW, found `{pair}`")))?;
        if rows::clean_name(new) != new {
            return Err(usage(format!(
                "flag --rename: `{new}`: a field name has ASCII letters, digits and _ - . such as `{}`",
                rows::clean_name(new)
            )));
        }
        rename.insert(old.to_owned(), new.to_owned());
    }
    if let Some(table) = &args.table
        && rows::clean_name(table) != table.as_str()
    {
        return Err(usage(format!(
            "flag --table: `{table}`: a table name has ASCII letters, digits and _ - . such as `{}`",
            rows::clean_name(table)
        )));
    }
    let lp = lp::LpOptions {
        table: args.table.clone(),
        device_tag: args.device_tag.clone(),
        device: args.device.clone(),
        device_prefix: args.device_prefix.clone(),
        tags: args.tags,
        precision: args.precision,
        fields: args.fields.clone(),
        exclude: args.exclude.clone(),
        rename: rename.clone(),
        now_ns: crate::query::now_ns(),
    };
    let device = match (&args.device_column, &args.device) {
        (Some(column), _) => Some(csv::Device::Column(column.clone())),
        (None, Some(name)) => Some(csv::Device::Constant(name.clone())),
        (None, None) => None,
    };
    // Only a CSV file needs these; which files are CSV is known when they are opened.
    let csv = match (&args.table, device) {
        (Some(table), Some(device)) if !args.time_column.is_empty() => Some(csv::CsvOptions {
            table: table.clone(),
            delimiter: args.delimiter,
            skip_lines: args.skip_lines,
            columns: (!args.columns.is_empty()).then(|| args.columns.clone()),
            quotes: !args.no_quotes,
            latin1: args.encoding == Encoding::Latin1,
            device,
            device_prefix: args.device_prefix.clone(),
            device_strip: args.device_strip.clone(),
            time_columns: args.time_column.clone(),
            time_prefix: args.time_prefix.clone(),
            times: TimeReader::new(args.time_format.clone(), args.time_unit, args.time_zone.clone()),
            spelling: types::Spelling { nulls: args.null.clone(), decimal_comma: args.decimal_comma },
            types: args.types.clone(),
            fields: args.fields.clone(),
            exclude: args.exclude.clone(),
            rename,
        }),
        _ => None,
    };
    Ok(Plan { csv, lp })
}

fn missing_csv_flags(args: &LoadArgs, name: &str) -> anyhow::Error {
    let mut missing = Vec::new();
    if args.table.is_none() {
        missing.push("--table TABLE");
    }
    if args.device_column.is_none() && args.device.is_none() {
        missing.push("--device-column COLUMN (or --device NAME)");
    }
    if args.time_column.is_empty() {
        missing.push("--time-column COLUMN");
    }
    usage(format!("load {name}: a CSV file needs {}; `tidewell load --help` has examples", missing.join(", ")))
}

/// What the parsing thread ends with.
struct Parsed {
    files: usize,
    rows: u64,
    bad_lines: u64,
    stopped: bool,
    result: Result<()>,
}

/// Loads the files.
///
/// # Errors
/// Wrong flags, unreadable files, no node. Bad lines and refused rows are part of the summary and of the exit code.
pub async fn run(args: LoadArgs) -> Result<u8> {
    let plan = plan(&args)?;
    let target = if args.dry_run { None } else { Some(Target::find(&args.node, Purpose::Ingest)?) };
    let known = match (&target, &args.table) {
        (Some(target), Some(table)) => types_of(target, table).await,
        _ => HashMap::new(),
    };
    let feed = match &target {
        Some(target) => Some(Feed::connect(target).await?),
        None => None,
    };
    let start = Instant::now();
    let count = BytesRead::default();
    let bar = progress_bar(&args);
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<Batch>(BATCHES_WAITING);
    let stop = Arc::new(AtomicBool::new(false));
    let parsed_rows = Arc::new(AtomicU64::new(0));
    let parser = tokio::task::spawn_blocking({
        let (args, count, stop, rows, bar) =
            (args.clone(), count.clone(), stop.clone(), parsed_rows.clone(), bar.clone());
        move || parse(&args, plan, known, &count, sender, &stop, &rows, &bar)
    });

    let mut tables: BTreeMap<String, BTreeMap<String, FieldType>> = BTreeMap::new();
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    let mut failure = None;
    loop {
        tokio::select! {
            batch = receiver.recv() => {
                let Some(batch) = batch else { break };
                let fields = tables.entry(batch.table.clone()).or_default();
                for field in &batch.fields {
                    fields.entry(field.name.clone()).or_insert(field.column.field_type());
                }
                if let Some(feed) = &feed
                    && let Err(error) = feed.send(batch).await
                {
                    failure = Some(error);
                    stop.store(true, Ordering::Relaxed);
                    break;
                }
                if args.on_error == OnError::Stop && feed.as_ref().is_some_and(|f| f.refused_rows() > 0) {
                    stop.store(true, Ordering::Relaxed);
                    break;
                }
            }
            _ = tick.tick() => {
                bar.set_position(count.get());
                let acknowledged = feed.as_ref().map_or(parsed_rows.load(Ordering::Relaxed), Feed::acknowledged_rows);
                let rate = acknowledged as f64 / start.elapsed().as_secs_f64().max(1e-3);
                bar.set_message(format!("{} rows, {}/s", thousands(acknowledged), thousands(rate as u64)));
            }
        }
    }
    // The parser blocks on a full channel; without a receiver it ends.
    drop(receiver);
    let parsed = parser.await.context("the parser ended unexpectedly")?;
    if let Some(feed) = &feed
        && failure.is_none()
    {
        failure = feed.flush().await.err();
    }
    bar.finish_and_clear();
    let seconds = start.elapsed().as_secs_f64();
    let acknowledged_rows = feed.as_ref().map_or(0, Feed::acknowledged_rows);
    let refused_rows = feed.as_ref().map_or(0, Feed::refused_rows);
    let summary = Summary {
        files: parsed.files,
        tables: tables.keys().cloned().collect(),
        rows: parsed.rows,
        acknowledged_rows,
        refused_rows,
        bad_lines: parsed.bad_lines,
        seconds,
        rows_per_second: if args.dry_run { parsed.rows } else { acknowledged_rows } as f64 / seconds.max(1e-9),
        input_bytes: count.get(),
        sent_bytes: feed.as_ref().map_or(0, Feed::payload_bytes),
        stopped: parsed.stopped
            || failure.is_some()
            || parsed.result.is_err()
            || (refused_rows > 0 && args.on_error == OnError::Stop),
    };
    if let Some(feed) = feed {
        for line in feed.refusals() {
            eprintln!("tidewell: {line}");
        }
        feed.close().await;
    }
    if args.dry_run && !args.json {
        print_tables(&tables);
    }
    print_summary(&summary, &args);
    if let Some(error) = failure {
        return Err(error);
    }
    parsed.result?;
    // Skipping bad lines was asked for; rows that the node refused are rows that the caller believed to be good.
    Ok(if summary.stopped || summary.refused_rows > 0 { EXIT_FAILED } else { EXIT_OK })
}

fn progress_bar(args: &LoadArgs) -> ProgressBar {
    if args.quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    match input::total_bytes(&args.files) {
        Some(total) => {
            let style = ProgressStyle::with_template("{bar:30} {percent:>3}% {bytes}/{total_bytes}  {msg}  {eta} left");
            ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        }
        None => {
            let style = ProgressStyle::with_template("{spinner} {bytes}  {msg}  {elapsed}");
            ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
        }
    }
}

#[allow(clippy::too_many_arguments, reason = "one call, from the line above its definition")]
fn parse(
    args: &LoadArgs,
    plan: Plan,
    mut known: HashMap<String, FieldType>,
    count: &BytesRead,
    sender: tokio::sync::mpsc::Sender<Batch>,
    stop: &AtomicBool,
    rows: &AtomicU64,
    bar: &ProgressBar,
) -> Parsed {
    let report_bar = bar.clone();
    let report = Box::new(move |line: String| report_bar.suspend(|| eprintln!("tidewell: {line}")));
    // The client splits by shard; here one shard is as good as many.
    let mut sink = BatchSink::new(
        1,
        args.on_error,
        |batch: Batch| {
            rows.fetch_add(batch.rows() as u64, Ordering::Relaxed);
            !stop.load(Ordering::Relaxed) && sender.blocking_send(batch).is_ok()
        },
        report,
    );
    let mut files = 0;
    let mut result = survey(args, &plan, &mut known, bar);
    let paths: &[PathBuf] = if result.is_ok() { &args.files } else { &[] };
    for path in paths {
        let outcome = input::open(path, args.format, count).and_then(|input| {
            sink.begin_file(&input.name);
            match (input.format, &plan.csv) {
                (Format::Lp, _) => lp::read(input, &plan.lp, &mut sink),
                (_, Some(options)) => csv::read(input, options, &mut known, &mut sink),
                (_, None) => Err(missing_csv_flags(args, &input.name)),
            }
        });
        match outcome {
            Ok(()) => files += 1,
            // A file that cannot be read is like a bad line of the whole run.
            Err(error)
                if args.on_error == OnError::Skip
                    && crate::failure::exit_code(&error) != crate::failure::EXIT_USAGE =>
            {
                bar.suspend(|| eprintln!("tidewell: {}", crate::failure::one_line(&error)));
                sink.bad_lines += 1;
            }
            Err(error) => {
                result = Err(error);
                break;
            }
        }
        if sink.stopped || stop.load(Ordering::Relaxed) {
            break;
        }
    }
    // What came before a bad line is good and is sent.
    let _: Flow = sink.finish();
    Parsed { files, rows: sink.rows, bad_lines: sink.bad_lines, stopped: sink.stopped, result }
}

/// Finds types that fit every row of the CSV files that can be read twice, before the first row is sent: a table keeps
/// the type of a field for ever, so a column that turns out to have fractions after a million rows would be stuck.
fn survey(args: &LoadArgs, plan: &Plan, known: &mut HashMap<String, FieldType>, bar: &ProgressBar) -> Result<()> {
    let Some(options) = &plan.csv else { return Ok(()) };
    let mut guesses = HashMap::new();
    bar.set_message("looking at types");
    for path in &args.files {
        if !std::fs::metadata(path).is_ok_and(|data| data.is_file()) {
            continue;
        }
        // A file that cannot be opened is told when its turn comes to be loaded.
        if let Ok(input) = input::open(path, args.format, &BytesRead::default())
            && input.format == Format::Csv
        {
            csv::survey(input, options, &mut guesses)?;
        }
    }
    for (name, guess) in guesses {
        let (Some(found), false) = (options.type_of(guess), options.overrides(&name)) else { continue };
        match known.get(&name) {
            None => {
                known.insert(name, found);
            }
            Some(FieldType::I64) if found == FieldType::F64 => {
                return Err(usage(format!(
                    "load: field `{name}`: table `{}` has i64, the files have fractions; use another table, or leave the column out with --exclude, or another name with --rename",
                    options.table
                )));
            }
            // Whole numbers fit a column of doubles; anything else is told line by line.
            Some(_) => {}
        }
    }
    Ok(())
}

/// Types of the fields that the node already has, so that a file of whole numbers fits a column of doubles.
async fn types_of(target: &Target, table: &str) -> HashMap<String, FieldType> {
    use arrow::datatypes::DataType;

    let question = serde_json::json!({"range": {"table": table, "start": 0, "end": 1}}).to_string();
    let schema = match target.query_client().await {
        Ok(client) => client.schema(&question).await.ok(),
        Err(error) => {
            tracing::info!(
                error = crate::failure::one_line(&error),
                "the node's tables are not known, types come from the file alone"
            );
            None
        }
    };
    let Some(schema) = schema else { return HashMap::new() };
    schema
        .fields()
        .iter()
        .skip(2)
        .filter_map(|field| {
            let field_type = match field.data_type() {
                DataType::Float64 => FieldType::F64,
                DataType::Int64 => FieldType::I64,
                DataType::Boolean => FieldType::Bool,
                DataType::Utf8 | DataType::Dictionary(..) => FieldType::Utf8,
                _ => return None,
            };
            Some((field.name().clone(), field_type))
        })
        .collect()
}

fn print_tables(tables: &BTreeMap<String, BTreeMap<String, FieldType>>) {
    let mut out = std::io::stdout().lock();
    for (table, fields) in tables {
        let _ = writeln!(out, "table {table}");
        let width = fields.keys().map(String::len).max().unwrap_or(0);
        for (name, field_type) in fields {
            let _ = writeln!(out, "  {name:width$}  {field_type}");
        }
    }
}

fn print_summary(summary: &Summary, args: &LoadArgs) {
    let mut out = std::io::stdout().lock();
    if args.json {
        let _ = writeln!(out, "{}", serde_json::json!(summary));
        return;
    }
    let files = if summary.files == 1 { "1 file".to_owned() } else { format!("{} files", summary.files) };
    let what = if args.dry_run {
        format!("{} rows read, nothing sent (--dry-run)", thousands(summary.rows))
    } else {
        format!("{} rows read, {} acknowledged", thousands(summary.rows), thousands(summary.acknowledged_rows))
    };
    let mut line = format!("{files}: {what}");
    if summary.refused_rows > 0 {
        line += &format!(", {} refused by the node", thousands(summary.refused_rows));
    }
    if summary.bad_lines > 0 {
        let fate = if summary.stopped { "" } else { " skipped" };
        line += &format!(", {} bad lines{fate}", thousands(summary.bad_lines));
    }
    line += &format!(
        "; {:.1} s, {} rows/s, {} read",
        summary.seconds,
        thousands(summary.rows_per_second as u64),
        human_bytes(summary.input_bytes)
    );
    if summary.sent_bytes > 0 {
        line += &format!(", {} sent", human_bytes(summary.sent_bytes));
    }
    let _ = writeln!(out, "{line}");
    if summary.stopped {
        let _ = writeln!(
            out,
            "stopped early: correct the cause and run the same command again (rows that are in the node already stay as they are); --on-error skip goes on after bad lines"
        );
    }
}
