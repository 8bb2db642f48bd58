//! A progress bar on standard error for long jobs, on a terminal only.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Time between two drawings.
const PAUSE: Duration = Duration::from_millis(200);
const WIDTH: usize = 30;

/// Progress of a tool.
pub struct Progress {
    shown: bool,
    start: Instant,
    drawn: Option<Instant>,
    /// Bytes to read, where that is known.
    total: Option<u64>,
    read: u64,
    messages: u64,
}

impl Progress {
    /// Creates a bar; shown where standard error is a terminal and `wanted`.
    pub fn new(wanted: bool, total: Option<u64>) -> Progress {
        let shown = wanted && std::io::stderr().is_terminal();
        Progress { shown, start: Instant::now(), drawn: None, total, read: 0, messages: 0 }
    }

    /// Counts a message of this many bytes.
    pub fn message(&mut self, bytes: u64) {
        self.read += bytes;
        self.messages += 1;
        if self.shown && self.drawn.is_none_or(|drawn| drawn.elapsed() >= PAUSE) {
            self.drawn = Some(Instant::now());
            let line = self.line(self.start.elapsed());
            self.draw(&line);
        }
    }

    /// Draws the last line.
    pub fn finish(&mut self) {
        if self.drawn.is_some() {
            let line = self.line(self.start.elapsed());
            self.draw(&format!("{line}\n"));
        }
    }

    fn draw(&self, line: &str) {
        // A lost terminal is no reason to stop.
        let _ = write!(std::io::stderr(), "\r\x1b[K{line}");
        let _ = std::io::stderr().flush();
    }

    fn line(&self, elapsed: Duration) -> String {
        let seconds = elapsed.as_secs_f64().max(0.001);
        let rate = self.messages as f64 / seconds;
        let mut line = format!("{} messages, {rate:.0}/s, {}", self.messages, size(self.read));
        if let Some(total) = self.total.filter(|total| *total > 0) {
            let part = (self.read as f64 / total as f64).min(1.0);
            let full = (part * WIDTH as f64) as usize;
            let left = if part > 0.0 { seconds / part - seconds } else { 0.0 };
            line = format!(
                "[{}{}] {:3.0} % {line}, {left:.0} s left",
                "#".repeat(full),
                ".".repeat(WIDTH - full),
                part * 100.0
            );
        }
        line
    }
}

/// Formats bytes for people.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_fills_and_says_what_is_left() {
        let progress = Progress {
            shown: false,
            start: Instant::now(),
            drawn: None,
            total: Some(1_000),
            read: 500,
            messages: 50,
        };
        let line = progress.line(Duration::from_secs(10));
        assert_eq!(
            line,
            format!("[{}{}]  50 % 50 messages, 5/s, 500 B, 10 s left", "#".repeat(15), ".".repeat(15))
        );
    }
}
