//! Owns the listener of the query address: accepting, handshakes, HTTP/2 limits and the end; does not answer calls.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_service_server::FlightServiceServer;
use futures::stream;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tonic::transport::Server;

use super::connection::Socket;
use super::service::FlightQueries;
use super::tls::TlsSource;

/// A peer that connects and says nothing is let go after this time.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls of one connection at a time.
const CALLS_PER_CONNECTION_MAX: u32 = 256;
/// Headers of one call.
const HEADER_BYTES_MAX: u32 = 32 << 10;
/// One message to the node. Tickets and actions are small; bulk rows may follow.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// A quiet connection is pinged after this time, and closed when the answer takes as long again.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// After a failed accept (no file handles left, for example) the loop rests, or it would spin.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// Why serving ended early.
#[derive(Debug, thiserror::Error)]
#[error("query address: {0}")]
pub struct ServeError(#[from] tonic::transport::Error);

/// Answers Flight calls on `listener` until `shutdown` completes, then lets running queries end.
///
/// Queries that still run after the service's `drain` time are stopped with UNAVAILABLE. Without `tls` the bytes go in
/// the clear and there are no client certificates: for tests and for a trusted proxy in front.
///
/// # Errors
/// When the transport cannot be set up.
pub async fn serve_flight(
    listener: TcpListener,
    tls: Option<TlsSource>,
    service: FlightQueries,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let (sender, mut receiver) = mpsc::channel(64);
    let accepting = tokio::spawn(accept(listener, tls, sender, service.limits().connections));
    let incoming = stream::poll_fn(move |cx| receiver.poll_recv(cx).map(|s| s.map(Ok::<_, std::io::Error>)));

    let (stopped_sender, stopped) = tokio::sync::oneshot::channel::<()>();
    let queries = service.running();
    let drain = service.limits().drain;
    let server = Server::builder()
        .max_concurrent_streams(CALLS_PER_CONNECTION_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_service(
            FlightServiceServer::new(service)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(usize::MAX),
        )
        .serve_with_incoming_shutdown(incoming, async move {
            // A dropped sender means that this function is gone, and the server with it.
            let _ = stopped.await;
        });
    let mut server = std::pin::pin!(server);

    tokio::select! {
        result = &mut server => {
            accepting.abort();
            return Ok(result?);
        }
        () = shutdown => {}
    }
    accepting.abort();
    let _ = stopped_sender.send(());
    if let Ok(result) = tokio::time::timeout(drain, &mut server).await {
        return Ok(result?);
    }
    tracing::info!(running = queries.count(), "query address: drain time is over, stopping queries");
    queries.stop_all();
    // Stopped queries notice within milliseconds; a peer that does not read its last bytes is not waited for.
    match tokio::time::timeout(Duration::from_secs(2), &mut server).await {
        Ok(result) => Ok(result?),
        Err(_) => Ok(()),
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsSource>, ready: mpsc::Sender<Socket>, connections_max: usize) {
    let connections = Arc::new(Semaphore::new(connections_max));
    loop {
        // The permit is taken before accepting, so that peers beyond the limit wait in the kernel's backlog.
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "query address: accept failed");
                tokio::time::sleep(ACCEPT_REST).await;
                continue;
            }
        };
        // Small answers must not wait for Nagle's algorithm.
        let _ = stream.set_nodelay(true);
        let (ready, tls) = (ready.clone(), tls.clone());
        tokio::spawn(async move {
            if let Some(socket) = prepare(stream, tls, permit).await {
                let _ = ready.send(socket).await;
            }
        });
    }
}

/// The socket, after the handshake. A peer that stays silent costs its connection slot, never another's handshake.
async fn prepare(stream: TcpStream, tls: Option<TlsSource>, permit: OwnedSemaphorePermit) -> Option<Socket> {
    let Some(tls) = tls else { return Some(Socket::plain(stream, permit)) };
    let peer = stream.peer_addr().ok();
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(tls()).accept(stream)).await {
        Ok(Ok(stream)) => Some(Socket::tls(stream, permit)),
        Ok(Err(error)) => {
            tracing::debug!(?peer, %error, "query address: handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!(?peer, timeout = ?HANDSHAKE_TIMEOUT, "query address: no handshake in time");
            None
        }
    }
}
