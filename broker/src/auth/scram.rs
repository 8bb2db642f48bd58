//! SCRAM-SHA-256 (RFC 5802, RFC 7677) by MQTT 5's enhanced authentication. Client and broker prove
//! to each other that they know the password. It never crosses the network, and the broker does not
//! have it.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lapwing_protocol::ReasonCode;
#[cfg(feature = "internals")]
use ring::pbkdf2;
use ring::{digest, hmac};
use subtle::ConstantTimeEq;

use super::configured::ConfiguredPolicy;
use super::{AuthExchange, AuthMethod, AuthStep, Credentials, Identity};
use crate::config::Method;
use crate::net::Peer;

/// The name in MQTT's Authentication Method property.
pub const METHOD: &str = "SCRAM-SHA-256";
/// Smallest number of iterations that RFC 7677 allows.
const ITERATIONS_MIN: u32 = 4_096;
const ITERATIONS_MAX: u32 = 5_000_000;
/// Iterations of new verifiers.
const ITERATIONS: u32 = 10_000;
const KEY: usize = 32;

/// Stored data that checks a password by SCRAM.
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
    /// Makes a verifier of a password, with a new salt.
    ///
    /// # Errors
    /// There is no randomness.
    #[cfg(feature = "internals")]
    pub fn make(password: &[u8]) -> Result<Verifier, String> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).map_err(|error| format!("no randomness: {error}"))?;
        Ok(Verifier::derive(password, &salt, ITERATIONS))
    }

    #[cfg(feature = "internals")]
    fn derive(password: &[u8], salt: &[u8], iterations: u32) -> Verifier {
        let mut salted = [0; KEY];
        let times = iterations.try_into().unwrap_or(std::num::NonZeroU32::MIN);
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, times, salt, password, &mut salted);
        let stored_key = sha256(&mac(&salted, b"Client Key"));
        Verifier { iterations, salt: salt.into(), stored_key, server_key: mac(&salted, b"Server Key") }
    }

    /// Parses `SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY`.
    ///
    /// # Errors
    /// Returns the mistake, without any of the text.
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

/// Formats the verifier as a file has it.
impl std::fmt::Display for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let encode = |bytes: &[u8]| STANDARD.encode(bytes);
        let (salt, stored, server) = (encode(&self.salt), encode(&self.stored_key), encode(&self.server_key));
        write!(f, "{METHOD}${}:{salt}${stored}:{server}", self.iterations)
    }
}

/// The method, for the users of the password file that have a verifier.
#[derive(Debug)]
pub struct Scram(Arc<ConfiguredPolicy>);

impl Scram {
    /// Creates the method with the policy that knows the users.
    pub fn new(policy: Arc<ConfiguredPolicy>) -> Scram {
        Scram(policy)
    }
}

impl AuthMethod for Scram {
    fn name(&self) -> &str {
        METHOD
    }

    fn begin(&self, credentials: &Credentials<'_>) -> Box<dyn AuthExchange> {
        Box::new(Exchange {
            policy: self.0.clone(),
            peer: credentials.peer.clone(),
            client_id: credentials.client_id.into(),
            assigned_client_id: credentials.assigned_client_id.into(),
            stage: Stage::First,
        })
    }
}

/// One SCRAM exchange.
struct Exchange {
    policy: Arc<ConfiguredPolicy>,
    peer: Peer,
    client_id: Box<str>,
    assigned_client_id: Box<str>,
    stage: Stage,
}

/// Message that the exchange waits for.
enum Stage {
    First,
    Final(Box<Challenge>),
    Over,
}

/// The broker's challenge, and the proof that it expects.
struct Challenge {
    user: String,
    /// Set when the user exists and may use SCRAM.
    known: bool,
    verifier: Verifier,
    /// First part of the client's first message, in Base64 as the client has to repeat it.
    binding: String,
    nonce: String,
    /// The broker's answer to the first message.
    reply: String,
    /// Both messages so far, as they are signed.
    signed: String,
}

/// Decodes a name of a message.
fn decode_name(name: &str) -> Option<String> {
    let decoded = name.replace("=2C", ",").replace("=3D", "\u{0}");
    (!decoded.contains('=') && !name.contains('\u{0}') && !name.is_empty())
        .then(|| decoded.replace('\u{0}', "="))
}

