//! Owns what the tests of the binary share: a node as a child process, commands, peers that speak frames by hand.
#![allow(dead_code, missing_docs, clippy::unwrap_used)] // each test file uses its part, and helpers of tests may panic

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use tidewell_codec::{Batch, BatchField, Column, DeviceRuns, Tier, Values, encode_batch};
use tidewell_ingest::tls::{TlsFiles, TlsMaterial};
use tidewell_ingest::wire::{BatchFrame, Frame, FrameReader, Hello, ProducerId, Received, Welcome};
use tidewell_query::flight::{ClientOptions, QueryClient};

/// The first row's time: in the past on every machine that runs these tests.
pub const BASE_NS: i64 = 1_700_000_000_000_000_000;

/// The program, without the settings of whoever runs the tests.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidewell"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIDEWELL_") {
            command.env_remove(name);
        }
    }
    command.args(args).stdin(Stdio::null());
    command
}

/// What a command that ended said.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// Runs the program to its end, which must come by itself.
pub fn run(args: &[&str]) -> Said {
    run_with(args, &[])
}

pub fn run_with(args: &[&str], variables: &[(&str, &str)]) -> Said {
    let mut child = command(args)
        .envs(variables.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        out.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let errors = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        err.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let status = wait(&mut child, Duration::from_secs(60)).unwrap_or_else(|| {
        child.kill().ok();
        panic!("`tidewell {}` did not end within 60 s", args.join(" "))
    });
    Output { status, stdout: reader.join().unwrap(), stderr: errors.join().unwrap() }.into()
}

fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let until = Instant::now() + limit;
    while Instant::now() < until {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

/// Where a node listens.
#[derive(Clone, Debug)]
pub struct Ready {
    pub ingest: SocketAddr,
    pub query: SocketAddr,
    pub admin: SocketAddr,
    pub tls_dir: PathBuf,
}

/// A running node. It dies with the test.
pub struct Node {
    child: Child,
    pub ready: Ready,
    log: PathBuf,
}

impl Node {
    /// Starts a node on `data_dir` and waits until it is ready; `again` takes the addresses of an earlier one.
    pub fn start(data_dir: &Path, settings: &[&str], again: Option<&Ready>) -> Self {
        let address = |pick: fn(&Ready) -> SocketAddr| again.map_or("127.0.0.1:0".to_owned(), |r| pick(r).to_string());
        let log = data_dir.with_extension("log");
        let file = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        let mut command = command(&["serve", "--forget", "--until-stdin-closes", "--log", "info", "--data-dir"]);
        command
            .arg(data_dir)
            .args(["--ingest-addr", &address(|r| r.ingest)])
            .args(["--query-addr", &address(|r| r.query)])
            .args(["--admin-addr", &address(|r| r.admin)]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (line_to, line) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).ok();
            line_to.send(line).ok();
        });
        let line = line.recv_timeout(Duration::from_secs(60)).unwrap_or_default();
        let Ok(ready) = serde_json::from_str::<serde_json::Value>(&line) else {
            child.kill().ok();
            panic!("the node is not ready: {line:?}: {}", tail(&log));
        };
        let address = |key: &str| ready[key].as_str().unwrap().parse().unwrap();
        let ready = Ready {
            ingest: address("ingest_addr"),
            query: address("query_addr"),
            admin: address("admin_addr"),
            tls_dir: ready["tls_dir"].as_str().unwrap().into(),
        };
        Self { child, ready, log }
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and the end in order.
    pub fn terminate(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = wait(&mut self.child, Duration::from_secs(30)).expect("the node stops within 30 s");
        assert!(status.success(), "expected exit code 0, found {status}: {}", tail(&self.log));
    }

    pub fn material(&self, name: &str) -> TlsMaterial {
        TlsMaterial::load(&TlsFiles::in_dir(&self.ready.tls_dir, name)).unwrap()
    }

    pub async fn query(&self) -> QueryClient {
        let options = ClientOptions::from_tls_dir(&self.ready.query.to_string(), &self.ready.tls_dir, "dev").unwrap();
        QueryClient::connect(options).await.unwrap()
    }

    /// The admin address's answer to `GET path`: status and body.
    pub fn admin(&self, path: &str) -> (u16, String) {
        let mut stream = std::net::TcpStream::connect(self.ready.admin).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("an HTTP status");
        (status, answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned())
    }

    /// A counter of `/metrics`, summed over its labels.
    pub fn metric(&self, name: &str) -> u64 {
        let (_, text) = self.admin("/metrics");
        let lines = text.lines().filter(|line| line.starts_with(name) && !line.starts_with('#'));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
    }

    /// The log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(8).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// A column as text.
pub fn texts(batch: &RecordBatch, name: &str) -> Vec<String> {
    let column = batch.column_by_name(name).unwrap_or_else(|| panic!("{name} is in {:?}", batch.schema()));
    let column = cast(column, &DataType::Utf8).unwrap();
    column.as_string::<i32>().iter().map(|text| text.unwrap_or_default().to_owned()).collect()
}

/// A column as integers; times are nanoseconds.
pub fn integers(batch: &RecordBatch, name: &str) -> Vec<Option<i64>> {
    let column = batch.column_by_name(name).unwrap_or_else(|| panic!("{name} is in {:?}", batch.schema()));
    cast(column, &DataType::Int64).unwrap().as_primitive::<Int64Type>().iter().collect()
}

/// `rows` rows for each of `devices` in table `readings`; times begin at `first` seconds after [`BASE_NS`].
pub fn batch(devices: &[&str], rows: usize, first: i64) -> Batch {
    let mut runs = DeviceRuns::default();
    let (mut times, mut speed) = (Vec::new(), Vec::new());
    for device in devices {
        runs.push(device, rows as u32);
        for row in first..first + rows as i64 {
            times.push(BASE_NS + row * 1_000_000_000);
            speed.push(row as f64 / 10.0);
        }
    }
    let column = Column { values: Values::F64(speed), validity: None };
    Batch { table: "readings".into(), devices: runs, times, fields: vec![BatchField { name: "speed".into(), column }] }
}

pub fn payload(batch: &Batch) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_batch(batch, Tier::Plain, &mut bytes);
    bytes
}

/// A peer that speaks frames by hand, and so can say what the client library never says.
pub struct RawPeer {
    pub endpoint: quinn::Endpoint,
    pub connection: quinn::Connection,
}

impl RawPeer {
    pub async fn connect(addr: SocketAddr, config: rustls::ClientConfig) -> Result<Self, quinn::ConnectionError> {
        let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(config).unwrap();
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(crypto));
        let connection = endpoint.connect_with(config, addr, "localhost").unwrap().await?;
        Ok(Self { endpoint, connection })
    }

    pub async fn lane(&self) -> RawLane {
        let (send, recv) = self.connection.open_bi().await.unwrap();
        RawLane { send, recv, reader: FrameReader::new(0) }
    }
}

