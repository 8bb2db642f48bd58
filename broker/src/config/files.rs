//! Files that the configuration names: their contents, and the reason when they cannot be read.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Contents of a file, or the reason why it cannot be read as UTF-8 text.
pub(crate) fn text_of(key: &str, path: &Path) -> Result<String, String> {
    if let Some(error) = why_not_readable(key, path) {
        return Err(error);
    }
    std::fs::read_to_string(path).map_err(|error| format!("{key} {}: {error}", path.display()))
}

/// Reason why a file with a secret is not used: other users can read it.
pub(crate) fn why_not_secret(key: &str, path: &Path) -> Option<String> {
    let mode = std::fs::metadata(path).ok()?.mode() & 0o777;
    (mode & 0o006 != 0).then(|| {
        format!(
            "{key} {}: every user of this machine can read it (mode {mode:o}); make a new secret, or, if nobody else had \
             access yet, chmod 600 it (in a container: defaultMode 0400)",
            path.display()
        )
    })
}

/// Reason why a file cannot be read, with the user and its permissions.
pub(crate) fn why_not_readable(key: &str, path: &Path) -> Option<String> {
    let error = match std::fs::File::open(path) {
        Ok(_) if path.is_dir() => return Some(format!("{key} {} is a folder, not a file", path.display())),
        Ok(_) => return None,
        Err(error) => error,
    };
    let user = std::fs::metadata("/proc/self")
        .map_or_else(|_| String::new(), |m| format!(" as user id {}", m.uid()));
    let mode = std::fs::metadata(path)
        .map_or_else(|_| String::new(), |m| format!(" (owner {}, mode {:o})", m.uid(), m.mode() & 0o777));
    Some(format!("{key} {} cannot be read{user}: {error}{mode}", path.display()))
}
