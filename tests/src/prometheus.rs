//! A real Prometheus that scrapes a broker.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::http::ask;
use crate::program::{Folder, free_port, is_there};

const PATIENCE: Duration = Duration::from_secs(60);

/// It ends when this is dropped.
pub struct Prometheus {
    child: Child,
    address: String,
    _folder: Folder,
}

impl Prometheus {
    /// Starts one that scrapes this address five times a second; `None` where there is no
    /// Prometheus.
    pub fn start(admin: &str) -> Option<Prometheus> {
        if !is_there("prometheus", "prometheus".as_ref()) {
            return None;
        }
        let folder = Folder::new("prometheus");
        let target = admin.trim_start_matches("http://");
        let config = folder.file(
            "prometheus.yml",
            &format!(
                "global:\n  scrape_interval: 200ms\n  scrape_timeout: 200ms\nscrape_configs:\n  - job_name: lapwing\n    static_configs:\n      - targets: ['{target}']\n"
            ),
        );
        // It cannot say itself which port it took: one that was free just now.
        let port = free_port();
        let address = format!("127.0.0.1:{port}");
        let mut child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.0.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut said = String::new();
        loop {
            let Some(line) = lines.next() else { panic!("Prometheus ended:\n{said}") };
            let _ = writeln!(said, "{line}");
            if line.contains("ready to receive web requests") {
                break;
            }
        }
        std::thread::spawn(move || lines.for_each(drop));
        Some(Prometheus { child, address, _folder: folder })
    }

    /// Current value of a series, by its name with or without labels.
    pub fn value(&self, series: &str) -> Option<f64> {
        let query: String = series
            .bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => char::from(byte).to_string(),
                _ => format!("%{byte:02X}"),
            })
            .collect();
        let path = format!("/api/v1/query?query={query}");
        let answer = ask(&self.address, "GET", &path, "Connection: close\r\n");
        assert_eq!(answer.status, 200, "{series}: {}", answer.body);
        let answer: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    }

    /// Waits until it has this value: it comes with the next scrape.
    pub fn expect(&self, series: &str, value: f64) {
        let until = Instant::now() + PATIENCE;
        loop {
            let now = self.value(series);
            if now == Some(value) {
                return;
            }
            assert!(Instant::now() < until, "Prometheus has {now:?} for {series}, not {value}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
