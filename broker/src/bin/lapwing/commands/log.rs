//! Output of the log: standard error, one event a line. Names and topics from clients are in it, so
//! control characters are escaped. No client writes its own lines, or commands for the reader's
//! terminal.

use std::io::{Stderr, Write};

/// Standard error, line by line.
pub struct Lines {
    to: Stderr,
    /// Set for a terminal: colours of the log itself are kept; it has escaped those of clients.
    coloured: bool,
}

impl Lines {
    /// Creates the output; `coloured` for a terminal.
    pub fn new(coloured: bool) -> Lines {
        Lines { to: std::io::stderr(), coloured }
    }

    fn is_safe(&self, c: char) -> bool {
        !c.is_control() || c == '\t' || (self.coloured && c == '\u{1b}')
    }
}

impl Write for Lines {
    /// Writes one event.
    fn write(&mut self, event: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let line = text.strip_suffix('\n').unwrap_or(&text);
        if line.chars().all(|c| self.is_safe(c)) {
            self.to.write_all(event)?;
        } else {
            let escape =
                |c: char| if self.is_safe(c) { c.to_string() } else { c.escape_default().to_string() };
            let escaped: String = line.chars().map(escape).collect();
            self.to.write_all(format!("{escaped}\n").as_bytes())?;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}
