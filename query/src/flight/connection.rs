//! Owns one accepted connection: its bytes, plain or TLS, and whom it belongs to; does not accept or serve.

use std::io::{IoSlice, Result};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::auth::{Authenticator, Credentials, Principal};

/// What every request of a connection can see of it.
#[derive(Clone, Debug)]
pub(crate) struct Connection(Arc<State>);

#[derive(Debug)]
struct State {
    peer: Option<SocketAddr>,
    certificate: Option<CertificateDer<'static>>,
    /// The caller by its certificate alone, with the generation of grants under which it was found.
    known: Mutex<Option<(u64, Arc<Principal>)>>,
}

impl Connection {
    fn new(peer: Option<SocketAddr>, certificate: Option<CertificateDer<'static>>) -> Self {
        Self(Arc::new(State { peer, certificate, known: Mutex::new(None) }))
    }

    /// Address of the other end.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.0.peer
    }

    /// Who makes a request with this `authorization` header over this connection.
    pub(crate) fn identify(
        &self,
        authenticator: &dyn Authenticator,
        authorization: Option<&str>,
    ) -> std::result::Result<Arc<Principal>, String> {
        let credentials = Credentials { certificate: self.0.certificate.as_ref(), authorization };
        if authorization.is_some() {
            return authenticator.authenticate(&credentials);
        }
        // The generation is read first: grants that change in between are noticed by the next request.
        let generation = authenticator.generation();
        if let Some((seen, principal)) = self.0.known.lock().as_ref()
            && *seen == generation
        {
            return Ok(principal.clone());
        }
        let principal = authenticator.authenticate(&credentials)?;
        *self.0.known.lock() = Some((generation, principal.clone()));
        Ok(principal)
    }
}

/// The socket of a connection.
pub(crate) struct Socket {
    bytes: Bytes,
    connection: Connection,
    /// Counts against the number of connections until the socket is closed.
    _permit: OwnedSemaphorePermit,
}

enum Bytes {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    pub(crate) fn plain(stream: TcpStream, permit: OwnedSemaphorePermit) -> Self {
        let connection = Connection::new(stream.peer_addr().ok(), None);
        Self { bytes: Bytes::Plain(stream), connection, _permit: permit }
    }

    pub(crate) fn tls(stream: TlsStream<TcpStream>, permit: OwnedSemaphorePermit) -> Self {
        let (tcp, session) = stream.get_ref();
        let certificate = session.peer_certificates().and_then(|chain| chain.first()).map(|c| c.clone().into_owned());
        let connection = Connection::new(tcp.peer_addr().ok(), certificate);
        Self { bytes: Bytes::Tls(Box::new(stream)), connection, _permit: permit }
    }
}

impl Connected for Socket {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        self.connection.clone()
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        match &mut self.get_mut().bytes {
            Bytes::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Bytes::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        match &mut self.get_mut().bytes {
            Bytes::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Bytes::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<Result<usize>> {
        match &mut self.get_mut().bytes {
            Bytes::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Bytes::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.bytes {
            Bytes::Plain(stream) => stream.is_write_vectored(),
            Bytes::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match &mut self.get_mut().bytes {
            Bytes::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Bytes::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match &mut self.get_mut().bytes {
            Bytes::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Bytes::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
