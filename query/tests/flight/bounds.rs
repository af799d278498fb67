//! What stops a query, how much runs at a time, and what a stream does while it is quiet.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arrow_flight::Ticket;
use arrow_flight::flight_service_client::FlightServiceClient;
use futures::StreamExt;
use tidewell_query::flight::FlightLimits;
use tonic::Code;

use crate::support::{Script, Server, ask, eventually, refused};

async fn server(limits: FlightLimits) -> (Arc<Script>, Server) {
    let store = Arc::new(Script::default());
    let server = Server::start(store.clone(), limits).await;
    (store, server)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_stops_when_its_client_leaves() {
    let (store, server) = server(FlightLimits::default()).await;
    let client = server.reader().await;
    let mut silent = Box::pin(async {
        let mut answer = client.query(&ask("silent")).await?;
        answer.next().await
    });
    let waited = tokio::time::timeout(Duration::from_millis(100), &mut silent).await;
    assert!(waited.is_err(), "a silent query answered");
    eventually("it runs", || store.began.load(Ordering::SeqCst)).await;
    assert_eq!(server.service.running_queries(), 1);
    assert!(!store.saw_cancel.load(Ordering::SeqCst));
    drop(silent);
    eventually("the computation saw its flag", || store.saw_cancel.load(Ordering::SeqCst)).await;
    eventually("its turn came back", || server.service.running_queries() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_answer_is_read_in_part() {
    let (_, server) = server(FlightLimits::default()).await;
    let client = server.reader().await;
    let mut answer = client.query(&ask("endless")).await.unwrap();
    for _ in 0..5 {
        assert!(answer.next().await.unwrap().unwrap().num_rows() > 0);
    }
    drop(answer);
    eventually("its turn came back", || server.service.running_queries() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_stops_when_the_connection_breaks() {
    let (store, server) = server(FlightLimits::default()).await;
    let client = server.reader().await;
    let task = tokio::spawn(async move {
        let mut answer = client.query(&ask("silent")).await.unwrap();
        drop(answer.next().await);
    });
    eventually("it runs", || store.began.load(Ordering::SeqCst)).await;
    task.abort();
    eventually("the computation saw its flag", || store.saw_cancel.load(Ordering::SeqCst)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn computing_is_limited() {
    let (_, server) = server(FlightLimits { compute: Duration::from_millis(200), ..FlightLimits::default() }).await;
    let start = Instant::now();
    let answer = server.reader().await.query(&ask("silent")).await.unwrap();
    let (code, words) = refused(answer.collect().await);
    assert_eq!(code, Code::DeadlineExceeded);
    assert!(words.contains("0.2 s"), "{words}");
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_nothing_is_let_go() {
    let (_, server) = server(FlightLimits { stall: Duration::from_millis(200), ..FlightLimits::default() }).await;
    let client = server.reader().await;
    let mut answer = client.query(&ask("endless")).await.unwrap();
    answer.next().await.unwrap();
    // The windows of HTTP/2 fill up, then nothing moves.
    eventually("its turn came back", || server.service.running_queries() == 0).await;
    let (code, words) = refused(answer.collect().await);
    assert_eq!(code, Code::DeadlineExceeded);
    assert!(words.contains("took no data"), "{words}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_beyond_the_limit_are_refused() {
    let limits = FlightLimits { queries: 1, turn_wait: Duration::from_millis(50), ..FlightLimits::default() };
    let (_, server) = server(limits).await;
    let client = server.reader().await;
    let first = client.query(&ask("endless")).await.unwrap();
    let (code, words) = refused(client.query(&ask("tiny")).await);
    assert_eq!(code, Code::ResourceExhausted);
    assert!(words.contains("1 queries run already"), "{words}");
    drop(first);
    eventually("its turn came back", || server.service.running_queries() == 0).await;
    client.query(&ask("tiny")).await.unwrap().collect().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_stream_shows_signs_of_life() {
    let (_, server) = server(FlightLimits { keep_alive: Duration::from_millis(50), ..FlightLimits::default() }).await;
    let client = server.bearer("secret").await;
    let inner = client.flight().unwrap().into_inner();
    let mut flight: FlightServiceClient<_> = inner;
    let mut request = tonic::Request::new(Ticket::new(ask("slow")));
    request.metadata_mut().insert("authorization", "Bearer secret".parse().unwrap());
    let messages: Vec<_> = flight.do_get(request).await.unwrap().into_inner().collect().await;
    // The schema, about five empty batches, the batch.
    assert!(messages.len() >= 4, "{} messages", messages.len());

    let batches = client.query(&ask("slow")).await.unwrap().collect().await.unwrap();
    assert_eq!(batches.iter().map(|b| b.num_rows()).collect::<Vec<_>>(), [10]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_hits_its_query_alone() {
    let (_, server) = server(FlightLimits::default()).await;
    let client = server.reader().await;
    for table in ["panics", "panics inline"] {
        let answer = client.query(&ask(table)).await.unwrap();
        assert_eq!(refused(answer.collect().await).0, Code::Internal);
    }
    client.query(&ask("tiny")).await.unwrap().collect().await.unwrap();
    eventually("all turns came back", || server.service.running_queries() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_before_an_error_arrive_and_so_does_the_error() {
    let (_, server) = server(FlightLimits::default()).await;
    let mut answer = server.reader().await.query(&ask("breaks")).await.unwrap();
    assert_eq!(answer.next().await.unwrap().unwrap().num_rows(), 10);
    let (code, words) = refused(answer.next().await);
    assert_eq!((code, words.as_str()), (Code::DataLoss, "seg/1.seg is damaged at offset 64"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_lets_answers_end_and_stops_those_that_do_not() {
    let (_, mut server) = server(FlightLimits { drain: Duration::from_millis(1000), ..FlightLimits::default() }).await;
    let client = server.reader().await;
    let slow = client.query(&ask("slow")).await.unwrap();
    let silent = client.query(&ask("silent")).await.unwrap();
    server.stop();
    assert_eq!(slow.collect().await.unwrap().len(), 1);
    let (code, words) = refused(silent.collect().await);
    assert_eq!(code, Code::Unavailable);
    assert!(words.contains("shutting down"), "{words}");
    tokio::time::timeout(Duration::from_secs(5), server.task).await.unwrap().unwrap();
}
