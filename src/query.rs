//! Owns `tidewell query`: flags to a JSON request, the answer to a printer; does not compute anything.

mod args;

use std::io::{BufWriter, IsTerminal, Write};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::connect::{Purpose, Target};
use crate::failure::{EXIT_OK, usage};
use crate::output::{Format, Printer, rfc3339};
use crate::units::Span;
pub use args::*;

/// Runs one question.
///
/// # Errors
/// When the flags contradict each other, the node does not answer or refuses.
pub async fn run(command: QueryCommand) -> Result<u8> {
    let now_ns = now_ns();
    let unbounded = match &command {
        QueryCommand::Downsample(args) if !args.ask.print_request => args.unbounded()?,
        _ => None,
    };
    let (mut request, ask) = match command {
        QueryCommand::Range(args) => (range_request(&args, now_ns)?, args.ask),
        QueryCommand::Latest(args) => (latest_request(&args, now_ns)?, args.ask),
        QueryCommand::Downsample(args) => (downsample_request(&args, now_ns)?, args.ask),
        QueryCommand::Threshold(args) => (threshold_request(&args, now_ns)?, args.ask),
        QueryCommand::Sql(_) => {
            return Err(usage(
                "query sql: not in this release; use query range, latest, downsample or threshold, or read the Arrow answers (--format arrow) with DuckDB or DataFusion",
            ));
        }
    };
    if ask.print_request {
        println!("{request}");
        return Ok(EXIT_OK);
    }
    // Wrong requests are told before a connection is made, with the words of the query crate.
    tidewell_query::Request::parse(request.as_bytes()).map_err(|e| usage(format!("request: {e}")))?;
    let target = Target::find(&ask.node, Purpose::Query)?;
    let client = target.query_client().await?;
    let address = target.query.clone().unwrap_or_default();
    if let Some(scope) = unbounded {
        let extent = extent(&client, &scope).await.with_context(|| format!("query {address}"))?;
        request = fit(&request, extent)?;
    }
    let stdout = std::io::stdout();
    let format = match (ask.json, ask.format) {
        (true, _) => Format::Json,
        (false, Some(format)) => format,
        (false, None) if stdout.is_terminal() => Format::Table,
        (false, None) => Format::Csv,
    };
    if format == Format::Arrow && stdout.is_terminal() {
        return Err(usage("query: Arrow is not for a terminal; redirect it to a file"));
    }
    let mut answer = client.query(&request).await.with_context(|| format!("query {address}"))?;
    let mut printer = Printer::new(BufWriter::new(stdout.lock()), format);
    loop {
        let batch = answer.next().await.with_context(|| format!("query {address}"))?;
        let printed = match (&batch, answer.schema()) {
            (Some(batch), _) => printer.batch(batch),
            (None, Some(schema)) => printer.begin(schema),
            (None, None) => Ok(()),
        };
        if let Err(error) = printed {
            return closed_pipe(error);
        }
        if batch.is_none() {
            break;
        }
    }
    if let Some(damage) = answer.damage() {
        tell_damage(damage);
    }
    match printer.finish() {
        Ok(0) if format == Format::Table => {
            let _ = writeln!(std::io::stderr(), "no rows");
            Ok(EXIT_OK)
        }
        Ok(_) => Ok(EXIT_OK),
        Err(error) => closed_pipe(error),
    }
}

/// Says on standard error what is missing in an answer.
fn tell_damage(damage: &Value) {
    const SHOWN_MAX: usize = 10;
    let places = damage["places"].as_array().map_or(&[][..], Vec::as_slice);
    let mut err = std::io::stderr().lock();
    // Nobody may be listening.
    let _ = writeln!(err, "warning: rows are missing in this answer, since files are damaged; see `tidewell verify`");
    for place in places.iter().take(SHOWN_MAX) {
        let text = |key: &str| place[key].as_str().unwrap_or("any device").to_owned();
        let _ = writeln!(
            err,
            "warning: {} at offset {}: {}, {} to {}: {}",
            text("path"),
            place["offset"],
            text("device"),
            text("first"),
            text("last"),
            text("cause")
        );
    }
    let more = places.len().saturating_sub(SHOWN_MAX) as u64 + damage["more"].as_u64().unwrap_or(0);
    if more > 0 {
        let _ = writeln!(err, "warning: and {more} more places");
    }
}

