//! One stored password: argon2id, and Mosquitto's two hashes as they are.

use std::ops::RangeInclusive;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ring::{digest, pbkdf2};
use subtle::ConstantTimeEq;

/// Largest number of PBKDF2 iterations that is taken from a file: more would only keep the broker
/// busy (CVE-2018-12551).
const ITERATIONS_MAX: u32 = 5_000_000;
/// Largest memory of one hash, in KiB.
const MEMORY_KIB_MAX: u32 = 1 << 20;
/// Largest number of passes over it.
const PASSES_MAX: u32 = 64;
const LANES_MAX: u32 = 16;
const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;

/// Cost of argon2id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// Passes over that memory.
    pub passes: u32,
}

/// A password as it is stored.
#[derive(Clone, PartialEq, Eq)]
pub enum Hash {
    /// `$argon2id$v=19$m=KIB,t=PASSES,p=LANES$SALT$HASH`
    #[allow(missing_docs)]
    Argon2id { cost: Cost, lanes: u32, salt: Box<[u8]>, hash: Box<[u8]> },
    /// Mosquitto's `$7$ITERATIONS$SALT$HASH`: PBKDF2 with HMAC-SHA-512.
    #[allow(missing_docs)]
    Pbkdf2 { iterations: u32, salt: Box<[u8]>, hash: Box<[u8]> },
    /// Mosquitto's `$6$SALT$HASH`: SHA-512 of password and salt.
    #[allow(missing_docs)]
    Sha512 { salt: Box<[u8]>, hash: Box<[u8]> },
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Hash::Argon2id { .. } => "Hash(argon2id …)",
            Hash::Pbkdf2 { .. } => "Hash($7$ …)",
            Hash::Sha512 { .. } => "Hash($6$ …)",
        })
    }
}

fn base64(text: &str) -> Result<Box<[u8]>, String> {
    let bytes = STANDARD_NO_PAD.decode(text.trim_end_matches('='));
    bytes.map(Vec::into).map_err(|_| "salt or hash is not Base64".to_owned())
}

fn number(text: &str, what: &str, most: u32) -> Result<u32, String> {
    let number = text.parse::<u32>().ok().filter(|n| (1..=most).contains(n));
    number.ok_or_else(|| format!("{what} must be 1 to {most}"))
}

impl Hash {
    /// Parses a stored hash.
    ///
    /// # Errors
    /// Returns the mistake, without any of the text.
    pub fn parse(text: &str) -> Result<Hash, String> {
        let fields: Vec<&str> = text.split('$').collect();
        match fields.as_slice() {
            ["", "argon2id", "v=19", costs, salt, hash] => {
                let mut costs = costs.split(',').map(|cost| cost.split_once('=').unwrap_or_default());
                let mut next = |name, most| match costs.next() {
                    Some((key, value)) if key == name => number(value, name, most),
                    _ => Err("argon2id needs m=…,t=…,p=…".to_owned()),
                };
                let (memory_kib, passes, lanes) =
                    (next("m", MEMORY_KIB_MAX)?, next("t", PASSES_MAX)?, next("p", LANES_MAX)?);
                let cost = Cost { memory_kib, passes };
                let parsed = Hash::Argon2id { cost, lanes, salt: base64(salt)?, hash: base64(hash)? };
                parsed.argon2().map(|_| ()).and_then(|()| parsed.checked(8..=64, 16..=64))
            }
            ["", "7", iterations, salt, hash] => {
                let iterations = number(iterations, "the iterations", ITERATIONS_MAX)?;
                Hash::Pbkdf2 { iterations, salt: base64(salt)?, hash: base64(hash)? }.checked(1..=64, 64..=64)
            }
            ["", "6", salt, hash] => {
                Hash::Sha512 { salt: base64(salt)?, hash: base64(hash)? }.checked(1..=64, 64..=64)
            }
            ["", kind, ..] => Err(format!(
                "the hash '${}$' is not known: there are $argon2id$, and Mosquitto's $7$ and $6$",
                kind.chars().take(12).collect::<String>().escape_debug()
            )),
            _ => Err("no hash; a password in plain text is not taken: make the line with `lapwing user add`"
                .to_owned()),
        }
    }

    /// Checks the lengths in bytes of salt and hash.
    fn checked(
        self,
        salt_bytes: RangeInclusive<usize>,
        hash_bytes: RangeInclusive<usize>,
    ) -> Result<Hash, String> {
        let (Hash::Argon2id { salt, hash, .. }
        | Hash::Pbkdf2 { salt, hash, .. }
        | Hash::Sha512 { salt, hash }) = &self;
        if salt_bytes.contains(&salt.len()) && hash_bytes.contains(&hash.len()) {
            Ok(self)
        } else {
            Err("salt or hash has a wrong length".to_owned())
        }
    }

