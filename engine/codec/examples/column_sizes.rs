//! Prints bytes per value and speed of every tier on columns of real telemetry; does not judge them.
//!
//! `cargo run --release -p tidewell-codec --example column_sizes [-- DATA [COLUMN...]]`. `DATA` is the folder with the data
//! sets, by default `$TIDEWELL_DATA` or `../shared/data` beside the repository; names select columns that contain them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use tidewell_codec::{Column, Tier, Values, decode_column_into, encode_column};

/// Values taken of one column, as in the published comparisons.
const VALUES_MAX: usize = 131_072;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let root = arguments
        .next()
        .or_else(|| std::env::var("TIDEWELL_DATA").ok())
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"), PathBuf::from);
    let wanted: Vec<String> = arguments.collect();
    if !root.is_dir() {
        println!("no data at {}: give the folder as an argument or in TIDEWELL_DATA; nothing measured", root.display());
        return;
    }
    println!("bytes per value, then MB/s of raw values (encode/decode at 4,096 rows)");
    println!(
        "{:<22} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7}   {:>11} {:>11}",
        "column", "values", "hot1000", "hot4096", "hot16k", "cold4k", "cold16k", "hot", "cold"
    );
    let mut reals = Summary::default();
    let mut small = Small::default();
    for (name, load) in sources() {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        let mut values = load(&root);
        values.truncate(VALUES_MAX);
        if values.is_empty() {
            println!("{name:<22} missing, skipped");
            continue;
        }
        let integer = name.ends_with("_ms") || name.ends_with("_int");
        let column =
            if integer { Values::I64(values.iter().map(|v| *v as i64).collect()) } else { Values::F64(values) };
        let column = Column { values: column, validity: None };
        let row = measure(&column);
        small.add(&column);
        println!("{name:<22} {row}");
        if !integer {
            reals.add(&row);
        }
    }
    reals.print();
    small.print();
}

/// Hot chunks of few rows, as slow devices and wire batches have them, over all columns.
#[derive(Default)]
struct Small {
    columns: usize,
    /// Bytes, nanoseconds to encode and to decode one chunk of each of `SMALL_ROWS`.
    sums: [[f64; 3]; SMALL_ROWS.len()],
}

const SMALL_ROWS: [usize; 4] = [1, 10, 100, 1_000];

impl Small {
    fn add(&mut self, column: &Column) {
        self.columns += 1;
        for (sums, rows) in self.sums.iter_mut().zip(SMALL_ROWS) {
            // The same 50 places of the column for every size.
            let starts: Vec<usize> = (0..50).map(|i| i * (column.len() - 1_000) / 50).collect();
            let mut chunks = vec![Vec::new(); starts.len()];
            let chunk_count = starts.len() as f64;
            let encode = median(5, || {
                let started = Instant::now();
                for (start, chunk) in starts.iter().zip(&mut chunks) {
                    chunk.clear();
                    encode_column(column, *start..*start + rows, Tier::Hot, chunk);
                }
                started.elapsed().as_nanos() as f64 / chunk_count
            });
            let mut back = Column::new(column.field_type());
            let decode = median(5, || {
                let started = Instant::now();
                for chunk in &chunks {
                    clear(&mut back);
                    decode_column_into(chunk, column.field_type(), rows, &mut back).expect("own chunk");
                }
                started.elapsed().as_nanos() as f64 / chunk_count
            });
            let bytes = chunks.iter().map(Vec::len).sum::<usize>() as f64 / chunk_count;
            [bytes, encode, decode].iter().zip(sums).for_each(|(value, sum)| *sum += value);
        }
    }

    fn print(&self) {
        for (sums, rows) in self.sums.iter().zip(SMALL_ROWS) {
            let [bytes, encode, decode] = sums.map(|sum| sum / self.columns.max(1) as f64);
            println!(
                "hot chunk of {rows:>5} rows: {bytes:>7.1} bytes, {encode:>6.0} ns to encode, {decode:>6.0} ns to decode"
            );
        }
    }
}

struct Row {
    values: usize,
    /// Hot at 1,000, 4,096 and 16,384 rows, cold at 4,096 and 16,384.
    bytes: [f64; 5],
    /// Nanoseconds a value: hot encode, hot decode, cold encode, cold decode.
    ns: [f64; 4],
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [b0, b1, b2, b3, b4] = self.bytes;
        let speed = self.ns.map(|ns| 8_000.0 / ns);
        write!(f, "{:>7} {b0:>7.3} {b1:>7.3} {b2:>7.3} {b3:>7.3} {b4:>7.3}", self.values)?;
        write!(f, "   {:>5.0}/{:<5.0} {:>5.0}/{:<5.0}", speed[0], speed[1], speed[2], speed[3])
    }
}