impl DownsampleArgs {
    /// The tables and devices of a question that leaves an end of its range open.
    fn unbounded(&self) -> Result<Option<Map<String, Value>>> {
        let open = self.time.last.is_none() && (self.time.start.is_none() || self.time.end.is_none());
        if open && self.scope.json_request.is_none() { scope_of(&self.scope).map(Some) } else { Ok(None) }
    }
}

/// From the day of the first row to the day after the last one. Windows are counted before they are computed, so a question
/// about all of time would be refused; years first and then days are a cheap way to find out where rows are.
async fn extent(client: &tidewell_query::flight::QueryClient, scope: &Map<String, Value>) -> Result<(i64, i64)> {
    use arrow::array::AsArray;
    use arrow::datatypes::TimestampNanosecondType;

    const YEAR: i64 = 366 * 86_400_000_000_000;
    const DAY: i64 = 86_400_000_000_000;
    let mut range = ALL_WINDOWS;
    for (every, longest) in [("1y", YEAR), ("1d", DAY)] {
        let mut request = scope.clone();
        request.extend([
            ("start".to_owned(), json!(range.0)),
            ("end".to_owned(), json!(range.1)),
            ("every".to_owned(), json!(every)),
            ("group".to_owned(), json!("all")),
            ("aggregates".to_owned(), json!(["count"])),
        ]);
        let mut answer = client.query(&wrap("downsample", request)).await?;
        let (mut first, mut last) = (i64::MAX, i64::MIN);
        while let Some(batch) = answer.next().await? {
            let times = batch
                .column_by_name("time")
                .context("the answer has no time")?
                .as_primitive::<TimestampNanosecondType>();
            first = first.min(arrow::compute::min(times).unwrap_or(i64::MAX));
            last = last.max(arrow::compute::max(times).unwrap_or(i64::MIN));
        }
        if first > last {
            return Ok((0, DAY));
        }
        range = (first.max(ALL_WINDOWS.0), last.saturating_add(longest).min(ALL_WINDOWS.1));
    }
    Ok(range)
}

/// The request with the open ends of its range set.
fn fit(request: &str, extent: (i64, i64)) -> Result<String> {
    let mut value: Value = serde_json::from_str(request).context("request")?;
    for (key, open, found) in [("start", ALL_WINDOWS.0, extent.0), ("end", ALL_WINDOWS.1, extent.1)] {
        let place = &mut value["downsample"][key];
        if *place == json!(open) {
            *place = json!(found);
        }
    }
    Ok(value.to_string())
}

/// A reader that has enough (`| head`) is no error.
fn closed_pipe(error: anyhow::Error) -> Result<u8> {
    let closed = error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
            || cause.to_string().contains("Broken pipe")
    });
    if closed { Ok(EXIT_OK) } else { Err(error.context("print answer")) }
}

/// The clock, as the store counts.
pub fn now_ns() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

/// `now`, `now-15m`, a date, or what requests take: RFC 3339 or nanoseconds.
pub(crate) fn time(text: &str, flag: &str, now_ns: i64) -> Result<Value> {
    let bad = |found: &str| {
        usage(format!("flag {flag}: expected RFC 3339, a date, nanoseconds, now or now-15m, found `{found}`"))
    };
    if let Some(rest) = text.strip_prefix("now") {
        let shift = |span: &str| -> Result<i64> {
            let span: Span = span.parse().map_err(|_| bad(text))?;
            i64::try_from(span.0.as_nanos()).map_err(|_| bad(text))
        };
        let moment = match rest.as_bytes().first() {
            None => Some(now_ns),
            Some(b'-') => now_ns.checked_sub(shift(&rest[1..])?),
            Some(b'+') => now_ns.checked_add(shift(&rest[1..])?),
            Some(_) => None,
        };
        return moment.map(|ns| json!(rfc3339(ns))).ok_or_else(|| bad(text));
    }
    if let Ok(ns) = text.parse::<i64>() {
        return Ok(json!(ns));
    }
    let mut reader = crate::load::times::TimeReader::new(
        crate::load::times::TimeFormat::Auto,
        crate::load::times::TimeUnit::Ns,
        jiff::tz::TimeZone::UTC,
    );
    reader.read(text).map(|ns| json!(rfc3339(ns))).map_err(|_| bad(text))
}