    fn argon2(&self) -> Result<Option<Argon2<'static>>, String> {
        let Hash::Argon2id { cost, lanes, hash, .. } = self else { return Ok(None) };
        let params = Params::new(cost.memory_kib, cost.passes, *lanes, Some(hash.len()));
        let params = params.map_err(|error| format!("argon2id: {error}"))?;
        Ok(Some(Argon2::new(Algorithm::Argon2id, Version::default(), params)))
    }

    /// Hashes a new password.
    ///
    /// # Errors
    /// There is no randomness, or the cost is invalid.
    pub fn make(password: &[u8], cost: Cost, memory: &mut Vec<Block>) -> Result<Hash, String> {
        let mut salt = [0; SALT_BYTES];
        getrandom::fill(&mut salt).map_err(|error| format!("no randomness: {error}"))?;
        let mut made = Hash::Argon2id { cost, lanes: 1, salt: salt.into(), hash: [0; HASH_BYTES].into() };
        let computed = made.compute(password, memory).ok_or("argon2id: the cost is not possible")?;
        if let Hash::Argon2id { hash, .. } = &mut made {
            *hash = computed.into();
        }
        Ok(made)
    }

    fn compute(&self, password: &[u8], memory: &mut Vec<Block>) -> Option<Vec<u8>> {
        match self {
            Hash::Argon2id { salt, hash, .. } => {
                let argon2 = self.argon2().ok()??;
                let blocks = argon2.params().block_count();
                if memory.len() < blocks {
                    memory.resize(blocks, Block::default());
                }
                let mut out = vec![0; hash.len()];
                argon2
                    .hash_password_into_with_memory(password, salt, &mut out, memory.as_mut_slice())
                    .ok()?;
                Some(out)
            }
            Hash::Pbkdf2 { iterations, salt, hash } => {
                let mut out = vec![0; hash.len()];
                pbkdf2::derive(
                    pbkdf2::PBKDF2_HMAC_SHA512,
                    (*iterations).try_into().ok()?,
                    salt,
                    password,
                    &mut out,
                );
                Some(out)
            }
            Hash::Sha512 { salt, .. } => {
                let mut context = digest::Context::new(&digest::SHA512);
                context.update(password);
                context.update(salt);
                Some(context.finish().as_ref().to_vec())
            }
        }
    }

    /// Returns `true` when this is the password; compared in constant time. `memory` is kept from
    /// one call to the next.
    pub fn verify(&self, password: &[u8], memory: &mut Vec<Block>) -> bool {
        let (Hash::Argon2id { hash, .. } | Hash::Pbkdf2 { hash, .. } | Hash::Sha512 { hash, .. }) = self;
        self.compute(password, memory).is_some_and(|computed| computed.ct_eq(hash).into())
    }

    /// Returns a hash of the same cost that no password matches.
    pub fn decoy(&self) -> Hash {
        let mut decoy = self.clone();
        let (Hash::Argon2id { hash, .. } | Hash::Pbkdf2 { hash, .. } | Hash::Sha512 { hash, .. }) =
            &mut decoy;
        // Without randomness it stays zeros, which no hash is.
        hash.fill(0);
        let _ = getrandom::fill(hash);
        decoy
    }

    /// Returns `true` when it is one of Mosquitto's.
    pub fn is_foreign(&self) -> bool {
        !matches!(self, Hash::Argon2id { .. })
    }
}

/// Formats the hash as a file has it.
impl std::fmt::Display for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Hash::Argon2id { cost: Cost { memory_kib, passes }, lanes, salt, hash } => write!(
                f,
                "$argon2id$v=19$m={memory_kib},t={passes},p={lanes}${}${}",
                STANDARD_NO_PAD.encode(salt),
                STANDARD_NO_PAD.encode(hash)
            ),
            Hash::Pbkdf2 { iterations, salt, hash } => {
                write!(f, "$7${iterations}${}${}", STANDARD.encode(salt), STANDARD.encode(hash))
            }
            Hash::Sha512 { salt, hash } => {
                write!(f, "$6${}${}", STANDARD.encode(salt), STANDARD.encode(hash))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: Cost = Cost { memory_kib: 64, passes: 1 };

    #[test]
    fn a_password_matches_and_one_flipped_bit_does_not() {
        let mut memory = Vec::new();
        let hash = Hash::make(b"correct horse", CHEAP, &mut memory).unwrap();
        let read = Hash::parse(&hash.to_string()).unwrap();
        assert_eq!(read, hash);
        assert!(read.verify(b"correct horse", &mut memory) && !read.verify(b"correct horsf", &mut memory));
        assert!(!read.decoy().verify(b"correct horse", &mut memory));
        assert!(!format!("{read:?}").contains("argon2id$"));
    }

    #[test]
    fn a_malformed_hash_is_refused_without_repeating_it() {
        for bad in [
            "",
            "secret",
            "$5$x$y",
            "$7$0$AAAA$AAAA",
            "$7$99999999$AAAA$AAAA",
            "$7$101$AAAA$AAAA",
            "$6$!$!",
            "$argon2id$v=19$m=0,t=1,p=1$AAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            "$argon2id$v=19$m=99999999,t=1,p=1$AAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            "$argon2i$v=19$m=64,t=1,p=1$AAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        ] {
            let error = Hash::parse(bad).unwrap_err();
            assert!(!error.contains("secret") && !error.contains("AAAA"), "{error}");
        }
    }
}
