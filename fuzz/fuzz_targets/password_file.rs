//! Password files: a file that parses is written and read back alike, and errors contain nothing of
//! a hash.
#![no_main]

use lapwing::internals::auth::password::{Passwords, line};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let passwords = match Passwords::parse(text, "users") {
        Ok(passwords) => passwords,
        Err(errors) => {
            assert!(
                !errors.is_empty() && errors.iter().all(|error| error.starts_with("users:")),
                "{errors:?}"
            );
            return;
        }
    };
    let names = passwords.names();
    assert!(names.iter().all(|(name, _)| !name.is_empty() && !name.contains(':')));
    let written: String = names.iter().map(|(name, entry)| line(name, entry) + "\n").collect();
    let again = Passwords::parse(&written, "users").expect("what was written can be read");
    assert_eq!(again.len(), passwords.len());
    for (name, entry) in names {
        assert_eq!(again.get(name), Some(entry));
    }
});
