//! Files that the configuration names: reading one, and the reason why it cannot be read.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The text of a file, or why there is none: a folder, no right, no UTF-8.
pub(crate) fn text_of(key: &str, path: &Path) -> Result<String, String> {
    if let Some(error) = why_not_readable(key, path) {
        return Err(error);
    }
    std::fs::read_to_string(path).map_err(|error| format!("{key} {}: {error}", path.display()))
}

/// Why a file with a secret in it is not used: others can read it.
pub(crate) fn why_not_secret(key: &str, path: &Path) -> Option<String> {
    let mode = std::fs::metadata(path).ok()?.mode() & 0o777;
    (mode & 0o006 != 0).then(|| {
        format!(
            "{key} {}: everybody on this machine can read it (mode {mode:o}), so it is no secret any more. Make a new one, or, if \
             nobody else was there yet, chmod 600 it (in a container: defaultMode 0400)",
            path.display()
        )
    })
}

/// Why a file cannot be read: who tried, and what its permissions are.
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