pub struct RawLane {
    pub send: quinn::SendStream,
    pub recv: quinn::RecvStream,
    reader: FrameReader,
}

impl RawLane {
    pub async fn say(&mut self, frame: &Frame) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.send.write_all(&bytes).await.unwrap();
    }

    /// The next frame; `None` when the node ended the lane.
    pub async fn hear(&mut self) -> Option<Frame> {
        loop {
            match self.reader.next().unwrap() {
                Some(Received::Frame(frame)) => return Some(frame),
                Some(other) => panic!("a node does not send {other:?}"),
                None => {}
            }
            let chunk = tokio::time::timeout(Duration::from_secs(20), self.recv.read_chunk(65_536, true));
            match chunk.await.expect("the node answers within 20 s") {
                Ok(Some(chunk)) => self.reader.feed(chunk.bytes),
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// Greets and opens a producer.
    pub async fn open(&mut self, producer: u128) -> Welcome {
        self.say(&Frame::Hello(Hello { version_min: 1, version_max: 1, software: "test".into() })).await;
        let welcome = match self.hear().await {
            Some(Frame::Welcome(welcome)) => welcome,
            other => panic!("expected welcome, heard {other:?}"),
        };
        self.say(&Frame::Resume { producer: ProducerId(producer), devices: vec![] }).await;
        assert!(matches!(self.hear().await, Some(Frame::Resumed { .. })));
        welcome
    }

    pub async fn batch(&mut self, producer: u128, seq: u64, payload: Vec<u8>) {
        self.send_again(producer, seq, 0, payload).await;
    }

    /// The same with the attempt that a retryable nack asks for.
    pub async fn send_again(&mut self, producer: u128, seq: u64, attempt: u32, payload: Vec<u8>) {
        let durability = Default::default();
        let producer = ProducerId(producer);
        self.say(&Frame::Batch(BatchFrame { producer, seq, attempt, durability, payload: payload.into() })).await;
    }
}

/// Numbers that a seed gives; the same on every machine.
pub struct Chance(u64);

impl Chance {
    /// From `TIDEWELL_TEST_SEED`, or else from the clock; printed, so that a failure can be repeated.
    pub fn printed() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
        let seed = std::env::var("TIDEWELL_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(now);
        println!("seed {seed}; TIDEWELL_TEST_SEED={seed} repeats it");
        Self(seed)
    }

    /// Numbers of their own for one part of a test.
    pub fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// From 0 to below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % bound
    }
}
