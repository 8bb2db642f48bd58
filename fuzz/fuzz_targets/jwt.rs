//! Tokens and key sets: no text is a token of a key that did not sign it, and claims of every shape
//! are checked without a panic.
#![no_main]

use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lapwing::internals::auth::jwt::{Tokens, jwks, looks_like, pem, secret};
use lapwing::internals::config::Config;
use libfuzzer_sys::fuzz_target;
use ring::hmac;

const SECRET: &[u8] = b"a secret of thirty-two bytes and more";
const NOW_S: u64 = 1_800_000_000;

fn tokens() -> &'static Tokens {
    static TOKENS: OnceLock<Tokens> = OnceLock::new();
    TOKENS.get_or_init(|| Tokens { keys: vec![secret(SECRET).expect("a key")] })
}

fuzz_target!(|data: &[u8]| {
    let config = Config::default().auth;
    // The text as a token: nobody has signed it.
    assert!(tokens().identity(data, &config, NOW_S).is_err());
    let _ = looks_like(data);
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = (jwks(text), pem(text));
    }
    // The text as claims of a validly signed token; the header with and without the text.
    let (header, claims) = data.split_at(data.iter().position(|byte| *byte == b'\n').unwrap_or(0));
    for header in [&b"{\"alg\":\"HS256\"}"[..], header] {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), signed.as_bytes());
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
        if let Ok(identity) = tokens().identity(token.as_bytes(), &config, NOW_S) {
            let user = identity.user.expect("a token names a user");
            assert!(!user.is_empty() && !user.chars().any(char::is_control));
            assert!(identity.expires_at_s.expect("it ends") > NOW_S);
        }
    }
});
