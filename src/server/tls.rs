//! HTTPS: the same router behind TLS.
//!
//! Each handshake is a task of its own and has ten seconds, so that a client which is slow, or
//! says nothing, keeps no other waiting. HTTP/1.1 and HTTP/2 are chosen by ALPN.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use axum::Router;
use axum_server::accept::NoDelayAcceptor;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use axum_server::{Handle, Server};
use tokio::net::TcpListener;

use crate::error::{Code, Error, Result};

/// A certificate chain and its key, ready to be used. Clones share what is loaded.
#[derive(Debug, Clone)]
pub struct Tls {
    config: RustlsConfig,
    certificate: PathBuf,
    key: PathBuf,
}

impl Tls {
    /// Reads a certificate chain and a private key, both in PEM.
    ///
    /// # Errors
    /// `SG6002 file-unreadable`: a file cannot be read, holds something else, or the two do not
    /// belong together.
    pub async fn load(certificate: &Path, key: &Path) -> Result<Self> {
        let (chain, secret) = read_both(certificate, key).await?;
        let config = RustlsConfig::from_pem(chain, secret).await;
        Ok(Self {
            config: config.map_err(|error| unfit(certificate, key, error))?,
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        })
    }

    /// Reads the same files again, for certificates run out. New connections get what is in them;
    /// where they cannot be used, all stays as it was.
    ///
    /// # Errors
    /// Those of [`Tls::load`].
    pub async fn reload(&self) -> Result<()> {
        let (chain, secret) = read_both(&self.certificate, &self.key).await?;
        let loaded = self.config.reload_from_pem(chain, secret).await;
        loaded.map_err(|error| unfit(&self.certificate, &self.key, error))
    }
}

async fn read_both(certificate: &Path, key: &Path) -> Result<(Vec<u8>, Vec<u8>)> {
    let chain = read(certificate, "CERTIFICATE").await?;
    Ok((chain, read(key, "PRIVATE KEY").await?))
}

fn unfit(certificate: &Path, key: &Path, error: std::io::Error) -> Error {
    Error::new(
        Code::FileUnreadable,
        format!(
            "certificate \"{}\" with key \"{}\" cannot be used",
            certificate.display(),
            key.display()
        ),
    )
    .with_detail(format!("{error}."))
    .with_hint("Give a chain that begins with the server's own certificate, and its key.")
    .with_source(error)
}

async fn read(path: &Path, holds: &str) -> Result<Vec<u8>> {
    let unusable = |what: &str| {
        Error::new(
            Code::FileUnreadable,
            format!("file \"{}\" {what}", path.display()),
        )
        .with_hint("Give --tls-cert and --tls-key files in PEM that you may read.")
    };
    let bytes = tokio::fs::read(path).await.map_err(|error| {
        unusable("cannot be read")
            .with_detail(format!("{error}."))
            .with_source(error)
    })?;
    let marked = String::from_utf8_lossy(&bytes)
        .lines()
        .any(|line| line.starts_with("-----BEGIN") && line.contains(holds));
    match marked {
        true => Ok(bytes),
        false => Err(unusable(&format!(
            "holds no {} in PEM",
            holds.to_lowercase()
        ))),
    }
}

/// Serves until `told` is ready; then what runs may end.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Tls,
    told: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let acceptor = RustlsAcceptor::new(tls.config).acceptor(NoDelayAcceptor::new());
    let handle = Handle::new();
    let served = Server::<SocketAddr>::from_listener(listener)
        .acceptor(acceptor)
        .handle(handle.clone())
        .serve(router.into_make_service());
    tokio::pin!(served);
    tokio::select! {
        ended = &mut served => return ended,
        () = told => handle.graceful_shutdown(None),
    }
    served.await
}
