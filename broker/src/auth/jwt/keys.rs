//! Keys that verify tokens: PEM files, JWKS files, and a shared secret.
//!
//! Each key knows its one algorithm. The algorithm in a token only chooses among keys. So a public
//! key can never be taken for a shared secret, and "none" is no algorithm.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::{hmac, signature};
use serde_json::Value;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use x509_cert::Certificate;
use x509_cert::der::{Decode, Encode};
use x509_cert::spki::{ObjectIdentifier, SubjectPublicKeyInfoRef};

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
/// Smallest secret of HS256, in bytes. HS256 is as strong as its secret, and attempts at it cannot
/// be counted (RFC 7518, 3.2).
const SECRET_BYTES_MIN: usize = 32;
/// Largest number of keys in one file.
const KEYS_MAX: usize = 256;

enum KeyAlgorithm {
    Hs256(hmac::Key),
    /// DER of an `RSAPublicKey`.
    Rs256(Vec<u8>),
    /// Modulus and exponent.
    RsaParts(Vec<u8>, Vec<u8>),
    /// An uncompressed point.
    Es256(Vec<u8>),
    EdDsa(Vec<u8>),
}

/// One key that verifies tokens.
pub struct TokenKey {
    id: Option<String>,
    kind: KeyAlgorithm,
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({}, {:?})", self.algorithm(), self.id)
    }
}

fn bytes(text: &Value) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text.as_str()?.trim_end_matches('=')).ok()
}

impl TokenKey {
    /// Returns the name of the algorithm in a token.
    pub fn algorithm(&self) -> &'static str {
        match self.kind {
            KeyAlgorithm::Hs256(_) => "HS256",
            KeyAlgorithm::Rs256(_) | KeyAlgorithm::RsaParts(..) => "RS256",
            KeyAlgorithm::Es256(_) => "ES256",
            KeyAlgorithm::EdDsa(_) => "EdDSA",
        }
    }

    /// Returns `true` when a token with this header may be signed by this key.
    pub fn fits(&self, algorithm: &str, id: Option<&str>) -> bool {
        let same = |own: &str| id.is_none_or(|id| id == own);
        self.algorithm() == algorithm && self.id.as_deref().is_none_or(same)
    }

    /// Returns `true` when the signature was made by this key.
    pub fn verifies(&self, signed: &[u8], by: &[u8]) -> bool {
        let public = |algorithm: &'static dyn signature::VerificationAlgorithm, key: &[u8]| {
            signature::UnparsedPublicKey::new(algorithm, key).verify(signed, by).is_ok()
        };
        match &self.kind {
            KeyAlgorithm::Hs256(key) => hmac::verify(key, signed, by).is_ok(),
            KeyAlgorithm::Rs256(key) => public(&signature::RSA_PKCS1_2048_8192_SHA256, key),
            KeyAlgorithm::RsaParts(n, e) => signature::RsaPublicKeyComponents { n, e }
                .verify(&signature::RSA_PKCS1_2048_8192_SHA256, signed, by)
                .is_ok(),
            KeyAlgorithm::Es256(key) => public(&signature::ECDSA_P256_SHA256_FIXED, key),
            KeyAlgorithm::EdDsa(key) => public(&signature::ED25519, key),
        }
    }
}

/// Makes the shared secret of HS256: the bytes of a file, without the newline at its end.
///
/// # Errors
/// It is too short.
pub fn secret(file: &[u8]) -> Result<TokenKey, String> {
    let secret = file.strip_suffix(b"\n").unwrap_or(file);
    let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
    if secret.len() < SECRET_BYTES_MIN {
        return Err(format!(
            "a secret of {} bytes can be guessed; it needs {SECRET_BYTES_MIN}: head -c 48 /dev/urandom | base64 > FILE",
            secret.len()
        ));
    }
    Ok(TokenKey { id: None, kind: KeyAlgorithm::Hs256(hmac::Key::new(hmac::HMAC_SHA256, secret)) })
}