/// All of time, as far as nanoseconds reach.
const ALL: (i64, i64) = (i64::MIN, i64::MAX);
/// Years that hold whole windows: 1680 to 2260.
const ALL_WINDOWS: (i64, i64) = (-9_151_488_000_000_000_000, 9_151_488_000_000_000_000);

fn range_of(args: &TimeArgs, default: (i64, i64), now_ns: i64, into: &mut Map<String, Value>) -> Result<()> {
    let (start, end) = match &args.last {
        Some(span) => {
            let ns = i64::try_from(span.0.as_nanos()).unwrap_or(i64::MAX);
            (json!(rfc3339(now_ns.saturating_sub(ns))), json!(rfc3339(now_ns)))
        }
        None => (
            args.start.as_deref().map_or(Ok(json!(default.0)), |t| time(t, "--start", now_ns))?,
            args.end.as_deref().map_or(Ok(json!(default.1)), |t| time(t, "--end", now_ns))?,
        ),
    };
    into.insert("start".into(), start);
    into.insert("end".into(), end);
    Ok(())
}

fn scope_of(args: &ScopeArgs) -> Result<Map<String, Value>> {
    let mut request = Map::new();
    request.insert("table".into(), json!(args.table));
    if !args.devices.is_empty() {
        request.insert("devices".into(), json!(args.devices));
    } else if let Some(glob) = &args.glob {
        request.insert("devices".into(), json!({ "glob": glob }));
    } else if !args.attribute.is_empty() {
        let mut attributes = Map::new();
        for pair in &args.attribute {
            let (name, value) = pair
                .split_once('=')
                .ok_or_else(|| usage(format!("flag --attribute: expected NAME=VALUE, found `{pair}`")))?;
            attributes.insert(name.into(), value.into());
        }
        request.insert("devices".into(), json!({ "attributes": attributes }));
    }
    if !args.fields.is_empty() {
        request.insert("fields".into(), json!(args.fields));
    }
    Ok(request)
}

fn put<T: serde::Serialize>(request: &mut Map<String, Value>, key: &str, value: &Option<T>) {
    if let Some(value) = value {
        request.insert(key.into(), json!(value));
    }
}

/// The raw request, when there is one; it must be of the named kind.
fn raw(args: &ScopeArgs, kind: &str) -> Result<Option<String>> {
    let Some(text) = &args.json_request else { return Ok(None) };
    let text = if text == "-" {
        std::io::read_to_string(std::io::stdin()).context("read request: standard input")?
    } else {
        text.clone()
    };
    let value: Value = serde_json::from_str(&text).map_err(|e| usage(format!("flag --json-request: {e}")))?;
    match value.as_object().and_then(|o| o.keys().next()) {
        Some(key) if key == kind => Ok(Some(text)),
        Some(key) => Err(usage(format!(
            "flag --json-request: expected a `{kind}` request, found `{key}`; use `tidewell query {key}`"
        ))),
        None => Err(usage(format!("flag --json-request: expected {{\"{kind}\": {{...}}}}"))),
    }
}

fn wrap(kind: &str, request: Map<String, Value>) -> String {
    json!({ kind: request }).to_string()
}

fn range_request(args: &RangeArgs, now_ns: i64) -> Result<String> {
    if let Some(text) = raw(&args.scope, "range")? {
        return Ok(text);
    }
    let mut request = scope_of(&args.scope)?;
    range_of(&args.time, ALL, now_ns, &mut request)?;
    put(&mut request, "where", &args.condition);
    put(&mut request, "limit", &args.limit);
    Ok(wrap("range", request))
}

fn latest_request(args: &LatestArgs, now_ns: i64) -> Result<String> {
    if let Some(text) = raw(&args.scope, "latest")? {
        return Ok(text);
    }
    let mut request = scope_of(&args.scope)?;
    if let Some(text) = &args.as_of {
        request.insert("as_of".into(), time(text, "--as-of", now_ns)?);
    }
    Ok(wrap("latest", request))
}

