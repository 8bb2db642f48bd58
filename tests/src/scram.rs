//! The client's side of SCRAM-SHA-256, written from the RFC alone.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};

/// The method.
pub const METHOD: &str = "SCRAM-SHA-256";
/// First message of the client.
pub const NONCE: &str = "fyko+d2lbbFgONRv9qkxdawL";

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
}

/// The client's last message and the proof that it expects, for the server's first message.
pub fn answer(bare: &str, server: &str, password: &str) -> (String, String) {
    let parts: Vec<(&str, &str)> =
        server.split(',').map(|part| part.split_once('=').expect("as the RFC has it")).collect();
    let [("r", nonce), ("s", salt), ("i", iterations)] = parts[..] else { panic!("{server}") };
    assert!(nonce.starts_with(NONCE) && nonce.len() >= NONCE.len() + 16);
    let mut salted = [0; 32];
    let iterations: u32 = iterations.parse().expect("as the RFC has it");
    assert!(iterations >= 4096);
    let salt = STANDARD.decode(salt).expect("as the RFC has it");
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        iterations.try_into().expect("as the RFC has it"),
        &salt,
        password.as_bytes(),
        &mut salted,
    );
    let client_key = mac(&salted, b"Client Key");
    let without_proof = format!("c=biws,r={nonce}");
    let signed = format!("{bare},{server},{without_proof}");
    let stored = digest::digest(&digest::SHA256, &client_key);
    let signature = mac(stored.as_ref(), signed.as_bytes());
    let proof: Vec<u8> = client_key.iter().zip(signature).map(|(a, b)| a ^ b).collect();
    let expected = STANDARD.encode(mac(&mac(&salted, b"Server Key"), signed.as_bytes()));
    (format!("{without_proof},p={}", STANDARD.encode(proof)), format!("v={expected}"))
}
