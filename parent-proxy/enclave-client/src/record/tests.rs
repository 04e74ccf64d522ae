//! The record on a disk that fails as Linux lets one fail.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

fn boot(byte: u8) -> BootId {
    BootId::new([byte; 16])
}

/// A disk, and the kernel's copy of it. A sync that fails has written the first half. The kernel
/// takes the rest for clean, and drops it: from then on it shows what the disk has. A name that was
/// not synced is lost in a crash.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    files: BTreeMap<u32, Pages>,
    names_on_disk: BTreeSet<u32>,
    names_dirty: BTreeSet<u32>,
    failing_syncs: usize,
    failing_name_syncs: usize,
    /// Writes that fail when half of it is written.
    failing_writes: usize,
    failing_cuts: usize,
    /// Done once, while a sync is under way.
    during_sync: Option<Box<dyn FnOnce() + Send>>,
    most_dirty: usize,
}

#[derive(Default)]
struct Pages {
    kernel: Vec<u8>,
    disk: Vec<u8>,
    dirty: Vec<Range<usize>>,
}

struct OpenFile {
    disk: Disk,
    number: u32,
}

impl Disk {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// All that is there after a crash of the machine.
    fn after_a_crash(&self) -> String {
        let inner = self.inner();
        let there = inner
            .files
            .iter()
            .filter(|(number, _)| inner.names_on_disk.contains(number));
        String::from_utf8(there.flat_map(|(_, pages)| pages.disk.clone()).collect()).unwrap()
    }
}

fn fails(count: &mut usize) -> bool {
    let fails = *count > 0;
    *count = count.saturating_sub(1);
    fails
}

fn failed() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())
}

impl Folder for Disk {
    fn open(&self, number: u32) -> io::Result<Opened> {
        let mut inner = self.inner();
        if !inner.files.contains_key(&number) {
            inner.names_dirty.insert(number);
        }
        let pages = inner.files.entry(number).or_default();
        let length = pages.kernel.len() as u64;
        let last = pages
            .kernel
            .strip_suffix(b"\n")
            .and_then(|all| all.rsplit(|b| *b == b'\n').next())
            .unwrap_or_default()
            .to_vec();
        Ok(Opened {
            file: Arc::new(OpenFile {
                disk: self.clone(),
                number,
            }),
            length,
            last,
        })
    }

    fn remove(&self, number: u32) -> io::Result<()> {
        self.inner().files.remove(&number);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.inner();
        let names = std::mem::take(&mut inner.names_dirty);
        if fails(&mut inner.failing_name_syncs) {
            return Err(failed());
        }
        inner.names_on_disk.extend(names);
        Ok(())
    }
}

impl RecordFile for OpenFile {
    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut inner = self.disk.inner();
        let half = fails(&mut inner.failing_writes);
        let bytes = if half {
            &bytes[..bytes.len() / 2]
        } else {
            bytes
        };
        let pages = inner.files.get_mut(&self.number).unwrap();
        let (from, to) = (
            usize::try_from(at).unwrap(),
            usize::try_from(at).unwrap() + bytes.len(),
        );
        pages.kernel.resize(pages.kernel.len().max(to), 0);
        pages.kernel[from..to].copy_from_slice(bytes);
        pages.dirty.push(from..to);
        let dirty = pages.dirty.iter().map(Range::len).sum();
        inner.most_dirty = inner.most_dirty.max(dirty);
        if half { Err(failed()) } else { Ok(()) }
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut inner = self.disk.inner();
        if fails(&mut inner.failing_cuts) {
            return Err(failed());
        }
        let pages = inner.files.get_mut(&self.number).unwrap();
        let length = usize::try_from(length).unwrap();
        pages.kernel.resize(length, 0);
        pages.disk.truncate(length);
        pages
            .dirty
            .iter_mut()
            .for_each(|range| *range = range.start.min(length)..range.end.min(length));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let act = self.disk.inner().during_sync.take();
        if let Some(act) = act {
            act();
        }
        let mut inner = self.disk.inner();
        let failing = fails(&mut inner.failing_syncs);
        let pages = inner.files.get_mut(&self.number).unwrap();
        pages.disk.resize(pages.kernel.len(), 0);
        let dirty = std::mem::take(&mut pages.dirty);
        let mut lost = if failing {
            dirty.iter().map(Range::len).sum::<usize>().div_ceil(2)
        } else {
            0
        };
        for range in dirty.into_iter().rev() {
            let good = range.start..range.end - lost.min(range.len());
            let bad = good.end..range.end;
            lost -= bad.len();
            pages.disk[good.clone()].copy_from_slice(&pages.kernel[good]);
            pages.kernel[bad.clone()].copy_from_slice(&pages.disk[bad]);
        }
        if failing { Err(failed()) } else { Ok(()) }
    }
}