#[derive(Default)]
struct Summary {
    count: usize,
    bytes: [f64; 5],
    ns: [f64; 4],
}

impl Summary {
    fn add(&mut self, row: &Row) {
        self.count += 1;
        (0..5).for_each(|i| self.bytes[i] += row.bytes[i]);
        (0..4).for_each(|i| self.ns[i] += row.ns[i]);
    }

    fn print(&self) {
        if self.count > 0 {
            let n = self.count as f64;
            let mean = Row { values: self.count, bytes: self.bytes.map(|b| b / n), ns: self.ns.map(|t| t / n) };
            println!("{:<22} {mean}", "mean of f64 columns");
        }
    }
}

fn measure(column: &Column) -> Row {
    let bytes =
        |tier, rows| encode_all(column, tier, rows).iter().map(Vec::len).sum::<usize>() as f64 / column.len() as f64;
    let mut ns = [0.0; 4];
    for (slot, tier, runs) in [(0, Tier::Hot, 5), (2, Tier::Cold, 1)] {
        let per_value = |started: Instant| started.elapsed().as_nanos() as f64 / column.len() as f64;
        let chunks = encode_all(column, tier, 4_096);
        ns[slot] = median(runs, || {
            let started = Instant::now();
            std::hint::black_box(encode_all(column, tier, 4_096));
            per_value(started)
        });
        let mut back = Column::new(column.field_type());
        ns[slot + 1] = median(7, || {
            let started = Instant::now();
            for (index, chunk) in chunks.iter().enumerate() {
                clear(&mut back);
                let rows = 4_096.min(column.len() - index * 4_096);
                decode_column_into(chunk, column.field_type(), rows, &mut back).expect("own chunk");
                std::hint::black_box(&back);
            }
            per_value(started)
        });
        check(column, &chunks);
    }
    Row {
        values: column.len(),
        bytes: [
            bytes(Tier::Hot, 1_000),
            bytes(Tier::Hot, 4_096),
            bytes(Tier::Hot, 16_384),
            bytes(Tier::Cold, 4_096),
            bytes(Tier::Cold, 16_384),
        ],
        ns,
    }
}

fn median(runs: usize, mut run: impl FnMut() -> f64) -> f64 {
    let mut times: Vec<f64> = (0..runs).map(|_| run()).collect();
    times.sort_by(f64::total_cmp);
    times[runs / 2]
}

fn clear(column: &mut Column) {
    match &mut column.values {
        Values::F64(values) => values.clear(),
        Values::I64(values) => values.clear(),
        _ => unreachable!("only numbers are measured"),
    }
}

fn check(column: &Column, chunks: &[Vec<u8>]) {
    let mut back = Column::new(column.field_type());
    for (index, chunk) in chunks.iter().enumerate() {
        let rows = 4_096.min(column.len() - index * 4_096);
        decode_column_into(chunk, column.field_type(), rows, &mut back).expect("own chunk");
    }
    let same = match (&back.values, &column.values) {
        (Values::F64(a), Values::F64(b)) => a.iter().map(|v| v.to_bits()).eq(b.iter().map(|v| v.to_bits())),
        (a, b) => a == b,
    };
    assert!(same, "values did not come back");
}

fn encode_all(column: &Column, tier: Tier, rows: usize) -> Vec<Vec<u8>> {
    (0..column.len())
        .step_by(rows)
        .map(|start| {
            let mut out = Vec::new();
            encode_column(column, start..column.len().min(start + rows), tier, &mut out);
            out
        })
        .collect()
}

type Load = Box<dyn Fn(&Path) -> Vec<f64>>;

