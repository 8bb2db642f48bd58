//! A screen that is drawn every few seconds.

use std::fmt::Write as _;
use std::io::{self, Write as _};

/// Rows where the height of the terminal is unknown.
const ROWS: usize = 40;

/// A terminal that is redrawn, or plain text.
pub struct Screen {
    live: bool,
}

impl Screen {
    /// Creates a screen; a live one owns the terminal until it is dropped.
    pub fn new(live: bool) -> Screen {
        if live {
            print!("\x1b[?1049h\x1b[?25l");
        }
        Screen { live }
    }

    /// Returns the number of rows.
    pub fn rows(&self) -> usize {
        if !self.live {
            return ROWS;
        }
        let rows = rustix::termios::tcgetwinsize(io::stdout()).map_or(0, |size| usize::from(size.ws_row));
        // One row stays free for the cursor.
        if rows < 4 { ROWS } else { rows - 1 }
    }

    /// Shows the text; a live screen replaces its previous one.
    ///
    /// # Errors
    /// Returns the error of standard output.
    pub fn show(&self, text: &str) -> io::Result<()> {
        let mut out = String::new();
        if self.live {
            out.push_str("\x1b[H");
            for line in text.lines() {
                let _ = write!(out, "{line}\x1b[K\r\n");
            }
            out.push_str("\x1b[J");
        } else {
            out.push_str(text);
        }
        let mut stdout = io::stdout().lock();
        stdout.write_all(out.as_bytes()).and_then(|()| stdout.flush())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.live {
            print!("\x1b[?25h\x1b[?1049l");
            let _ = io::stdout().flush();
        }
    }
}
