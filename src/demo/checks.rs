//! Owns the questions of the demo, and whether the answers are what was simulated.

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, Int64Type};
use serde_json::json;
use tidewell_query::flight::QueryClient;

use super::fleet::{HOT, OVERHEATING, STEP_NS, TABLE, TUNNEL, Truck, device};
use super::line;
use crate::output::rfc3339;
use crate::units::thousands;

/// Rows of the table, from a count per device.
pub(super) async fn count(client: &QueryClient, devices: serde_json::Value, start: i64, end: i64) -> Result<u64> {
    let mut request = json!({
        "table": TABLE, "start": start, "end": end, "fields": ["velocity"], "where": "velocity IS NOT NULL",
    });
    if devices.as_object().is_none_or(|o| !o.is_empty()) {
        request["devices"] = devices;
    }
    let mut answer = client.query(&json!({ "range": request }).to_string()).await.context("count rows")?;
    let mut rows = 0;
    while let Some(batch) = answer.next().await.context("count rows")? {
        rows += batch.num_rows() as u64;
    }
    Ok(rows)
}

pub(super) async fn check_counts(
    client: &QueryClient,
    sent: u64,
    trucks: usize,
    start_ns: i64,
    end_ns: i64,
) -> Result<()> {
    println!();
    let found = count(client, json!({}), start_ns, end_ns).await?;
    ensure!(found == sent, "rows read back: expected {sent}, found {found}");
    line(
        "check",
        &format!(
            "{} rows read back of {} acknowledged, each once: nothing lost, nothing twice",
            thousands(found),
            thousands(sent)
        ),
    );
    let answer = client.query(&json!({"latest": {"table": TABLE}}).to_string()).await.context("latest")?;
    let rows: usize = answer.collect().await.context("latest")?.iter().map(arrow::array::RecordBatch::num_rows).sum();
    ensure!(rows == trucks, "latest: expected a row for each of {trucks} trucks, found {rows}");
    Ok(())
}

pub(super) async fn check_tunnel(client: &QueryClient, steps: i64, start_ns: i64, end_ns: i64) -> Result<()> {
    let late = client
        .query(&json!({"range": {"table": TABLE, "devices": [device(TUNNEL)], "start": start_ns, "end": end_ns, "fields": ["velocity"]}}).to_string())
        .await
        .context("rows of the tunnel")?
        .collect()
        .await
        .context("rows of the tunnel")?;
    let mut expected = start_ns;
    for batch in &late {
        let times = batch
            .column_by_name("time")
            .context("the answer has no time")?
            .as_primitive::<arrow::datatypes::TimestampNanosecondType>();
        for &time in times.values() {
            ensure!(
                time == expected,
                "rows of {}: expected one at {}, found {}",
                device(TUNNEL),
                rfc3339(expected),
                rfc3339(time)
            );
            expected += STEP_NS;
        }
    }
    let rows = (expected - start_ns) / STEP_NS;
    ensure!(rows == steps, "rows of {}: expected {steps}, found {rows}", device(TUNNEL));
    line("check", &format!("{} has every row in order of time, although a third came late", device(TUNNEL)));
    Ok(())
}

pub(super) async fn show_hours(client: &QueryClient, trucks: usize, start_ns: i64, end_ns: i64) -> Result<()> {
    let begin = Instant::now();
    let request = json!({"downsample": {
        "table": TABLE, "start": start_ns, "end": end_ns, "every": "3h", "group": "all",
        "fields": ["velocity", "engine_temperature"], "aggregates": ["mean", "max", "count"],
    }});
    let batches =
        client.query(&request.to_string()).await.context("downsample")?.collect().await.context("downsample")?;
    let took = begin.elapsed();
    println!(
        "\nVelocity and engine temperature of all trucks in windows of 3 hours ({:.1} ms):\n",
        took.as_secs_f64() * 1e3
    );
    println!("  {:<17} {:>10} {:>10} {:>12} {:>10}", "window", "mean km/h", "max km/h", "max engine C", "rows");
    let mut rows = 0;
    for batch in &batches {
        let floats = |name: &str| -> Result<_> {
            Ok(batch
                .column_by_name(name)
                .with_context(|| format!("the answer has no {name}"))?
                .as_primitive::<Float64Type>())
        };
        let times = batch
            .column_by_name("time")
            .context("the answer has no time")?
            .as_primitive::<arrow::datatypes::TimestampNanosecondType>();
        let counts = batch
            .column_by_name("velocity_count")
            .context("the answer has no velocity_count")?
            .as_primitive::<Int64Type>();
        let (mean, max, hot) = (floats("velocity_mean")?, floats("velocity_max")?, floats("engine_temperature_max")?);
        for row in 0..batch.num_rows() {
            println!(
                "  {:<17} {:>10.1} {:>10.1} {:>12.1} {:>10}",
                &rfc3339(times.value(row))[..16].replace('T', " "),
                mean.value(row),
                max.value(row),
                hot.value(row),
                thousands(counts.value(row) as u64)
            );
            rows += counts.value(row) as u64;
        }
    }
    let expected = trucks as u64 * ((end_ns - start_ns) / STEP_NS) as u64;
    ensure!(rows == expected, "downsample: expected windows with {expected} rows in all, found {rows}");
    Ok(())
}

pub(super) async fn check_overheating(client: &QueryClient, steps: i64, start_ns: i64, end_ns: i64) -> Result<()> {
    let begin = Instant::now();
    let condition = format!("engine_temperature > {HOT:.0}");
    let request = json!({"threshold": {"table": TABLE, "start": start_ns, "end": end_ns, "where": condition, "for": "5m", "max_gap": "1m"}});
    let batches =
        client.query(&request.to_string()).await.context("threshold")?.collect().await.context("threshold")?;
    let took = begin.elapsed();
    println!(
        "\nWhich engines were hotter than {HOT:.0} degrees for 5 minutes or more? ({:.1} ms)\n",
        took.as_secs_f64() * 1e3
    );
    let hot = Truck::new(OVERHEATING, steps).hot_steps();
    let expected = (device(OVERHEATING), start_ns + hot.start * STEP_NS, hot.end - hot.start);
    let mut found = Vec::new();
    for batch in &batches {
        let column = |name: &str| batch.column_by_name(name).with_context(|| format!("the answer has no {name}"));
        let starts = column("start")?.as_primitive::<arrow::datatypes::TimestampNanosecondType>();
        let samples = column("samples")?.as_primitive::<Int64Type>();
        let max = column("engine_temperature_max")?.as_primitive::<Float64Type>();
        let devices = arrow::compute::cast(column("device")?, &arrow::datatypes::DataType::Utf8).context("device")?;
        let devices = devices.as_string::<i32>();
        for row in 0..batch.num_rows() {
            println!(
                "  {}  from {}  for {} minutes, {} rows, up to {:.1} degrees",
                devices.value(row),
                &rfc3339(starts.value(row))[..19].replace('T', " "),
                samples.value(row) * STEP_NS / 60_000_000_000,
                samples.value(row),
                max.value(row)
            );
            found.push((devices.value(row).to_owned(), starts.value(row), samples.value(row)));
        }
    }
    if found != [expected.clone()] {
        bail!(
            "threshold: expected exactly one interval, {} from {} with {} rows, found {found:?}",
            expected.0,
            rfc3339(expected.1),
            expected.2
        );
    }
    println!();
    line("check", &format!("exactly {}, as simulated; short peaks of other trucks are left out", expected.0));
    Ok(())
}
