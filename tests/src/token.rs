//! Tokens (JWT) for tests, signed with keys of every kind.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use ring::rand::SystemRandom;
use ring::{hmac, signature};

/// One who signs.
pub struct Signer {
    /// As it stands in the header of tokens.
    pub algorithm: &'static str,
    /// The public key, PEM; of HS256 the secret.
    pub public: String,
    sign: Sign,
}

type Sign = Box<dyn Fn(&[u8]) -> Vec<u8>>;

/// Now, in seconds since the Unix epoch.
pub fn now_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_secs()
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    /// With a shared secret.
    pub fn hs256(secret: &str) -> Signer {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        Signer {
            algorithm: "HS256",
            public: secret.to_owned(),
            sign: Box::new(move |text| hmac::sign(&key, text).as_ref().to_vec()),
        }
    }

    /// With a new elliptic curve key.
    pub fn es256() -> Signer {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let (random, algorithm) = (SystemRandom::new(), &signature::ECDSA_P256_SHA256_FIXED_SIGNING);
        let pair =
            signature::EcdsaKeyPair::from_pkcs8(algorithm, key.serialized_der(), &random).expect("a key");
        let sign = move |text: &[u8]| pair.sign(&random, text).expect("a signature").as_ref().to_vec();
        Signer { algorithm: "ES256", public: key.public_key_pem(), sign: Box::new(sign) }
    }

    /// With a new Edwards curve key.
    pub fn eddsa() -> Signer {
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let pair =
            signature::Ed25519KeyPair::from_pkcs8_maybe_unchecked(key.serialized_der()).expect("a key");
        Signer {
            algorithm: "EdDSA",
            public: key.public_key_pem(),
            sign: Box::new(move |text| pair.sign(text).as_ref().to_vec()),
        }
    }

    /// With an RSA key: PKCS#8 DER, and the public one in PEM.
    pub fn rs256(der: &[u8], public: String) -> Signer {
        let pair = signature::RsaKeyPair::from_pkcs8(der).expect("a key");
        let sign = move |text: &[u8]| {
            let mut out = vec![0; pair.public().modulus_len()];
            pair.sign(&signature::RSA_PKCS1_SHA256, &SystemRandom::new(), text, &mut out)
                .expect("a signature");
            out
        };
        Signer { algorithm: "RS256", public, sign: Box::new(sign) }
    }

    /// A token with these claims.
    pub fn token(&self, claims: &str) -> String {
        self.token_with(&format!("{{\"alg\":\"{}\",\"typ\":\"JWT\"}}", self.algorithm), claims)
    }

    /// A token with this header and these claims.
    pub fn token_with(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", encode(header.as_bytes()), encode(claims.as_bytes()));
        let signature = encode(&(self.sign)(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}