fn sources() -> Vec<(String, Load)> {
    let mut all: Vec<(String, Load)> = Vec::new();
    let mut add = |name: &str, load: Load| all.push((name.to_string(), load));
    for (name, field) in [("obd_rpm", 3), ("obd_speed", 4), ("obd_maf", 6), ("obd_throttle", 7)] {
        add(name, table("vehicle-obd-kit", "", ',', field));
    }
    for (name, field) in [("skab_accel", 1), ("skab_pressure", 4), ("skab_temp", 5)] {
        add(name, table("machine-skab", "", ';', field));
    }
    add("london_kwh", table("energy-london-meters/2013", "", ',', 2));
    for (name, field) in [("beijing_TEMP", 11), ("beijing_PRES", 12), ("beijing_PM25", 5), ("beijing_WSPM", 16)] {
        add(name, table("environment-beijing-air", "", ',', field));
    }
    add("home_temp", table("environment-smart-home", "_Temperature", '\t', 1));
    add("nab_values", table("server-nab", "", ',', 1));
    add(
        "bike_lat",
        Box::new(|root| lines_of(root, "fleet-valleybike", "").filter_map(|l| number(l.rsplit(',').nth(2)?)).collect()),
    );
    for name in [
        "Air-pressure",
        "Dew-point-temp",
        "IR-bio-temp",
        "PM10-dust",
        "Wind-Speed",
        "Stocks-USA",
        "Bitcoin-price",
        "City-temp",
    ] {
        add(&format!("elf_{name}"), table("float-columns/elf", name, ',', 0));
    }
    for field in [1, 2, 3, 4, 18, 19, 20] {
        add(&format!("solar_c{field}"), table("messy-solar-plant", "", '\t', field));
    }
    for field in [14, 15, 16] {
        add(&format!("solar_c{field}_int"), table("messy-solar-plant", "", '\t', field));
    }
    add("parking_occ_int", table("messy-parking", "", ',', 2));
    add("obd_ts_ms", Box::new(|root| times(root, "vehicle-obd-kit", "", ',', 0)));
    add("skab_ts_ms", Box::new(|root| times(root, "machine-skab", "", ';', 0)));
    add("london_ts_ms", Box::new(|root| times(root, "energy-london-meters/2013", "", ',', 1)));
    add(
        "home_ts_ms",
        Box::new(|root| {
            table("environment-smart-home", "_Temperature", '\t', 0)(root).iter().map(|s| s * 1e3).collect()
        }),
    );
    all
}

/// Field `field` of every line of every file in `folder` whose name contains `part`, in order of names.
fn table(folder: &'static str, part: &'static str, separator: char, field: usize) -> Load {
    Box::new(move |root| {
        lines_of(root, folder, part)
            .filter_map(|line| number(line.split(separator).nth(field)?))
            .take(VALUES_MAX)
            .collect()
    })
}

fn number(text: &str) -> Option<f64> {
    text.trim().trim_matches('"').replace(',', ".").parse().ok().filter(|v: &f64| v.is_finite())
}

/// Milliseconds of day and, where there is a date, a day count that is enough to be regular.
fn times(root: &Path, folder: &str, part: &str, separator: char, field: usize) -> Vec<f64> {
    let parse = |text: &str| -> Option<f64> {
        let (date, clock) = text.trim().rsplit_once([' ', 'T']).unwrap_or(("0-0-0", text.trim()));
        let mut parts = date.splitn(3, '-').map(|p| p.parse::<f64>().ok());
        let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
        let mut parts = clock.splitn(3, ':').map(|p| p.parse::<f64>().ok());
        let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0.0));
        // Days since 0000-03-01, so that month lengths follow one pattern.
        let (year, month) = if month > 2.0 { (year, month - 3.0) } else { (year - 1.0, month + 9.0) };
        let leap = (year / 4.0).floor() - (year / 100.0).floor() + (year / 400.0).floor();
        let days = year * 365.0 + leap + ((153.0 * month + 2.0) / 5.0).floor() + day;
        Some((((days * 24.0 + hour) * 60.0 + minute) * 60_000.0 + second * 1e3).round())
    };
    lines_of(root, folder, part).filter_map(|line| parse(line.split(separator).nth(field)?)).take(VALUES_MAX).collect()
}

fn lines_of<'a>(root: &Path, folder: &str, part: &'a str) -> impl Iterator<Item = String> + use<'a> {
    let mut files = Vec::new();
    collect(&root.join(folder), &mut files);
    files.sort();
    files
        .into_iter()
        .filter(move |file| file.file_name().is_some_and(|name| name.to_string_lossy().contains(part)))
        .flat_map(|file| {
            // Latin-1 files are read lossily: only digits matter here.
            let text = String::from_utf8_lossy(&read(&file)).into_owned();
            text.lines().map(str::to_string).collect::<Vec<_>>()
        })
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "labels") {
                collect(&path, files);
            }
        } else if path.extension().is_some_and(|extension| extension == "zst" || extension == "gz") {
            files.push(path);
        }
    }
}

fn read(file: &Path) -> Vec<u8> {
    if file.extension().is_some_and(|extension| extension == "gz") {
        return Command::new("gzip").arg("-dc").arg(file).output().map(|output| output.stdout).unwrap_or_default();
    }
    fs::read(file).ok().and_then(|bytes| zstd::decode_all(&bytes[..]).ok()).unwrap_or_default()
}
