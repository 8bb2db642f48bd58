//! What the kernel says about this process.

use std::fs;

use crate::limits::{budget, memory};

/// Each figure is `None` where it cannot be had.
pub(super) struct Process {
    pub cpu_seconds: Option<f64>,
    pub resident_bytes: Option<u64>,
    pub open_files: Option<usize>,
    pub open_files_max: Option<usize>,
    /// Since 1970.
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
            // The folder that is read is one of them.
            open_files: fs::read_dir("/proc/self/fd").ok().map(|files| files.count().saturating_sub(1)),
            open_files_max: budget::file_descriptors_max(),
            start_seconds: boot.zip(seconds(22)).map(|(boot, after)| boot + after),
        }
    }
}

/// A field of `/proc/self/stat`, counted as in proc(5). The second is the name in brackets, with
/// whatever is in it.
fn field(stat: &str, n: usize) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    behind_name.split_whitespace().nth(n.checked_sub(3)?)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_behind_a_name_with_brackets_and_spaces() {
        let stat = "7 (a b) c) S 1 2 3";
        assert_eq!((field(stat, 4), field(stat, 6), field(stat, 7)), (Some(1), Some(3), None));
    }
}