fn public(info: &SubjectPublicKeyInfoRef<'_>) -> Result<KeyAlgorithm, String> {
    let key = info.subject_public_key.as_bytes().ok_or("the key is no whole bytes")?.to_vec();
    let curve = || info.algorithm.parameters.and_then(|curve| curve.decode_as::<ObjectIdentifier>().ok());
    match info.algorithm.oid {
        RSA => Ok(KeyAlgorithm::Rs256(key)),
        EC if curve() == Some(P256) => Ok(KeyAlgorithm::Es256(key)),
        ED25519 => Ok(KeyAlgorithm::EdDsa(key)),
        other => Err(format!("a key of another kind than RSA, EC P-256 and Ed25519 ({other})")),
    }
}

/// Parses public keys, or certificates, in PEM form.
///
/// # Errors
/// There is none, or one of another kind.
pub fn pem(text: &str) -> Result<Vec<TokenKey>, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("no public key in PEM form: {error}");
    let mut kinds = Vec::new();
    for key in SubjectPublicKeyInfoDer::pem_slice_iter(text.as_bytes()) {
        let key = key.map_err(|error| wrong(&error))?;
        kinds.push(public(&SubjectPublicKeyInfoRef::from_der(&key).map_err(|error| wrong(&error))?)?);
    }
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        let certificate = certificate.map_err(|error| wrong(&error))?;
        let certificate = Certificate::from_der(&certificate).map_err(|error| wrong(&error))?;
        let info =
            certificate.tbs_certificate.subject_public_key_info.to_der().map_err(|error| wrong(&error))?;
        kinds.push(public(&SubjectPublicKeyInfoRef::from_der(&info).map_err(|error| wrong(&error))?)?);
    }
    match kinds.len() {
        0 => {
            Err("there is no public key in PEM form in it (BEGIN PUBLIC KEY or BEGIN CERTIFICATE)".to_owned())
        }
        n if n > KEYS_MAX => Err(format!("more than {KEYS_MAX} keys")),
        _ => Ok(kinds.into_iter().map(|kind| TokenKey { id: None, kind }).collect()),
    }
}

/// Parses a JWK set (RFC 7517). Keys for other uses are skipped.
///
/// # Errors
/// The text is no JWK set, or holds no key that can be used.
pub fn jwks(text: &str) -> Result<Vec<TokenKey>, String> {
    let set: Value = serde_json::from_str(text).map_err(|error| format!("no JSON: {error}"))?;
    let keys = set["keys"].as_array().ok_or("no JWK set: it has no list \"keys\"")?;
    let usable = |key: &Value| {
        let text = |name: &str| key[name].as_str();
        if text("use").is_some_and(|used| used != "sig") {
            return None;
        }
        let kind = match (text("kty")?, text("crv")) {
            ("RSA", _) => KeyAlgorithm::RsaParts(bytes(&key["n"])?, bytes(&key["e"])?),
            ("EC", Some("P-256")) => {
                let (x, y) = (bytes(&key["x"])?, bytes(&key["y"])?);
                (x.len() == 32 && y.len() == 32).then(|| KeyAlgorithm::Es256([&[4][..], &x, &y].concat()))?
            }
            ("OKP", Some("Ed25519")) => KeyAlgorithm::EdDsa(bytes(&key["x"]).filter(|x| x.len() == 32)?),
            ("oct", _) => {
                let secret = bytes(&key["k"]).filter(|secret| secret.len() >= SECRET_BYTES_MIN)?;
                KeyAlgorithm::Hs256(hmac::Key::new(hmac::HMAC_SHA256, &secret))
            }
            _ => return None,
        };
        let key = TokenKey { id: text("kid").map(str::to_owned), kind };
        text("alg").is_none_or(|algorithm| algorithm == key.algorithm()).then_some(key)
    };
    let keys: Vec<TokenKey> = keys.iter().take(KEYS_MAX).filter_map(usable).collect();
    if keys.is_empty() {
        return Err("it has no key for RS256, ES256, EdDSA or HS256".to_owned());
    }
    Ok(keys)
}