fn line(sequence: u64) -> String {
    format!("{{\"boot_id\":\"{}\",\"sequence\":{sequence}}}", boot(7))
}

fn lines(sequences: impl IntoIterator<Item = u64>) -> String {
    sequences
        .into_iter()
        .map(|sequence| line(sequence) + "\n")
        .collect()
}

/// What became of requests: how many were released, as written or not.
#[derive(Clone, Default)]
struct Answers {
    written: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
}

impl Answers {
    fn release(&self) -> Option<Release> {
        let answers = self.clone();
        Some(Box::new(move |written| {
            let count = if written {
                answers.written
            } else {
                answers.refused
            };
            count.fetch_add(1, Ordering::Relaxed);
        }))
    }

    fn counts(&self) -> (usize, usize) {
        (
            self.written.load(Ordering::Relaxed),
            self.refused.load(Ordering::Relaxed),
        )
    }
}

const LATER: Duration = Duration::from_secs(1);

/// A recorder of one boot, on an empty disk or on what is there.
fn recorder(disk: &Disk, sync: Duration, rotate_bytes: u64) -> Arc<Recorder> {
    let number = disk.inner().files.keys().last().copied().unwrap_or(1);
    let recorder = Recorder {
        config: RecordConfig {
            folder: PathBuf::new(),
            sync,
            rotate_bytes,
        },
        counters: Counters::default(),
        folder: Box::new(disk.clone()),
        state: Mutex::new(State::open(disk, number).unwrap()),
        synced: Condvar::new(),
        _lock: None,
    };
    recorder.begin(boot(7));
    Arc::new(recorder)
}

impl Recorder {
    fn take_numbers(&self, sequences: impl IntoIterator<Item = u64>, answers: &Answers) {
        self.take(
            sequences
                .into_iter()
                .map(|sequence| (line(sequence).into_bytes(), answers.release())),
        );
    }
}

#[test]
fn after_a_failed_sync_the_record_is_written_again_and_heals_by_itself() {
    let (disk, answers) = (Disk::default(), Answers::default());
    let recorder = recorder(&disk, LATER, u64::MAX);
    recorder.take_numbers(0..3, &answers);
    recorder.maintain(true);
    recorder.take_numbers(3..6, &answers);
    assert_eq!(answers.counts(), (6, 0));
    disk.inner().failing_syncs = 1;
    recorder.maintain(true);
    assert!(!recorder.is_good());
    assert_eq!(recorder.counters.record_failing.get(), 1);
    // A sync of the same file would say now that all is well, and the disk would not have it.
    assert!(
        disk.after_a_crash().starts_with(&lines(0..4)) && !disk.after_a_crash().contains(&line(5))
    );
    // What was decided before it was known stays; nobody gets it, and nothing is written behind
    // what is lost.
    recorder.take_numbers([6], &answers);
    assert_eq!(answers.counts(), (6, 1));
    // What the disk has is never taken away from it, not even to be written again.
    let seen = Arc::new(Mutex::new(String::new()));
    let (crashing, crashed) = (disk.clone(), Arc::clone(&seen));
    disk.inner().during_sync = Some(Box::new(move || {
        *crashed.lock().unwrap() = crashing.after_a_crash()
    }));
    recorder.maintain(false);
    assert!(seen.lock().unwrap().starts_with(&lines(0..4)));
    assert!(recorder.is_good());
    assert_eq!(recorder.counters.record_failing.get(), 0);
    assert_eq!(disk.after_a_crash(), lines(0..6));
    recorder.maintain(true);
    assert_eq!(disk.after_a_crash(), lines(0..7));
}

