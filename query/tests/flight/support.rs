//! Owns what the tests of the query address share: an authority, callers, a scripted store, a running server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tidewell_codec::{Batch, FieldType};
use tidewell_engine::quarantine::{Quarantined, Released};
use tidewell_engine::{
    Append, Delete, DeviceInfo, Error, FieldDef, Pins, Refusal, RefusalCode, Retention, TableFigures, TableSchema,
};
use tidewell_query::export::{column_array, device_array, rows_schema, time_array};
use tidewell_query::flight::{
    Authenticator, Batches, ClientError, ClientOptions, Credentials, DevicePages, DeviceScope, FlightLimits,
    FlightQueries, Plan, Principal, QueryClient, Roles, Store, serve_flight, tls,
};
use tidewell_query::{CancelFlag, Request};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

/// One certificate with its key, PEM and DER.
pub struct Certified {
    pub pem: Vec<u8>,
    pub key_pem: Vec<u8>,
    pub der: Vec<u8>,
}

/// A development authority.
pub struct Authority {
    pub pem: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let pem = params.self_signed(&key).unwrap().pem().into_bytes();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    pub fn certify(&self, name: &str) -> Certified {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Certified {
            pem: certificate.pem().into_bytes(),
            key_pem: key.serialize_pem().into_bytes(),
            der: certificate.der().to_vec(),
        }
    }
}

/// Callers by certificate and by token.
#[derive(Default)]
pub struct Callers {
    pub certificates: Vec<(Vec<u8>, Arc<Principal>)>,
    pub tokens: Vec<(String, Arc<Principal>)>,
    pub generation: AtomicU64,
    pub revoked: AtomicBool,
    pub asked: AtomicU64,
}

impl Authenticator for Callers {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Arc<Principal>, String> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if let Some(token) = credentials.bearer() {
            let known = self.tokens.iter().find(|(known, _)| known == token);
            return known.map(|(_, principal)| principal.clone()).ok_or_else(|| "unknown token".to_owned());
        }
        if self.revoked.load(Ordering::SeqCst) {
            return Err("the certificate is revoked".to_owned());
        }
        let certificate = credentials.certificate.ok_or("no client certificate and no token")?;
        let known = self.certificates.iter().find(|(der, _)| der == certificate.as_ref());
        known.map(|(_, principal)| principal.clone()).ok_or_else(|| "no grant for this certificate".to_owned())
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }
}

/// A principal with one role and device patterns.
pub fn principal(name: &str, roles: Roles, patterns: &[&str]) -> Arc<Principal> {
    let devices = DeviceScope::from_patterns(patterns.iter().copied()).unwrap();
    Arc::new(Principal { name: name.to_owned(), roles, devices })
}

/// A server on loopback.
pub struct Server {
    pub authority: Authority,
    pub admin: Certified,
    pub reader: Certified,
    pub addr: String,
    pub callers: Arc<Callers>,
    pub service: FlightQueries,
    stop: Option<oneshot::Sender<()>>,
    pub task: JoinHandle<()>,
}

