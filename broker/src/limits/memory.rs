//! Memory of the machine, and the process's use of it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Memory of the control group, or else of the machine, in bytes.
pub(crate) fn machine_bytes() -> Option<u64> {
    let group = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let total = info.lines().find(|line| line.starts_with("MemTotal:"))?;
    let total = total.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024;
    Some(group.map_or(total, |group| group.min(total)))
}

/// Resident memory of the process, in bytes.
pub(crate) fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let owned = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(owned.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// Last sample of the allocator's statistics. Sampling is slow: the allocator walks its lists, and
/// threads that allocate meanwhile wait (0.2 s for a million free pieces).
#[derive(Debug, Default)]
pub(crate) struct Reserve {
    last: Mutex<Option<HeapSample>>,
}

#[derive(Clone, Copy, Debug)]
struct HeapSample {
    at: Instant,
    took: Duration,
    heap: Option<AllocatorStats>,
}

/// Sampling may take this fraction of the time.
const SHARE_OF_TIME: u32 = 100;
/// Statistics for display are not sampled anew when the last sample took longer than this.
const IDLE_SAMPLE_MAX: Duration = Duration::from_millis(5);

impl Reserve {
    /// Free heap bytes for a pressure decision. The last sample is reused until 100 times its
    /// duration has passed; bytes received since are subtracted.
    pub fn needed(&self, now: Instant, taken: u64) -> Option<AllocatorStats> {
        if let Some(heap) = lock(&self.last).as_mut().and_then(|last| last.heap.as_mut()) {
            heap.free_bytes = heap.free_bytes.saturating_sub(taken);
        }
        self.sample(now, |last| now.saturating_duration_since(last.at) >= last.took * SHARE_OF_TIME)
    }

    /// Statistics for display.
    pub fn shown(&self, now: Instant) -> Option<AllocatorStats> {
        self.sample(now, |last| last.took <= IDLE_SAMPLE_MAX)
    }

    fn sample(&self, now: Instant, again: impl Fn(&HeapSample) -> bool) -> Option<AllocatorStats> {
        let mut looked = lock(&self.last);
        if looked.as_ref().is_none_or(again) {
            let begun = Instant::now();
            let heap = heap();
            *looked = Some(HeapSample { at: now, took: begun.elapsed(), heap });
        }
        looked.and_then(|last| last.heap)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Allocator statistics.
#[derive(Clone, Copy, Debug)]
pub struct AllocatorStats {
    /// Bytes that the allocator has from the kernel.
    pub system_bytes: u64,
    /// Number of those bytes that are free.
    pub free_bytes: u64,
}

/// Statistics of glibc's allocator; `None` with another one.
#[cfg(all(target_os = "linux", target_env = "gnu", not(feature = "mimalloc")))]
fn heap() -> Option<AllocatorStats> {
    use malloc_info::info::{SystemType, TotalType};
    let info = malloc_info::malloc_info().ok()?;
    let sum = |kinds: &[TotalType]| -> usize {
        info.total.iter().filter(|total| kinds.contains(&total.r#type)).map(|total| total.size).sum()
    };
    let current = info.system.iter().find(|system| system.r#type == SystemType::Current)?.size;
    Some(AllocatorStats {
        system_bytes: (current + sum(&[TotalType::Mmap])) as u64,
        free_bytes: sum(&[TotalType::Fast, TotalType::Rest]) as u64,
    })
}

/// Statistics of glibc's allocator; `None` with another one.
#[cfg(not(all(target_os = "linux", target_env = "gnu", not(feature = "mimalloc"))))]
fn heap() -> Option<AllocatorStats> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_sample_is_not_repeated_soon() {
        let (reserve, now) = (Reserve::default(), Instant::now());
        let long = HeapSample {
            at: now,
            took: Duration::from_millis(20),
            heap: Some(AllocatorStats { system_bytes: 7, free_bytes: 3 }),
        };
        let kept = |heap: Option<AllocatorStats>| heap.is_some_and(|heap| heap.system_bytes == 7);
        *reserve.last.lock().unwrap() = Some(long);
        assert_eq!(reserve.needed(now, 1).unwrap().free_bytes, 2);
        assert_eq!(reserve.needed(now, 1).unwrap().free_bytes, 1);
        assert!(kept(reserve.needed(now + Duration::from_millis(1_999), 0)));
        assert!(kept(reserve.shown(now + Duration::from_secs(60))));
        assert!(!kept(reserve.needed(now + Duration::from_secs(2), 0)));
    }

    #[cfg(all(target_os = "linux", target_env = "gnu", not(feature = "mimalloc")))]
    #[test]
    fn free_heap_memory_is_reported() {
        // The last block stays and keeps the allocator from giving the others back to the kernel.
        let mut blocks: Vec<Vec<u8>> = (0..20_000).map(|_| vec![1; 2_000]).collect();
        let (full, owned) = (heap().unwrap().free_bytes, resident_bytes().unwrap());
        let last = blocks.pop();
        drop(blocks);
        let (freed, still_resident) = (heap().unwrap().free_bytes, resident_bytes().unwrap());
        drop(last);
        assert!(
            owned.saturating_sub(still_resident) < 10 << 20,
            "{owned} {still_resident}: the kernel has it back"
        );
        assert!(freed - full > 30 << 20, "{full} {freed}");
    }
}