#[test]
fn a_record_without_new_lines_heals_too_however_often_the_sync_fails() {
    let (disk, answers) = (Disk::default(), Answers::default());
    let recorder = recorder(&disk, LATER, u64::MAX);
    recorder.take_numbers(0..3, &answers);
    disk.inner().failing_syncs = 3;
    for failing in [true, true, true, false] {
        recorder.maintain(true);
        assert_eq!(recorder.is_good(), !failing);
        assert_eq!(disk.after_a_crash() == lines(0..3), !failing);
    }
    assert_eq!(answers.counts(), (3, 0));
    // The next sync has nothing to do with what failed.
    recorder.take_numbers(3..5, &answers);
    recorder.maintain(true);
    assert_eq!(
        (recorder.is_good(), disk.after_a_crash()),
        (true, lines(0..5))
    );
}

#[test]
fn what_is_written_while_a_sync_fails_is_written_again_too() {
    for failing_syncs in [0, 1] {
        let (disk, answers) = (Disk::default(), Answers::default());
        let recorder = recorder(&disk, LATER, u64::MAX);
        recorder.take_numbers(0..2, &answers);
        let (meanwhile, theirs) = (Arc::clone(&recorder), answers.clone());
        disk.inner().during_sync = Some(Box::new(move || meanwhile.take_numbers(2..4, &theirs)));
        disk.inner().failing_syncs = failing_syncs;
        recorder.maintain(true);
        assert_eq!(
            (recorder.is_good(), answers.counts()),
            (failing_syncs == 0, (4, 0))
        );
        // What came while a sync was under way is not known to be on the disk, also if it went
        // well.
        assert!(recorder.state().unsynced.ends_with(lines(2..4).as_bytes()));
        recorder.maintain(true);
        assert_eq!(
            (recorder.is_good(), disk.after_a_crash()),
            (true, lines(0..4))
        );
    }
}

#[test]
fn with_a_sync_before_each_answer_a_failed_one_answers_nobody_and_the_line_stands_there_once() {
    for failing_cuts in [0, 2] {
        let (disk, answers) = (Disk::default(), Answers::default());
        let recorder = recorder(&disk, Duration::ZERO, u64::MAX);
        recorder.take_numbers(0..2, &answers);
        assert_eq!(disk.after_a_crash(), lines(0..2));
        (disk.inner().failing_syncs, disk.inner().failing_cuts) = (1, failing_cuts);
        recorder.take_numbers(2..4, &answers);
        assert_eq!((recorder.is_good(), answers.counts()), (false, (2, 2)));
        recorder.take_numbers([4], &answers);
        assert!(!recorder.is_good());
        recorder.maintain(true);
        if failing_cuts > 1 {
            assert!(!recorder.is_good());
            recorder.maintain(true);
        }
        assert!(recorder.is_good());
        assert_eq!(
            (answers.counts(), disk.after_a_crash()),
            ((2, 3), lines(0..5))
        );
    }
}

#[test]
fn a_write_that_fails_in_the_middle_leaves_no_cut_line_in_the_record() {
    for (sync, failing_cuts) in [
        (LATER, 0),
        (LATER, 1),
        (Duration::ZERO, 0),
        (Duration::ZERO, 1),
    ] {
        let (disk, answers) = (Disk::default(), Answers::default());
        let recorder = recorder(&disk, sync, u64::MAX);
        recorder.take_numbers(0..2, &answers);
        (disk.inner().failing_writes, disk.inner().failing_cuts) = (1, failing_cuts);
        recorder.take_numbers(2..9, &answers);
        assert_eq!((recorder.is_good(), answers.counts()), (false, (2, 7)));
        // A new boot has less to write than what is cut.
        recorder.begin(boot(8));
        let other = line(0).replace("07", "08");
        recorder.take([(other.clone().into_bytes(), None)]);
        recorder.maintain(true);
        recorder.maintain(true);
        assert_eq!(
            (recorder.is_good(), disk.after_a_crash()),
            (true, format!("{}{other}\n", lines(0..2)))
        );
    }
}

#[test]
fn a_file_is_on_the_disk_before_the_next_one_begins_and_a_failed_sync_in_between_loses_nothing() {
    for sync in [LATER, Duration::ZERO] {
        let (disk, answers) = (Disk::default(), Answers::default());
        let recorder = recorder(&disk, sync, lines(0..3).len() as u64);
        recorder.take_numbers(0..3, &answers);
        disk.inner().failing_syncs = 1;
        recorder.take_numbers(3..5, &answers);
        assert_eq!((recorder.is_good(), answers.counts()), (false, (3, 2)));
        assert_eq!(disk.inner().files.len(), 1);
        recorder.maintain(true);
        assert_eq!((recorder.is_good(), disk.inner().files.len()), (true, 2));
        assert!(disk.after_a_crash().starts_with(&lines(0..3)));
        recorder.maintain(true);
        assert_eq!(disk.after_a_crash(), lines(0..5));
    }
}

