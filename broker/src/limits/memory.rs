//! How much memory there is, and how much of it the process uses.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The memory of the control group, or of the machine.
pub(crate) fn machine_bytes() -> Option<u64> {
    let group = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let total = info.lines().find(|line| line.starts_with("MemTotal:"))?;
    let total = total.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024;
    Some(group.map_or(total, |group| group.min(total)))
}

/// The process's resident memory.
pub(crate) fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let owned = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(owned.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// What the allocator was last found to hold, since finding out takes its time: it goes through its
/// lists, and whoever asks it for memory meanwhile waits (0.2 s for a million free pieces).
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

/// A look may take this part of the time.
const SHARE_OF_TIME: u32 = 100;
/// Who only wants to show it does not look again when the last look took longer.
const IDLE_SAMPLE_MAX: Duration = Duration::from_millis(5);

impl Reserve {
    /// Of use for a decision: as of now, or as of the last look if that was so long that another
    /// would be too much, but that what has come in since took its part of it.
    pub fn needed(&self, now: Instant, taken: u64) -> Option<AllocatorStats> {
        if let Some(heap) = lock(&self.last).as_mut().and_then(|last| last.heap.as_mut()) {
            heap.free_bytes = heap.free_bytes.saturating_sub(taken);
        }
        self.sample(now, |last| now.saturating_duration_since(last.at) >= last.took * SHARE_OF_TIME)
    }

    /// To be shown.
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

/// What the allocator says.
#[derive(Clone, Copy, Debug)]
pub struct AllocatorStats {
    /// What it has from the kernel.
    pub system_bytes: u64,
    /// Of that, what nobody uses.
    pub free_bytes: u64,
}

/// Of glibc's allocator; `None` where there is another one.
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

/// Of glibc's allocator; `None` where there is another one.
#[cfg(not(all(target_os = "linux", target_env = "gnu", not(feature = "mimalloc"))))]
fn heap() -> Option<AllocatorStats> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_look_is_not_repeated_soon() {
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
    fn memory_that_the_allocator_holds_in_reserve_is_told() {
        // The last one stays and keeps the allocator from giving the others back to the kernel.
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
