//! The password file: `USER:HASH`, one a line, as in Mosquitto; `:SCRAM-SHA-256$…` follows where
//! the user may authenticate by SCRAM, too.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::Hash;
use crate::auth::scram::Verifier;

/// Stored data of a user's password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PasswordEntry {
    /// Hash of the password.
    pub hash: Hash,
    /// SCRAM verifier of the password.
    pub scram: Option<Verifier>,
}

/// All users of a file.
#[derive(Clone, Debug)]
pub struct Passwords {
    /// Path of the file.
    pub path: PathBuf,
    users: HashMap<Box<str>, PasswordEntry>,
    /// Hash for unknown users: it takes as long as one of the file does.
    decoy: Option<Hash>,
    /// Set when the file has hashes of several kinds or costs.
    pub is_mixed: bool,
}

/// Checks that a name can be a user's.
///
/// # Errors
/// Returns the reason that it cannot.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        Err("the user has no name".to_owned())
    } else if name.contains(':') || name.chars().any(char::is_control) {
        Err(format!("the user name '{}' has a colon or a control character in it", name.escape_debug()))
    } else {
        Ok(())
    }
}

impl Passwords {
    /// Parses a text; errors call it `name`.
    ///
    /// # Errors
    /// Returns every mistake, with its line and without its hash.
    pub fn parse(text: &str, name: &str) -> Result<Passwords, Vec<String>> {
        let mut users = HashMap::new();
        let mut errors = Vec::new();
        let (mut decoy, mut is_mixed): (Option<Hash>, bool) = (None, false);
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.trim_end_matches('\r');
            if text.starts_with('#') {
                continue;
            }
            match entry(text) {
                Ok((user, entry)) => match users.entry(Box::<str>::from(user)) {
                    Slot::Occupied(_) => errors.push(format!(
                        "{name}:{line}: the user '{user}' is there already; `lapwing user remove` one of them"
                    )),
                    Slot::Vacant(slot) => {
                        is_mixed |= decoy.as_ref().is_some_and(|decoy| !costs_alike(decoy, &entry.hash));
                        decoy.get_or_insert_with(|| entry.hash.decoy());
                        slot.insert(entry);
                    }
                },
                Err(error) => errors.push(format!("{name}:{line}: {error}")),
            }
        }
        match errors.is_empty() {
            true => Ok(Passwords { path: name.into(), users, decoy, is_mixed }),
            false => Err(errors),
        }
    }

    /// Returns the user's entry.
    pub fn get(&self, user: &str) -> Option<&PasswordEntry> {
        self.users.get(user)
    }

    /// Returns the hash to check for unknown users.
    pub fn decoy(&self) -> Option<&Hash> {
        self.decoy.as_ref()
    }

    /// Returns the number of users.
    #[cfg(feature = "internals")]
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Returns `true` when there is no user.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Returns all users, in the order of their names.
    #[cfg(feature = "internals")]
    pub fn names(&self) -> Vec<(&str, &PasswordEntry)> {
        let mut names: Vec<_> = self.users.iter().map(|(name, entry)| (&**name, entry)).collect();
        names.sort_by_key(|(name, _)| *name);
        names
    }
}

fn costs_alike(one: &Hash, other: &Hash) -> bool {
    match (one, other) {
        (Hash::Argon2id { cost: a, .. }, Hash::Argon2id { cost: b, .. }) => a == b,
        (Hash::Pbkdf2 { iterations: a, .. }, Hash::Pbkdf2 { iterations: b, .. }) => a == b,
        (Hash::Sha512 { .. }, Hash::Sha512 { .. }) => true,
        _ => false,
    }
}

fn entry(line: &str) -> Result<(&str, PasswordEntry), String> {
    if line.trim().is_empty() {
        return Err("an empty line; remove it".to_owned());
    }
    let (user, rest) = line.split_once(':').ok_or("no ':' between user and hash")?;
    check_name(user)?;
    let (hash, scram) = rest.split_once(':').map_or((rest, None), |(hash, scram)| (hash, Some(scram)));
    let scram = scram.filter(|scram| !scram.is_empty()).map(Verifier::parse).transpose()?;
    Ok((user, PasswordEntry { hash: Hash::parse(hash)?, scram }))
}

/// Returns a line of the file.
pub fn line(user: &str, entry: &PasswordEntry) -> String {
    match &entry.scram {
        Some(scram) => format!("{user}:{}:{scram}", entry.hash),
        None => format!("{user}:{}", entry.hash),
    }
}

/// Edits the lines of a file: `judge` gets each with the name of its user, and `None` removes it.
///
/// Comments stay; `append` is added at the end. The file is replaced as a whole, and readable by
/// its owner only.
///
/// # Errors
/// Returns the error of the disk.
pub fn edit(
    path: &Path,
    judge: &mut dyn FnMut(&str, &str) -> Option<String>,
    append: &[String],
) -> std::io::Result<()> {
    // The folder is locked, since the file itself is replaced: concurrent edits do not lose each
    // other's lines.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let lock = std::fs::File::open(folder)?;
    lock.lock()?;
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !append.is_empty() => String::new(),
        read => read?,
    };
    let judged = text.lines().filter_map(|line| match line.split_once(':') {
        Some((user, _)) if !line.starts_with('#') => judge(user, line),
        _ => Some(line.to_owned()),
    });
    let mut out: String = judged.flat_map(|line| [line, "\n".to_owned()]).collect();
    append.iter().for_each(|line| out.extend([line, "\n"]));
    replace(path, out.as_bytes())
}

/// Writes a new file beside the old one and renames it. A link stays a link. Owner and mode of an
/// existing file are kept where they are stricter.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let path = &std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let beside = path.with_file_name(name);
    let _ = std::fs::remove_file(&beside);
    let written = (|| {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        if let Ok(old) = std::fs::metadata(path) {
            use std::os::unix::fs::MetadataExt;
            // Best effort: only root may give a file away. A group that could read it still can;
            // others never can.
            let _ = std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()));
            file.set_permissions(std::fs::Permissions::from_mode(old.mode() & 0o640 | 0o600))?;
        }
        file.sync_all()?;
        std::fs::rename(&beside, path)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_reported_with_its_line() {
        let good = format!("a:$6$AAAA${}", "A".repeat(86));
        let text = format!("{good}\n\nb\n{good}\n:x\nc:plain\n# a comment\n");
        let errors = Passwords::parse(&text, "pw").unwrap_err();
        let lines: Vec<&str> = errors.iter().map(|error| error.split(": ").next().unwrap()).collect();
        assert_eq!(lines, ["pw:2", "pw:3", "pw:4", "pw:5", "pw:6"]);
        assert!(
            errors.iter().all(|error| !error.contains("plain\"") && !error.contains("AAAA")),
            "{errors:#?}"
        );
        assert_eq!(Passwords::parse(&good, "pw").unwrap().len(), 1);
    }
}
