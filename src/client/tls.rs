//! Connections to gateways, with TLS or without.
//!
//! Over `https://` a gateway has to show a certificate that names its host and that the given authority made. No other is
//! believed: clusters have authorities of their own, and a client that believed everybody's would tell its token to whoever
//! answers.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hyper::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tower_service::Service;

use super::ClientError;

/// How gateways over TLS are judged.
#[derive(Clone)]
pub(super) struct Trust(Option<TlsConnector>);

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Trust(an authority)" } else { "Trust(nobody)" })
    }
}

impl Trust {
    /// By the certificates in `authority`, in PEM; not at all without.
    pub(super) fn of(authority: Option<&[u8]>) -> Result<Self, ClientError> {
        let Some(pem) = authority else { return Ok(Self(None)) };
        let bad = |reason: String| ClientError::BadAuthority { reason };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| bad(error.to_string()))?;
            roots.add(certificate).map_err(|error| bad(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(bad("it holds no certificate in PEM".to_owned()));
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| bad(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Some(TlsConnector::from(Arc::new(config)))))
    }

    /// Whether it judges anybody.
    pub(super) const fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// What `stream`, which was opened for `uri`, is read and written through.
    pub(super) async fn secure(&self, uri: &Uri, stream: TcpStream) -> io::Result<Socket> {
        if uri.scheme_str() != Some("https") {
            return Ok(Socket(Either::Left(stream)));
        }
        let connector = self.0.as_ref().ok_or_else(|| io::Error::other("no authority is given for https://"))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        Ok(Socket(Either::Right(Box::new(connector.connect(name, stream).await?))))
    }
}

/// Opens connections for the HTTP client.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    tcp: HttpConnector,
    trust: Trust,
    /// How long a handshake may take.
    timeout: Duration,
}

impl Connector {
    pub(super) fn new(mut tcp: HttpConnector, trust: Trust, timeout: Duration) -> Self {
        tcp.enforce_http(false);
        Self { tcp, trust, timeout }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Socket>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.tcp.call(uri.clone());
        let (trust, timeout) = (self.trust.clone(), self.timeout);
        Box::pin(async move {
            let stream = connecting.await?.into_inner();
            let secured = tokio::time::timeout(timeout, trust.secure(&uri, stream)).await;
            Ok(TokioIo::new(secured.map_err(|_| "the TLS handshake took too long")??))
        })
    }
}

/// A connection to a gateway.
#[derive(Debug)]
pub(super) struct Socket(Either<TcpStream, Box<TlsStream<TcpStream>>>);

impl Connection for Socket {
    fn connected(&self) -> Connected {
        match &self.0 {
            Either::Left(stream) => stream.connected(),
            Either::Right(stream) => stream.get_ref().0.connected(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
