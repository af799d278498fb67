//! Owns the admin address: /metrics, /healthz, /readyz and a small index over HTTP; does not own what they report.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

/// A request that has not sent its head by then is dropped.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Admin connections at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;

/// One figure at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Name without the `tidewell_` prefix and without `_total`.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// Label pairs.
    pub labels: Vec<(&'static str, String)>,
    /// The figure.
    pub value: Value,
}

/// A figure that only grows, or one that goes up and down.
#[derive(Clone, Copy, Debug)]
pub enum Value {
    /// Only grows while the process lives.
    Counter(u64),
    /// Goes up and down.
    Gauge(f64),
}

/// Whether the node can do its work, and why not.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Accepts batches and answers queries.
    pub ready: bool,
    /// No damage: false when a shard is poisoned.
    pub healthy: bool,
    /// Something is damaged, and everything else is served.
    pub degraded: bool,
    /// More, for people and tools.
    pub detail: serde_json::Map<String, serde_json::Value>,
}

/// What the admin address reports.
pub trait Facts: Send + Sync + 'static {
    /// All figures now.
    fn samples(&self) -> Vec<Sample>;
    /// The state now.
    fn health(&self) -> Health;
    /// Lines of the index page: title and value.
    fn summary(&self) -> Vec<(String, String)>;
}