impl Server {
    /// Starts a server with two certificates (`admin`; `reader` of `truck_*`) and one token (`secret`, the same reader).
    pub async fn start(store: Arc<dyn Store>, limits: FlightLimits) -> Self {
        let authority = Authority::new();
        let (node, admin, reader) =
            (authority.certify("node"), authority.certify("admin"), authority.certify("reader"));
        let trucks = principal("trucks", Roles::READER, &["truck_*"]);
        let callers = Arc::new(Callers {
            certificates: vec![
                (admin.der.clone(), Arc::new(Principal::admin("dev"))),
                (reader.der.clone(), trucks.clone()),
            ],
            tokens: vec![
                ("secret".into(), trucks),
                ("writes".into(), principal("gateway", Roles::WRITER, &["truck_*"])),
            ],
            ..Callers::default()
        });
        let config = Arc::new(tls::server_config(&node.pem, &node.key_pem, Some(&authority.pem)).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let service = FlightQueries::new(store, callers.clone(), limits);
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = service.clone();
        let task = tokio::spawn(async move {
            let shutdown = async { drop(stopped.await) };
            serve_flight(listener, Some(Arc::new(move || config.clone())), serving, shutdown).await.unwrap();
        });
        Self { authority, admin, reader, addr, callers, service, stop: Some(stop), task }
    }

    /// Begins the shutdown.
    pub fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    pub fn options(&self, certified: Option<&Certified>) -> ClientOptions {
        ClientOptions {
            authority_pem: Some(self.authority.pem.clone()),
            identity_pem: certified.map(|c| (c.pem.clone(), c.key_pem.clone())),
            ..ClientOptions::plain(&self.addr)
        }
    }

    pub async fn admin(&self) -> QueryClient {
        QueryClient::connect(self.options(Some(&self.admin))).await.unwrap()
    }

    pub async fn reader(&self) -> QueryClient {
        QueryClient::connect(self.options(Some(&self.reader))).await.unwrap()
    }

    pub async fn bearer(&self, token: &str) -> QueryClient {
        let options = ClientOptions { bearer: Some(token.into()), ..self.options(None) };
        QueryClient::connect(options).await.unwrap()
    }
}

/// Code and words of a refused call.
#[track_caller]
pub fn refused<T>(result: Result<T, ClientError>) -> (Code, String) {
    match result {
        Err(ClientError::Refused { code, message }) => (code, message),
        Err(other) => panic!("expected a refusal, got {other}"),
        Ok(_) => panic!("expected a refusal, got an answer"),
    }
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 5 s: {what}");
}

/// A store whose answers follow the name of the table that is asked.
#[derive(Default)]
pub struct Script {
    /// Set when a silent computation began.
    pub began: Arc<AtomicBool>,
    /// Set when a silent computation saw its cancel flag.
    pub saw_cancel: Arc<AtomicBool>,
    pub flushed: AtomicU64,
    pub deleted: parking_lot::Mutex<Vec<Delete>>,
    pub described: parking_lot::Mutex<Vec<(String, BTreeMap<String, String>)>>,
}

/// The question that asks `table`.
pub fn ask(table: &str) -> String {
    format!(r#"{{"range": {{"table": "{table}", "start": 0, "end": 10}}}}"#)
}

pub fn schema() -> SchemaRef {
    rows_schema([("velocity", FieldType::F64)])
}

pub fn batch(rows: usize) -> RecordBatch {
    let velocity = tidewell_codec::Column::nulls(FieldType::F64, rows);
    let columns = vec![
        device_array([("truck_1", rows)]).unwrap(),
        time_array((0..rows as i64).collect()),
        column_array(velocity).unwrap(),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

impl Store for Script {
    fn plan(&self, request: &Request, _: &DeviceScope, cancel: CancelFlag) -> Result<Plan, Status> {
        let (began, saw_cancel) = (self.began.clone(), self.saw_cancel.clone());
        let table = request.table().unwrap_or_default().to_owned();
        let batches: Batches = match table.as_str() {
            "tiny" | "large" => Box::new((0..3).map(|_| Ok(batch(10)))),
            "endless" => Box::new(std::iter::repeat_with(|| Ok(batch(100_000)))),
            // Computes and finds nothing until somebody stops it, or until it is clear that nobody does.
            "silent" => Box::new(std::iter::from_fn(move || {
                began.store(true, Ordering::SeqCst);
                let start = Instant::now();
                while !cancel.is_cancelled() && start.elapsed() < Duration::from_secs(10) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                saw_cancel.store(cancel.is_cancelled(), Ordering::SeqCst);
                Some(Err(Status::cancelled("the query was cancelled")))
            })),
            "slow" => Box::new((0..1).map(|_| {
                std::thread::sleep(Duration::from_millis(300));
                Ok(batch(10))
            })),
            "panics" | "panics inline" => Box::new(std::iter::from_fn(|| panic!("scripted"))),
            "breaks" => {
                Box::new([Ok(batch(10)), Err(Status::data_loss("seg/1.seg is damaged at offset 64"))].into_iter())
            }
            "empty" => Box::new(std::iter::empty()),
            other => return Err(Status::not_found(format!("unknown table `{other}`"))),
        };
        Ok(Plan {
            schema: schema(),
            small: table == "tiny" || table == "panics inline",
            batches,
            skipped: None,
            pins: Pins::default(),
        })
    }

    fn tables(&self) -> Vec<Arc<TableSchema>> {
        let fields = vec![FieldDef { name: "velocity".into(), field_type: FieldType::F64 }];
        vec![
            Arc::new(TableSchema { name: "other".into(), fields: fields.clone() }),
            Arc::new(TableSchema { name: "tiny".into(), fields }),
        ]
    }

    fn has_devices(&self, table: &str, scope: &DeviceScope) -> Result<bool, Error> {
        Ok(table == "tiny" && scope.contains("truck_1"))
    }

    fn devices(&self) -> DevicePages {
        let device = |id: &str| DeviceInfo {
            id: id.into(),
            attributes: Arc::new([("fleet".to_owned(), "north".to_owned())].into()),
            first_seen_ns: Some(0),
            last_seen_ns: Some(1_500_000_000),
        };
        // Two pages, the second of which the caller may have to wait for.
        Box::new([Ok(vec![device("pump_1"), device("truck_1")]), Ok(vec![device("truck_2")])].into_iter())
    }

    fn quarantined(&self, _: &dyn Fn(&str) -> bool) -> Result<Vec<Quarantined>, Error> {
        Ok(Vec::new())
    }

    fn release_quarantined(&self, table: &str, device: &str) -> Result<Released, Error> {
        Err(Error::Invalid(format!("no row of device {device} waits in the quarantine of table {table}")))
    }

    fn drop_quarantined(&self, table: &str, device: &str) -> Result<u64, Error> {
        self.release_quarantined(table, device).map(|_| 0)
    }

    fn set_attributes(&self, device: &str, attributes: BTreeMap<String, String>) -> Result<(), Error> {
        self.described.lock().push((device.to_owned(), attributes));
        Ok(())
    }

    fn shard_count(&self) -> u32 {
        1
    }

    fn now_ns(&self) -> i64 {
        0
    }

    fn check(&self, _: &Batch) -> Result<(), Refusal> {
        Ok(())
    }

    fn append(&self, _: Append) -> Result<(), Refusal> {
        Err(Refusal::new(RefusalCode::Overloaded, "scripted"))
    }

    fn flush(&self) -> Result<(), Error> {
        self.flushed.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn compact(&self) -> Result<(), Error> {
        Err(Error::corruption("seg/9.seg", 512, "checksum 1", "checksum 2"))
    }

    fn delete(&self, deletes: &[Delete]) -> Result<(), Error> {
        self.deleted.lock().extend_from_slice(deletes);
        Ok(())
    }

    fn table_figures(&self) -> Vec<TableFigures> {
        Vec::new()
    }

    fn set_retention(&self, _: &str, _: Retention) -> Result<(), Error> {
        Err(Error::Invalid("scripted".into()))
    }

    fn drop_table(&self, _: &str) -> Result<(), Error> {
        Err(Error::Invalid("scripted".into()))
    }

    fn rename_table(&self, _: &str, _: &str) -> Result<(), Error> {
        Err(Error::Invalid("scripted".into()))
    }

    fn stats(&self) -> serde_json::Value {
        serde_json::json!({"rows": 7})
    }
}
