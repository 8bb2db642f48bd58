//! TLS 1.2 and 1.3 by rustls. Its crypto provider is named here: ring, or aws-lc-rs by a feature.
//! No process-wide default decides.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
#[cfg(feature = "aws-lc-rs")]
use tokio_rustls::rustls::crypto::aws_lc_rs as provider;
#[cfg(not(feature = "aws-lc-rs"))]
use tokio_rustls::rustls::crypto::ring as provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::config::{ClientCertificate, Listener, why_not_secret};

/// Reads the TLS files of a listener.
///
/// # Errors
/// The file, and the reason.
pub(super) fn acceptor(config: &Listener) -> Result<TlsAcceptor, String> {
    let certificate_file = config.certificate_file.as_deref().ok_or("TLS needs a certificate_file")?;
    let key_file = config.key_file.as_deref().ok_or("TLS needs a key_file")?;
    let chain = certificates("certificate_file", certificate_file)?;
    if let Some(error) = why_not_secret("key_file", key_file) {
        return Err(error);
    }
    let key = PrivateKeyDer::from_pem_file(key_file)
        .map_err(|error| format!("key_file {}: no private key in PEM form: {error}", key_file.display()))?;
    let provider = Arc::new(provider::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match verifier(config)? {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(verifier),
    };
    let mut server = builder.with_single_cert(chain, key).map_err(|error| {
        format!(
            "certificate_file {} and key_file {}: {error}",
            certificate_file.display(),
            key_file.display()
        )
    })?;
    // No early data: a replayed CONNECT or PUBLISH would be accepted twice.
    server.max_early_data_size = 0;
    // Tickets are sealed with a key of this process that rotates every few hours: a key that leaks
    // later opens no old session.
    server.ticketer = provider::Ticketer::new().map_err(|error| error.to_string())?;
    server.alpn_protocols = config.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Ok(TlsAcceptor::from(Arc::new(server)))
}

/// Verifier of client certificates; `None` when clients are not asked for any.
///
/// # Errors
/// The file, and the reason.
pub(crate) fn verifier(config: &Listener) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
    if config.client_certificate == ClientCertificate::None {
        return Ok(None);
    }
    let ca_file = config.client_ca_file.as_deref().ok_or("client_certificate needs a client_ca_file")?;
    let mut roots = RootCertStore::empty();
    for file in files_of(ca_file)? {
        for certificate in certificates("client_ca_file", &file)? {
            roots.add(certificate).map_err(|error| format!("client_ca_file {}: {error}", file.display()))?;
        }
    }
    let provider = Arc::new(provider::default_provider());
    let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    if config.client_certificate == ClientCertificate::Optional {
        verifier = verifier.allow_unauthenticated();
    }
    if let Some(path) = &config.client_crl_file {
        let wrong = |error: String| format!("client_crl_file {}: {error}", path.display());
        let lists: Vec<_> = CertificateRevocationListDer::pem_file_iter(path)
            .and_then(Iterator::collect)
            .map_err(|error| wrong(format!("cannot be read as PEM: {error}")))?;
        if lists.is_empty() {
            return Err(wrong("no revocation list in it".to_owned()));
        }
        // An overdue list says nothing about what was revoked since.
        verifier = verifier.with_crls(lists).enforce_revocation_expiration();
    }
    let built = verifier.build();
    built.map(Some).map_err(|error| format!("client_ca_file {}, client_crl_file: {error}", ca_file.display()))
}

/// Returns the files of a folder, or the file itself.
fn files_of(path: &Path) -> Result<Vec<PathBuf>, String> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path)
        .map_err(|error| format!("client_ca_file {} cannot be read: {error}", path.display()))?;
    let mut files: Vec<_> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    Ok(files)
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |what: String| format!("{key} {}: {what}", path.display());
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| wrong(format!("cannot be read as PEM: {error}")))?;
    if certificates.is_empty() { Err(wrong("no certificate in it".to_owned())) } else { Ok(certificates) }
}
