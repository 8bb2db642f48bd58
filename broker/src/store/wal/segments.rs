//! Segments: the files of the log. They are prepared ahead of time, full of zeros, filled one after
//! the other and recycled. The start reads them back.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::disk::{Disk, DiskFile, read_full, write_zeros};
use super::frame::{self, Head};
use crate::message::Millis;
use crate::store::Lsn;
use crate::store::error::OpenError;

/// Folder of the segments.
pub(in crate::store) const FOLDER: &str = "wal";
/// Folder for damaged segments.
pub(in crate::store) const QUARANTINE: &str = "quarantine";

/// File name of a segment.
pub(in crate::store) fn name(id: u64) -> String {
    format!("{FOLDER}/{id:016}.log")
}

fn id(name: &str) -> Option<u64> {
    name.strip_suffix(".log")?.parse().ok()
}

/// Numbers of the existing segments, sorted.
pub(in crate::store) fn ids(disk: &dyn Disk) -> io::Result<Vec<u64>> {
    let mut ids: Vec<u64> = disk.list(FOLDER)?.iter().filter_map(|name| id(name)).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// A segment to write to.
#[derive(Debug)]
pub(in crate::store) struct Segment {
    pub(in crate::store) id: u64,
    pub(in crate::store) file: Arc<dyn DiskFile>,
    /// Offset of the next frame.
    pub(in crate::store) at: u64,
}

/// Preparation of a new segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Preallocation {
    /// Full of zeros: a sync of a frame only has to write data.
    Zeroed,
    /// Only allocated: each sync also writes metadata, which costs little beside a large frame. The
    /// segment is written once, not twice.
    Reserved,
}

/// Prepares a segment, from a recycled one if there is one.
pub(in crate::store) fn prepare(
    disk: &dyn Disk,
    id: u64,
    old: Option<u64>,
    bytes: u64,
    room: Preallocation,
) -> io::Result<Segment> {
    let new = name(id);
    if let Some(old) = old {
        disk.rename(&name(old), &new)?;
    }
    let file = disk.open_log(&new)?;
    let len = file.len()?;
    if len > bytes {
        file.set_len(bytes)?;
    }
    if len < bytes {
        match room {
            Preallocation::Zeroed => write_zeros(&*file, len, bytes)?,
            Preallocation::Reserved => file.reserve(bytes)?,
        }
    }
    if len != bytes {
        file.sync()?;
    }
    disk.sync_folder(FOLDER)?;
    Ok(Segment { id, file, at: 0 })
}

/// Salt of the frames, from the first frame of a segment, since only the writer decides its
/// contents. `None` without such a frame.
pub(in crate::store) fn salt(disk: &dyn Disk) -> io::Result<Option<u32>> {
    for id in ids(disk)? {
        let file = disk.open(&name(id), false)?;
        let mut bytes = vec![0; frame::PAGE];
        let read = read_full(&*file, &mut bytes, 0)?;
        bytes.truncate(read);
        let whole = frame::stated_len(&bytes).map_or(0, |len| frame::HEAD + len);
        bytes.resize(whole.max(frame::PAGE).min(usize::try_from(file.len()?).unwrap_or(0)), 0);
        read_full(&*file, &mut bytes, 0)?;
        if let Some(head) = frame::find(&bytes, id, None) {
            return Ok(Some(head.salt));
        }
    }
    Ok(None)
}

/// Position of damage in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct Damage {
    pub(in crate::store) segment: u64,
    pub(in crate::store) offset: u64,
    pub(in crate::store) what: String,
}

/// Result of a scan of the log.
#[derive(Debug, Default)]
pub(in crate::store) struct Scan {
    /// Last sound record.
    pub(in crate::store) last: Lsn,
    pub(in crate::store) clock: Millis,
    pub(in crate::store) number: u64,
    /// Missing or unreadable records that were known to be durable.
    pub(in crate::store) damage: Vec<Damage>,
    /// End of the log when the previous run was cut off; it was never acknowledged as durable.
    pub(in crate::store) torn: Option<Damage>,
    /// Each segment with its last record; 0 if it has none.
    pub(in crate::store) segments: Vec<(u64, Lsn)>,
    /// First segment from which on the log is contiguous; 0: all of it is.
    pub(in crate::store) contiguous_from: u64,
    /// Bytes of records in each segment.
    pub(in crate::store) covers: BTreeMap<u64, u64>,
}

/// Behavior of a scan at damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum OnDamage {
    /// Stop: only records before the damage count.
    Stop,
    /// Use every sound frame.
    GoOn,
}

/// Start of a scan.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::store) struct ScanFrom {
    /// Last record before the scan.
    pub(in crate::store) after: Lsn,
    /// First segment that can have later records.
    pub(in crate::store) segment: u64,
    /// Salt of the frames; `None`: any.
    pub(in crate::store) salt: Option<u32>,
}

/// A sound frame, as a scan passes it on.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct FoundFrame<'b> {
    /// Head of the frame.
    pub(in crate::store) head: &'b Head,
    /// The frame, from its head on.
    pub(in crate::store) bytes: &'b [u8],
    /// Offset of the frame in its segment.
    pub(in crate::store) at: u64,
    /// Records up to this one are known already.
    pub(in crate::store) after: Lsn,
}

