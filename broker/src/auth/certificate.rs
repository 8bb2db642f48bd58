//! The user that a client certificate names. TLS has checked the certificate before any MQTT was
//! read: its authority, its dates, its revocation, by the authorities of the listener.
//!
//! A name is made by templates like `{cn}` or `plant-{dns}`: the first one that the certificate can
//! fill counts. Ambiguous certificates are refused: two names of one kind, control characters,
//! wildcards.

use lapwing_protocol::ReasonCode;
use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::asn1::{Ia5StringRef, PrintableStringRef, Utf8StringRef};
use x509_cert::der::oid::db::rfc4519::COMMON_NAME;
use x509_cert::der::{Decode, Tag, Tagged};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::AuthError;
use crate::config::template::CertificateNames;
use crate::net::Peer;

/// Longest name that is taken from a certificate, in bytes.
const NAME_BYTES_MAX: usize = 512;

/// Templates where the configuration has none.
pub const DEFAULT: [&str; 4] = ["{uri}", "{dns}", "{email}", "{cn}"];

/// Returns the end of the client's certificate, in seconds since the Unix epoch.
pub fn ends_at_s(peer: &Peer) -> Option<u64> {
    let own = peer.certificates.as_deref()?.first()?;
    let certificate = Certificate::from_der(own).ok()?;
    Some(certificate.tbs_certificate.validity.not_after.to_unix_duration().as_secs())
}

/// Returns the names in a certificate.
fn names_of(der: &[u8]) -> Result<CertificateNames, String> {
    let certificate =
        Certificate::from_der(der).map_err(|error| format!("the certificate cannot be read: {error}"))?;
    let CertificateNames([mut uri, mut dns, mut email, mut cn, mut subject]) = CertificateNames::default();
    let certificate = certificate.tbs_certificate;
    for extension in certificate.extensions.iter().flatten() {
        if extension.extn_id != <SubjectAltName as x509_cert::der::oid::AssociatedOid>::OID {
            continue;
        }
        let names = SubjectAltName::from_der(extension.extn_value.as_bytes())
            .map_err(|error| format!("its alternative names cannot be read: {error}"))?;
        for name in names.0 {
            match name {
                GeneralName::UniformResourceIdentifier(name) => uri.push(name.to_string()),
                GeneralName::DnsName(name) => dns.push(name.to_string()),
                GeneralName::Rfc822Name(name) => email.push(name.to_string()),
                _ => {}
            }
        }
    }
    for attribute in certificate.subject.0.iter().flat_map(|names| names.0.iter()) {
        if attribute.oid != COMMON_NAME {
            continue;
        }
        let value = &attribute.value;
        let text = match value.tag() {
            Tag::Utf8String => Utf8StringRef::try_from(value).map(|text| text.as_str().to_owned()),
            Tag::PrintableString => PrintableStringRef::try_from(value).map(|text| text.as_str().to_owned()),
            Tag::Ia5String => Ia5StringRef::try_from(value).map(|text| text.as_str().to_owned()),
            other => return Err(format!("its common name is no UTF-8 text but {other}")),
        };
        cn.push(text.map_err(|_| "its common name is no UTF-8 text".to_owned())?);
    }
    if !certificate.subject.0.is_empty() {
        subject.push(certificate.subject.to_string());
    }
    Ok(CertificateNames([uri, dns, email, cn, subject]))
}

/// Returns the user that a certificate names.
///
/// # Errors
/// Returns the reason that it names none.
pub fn user(certificate: &CertificateDer<'_>, templates: &[String]) -> Result<String, AuthError> {
    let refuse = |text: String| AuthError {
        client_text: Some("the client certificate names no user"),
        ..AuthError::new(ReasonCode::NotAuthorized, format!("the client certificate: {text}"))
    };
    let names = names_of(certificate).map_err(refuse)?;
    for template in templates {
        let Some(name) = names.fill(template).map_err(refuse)? else { continue };
        if name.is_empty()
            || name.len() > NAME_BYTES_MAX
            || name.chars().any(char::is_control)
            || name.contains(['+', '#'])
        {
            return Err(refuse(format!(
                "the name '{}' is empty, too long, or has a wildcard or control character in it",
                name.escape_debug().take(100).collect::<String>()
            )));
        }
        return Ok(name);
    }
    Err(refuse(format!("it has none of the names that certificate_user asks for ({})", templates.join(", "))))
}