/// Answers on `listener` until `stop` turns true.
pub async fn serve(listener: TcpListener, facts: Arc<dyn Facts>, mut stop: watch::Receiver<bool>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let permit = tokio::select! {
            permit = permits.clone().acquire_owned() => permit.expect("the semaphore is never closed"),
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: wait instead of spinning.
                tracing::warn!(%error, "accept on the admin address failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let facts = facts.clone();
        let mut stop = stop.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let service = service_fn(move |request| {
                let facts = facts.clone();
                async move { Ok::<_, Infallible>(respond(&request, &*facts)) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            tokio::select! {
                result = connection.as_mut() => if let Err(error) = result {
                    tracing::debug!(%error, "admin connection ended");
                },
                _ = stop.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
            }
        });
    }
}

const PATHS: [&str; 4] = ["/", "/metrics", "/healthz", "/readyz"];

fn respond<B>(request: &Request<B>, facts: &dyn Facts) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if !PATHS.contains(&path) {
        let text = serde_json::json!({"error": format!("no such path: {path}"), "paths": PATHS});
        return reply(StatusCode::NOT_FOUND, JSON, text.to_string());
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let text = serde_json::json!({"error": format!("{} is not allowed on {path}; use GET", request.method())});
        let mut response = reply(StatusCode::METHOD_NOT_ALLOWED, JSON, text.to_string());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let mut response = match path {
        "/metrics" => match metrics(facts) {
            Ok(text) => reply(StatusCode::OK, METRICS, text),
            Err(error) => reply(
                StatusCode::INTERNAL_SERVER_ERROR,
                JSON,
                serde_json::json!({"error": error.to_string()}).to_string(),
            ),
        },
        "/healthz" => {
            let health = facts.health();
            let word = match (health.healthy, health.degraded) {
                (false, _) => "damaged",
                (true, true) => "degraded",
                (true, false) => "ok",
            };
            state(health.healthy, word, health)
        }
        "/readyz" => {
            let health = facts.health();
            state(health.ready, if health.ready { "ready" } else { "not ready" }, health)
        }
        _ if wants_json(request) => {
            let summary: serde_json::Map<_, _> = facts.summary().into_iter().map(|(k, v)| (k, v.into())).collect();
            reply(StatusCode::OK, JSON, serde_json::json!({"paths": PATHS, "node": summary}).to_string())
        }
        _ => reply(StatusCode::OK, HTML, index(&facts.summary())),
    };
    if request.method() == Method::HEAD {
        *response.body_mut() = Full::default();
    }
    response
}

const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

fn wants_json<B>(request: &Request<B>) -> bool {
    request.headers().get(hyper::header::ACCEPT).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains(JSON))
}

fn reply(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn state(good: bool, word: &str, health: Health) -> Response<Full<Bytes>> {
    let mut body = serde_json::Map::new();
    body.insert("status".into(), word.into());
    body.extend(health.detail);
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    reply(status, JSON, serde_json::Value::Object(body).to_string() + "\n")
}

fn index(summary: &[(String, String)]) -> String {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let rows: String = summary
        .iter()
        .map(|(title, value)| format!("<tr><th>{}</th><td>{}</td></tr>\n", escape(title), escape(value)))
        .collect();
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Tidewell</title><style>body{{font:16px/1.5 system-ui,sans-serif;max-width:44em;margin:2em auto;padding:0 1em}}\
         th{{text-align:left;padding-right:1.5em;font-weight:normal;color:#555}}td{{font-variant-numeric:tabular-nums}}\
         @media(prefers-color-scheme:dark){{body{{background:#111;color:#ddd}}th{{color:#999}}a{{color:#8bf}}}}</style>\
         <h1>Tidewell</h1><table>\n{rows}</table>\
         <p><a href=\"/metrics\">/metrics</a> for Prometheus, <a href=\"/healthz\">/healthz</a>, <a href=\"/readyz\">/readyz</a></p></html>\n"
    )
}

fn metrics(facts: &dyn Facts) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("tidewell");
    registry.register_collector(Box::new(Samples(facts.samples())));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Samples(Vec<Sample>);

impl Collector for Samples {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let mut at = 0;
        while at < self.0.len() {
            // Samples of one family follow each other; the family is described once.
            let family = &self.0[at];
            let end = at + self.0[at..].iter().take_while(|s| s.name == family.name).count();
            let kind = match family.value {
                Value::Counter(_) => ConstCounter::new(0u64).metric_type(),
                Value::Gauge(_) => ConstGauge::new(0f64).metric_type(),
            };
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, kind)?;
            if family.labels.is_empty() {
                match family.value {
                    Value::Counter(v) => ConstCounter::new(v).encode(metric)?,
                    Value::Gauge(v) => ConstGauge::new(v).encode(metric)?,
                }
                at = end;
                continue;
            }
            for sample in &self.0[at..end] {
                match sample.value {
                    Value::Counter(v) => ConstCounter::new(v).encode(metric.encode_family(&sample.labels)?)?,
                    Value::Gauge(v) => ConstGauge::new(v).encode(metric.encode_family(&sample.labels)?)?,
                }
            }
            at = end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(bool);

    impl Facts for Fixed {
        fn samples(&self) -> Vec<Sample> {
            let shard = |n: usize| vec![("shard", n.to_string())];
            vec![
                Sample { name: "rows", help: "Rows applied", labels: shard(0), value: Value::Counter(5) },
                Sample { name: "rows", help: "Rows applied", labels: shard(1), value: Value::Counter(7) },
                Sample { name: "memtable_bytes", help: "Memory", labels: Vec::new(), value: Value::Gauge(1.5) },
            ]
        }

        fn health(&self) -> Health {
            Health { ready: self.0, healthy: true, degraded: !self.0, detail: serde_json::Map::new() }
        }

        fn summary(&self) -> Vec<(String, String)> {
            vec![("Rows <all>".into(), "12".into())]
        }
    }

    async fn ask(method: &str, path: &str, ready: bool) -> (StatusCode, String) {
        let request = Request::builder().method(method).uri(path).body(()).unwrap();
        let response = respond(&request, &Fixed(ready));
        let status = response.status();
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn each_path_answers_and_others_are_refused() {
        let (status, text) = ask("GET", "/metrics", true).await;
        assert_eq!(status, StatusCode::OK);
        for line in [
            "tidewell_rows_total{shard=\"0\"} 5",
            "tidewell_rows_total{shard=\"1\"} 7",
            "tidewell_memtable_bytes 1.5",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert_eq!(text.matches("# TYPE tidewell_rows counter").count(), 1, "{text}");
        assert_eq!(ask("GET", "/readyz", true).await.0, StatusCode::OK);
        assert_eq!(ask("GET", "/readyz", false).await.0, StatusCode::SERVICE_UNAVAILABLE);
        let (status, text) = ask("GET", "/healthz", false).await;
        assert!(status == StatusCode::OK && text.contains("degraded"), "{status} {text}");
        assert!(ask("GET", "/healthz", true).await.1.contains("\"ok\""));
        assert!(ask("GET", "/", true).await.1.contains("Rows &lt;all&gt;"));
        assert_eq!(ask("GET", "/nope", true).await.0, StatusCode::NOT_FOUND);
        assert_eq!(ask("POST", "/metrics", true).await.0, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(ask("HEAD", "/metrics", true).await, (StatusCode::OK, String::new()));
    }
}
