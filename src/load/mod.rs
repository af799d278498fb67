//! Owns `tidewell load`: flags, the way from files through parsers to the client library, progress and summary.
//!
//! `input` opens and decompresses; `csv` with `types` and `times`, and `lp` with `line` parse; `rows` and `sink` group rows
//! into batches; this file sends them. A second run of the same files sends the same keys, so it changes nothing.

mod args;
pub mod csv;
pub mod input;
pub mod line;
pub mod lp;
pub mod rows;
pub mod sink;
mod summary;
pub mod times;
pub mod types;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use tidewell_codec::{Batch, FieldType};

use crate::connect::{Feed, Purpose, Target};
use crate::failure::{EXIT_FAILED, EXIT_OK, usage};
use crate::units::thousands;
pub use args::{Encoding, LoadArgs};
use input::{BytesRead, Format};
use sink::{BatchSink, Flow, OnError};
use summary::{Summary, print_summary, print_tables, progress_bar};
use times::TimeReader;

/// Batches between the parser and the client.
const BATCHES_WAITING: usize = 4;

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
    // Wrong flags are told in one line; there is nothing to sum up.
    if summary.rows > 0 || parsed.result.is_ok() {
        print_summary(&summary, &args);
    }
    if let Some(error) = failure {
        return Err(error);
    }
    parsed.result?;
    // Skipping bad lines was asked for; rows that the node refused are rows that the caller believed to be good.
    Ok(if summary.stopped || summary.refused_rows > 0 { EXIT_FAILED } else { EXIT_OK })
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
