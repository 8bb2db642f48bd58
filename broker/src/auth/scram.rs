//! SCRAM-SHA-256 (RFC 5802, RFC 7677) by MQTT 5's enhanced authentication: client and broker prove to each other that they
//! know the password, which never crosses the wire and which the broker does not have.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};

/// The name in MQTT's Authentication Method property.
pub const METHOD: &str = "SCRAM-SHA-256";
/// The least that RFC 7677 allows.
const ITERATIONS_MIN: u32 = 4_096;
const ITERATIONS_MAX: u32 = 5_000_000;
/// What new verifiers get.
const ITERATIONS: u32 = 10_000;
const KEY: usize = 32;

/// What the broker keeps of a password to check it by SCRAM.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    iterations: u32,
    salt: Box<[u8]>,
    stored_key: [u8; KEY],
    server_key: [u8; KEY],
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier(…)")
    }
}

fn mac(key: &[u8], data: &[u8]) -> [u8; KEY] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data);
    tag.as_ref().try_into().unwrap_or([0; KEY])
}

fn sha256(data: &[u8]) -> [u8; KEY] {
    digest::digest(&digest::SHA256, data).as_ref().try_into().unwrap_or([0; KEY])
}

impl Verifier {
    /// Of a password, with a new salt.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn make(password: &[u8]) -> Result<Verifier, String> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).map_err(|error| format!("no randomness: {error}"))?;
        Ok(Verifier::derive(password, &salt, ITERATIONS))
    }

    fn derive(password: &[u8], salt: &[u8], iterations: u32) -> Verifier {
        let mut salted = [0; KEY];
        let times = iterations.try_into().unwrap_or(std::num::NonZeroU32::MIN);
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, times, salt, password, &mut salted);
        let stored_key = sha256(&mac(&salted, b"Client Key"));
        Verifier { iterations, salt: salt.into(), stored_key, server_key: mac(&salted, b"Server Key") }
    }

    /// Reads `SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY`.
    ///
    /// # Errors
    /// What is wrong with it; nothing of it is repeated.
    pub fn parse(text: &str) -> Result<Verifier, String> {
        let parsed = (|| {
            let rest = text.strip_prefix(METHOD)?.strip_prefix('$')?;
            let (cost, keys) = rest.split_once('$')?;
            let ((iterations, salt), (stored, server)) = (cost.split_once(':')?, keys.split_once(':')?);
            let bytes = |text: &str| STANDARD.decode(text).ok();
            let iterations: u32 = iterations.parse().ok()?;
            let salt = bytes(salt).filter(|salt| (8..=64).contains(&salt.len()))?;
            (ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations).then_some(Verifier {
                iterations,
                salt: salt.into(),
                stored_key: bytes(stored)?.try_into().ok()?,
                server_key: bytes(server)?.try_into().ok()?,
            })
        })();
        parsed.ok_or_else(|| format!("behind the hash stands no {METHOD}$ITERATIONS:SALT$KEY:KEY"))
    }
}

/// As it stands in a file.
impl std::fmt::Display for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let encode = |bytes: &[u8]| STANDARD.encode(bytes);
        let (salt, stored, server) = (encode(&self.salt), encode(&self.stored_key), encode(&self.server_key));
        write!(f, "{METHOD}${}:{salt}${stored}:{server}", self.iterations)
    }
}