#[test]
fn the_name_of_a_new_file_is_on_the_disk_before_anything_in_it_counts() {
    let (disk, answers) = (Disk::default(), Answers::default());
    disk.inner().failing_name_syncs = 1;
    assert!(State::open(&disk, 1).is_err());
    let recorder = recorder(&disk, Duration::ZERO, lines(0..2).len() as u64);
    recorder.take_numbers(0..2, &answers);
    assert_eq!(disk.after_a_crash(), lines(0..2));
    disk.inner().failing_name_syncs = 1;
    recorder.take_numbers(2..4, &answers);
    assert_eq!((recorder.is_good(), answers.counts()), (false, (2, 2)));
    recorder.maintain(true);
    assert_eq!(
        (recorder.is_good(), disk.after_a_crash()),
        (true, lines(0..4))
    );
}

#[test]
fn while_one_sync_is_under_way_no_other_one_takes_its_error() {
    let (disk, answers) = (Disk::default(), Answers::default());
    let recorder = recorder(&disk, LATER, lines(0..3).len() as u64);
    recorder.take_numbers(0..3, &answers);
    let (meanwhile, theirs) = (Arc::clone(&recorder), answers.clone());
    let (sender, receiver) = std::sync::mpsc::channel();
    disk.inner().during_sync = Some(Box::new(move || {
        // The next line belongs into the next file, before which this one is synced: now, if nobody
        // kept it from that.
        let other = std::thread::spawn(move || meanwhile.take_numbers([3], &theirs));
        let until = Instant::now() + Duration::from_millis(200);
        while !other.is_finished() && Instant::now() < until {
            std::thread::yield_now();
        }
        sender.send((other.is_finished(), other)).unwrap();
    }));
    disk.inner().failing_syncs = 1;
    recorder.maintain(true);
    let (finished, other) = receiver.recv().unwrap();
    assert!(!finished);
    other.join().unwrap();
    assert_eq!((recorder.is_good(), answers.counts()), (false, (3, 1)));
    recorder.maintain(true);
    recorder.maintain(true);
    assert_eq!(
        (
            recorder.is_good(),
            disk.after_a_crash(),
            disk.inner().files.len()
        ),
        (true, lines(0..4), 2)
    );
}

#[test]
fn what_is_kept_for_writing_it_again_is_bounded() {
    let (disk, answers) = (Disk::default(), Answers::default());
    let recorder = recorder(&disk, Duration::from_secs(60), u64::MAX);
    let filler = "x".repeat(60 * 1024);
    let long = |sequence| {
        line(sequence)
            .replace("{", &format!("{{\"a\":\"{filler}\","))
            .into_bytes()
    };
    let count = 2 * MAX_UNSYNCED as u64 / filler.len() as u64;
    // Many at once, too.
    recorder.take((0..count / 2).map(|sequence| (long(sequence), answers.release())));
    for sequence in count / 2..count {
        recorder.take([(long(sequence), answers.release())]);
        assert!(recorder.state().unsynced.len() <= MAX_UNSYNCED);
    }
    assert!(disk.inner().most_dirty <= MAX_UNSYNCED);
    assert_eq!(answers.counts().0 as u64, count);
    // A sync that is forced may fail as well.
    disk.inner().failing_syncs = 1;
    let more: u64 = (count..)
        .take_while(|sequence| {
            recorder.take([(long(*sequence), None)]);
            recorder.is_good()
        })
        .count() as u64;
    recorder.maintain(true);
    recorder.maintain(true);
    let whole: String = (0..=count + more)
        .map(|sequence| String::from_utf8(long(sequence)).unwrap() + "\n")
        .collect();
    assert!(recorder.is_good() && disk.after_a_crash() == whole);
}

#[test]
fn the_last_sync_writes_again_what_it_could_not_sync() {
    let (disk, answers) = (Disk::default(), Answers::default());
    let recorder = recorder(&disk, LATER, u64::MAX);
    recorder.take_numbers(0..3, &answers);
    disk.inner().failing_syncs = 1;
    recorder.close();
    assert_eq!(disk.after_a_crash(), lines(0..3));
}

