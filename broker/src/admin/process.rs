//! Figures of this process, from the kernel.

use std::fs;

use crate::limits::{budget, memory};

/// Figures of the process; each is `None` where the kernel does not tell it.
pub(super) struct Process {
    pub cpu_seconds: Option<f64>,
    pub resident_bytes: Option<u64>,
    pub open_files: Option<usize>,
    pub open_files_max: Option<usize>,
    /// Start of the process, in seconds since 1970.
    pub start_seconds: Option<f64>,
}

impl Process {
    pub fn look() -> Process {
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let of_machine = fs::read_to_string("/proc/stat").unwrap_or_default();
        let boot =
            of_machine.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok());
        let seconds = |n| Some(field(&stat, n)? as f64 / ticks);
        Process {
            cpu_seconds: seconds(14).zip(seconds(15)).map(|(user, system)| user + system),
            resident_bytes: memory::resident_bytes(),
            // One of them is the folder that is being read.
            open_files: fs::read_dir("/proc/self/fd").ok().map(|files| files.count().saturating_sub(1)),
            open_files_max: budget::file_descriptors_max(),
            start_seconds: boot.zip(seconds(22)).map(|(boot, after)| boot + after),
        }
    }
}

/// Returns a field of `/proc/self/stat`, counted as in proc(5). The second is the name in brackets,
/// which may hold anything.
fn field(stat: &str, n: usize) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    behind_name.split_whitespace().nth(n.checked_sub(3)?)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_behind_a_name_with_brackets() {
        let stat = "7 (a b) c) S 1 2 3";
        assert_eq!((field(stat, 4), field(stat, 6), field(stat, 7)), (Some(1), Some(3), None));
    }
}
