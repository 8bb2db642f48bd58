//! A certificate authority for tests, with certificates of every kind, good and bad.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::access::secret_file;
use crate::program::Folder;

/// An authority; its certificate is in PEM form.
pub struct Authority {
    /// Its certificate.
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub pem: String,
    /// Its key.
    pub key: String,
}

/// Special properties of a certificate.
#[derive(Default)]
pub struct Wanted<'a> {
    /// Its common name.
    pub cn: Option<DnValue>,
    /// Its alternative names.
    pub names: Vec<SanType>,
    /// It has ended.
    pub expired: bool,
    /// Its number.
    pub serial: u64,
    /// For servers with these names, in place of clients.
    pub server: &'a [&'a str],
}

impl Default for Authority {
    fn default() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut parameters = CertificateParams::new(Vec::new()).expect("parameters");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        parameters.distinguished_name.push(DnType::CommonName, "An authority");
        let pem = parameters.self_signed(&key).expect("a certificate").pem();
        Authority { pem, issuer: Issuer::new(parameters, key) }
    }
}

impl Authority {
    /// Issues a certificate.
    pub fn issue(&self, wanted: Wanted<'_>) -> Issued {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = wanted.server.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = CertificateParams::new(names).expect("parameters");
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(cn) = wanted.cn {
            parameters.distinguished_name.push(DnType::CommonName, cn);
        }
        parameters.subject_alt_names.extend(wanted.names);
        parameters.serial_number = Some(SerialNumber::from(wanted.serial.max(1)));
        if wanted.expired {
            (parameters.not_before, parameters.not_after) =
                (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        }
        let usage = match wanted.server {
            [] => ExtendedKeyUsagePurpose::ClientAuth,
            _ => ExtendedKeyUsagePurpose::ServerAuth,
        };
        parameters.extended_key_usages = vec![usage];
        let certificate = parameters.signed_by(&key, &self.issuer).expect("a certificate");
        Issued { pem: certificate.pem(), key: key.serialize_pem() }
    }

    /// A client with this common name.
    pub fn client(&self, cn: &str, serial: u64) -> Issued {
        self.issue(Wanted { cn: Some(cn.into()), serial, ..Wanted::default() })
    }

    /// A revocation list with these numbers.
    pub fn revoke(&self, serials: &[u64], overdue: bool) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: if overdue { date_time_ymd(2024, 2, 1) } else { date_time_ymd(2124, 1, 1) },
            crl_number: SerialNumber::from(serials.len() as u64 + 1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).expect("a list").pem().expect("PEM")
    }

    /// Puts the authority, and a server for `localhost` by it, into a folder: the keys of a
    /// `[[listener]]` for it.
    pub fn serve(&self, folder: &Folder, name: &str) -> String {
        let server = self.issue(Wanted { server: &["localhost", "127.0.0.1"], ..Wanted::default() });
        let ca = folder.file(&format!("{name}-ca.pem"), &self.pem);
        let certificate = folder.file(&format!("{name}.pem"), &server.pem);
        let key = secret_file(folder, &format!("{name}.key"), &server.key);
        format!(
            "certificate_file = '{}'\nkey_file = '{}'\nclient_ca_file = '{}'\n",
            certificate.display(),
            key.display(),
            ca.display()
        )
    }

    /// A client that trusts this authority, and shows a certificate.
    pub fn tls(&self, own: Option<&Issued>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let certificate = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
        roots.add(certificate(&self.pem)).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.expect("versions").with_root_certificates(roots);
        Arc::new(match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).expect("a key");
                builder.with_client_auth_cert(vec![certificate(&own.pem)], key).expect("a pair")
            }
        })
    }
}