/// Takes a frame in; `Ok(false)` when its records cannot be read.
pub(in crate::store) type GiveFrame<'g> = dyn FnMut(&FoundFrame<'_>) -> Result<bool, OpenError> + 'g;

/// Reads the log, and passes on each sound frame.
pub(in crate::store) fn scan(
    disk: &dyn Disk,
    since: ScanFrom,
    beyond: OnDamage,
    give: &mut GiveFrame<'_>,
) -> Result<Scan, OpenError> {
    let ScanFrom { after, segment: first, salt } = since;
    let mut scanner = LogScanner {
        disk,
        beyond,
        salt,
        give,
        scan: Scan { last: after, ..Scan::default() },
        whole: true,
        hole: None,
        gap: None,
        durable: 0,
        newest: 0,
    };
    for id in ids(disk).map_err(OpenError::io(format!("listing {}", disk.path(FOLDER))))? {
        if id < first {
            scanner.scan.segments.push((id, 0));
        } else if scanner.segment(id)?.is_break() {
            return Ok(scanner.scan);
        }
    }
    Ok(scanner.finish())
}

/// A scan of the log in progress.
struct LogScanner<'s, 'g> {
    disk: &'s dyn Disk,
    beyond: OnDamage,
    salt: Option<u32>,
    give: &'s mut GiveFrame<'g>,
    scan: Scan,
    /// False behind a hole in the current segment.
    whole: bool,
    /// Position without a whole frame; the unused end of a segment looks like this, too.
    hole: Option<Damage>,
    /// First hole with sound frames behind it.
    gap: Option<Damage>,
    /// Highest LSN that some frame calls durable.
    durable: Lsn,
    /// Latest time of a frame.
    newest: Millis,
}

impl LogScanner<'_, '_> {
    /// Scans one segment. Breaks when the scan is over.
    fn segment(&mut self, id: u64) -> Result<ControlFlow<()>, OpenError> {
        let bytes = self.read(id)?;
        let (mut last_here, mut at) = (0, 0);
        self.whole = true;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            match frame::find(rest, id, self.salt) {
                Some(head) => {
                    if self.frame(id, at as u64, rest, &head)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                    last_here = last_here.max(head.last());
                    at += head.padded();
                }
                None => {
                    if self.whole {
                        let what = "no whole frame stands here, and later ones do".to_owned();
                        self.hole = Some(Damage { segment: id, offset: at as u64, what });
                        self.whole = false;
                    }
                    at += frame::PAGE;
                }
            }
        }
        self.scan.segments.push((id, last_here));
        Ok(ControlFlow::Continue(()))
    }

    fn read(&self, id: u64) -> Result<Vec<u8>, OpenError> {
        let reading = || OpenError::io(format!("reading {}", self.disk.path(&name(id))));
        let file = self.disk.open(&name(id), false).map_err(reading())?;
        let len = file.len().map_err(reading())?;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(frame::FRAME_MAX).min(frame::FRAME_MAX)];
        let read = read_full(&*file, &mut bytes, 0).map_err(reading())?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Takes in a sound frame at this offset. Breaks when the scan is over.
    fn frame(&mut self, id: u64, at: u64, bytes: &[u8], head: &Head) -> Result<ControlFlow<()>, OpenError> {
        self.durable = self.durable.max(head.durable);
        self.newest = self.newest.max(head.clock);
        let scan = &mut self.scan;
        if head.last() <= scan.last {
            return Ok(ControlFlow::Continue(()));
        }
        let damage = |what: String| Damage { segment: id, offset: at, what };
        if !self.whole || head.first > scan.last + 1 {
            let missing = || damage(format!("records {} to {} are missing", scan.last + 1, head.first - 1));
            self.gap = self.gap.take().or_else(|| self.hole.take()).or_else(|| Some(missing()));
            if self.beyond == OnDamage::Stop {
                return Ok(ControlFlow::Continue(()));
            }
            scan.damage.extend(self.gap.take());
            scan.contiguous_from = id;
        }
        if (self.give)(&FoundFrame { head, bytes, at, after: scan.last })? {
            *scan.covers.entry(id).or_default() += head.padded() as u64;
            scan.clock = head.clock;
            scan.number = scan.number.max(head.number);
            self.hole = None;
            self.whole = true;
        } else {
            scan.damage.push(damage("a frame has records that cannot be read".to_owned()));
            if self.beyond == OnDamage::Stop {
                return Ok(ControlFlow::Break(()));
            }
        }
        scan.last = head.last();
        Ok(ControlFlow::Continue(()))
    }

    /// Classifies the end of the log.
    fn finish(self) -> Scan {
        let mut scan = self.scan;
        // Frames that no later frame calls durable may be missing: the run was cut off before they
        // were on disk.
        match self.gap.or(self.hole) {
            Some(gap) if self.durable > scan.last => scan.damage.push(gap),
            Some(gap) if scan.segments.iter().any(|(_, last)| *last > scan.last) => scan.torn = Some(gap),
            _ => {}
        }
        scan.clock = scan.clock.max(self.newest);
        scan
    }
}