impl Exchange {
    fn first(&self, message: &str) -> Option<Challenge> {
        // No channel binding, and no authorization identity.
        let bare = message.strip_prefix("n,,").or_else(|| message.strip_prefix("y,,"))?;
        let (header, _) = message.split_at(3);
        let mut parts = bare.split(',');
        let user = decode_name(parts.next()?.strip_prefix("n=")?)?;
        let theirs = parts.next()?.strip_prefix("r=").filter(|nonce| (8..=256).contains(&nonce.len()))?;
        let mut random = [0; 18];
        getrandom::fill(&mut random).ok()?;
        let nonce = format!("{theirs}{}", STANDARD.encode(random));
        let found = self.policy.scram(&user, &self.peer);
        let known = found.is_some();
        // An unknown user gets the same challenge each time, like a known one.
        let verifier = found.unwrap_or_else(|| {
            let mut salt = self.policy.decoy_salt(&user).to_vec();
            salt.truncate(16);
            Verifier { iterations: ITERATIONS, salt: salt.into(), stored_key: [0; KEY], server_key: [0; KEY] }
        });
        let reply = format!("r={nonce},s={},i={}", STANDARD.encode(&verifier.salt), verifier.iterations);
        let signed = format!("{bare},{reply}");
        Some(Challenge { user, known, verifier, binding: STANDARD.encode(header), nonce, reply, signed })
    }

    /// Returns the broker's proof, if that of the client is right.
    fn last(challenge: &Challenge, message: &str) -> Option<String> {
        let (without_proof, proof) = message.rsplit_once(",p=")?;
        let mut parts = without_proof.split(',');
        let binding = parts.next()?.strip_prefix("c=")?;
        let nonce = parts.next()?.strip_prefix("r=")?;
        if binding != challenge.binding || nonce != challenge.nonce {
            return None;
        }
        let proof: [u8; KEY] = STANDARD.decode(proof).ok()?.try_into().ok()?;
        let signed = format!("{},{without_proof}", challenge.signed);
        let signature = mac(&challenge.verifier.stored_key, signed.as_bytes());
        let client_key: Vec<u8> = proof.iter().zip(signature).map(|(a, b)| a ^ b).collect();
        let right: bool = sha256(&client_key).ct_eq(&challenge.verifier.stored_key).into();
        let verifier = STANDARD.encode(mac(&challenge.verifier.server_key, signed.as_bytes()));
        (right && challenge.known).then(|| format!("v={verifier}"))
    }
}

impl AuthExchange for Exchange {
    fn step(&mut self, data: Option<&[u8]>) -> AuthStep {
        let message = data.and_then(|data| std::str::from_utf8(data).ok()).unwrap_or_default();
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::First => {
                if let Err(reason) = self.policy.may_attempt(&self.peer) {
                    return AuthStep::Reject(reason);
                }
                // A client may send nothing with CONNECT and be asked.
                if message.is_empty() {
                    self.stage = Stage::First;
                    return AuthStep::Continue(Vec::new());
                }
                let Some(challenge) = self.first(message) else {
                    return AuthStep::Reject(ReasonCode::NotAuthorized);
                };
                let reply = challenge.reply.clone();
                self.stage = Stage::Final(Box::new(challenge));
                AuthStep::Continue(reply.into_bytes())
            }
            Stage::Final(challenge) => {
                // Many exchanges may have been opened before the first of them failed.
                if let Err(reason) = self.policy.may_attempt(&self.peer) {
                    return AuthStep::Reject(reason);
                }
                let Some(proof) = Exchange::last(&challenge, message) else {
                    self.policy.attempt_failed(&self.peer);
                    return AuthStep::Reject(ReasonCode::NotAuthorized);
                };
                let realm =
                    self.policy.endpoint(&self.peer).and_then(|endpoint| endpoint.realm(Method::Password));
                let identity = Identity { method: METHOD, realm, ..Identity::of(&challenge.user) };
                match self.policy.complete(identity, &self.client_id, &self.assigned_client_id, &self.peer) {
                    Ok(identity) => {
                        AuthStep::Accept { identity: Box::new(identity), data: Some(proof.into_bytes()) }
                    }
                    Err(refused) => AuthStep::Reject(refused.reason),
                }
            }
            Stage::Over => AuthStep::Reject(ReasonCode::NotAuthorized),
        }
    }
}
