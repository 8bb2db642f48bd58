//! Who a client certificate says that its client is. That the certificate is good - by its authority, in its time, not revoked -
//! was found out by TLS before anything of MQTT was read, by the authorities of the listener that it came to.
//!
//! A name is taken from the certificate by templates like `{cn}` or `plant-{dns}`: the first one that the certificate can fill
//! counts. What would be ambiguous is refused rather than chosen: two names of one kind, control characters, wildcards.

use lapwing_protocol::ReasonCode;
use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::asn1::{Ia5StringRef, PrintableStringRef, Utf8StringRef};
use x509_cert::der::oid::db::rfc4519::COMMON_NAME;
use x509_cert::der::{Decode, Tag, Tagged};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::Refused;

/// The longest name that is taken from a certificate, in bytes.
const NAME_BYTES_MAX: usize = 512;

/// What is taken where the configuration does not say.
pub const DEFAULT: [&str; 4] = ["{uri}", "{dns}", "{email}", "{cn}"];

const KINDS: [&str; 5] = ["{uri}", "{dns}", "{email}", "{cn}", "{subject}"];

/// The names in a certificate, by kind, in the order of `KINDS`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Names([Vec<String>; 5]);

impl Names {
    fn of(der: &[u8]) -> Result<Names, String> {
        let certificate =
            Certificate::from_der(der).map_err(|error| format!("the certificate cannot be read: {error}"))?;
        let Names([mut uri, mut dns, mut email, mut cn, mut subject]) = Names::default();
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
                Tag::PrintableString => {
                    PrintableStringRef::try_from(value).map(|text| text.as_str().to_owned())
                }
                Tag::Ia5String => Ia5StringRef::try_from(value).map(|text| text.as_str().to_owned()),
                other => return Err(format!("its common name is no UTF-8 text but {other}")),
            };
            cn.push(text.map_err(|_| "its common name is no UTF-8 text".to_owned())?);
        }
        if !certificate.subject.0.is_empty() {
            subject.push(certificate.subject.to_string());
        }
        Ok(Names([uri, dns, email, cn, subject]))
    }

    /// The template with the names in it; `None`: the certificate has no name of a kind.
    fn fill(&self, template: &str) -> Result<Option<String>, String> {
        let mut out = String::new();
        let mut rest = template;
        while let Some(at) = rest.find('{') {
            let (before, from) = rest.split_at(at);
            let Some((kind, names)) = KINDS.iter().zip(&self.0).find(|(kind, _)| from.starts_with(**kind))
            else {
                return Err(format!("the template '{template}' is not known"));
            };
            let name = match names.as_slice() {
                [] => return Ok(None),
                [name] => name,
                several => {
                    return Err(format!(
                        "it has {} names for {kind}, and it is not clear which is meant",
                        several.len()
                    ));
                }
            };
            out.push_str(before);
            out.push_str(name);
            rest = from.get(kind.len()..).unwrap_or_default();
        }
        out.push_str(rest);
        Ok(Some(out))
    }
}

/// Whether a template can be filled at all.
///
/// # Errors
/// What it may be.
pub fn check_template(template: &str) -> Result<(), String> {
    let one = || vec!["x".to_owned()];
    let names = Names([one(), one(), one(), one(), one()]);
    match names.fill(template) {
        Ok(Some(filled)) if filled != template => Ok(()),
        _ => Err(format!(
            "'{template}' is no template: it takes one of {} from the certificate",
            KINDS.join(", ")
        )),
    }
}

/// The user that a certificate names.
///
/// # Errors
/// Why it names none.
pub fn user(certificate: &CertificateDer<'_>, templates: &[String]) -> Result<String, Refused> {
    let refuse = |text: String| Refused {
        told: Some("the client certificate names no user"),
        ..Refused::new(ReasonCode::NotAuthorized, format!("the client certificate: {text}"))
    };
    let names = Names::of(certificate).map_err(refuse)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_template_that_can_be_filled_counts_and_what_is_ambiguous_does_not() {
        let text = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let names = Names([
            text(&[]),
            text(&["a.b", "c.d"]),
            text(&["x@y"]),
            text(&["pump-7"]),
            text(&["CN=pump-7,O=x"]),
        ]);
        assert_eq!(names.fill("{uri}"), Ok(None));
        assert_eq!(names.fill("plant-{cn}.{email}"), Ok(Some("plant-pump-7.x@y".to_owned())));
        assert!(names.fill("{dns}").unwrap_err().contains("2 names"));
        assert!(check_template("{cn}").is_ok() && check_template("x-{uri}").is_ok());
        for bad in ["", "cn", "{serial}", "%c", "{cn"] {
            assert!(check_template(bad).is_err(), "{bad}");
        }
    }
}