#[test]
fn what_a_sidecar_before_this_one_did_not_sync_is_synced_before_more_is_written() {
    let (disk, answers) = (Disk::default(), Answers::default());
    recorder(&disk, LATER, u64::MAX).take_numbers(0..3, &answers);
    assert_eq!(disk.after_a_crash(), "");
    let next = recorder(&disk, LATER, u64::MAX);
    assert_eq!(
        (disk.after_a_crash(), next.begin(boot(7))),
        (lines(0..3), 3)
    );
}

#[test]
fn who_waits_for_a_line_that_is_given_up_gets_nothing() {
    let (disk, held, late) = (Disk::default(), Answers::default(), Answers::default());
    let recorder = recorder(&disk, LATER, u64::MAX);
    recorder.take_numbers(0..2, &Answers::default());
    // The lines 2 and 4 were on a connection that broke, and the enclave remembers nothing before 6.
    recorder.take_numbers([3, 5], &held);
    let lines_again = |sequences: &[u64]| {
        sequences
            .iter()
            .map(|sequence| line(*sequence).into_bytes().into())
            .collect()
    };
    recorder.take_again(
        2,
        Records {
            lines: lines_again(&[6, 7]),
            next: 8,
        },
    );
    assert_eq!(held.counts(), (0, 2));
    assert!(recorder.state().waiting.is_empty());
    // Too late: it does not stand in the record. What stands there and comes twice does.
    recorder.take_numbers([4], &late);
    assert_eq!(late.counts(), (0, 1));
    recorder.take_numbers([7, 8], &late);
    assert_eq!(late.counts(), (2, 1));
    recorder.maintain(true);
    assert_eq!(disk.after_a_crash(), lines([0, 1, 6, 7, 8]));
    // Another boot counts from zero.
    recorder.begin(boot(8));
    let other = line(0).replace("07", "08").into_bytes();
    recorder.take([(other.clone(), late.release())]);
    recorder.take([(other, late.release())]);
    assert_eq!(late.counts(), (4, 1));
}

#[test]
fn a_new_boot_is_told_the_last_line_and_none_of_the_boot_before_follows_it() {
    let (disk, answers) = (Disk::default(), Answers::default());
    let recorder = recorder(&disk, LATER, u64::MAX);
    assert_eq!(recorder.end_before(boot(8)), None);
    recorder.begin(boot(7));
    recorder.take_numbers(0..3, &answers);
    // One that waits for those before it, when the enclave goes.
    recorder.take_numbers([5], &answers);
    let end = recorder.end_before(boot(8)).unwrap();
    assert_eq!((end.boot_id, end.last), (boot(7), 2));
    assert_eq!(Ok(end), unverified_end(line(2).as_bytes()));
    assert_eq!(answers.counts(), (3, 1));
    // What the old connection still brings is refused, and the next one is told the same.
    recorder.take_numbers(3..5, &answers);
    assert_eq!(
        (answers.counts(), recorder.end_before(boot(8))),
        ((3, 3), Some(end))
    );
    recorder.begin(boot(8));
    recorder.maintain(true);
    assert_eq!(disk.after_a_crash(), lines(0..3));
    // A second connection to the boot that has begun ends nothing.
    assert_eq!(recorder.end_before(boot(8)), None);
    let second = format!("{{\"boot_id\":\"{}\",\"sequence\":0}}", boot(8));
    recorder.take([(second.clone().into_bytes(), answers.release())]);
    assert_eq!(answers.counts(), (4, 3));
    // A boot that was taken for ended, and is there again, goes on where it was.
    recorder.end_before(boot(9));
    assert_eq!(recorder.begin(boot(8)), 1);
}

#[test]
fn a_record_whose_last_file_has_just_begun_ends_with_the_file_before() {
    let (disk, answers) = (Disk::default(), Answers::default());
    let first = recorder(&disk, Duration::ZERO, u64::MAX);
    first.take_numbers(0..3, &answers);
    drop(first);
    Folder::open(&disk, 2).unwrap();
    let next = recorder(&disk, Duration::ZERO, u64::MAX);
    assert_eq!(next.begin(boot(7)), 3);
    assert_eq!(next.end_before(boot(8)).map(|end| end.last), Some(2));
}
