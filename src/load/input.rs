//! Owns opening what `load` reads: files and standard input, gzip and zstd by magic bytes; does not parse rows.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};

/// Bytes read ahead from a file.
const BUFFER_BYTES: usize = 256 * 1024;

/// How rows are written in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// By the name (.csv .tsv .lp .txt), then by the first line
    Auto,
    /// Comma (or otherwise) separated values with a header
    Csv,
    /// InfluxDB line protocol
    Lp,
}

/// One opened input.
pub struct Input {
    /// For messages: the path, or `standard input`.
    pub name: String,
    /// File name without folder and endings, for `{file}`.
    pub stem: String,
    /// CSV or line protocol, never `Auto`.
    pub format: Format,
    /// Uncompressed bytes.
    pub reader: Box<dyn BufRead + Send>,
}

/// Bytes taken from the disk so far, for the progress bar.
#[derive(Clone, Default)]
pub struct BytesRead(Arc<AtomicU64>);

impl BytesRead {
    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct Counting<R> {
    inner: R,
    count: BytesRead,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count.0.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// The stored size of all files together; `None` when one of them is standard input or not a plain file.
pub fn total_bytes(paths: &[PathBuf]) -> Option<u64> {
    paths
        .iter()
        .map(|path| {
            let data = std::fs::metadata(path).ok().filter(|_| path.as_os_str() != "-")?;
            data.is_file().then_some(data.len())
        })
        .sum()
}

/// Opens `path` (`-` is standard input), undoes compression and finds the format.
///
/// # Errors
/// When it cannot be read, or holds something this release cannot load (Parquet).
pub fn open(path: &Path, format: Format, count: &BytesRead) -> Result<Input> {
    let stdin = path.as_os_str() == "-";
    let name = if stdin { "standard input".to_owned() } else { path.display().to_string() };
    let raw: Box<dyn Read + Send> = if stdin {
        Box::new(io::stdin())
    } else {
        let file = File::open(path).with_context(|| format!("open input: {name}"))?;
        anyhow::ensure!(
            !file.metadata()?.is_dir(),
            "open input: {name}: expected a file, found a folder; name its files"
        );
        Box::new(file)
    };
    let mut stored = BufReader::with_capacity(BUFFER_BYTES, Counting { inner: raw, count: count.clone() });
    let magic = stored.fill_buf().with_context(|| format!("read input: {name}"))?;
    anyhow::ensure!(
        !magic.starts_with(b"PAR1"),
        "load {name}: this is Parquet, which is not in this release; convert it to CSV, for example: duckdb -c \"copy 'FILE' to 'FILE.csv'\""
    );
    let mut reader: Box<dyn BufRead + Send> = if magic.starts_with(&[0x1f, 0x8b]) {
        Box::new(BufReader::with_capacity(BUFFER_BYTES, flate2::bufread::MultiGzDecoder::new(stored)))
    } else if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let decoder =
            zstd::stream::read::Decoder::with_buffer(stored).with_context(|| format!("open input: {name}: zstd"))?;
        Box::new(BufReader::with_capacity(BUFFER_BYTES, decoder))
    } else {
        Box::new(stored)
    };
    let format = match format {
        Format::Auto => detect(path, reader.fill_buf().with_context(|| format!("read input: {name}"))?),
        chosen => chosen,
    };
    Ok(Input { name, stem: stem(path), format, reader })
}

/// The file name without compression and format endings: `MAC000002.csv.zst` gives `MAC000002`.
fn stem(path: &Path) -> String {
    let mut name = path.file_name().map_or_else(|| "stdin".into(), |n| n.to_string_lossy().into_owned());
    if name == "-" {
        return "stdin".into();
    }
    for ending in [".zst", ".gz"] {
        name = name.strip_suffix(ending).map(str::to_owned).unwrap_or(name);
    }
    for ending in [".csv", ".tsv", ".txt", ".lp"] {
        name = name.strip_suffix(ending).map(str::to_owned).unwrap_or(name);
    }
    name
}

fn detect(path: &Path, head: &[u8]) -> Format {
    let name = path.to_string_lossy().to_lowercase();
    let name = name.trim_end_matches(".zst").trim_end_matches(".gz");
    if name.ends_with(".csv") || name.ends_with(".tsv") {
        return Format::Csv;
    }
    if name.ends_with(".lp") {
        return Format::Lp;
    }
    let text = String::from_utf8_lossy(&head[..head.len().min(4096)]);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#')).unwrap_or_default();
    // `name[,tag=v] field=value …`: a blank, and a `=` after it.
    match line.split_once(' ') {
        Some((key, rest)) if rest.contains('=') && !key.contains(';') && !key.contains('\t') => Format::Lp,
        _ => Format::Csv,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(path: &Path) -> (Format, String) {
        let mut input = open(path, Format::Auto, &BytesRead::default()).unwrap();
        let mut text = String::new();
        input.reader.read_to_string(&mut text).unwrap();
        (input.format, text)
    }

    #[test]
    fn compression_is_found_by_magic_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let text = "time,v\n2020-01-01,1\n";
        let plain = folder.path().join("a.csv");
        std::fs::write(&plain, text).unwrap();
        let gzip = folder.path().join("b");
        let mut encoder = flate2::write::GzEncoder::new(File::create(&gzip).unwrap(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap();
        let zstd = folder.path().join("c.csv.zst");
        std::fs::write(&zstd, zstd::encode_all(text.as_bytes(), 1).unwrap()).unwrap();
        for path in [&plain, &gzip, &zstd] {
            assert_eq!(read(path), (Format::Csv, text.to_owned()), "{}", path.display());
        }
        assert_eq!(stem(&zstd), "c");
        assert_eq!(total_bytes(&[plain, "-".into()]), None);
    }

    #[test]
    fn line_protocol_is_told_from_csv() {
        let any = Path::new("x.txt");
        assert_eq!(detect(any, b"\nweather,location=San\\ Francisco wind=2 15778\n"), Format::Lp);
        assert_eq!(detect(any, b"Date,Value\n2020-01-01 00:00,1\n"), Format::Csv);
        assert_eq!(detect(Path::new("x.csv.gz"), b"a b=1 2\n"), Format::Csv);
    }

    #[test]
    fn parquet_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        std::fs::write(&path, b"PAR1....PAR1").unwrap();
        let error = open(&path, Format::Auto, &BytesRead::default()).err().unwrap().to_string();
        assert!(error.contains("Parquet") && error.contains("not in this release"), "{error}");
        assert!(open(&folder.path().join("none"), Format::Auto, &BytesRead::default()).is_err());
    }
}