fn downsample_request(args: &DownsampleArgs, now_ns: i64) -> Result<String> {
    if let Some(text) = raw(&args.scope, "downsample")? {
        return Ok(text);
    }
    let mut request = scope_of(&args.scope)?;
    range_of(&args.time, ALL_WINDOWS, now_ns, &mut request)?;
    put(&mut request, "every", &args.every);
    if let Some(text) = &args.origin {
        request.insert("origin".into(), time(text, "--origin", now_ns)?);
    }
    put(&mut request, "timezone", &args.timezone);
    if !args.aggregates.is_empty() {
        request.insert("aggregates".into(), json!(args.aggregates));
    }
    put(&mut request, "group", &args.group);
    put(&mut request, "fill", &args.fill);
    Ok(wrap("downsample", request))
}

fn threshold_request(args: &ThresholdArgs, now_ns: i64) -> Result<String> {
    if let Some(text) = raw(&args.scope, "threshold")? {
        return Ok(text);
    }
    if !args.scope.fields.is_empty() {
        return Err(usage("flag --fields: threshold answers with the fields of --where; leave it out"));
    }
    let mut request = scope_of(&args.scope)?;
    range_of(&args.time, ALL, now_ns, &mut request)?;
    put(&mut request, "where", &args.condition);
    put(&mut request, "for", &args.at_least);
    put(&mut request, "max_gap", &args.max_gap);
    put(&mut request, "return", &args.answer);
    Ok(wrap("threshold", request))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    const NOW: i64 = 1_767_225_600_000_000_000;

    fn request(line: &str) -> Result<String> {
        let words = line.split_whitespace().map(|w| w.replace('~', " "));
        let cli = Cli::try_parse_from(["tidewell".to_owned(), "query".to_owned()].into_iter().chain(words))?;
        let Command::Query(command) = cli.command else { panic!("another command") };
        let text = match *command {
            QueryCommand::Range(args) => range_request(&args, NOW),
            QueryCommand::Latest(args) => latest_request(&args, NOW),
            QueryCommand::Downsample(args) => downsample_request(&args, NOW),
            QueryCommand::Threshold(args) => threshold_request(&args, NOW),
            QueryCommand::Sql(_) => panic!("sql"),
        }?;
        tidewell_query::Request::parse(text.as_bytes()).map_err(|e| usage(e.to_string()))?;
        Ok(text)
    }

    #[test]
    fn flags_become_requests_that_the_query_crate_reads() {
        assert_eq!(
            request("range --table readings --devices a,b --start 2026-01-01 --end now-15m --fields v --where v>~50 --limit 7").unwrap(),
            "{\"range\":{\"table\":\"readings\",\"devices\":[\"a\",\"b\"],\"fields\":[\"v\"],\"start\":\"2026-01-01T00:00:00.000000000Z\",\"end\":\"2025-12-31T23:45:00.000000000Z\",\"where\":\"v> 50\",\"limit\":7}}"
        );
        assert_eq!(
            request("latest --table t --glob truck_*").unwrap(),
            "{\"latest\":{\"table\":\"t\",\"devices\":{\"glob\":\"truck_*\"}}}"
        );
        let text = request("downsample --table t --last 1h --every 1d --timezone Europe/Berlin --aggregates min,max --group attribute:fleet --fill linear --attribute fleet=north").unwrap();
        assert!(
            text.contains("\"start\":\"2025-12-31T23:00:00.000000000Z\",\"end\":\"2026-01-01T00:00:00.000000000Z\""),
            "{text}"
        );
        let text = request("threshold --table t --where v>1 --for 5m --max-gap 1m --return devices").unwrap();
        assert!(text.contains("\"start\":-9223372036854775808"), "{text}");
    }

    #[test]
    fn raw_requests_and_mistakes() {
        assert!(request("range --json-request {\"range\":{\"table\":\"t\",\"start\":0,\"end\":1}}").is_ok());
        assert!(request("latest --json-request {\"range\":{}}").unwrap_err().to_string().contains("query range"));
        assert!(request("latest").is_err());
        assert!(request("range --table t --start yesterday").unwrap_err().to_string().contains("--start"));
        assert!(request("downsample --table t --every 5x").is_err());
        assert!(request("range --table t --devices a --glob b").is_err());
        assert!(request("threshold --table t --where v>1 --fields v").is_err());
    }
}
