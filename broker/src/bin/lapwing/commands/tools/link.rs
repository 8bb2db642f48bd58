//! The bytes to a broker: TCP, TLS, WebSocket, both, or a Unix socket.

use std::path::Path;
use std::sync::Arc;

use lapwing::internals::net::websocket;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, UnixStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::failure::Failure;
use super::options::Target;

/// Any stream of bytes.
pub trait Bytes: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Bytes for S {}

/// Trusted authorities, and the client's certificate.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    pub ca_file: Option<String>,
    pub ca_folder: Option<String>,
    pub certificate: Option<String>,
    pub key: Option<String>,
    pub any_host_name: bool,
    pub alpn: Option<String>,
}

/// Files of trusted authorities in usual systems.
const SYSTEM_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Opens the link.
pub async fn open(target: &Target) -> Result<Box<dyn Bytes>, Failure> {
    if let Some(path) = &target.unix {
        let stream = UnixStream::connect(path).await.map_err(|error| Failure::of(path, error))?;
        return Ok(Box::new(stream));
    }
    let stream = tcp(target).await?;
    let plain: Box<dyn Bytes> = match &target.tls {
        None => Box::new(stream),
        Some(tls) => {
            let name = ServerName::try_from(target.host.clone())
                .map_err(|_| Failure::new(format!("'{}' is not a server name", target.host)))?;
            let connector = TlsConnector::from(Arc::new(configure(tls)?));
            let stream = connector.connect(name, stream).await.map_err(|error| explain(target, &error))?;
            Box::new(stream)
        }
    };
    match &target.websocket_path {
        None => Ok(plain),
        Some(path) => {
            let scheme = if target.tls.is_some() { "wss" } else { "ws" };
            let url = format!("{scheme}://{}{path}", target.authority());
            let stream = websocket::connect(plain, &url).await;
            Ok(Box::new(stream.map_err(|error| Failure::of(&url, error))?))
        }
    }
}

async fn tcp(target: &Target) -> Result<TcpStream, Failure> {
    let authority = target.authority();
    let failed = |error: std::io::Error| Failure::of(&authority, error);
    let addresses = lookup_host((target.host.as_str(), target.port)).await.map_err(failed)?;
    let mut last = Failure::new(format!("{authority}: the name has no address"));
    for address in addresses {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = socket.map_err(failed)?;
        if let Some(from) = target.bind {
            if from.is_ipv4() != address.is_ipv4() {
                continue;
            }
            socket.bind((from, 0).into()).map_err(|error| Failure::of(format_args!("-A {from}"), error))?;
        }
        match socket.connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(failed)?;
                return Ok(stream);
            }
            Err(error) => last = failed(error),
        }
    }
    Err(last)
}

fn explain(target: &Target, error: &std::io::Error) -> Failure {
    let text = error.to_string();
    let hint = if text.contains("InvalidContentType") || text.contains("corrupt message") {
        "; is that a TLS listener?"
    } else if text.contains("UnknownIssuer") || text.contains("BadSignature") {
        "; --cafile names the authority of its certificate"
    } else if text.contains("not valid for name") || text.contains("NotValidForName") {
        "; --insecure takes a certificate for another name"
    } else {
        ""
    };
    Failure::new(format!("TLS with {}: {text}{hint}", target.authority()))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    all.map_err(|error| Failure::of(path.display(), error))
}

fn authorities(tls: &Tls) -> Result<RootCertStore, Failure> {
    let mut files: Vec<std::path::PathBuf> = tls.ca_file.iter().map(Into::into).collect();
    if let Some(folder) = &tls.ca_folder {
        let entries = std::fs::read_dir(folder).map_err(|error| Failure::of(folder, error))?;
        files.extend(entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_file()));
    }
    if files.is_empty() {
        let system = SYSTEM_AUTHORITIES.iter().map(Path::new).find(|path| path.is_file());
        let none = || Failure::new("this system has no list of trusted authorities: name one with --cafile");
        files.push(system.ok_or_else(none)?.to_owned());
    }
    let mut roots = RootCertStore::empty();
    for file in &files {
        roots.add_parsable_certificates(read_certificates(file)?);
    }
    if roots.is_empty() {
        return Err(Failure::new(format!("{}: no certificate of an authority in it", files[0].display())));
    }
    Ok(roots)
}

fn configure(tls: &Tls) -> Result<ClientConfig, Failure> {
    let (provider, roots) = (Arc::new(default_provider()), Arc::new(authorities(tls)?));
    let failed = |error: Error| Failure::of("TLS", error);
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(failed)?;
    let builder = if tls.any_host_name {
        let inner = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
        let inner = inner.map_err(|error| Failure::of("TLS", error))?;
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyHostName(inner)))
    } else {
        builder.with_root_certificates(roots)
    };
    let mut config = match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => {
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| Failure::of(key, error))?;
            let chain = read_certificates(Path::new(certificate))?;
            builder.with_client_auth_cert(chain, private).map_err(failed)?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => return Err(Failure::new("--cert and --key belong together")),
    };
    config.alpn_protocols = tls.alpn.iter().map(|alpn| alpn.as_bytes().to_vec()).collect();
    Ok(config)
}

/// `--insecure`: verifies that a trusted authority signed the certificate, but no host name.
#[derive(Debug)]
struct AnyHostName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyHostName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
