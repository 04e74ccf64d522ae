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
    assert!(recorder.close());
    assert_eq!(disk.after_a_crash(), lines(0..3));
    // It says so where it could not.
    recorder.take_numbers(3..5, &answers);
    disk.inner().failing_syncs = 2;
    assert!(!recorder.close());
    assert!(recorder.close());
    assert_eq!(disk.after_a_crash(), lines(0..5));
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

#[test]
fn what_the_enclave_gives_again_takes_the_place_of_nothing_that_is_written_or_still_to_come() {
    let (disk, answers) = (Disk::default(), Answers::default());
    let recorder = recorder(&disk, LATER, u64::MAX);
    let again = |from, sequences: &[u64], next| {
        let lines = sequences
            .iter()
            .map(|sequence| line(*sequence).into_bytes().into());
        let lines = lines.collect();
        recorder.take_again(from, Records { lines, next });
    };
    recorder.take_numbers(0..2, &answers);
    // Nothing is lost between what is wanted and what comes.
    again(2, &[2], 3);
    recorder.take_numbers([1], &answers);
    assert_eq!(
        answers.counts(),
        (3, 0),
        "what stands there twice is written"
    );
    // More than was wanted.
    again(3, &[1, 2, 3], 4);
    assert_eq!(recorder.state().next, 4);
    // An answer to a question of before, when more has come: 4 is not given up for it.
    again(3, &[5], 6);
    assert_eq!(recorder.state().next, 4);
    recorder.take_numbers([4], &answers);
    assert_eq!(answers.counts(), (4, 0));
    recorder.maintain(true);
    assert_eq!(disk.after_a_crash(), lines(0..6));
}

#[test]
fn a_line_that_is_missing_for_a_while_is_asked_for_and_each_line_that_comes_renews_it() {
    let (disk, answers) = (Disk::default(), Answers::default());
    let recorder = recorder(&disk, LATER, u64::MAX);
    let since = |since: Instant| recorder.state().missing_since = Some(since);
    let is_since = || recorder.state().missing_since;
    assert_eq!(recorder.missing(), None);
    recorder.take_numbers([2, 4], &answers);
    assert!(is_since().is_some());
    since(Instant::now() + LATER);
    assert_eq!(recorder.missing(), None, "not yet");
    let before = Instant::now() - LATER;
    since(before);
    assert_eq!(recorder.missing(), Some(0));
    // Others come behind it, which is no progress.
    recorder.take_numbers([5], &answers);
    assert_eq!(is_since(), Some(before));
    // It comes, and the next one is missing from now on.
    recorder.take_numbers([0], &answers);
    assert!(is_since().is_some_and(|since| since > before));
    since(before);
    assert_eq!(recorder.missing(), Some(1));
    recorder.take_numbers([1, 3], &answers);
    assert_eq!((is_since(), recorder.missing()), (None, None));
    // While nothing can be written nothing is asked for, and then it is.
    recorder.take_numbers([6], &answers);
    recorder.take_numbers([8], &answers);
    disk.inner().failing_syncs = 1;
    recorder.maintain(true);
    assert_eq!(is_since(), None);
    recorder.maintain(true);
    assert!(recorder.is_good() && is_since().is_some());
}

#[test]
fn only_a_sync_that_is_due_syncs() {
    let (disk, answers) = (Disk::default(), Answers::default());
    let recorder = recorder(&disk, LATER, u64::MAX);
    recorder.take_numbers(0..2, &answers);
    recorder.maintain(false);
    assert_eq!(disk.after_a_crash(), "");
    recorder.maintain(true);
    assert_eq!(disk.after_a_crash(), lines(0..2));
}

#[tokio::test]
async fn what_is_written_is_synced_without_anybody_asking() {
    let (disk, answers) = (Disk::default(), Answers::default());
    let recorder = recorder(&disk, Duration::from_millis(5), u64::MAX);
    let tends = tokio::spawn(Arc::clone(&recorder).tend());
    recorder.take_numbers(0..2, &answers);
    let is_there = || disk.after_a_crash() == lines(0..2);
    for _ in 0..2000 {
        if is_there() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tends.abort();
    assert!(is_there());
}

#[test]
fn each_file_is_followed_by_the_next() {
    let (disk, answers) = (Disk::default(), Answers::default());
    let recorder = recorder(&disk, Duration::ZERO, 1);
    for sequence in 0..4 {
        recorder.take_numbers([sequence], &answers);
        assert!(recorder.state().unsynced.is_empty(), "it is on the disk");
    }
    let numbers: Vec<u32> = disk.inner().files.keys().copied().collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    assert_eq!(disk.after_a_crash(), lines(0..4));
}

#[test]
fn what_is_written_at_once_and_kept_and_in_one_file_has_its_bounds() {
    let disk = Disk::default();
    let config = |rotate_bytes| RecordConfig {
        folder: PathBuf::new(),
        sync: LATER,
        rotate_bytes,
    };
    // A mebibyte, with the end of each line, and no line more.
    let mut half = State::open(&disk, 1).unwrap();
    for sequence in 0..3 {
        half.take(sequence, vec![b'x'; MAX_BATCH / 2 - 1], None);
    }
    let (batch, count) = half.batch();
    assert_eq!((batch.len(), count), (1_048_576, 2));

    let kept = |length| State {
        unsynced: vec![b'x'; length],
        ..State::open(&Disk::default(), 1).unwrap()
    };
    let most = config(u64::MAX);
    assert!(!kept(MAX_UNSYNCED - 10).must_sync(&most, 10));
    assert!(kept(MAX_UNSYNCED - 10).must_sync(&most, 11));
    for (more, is_kept) in [(10, 16_777_216), (11, 11)] {
        let mut state = kept(MAX_UNSYNCED - 10);
        state.append(&disk, &most, &vec![b'x'; more]).unwrap();
        assert_eq!(state.unsynced.len(), is_kept);
    }

    let file = config(20);
    for (length, more, is_full) in [
        (0, 21, false),
        (1, 19, false),
        (1, 20, true),
        (5, 15, false),
        (5, 16, true),
    ] {
        assert_eq!(
            kept(length).is_full(&file, more),
            is_full,
            "{length} {more}"
        );
        assert_eq!(kept(length).must_sync(&file, more), is_full);
    }
}

mod on_disk {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;

    fn config(folder: &Path) -> RecordConfig {
        RecordConfig {
            folder: folder.into(),
            sync: LATER,
            rotate_bytes: u64::MAX,
        }
    }

    fn open(folder: &Path) -> Result<Arc<Recorder>, Error> {
        Recorder::open(config(folder), Counters::default())
    }

    fn file(folder: &Path, number: u32) -> PathBuf {
        folder.join(format!("record-{number:06}.jsonl"))
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o7777
    }

    #[test]
    fn a_record_is_made_with_all_above_it_and_goes_on_where_it_ended() {
        let above = tempfile::tempdir().unwrap();
        let folder = above.path().join("a/b/record");
        let answers = Answers::default();
        let first = open(&folder).unwrap();
        assert_eq!((mode(&folder), mode(&file(&folder, 1))), (0o700, 0o600));
        assert_eq!(first.begin(boot(7)), 0);
        first.take_numbers(0..3, &answers);
        assert!(first.close());
        assert_eq!(fs::read_to_string(file(&folder, 1)).unwrap(), lines(0..3));
        // One at a time.
        let refused = open(&folder).err().unwrap().to_string();
        assert!(refused.contains("another sidecar"), "{refused}");
        drop(first);
        let next = open(&folder).unwrap();
        assert_eq!(next.begin(boot(7)), 3);
        drop(next);
        // In the last of its files, whatever else lies there.
        fs::write(file(&folder, 3), lines(3..5)).unwrap();
        fs::write(folder.join("record-x.jsonl"), "").unwrap();
        fs::write(folder.join("record-000009.json"), "").unwrap();
        let next = open(&folder).unwrap();
        assert_eq!((next.begin(boot(7)), next.state().number), (5, 3));
    }

    #[test]
    fn the_folder_of_a_record_is_ours_and_closed() {
        let folder = tempfile::tempdir().unwrap();
        let refused = || {
            let refused = open(folder.path()).err().map(|error| error.to_string());
            refused.is_some_and(|why| why.contains("it must be ours and closed"))
        };
        for (bits, is_refused) in [(0o700, false), (0o701, true), (0o750, true), (0o500, false)] {
            let bits = fs::Permissions::from_mode(bits);
            fs::set_permissions(folder.path(), bits).unwrap();
            assert_eq!(refused(), is_refused);
        }
        let own = rustix::process::geteuid();
        if own.is_root() {
            std::os::unix::fs::chown(folder.path(), Some(7), None).unwrap();
            assert!(refused());
        }
    }

    #[test]
    fn a_line_that_was_cut_is_taken_away_however_long_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let long = |length: usize| {
            let start = line(0);
            let filler = "x".repeat(length - start.len() - "\"a\":\"\",".len());
            start.replace('{', &format!("{{\"a\":\"{filler}\","))
        };
        let longest = long(record::MAX_LINE);
        assert_eq!(longest.len(), record::MAX_LINE);
        let cut = &longest[..record::MAX_LINE - 1];
        let small = lines(0..2);
        for (before, cut, last) in [
            (String::new(), "", ""),
            (String::new(), "{\"a", ""),
            (small.clone(), "", &*line(1)),
            (small.clone(), "{", &line(1)),
            (format!("{small}{longest}\n"), "", &longest),
            (format!("{small}{longest}\n"), cut, &longest),
        ] {
            let path = file(folder.path(), 1);
            fs::write(&path, format!("{before}{cut}")).unwrap();
            let opened = OnDisk(folder.path().into()).open(1).unwrap();
            assert_eq!(opened.last, last.as_bytes());
            assert_eq!(opened.length, before.len() as u64);
            assert_eq!(fs::read_to_string(&path).unwrap(), before);
        }
    }

    #[test]
    fn what_is_asked_of_the_disk_is_done_and_errors_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let disk = OnDisk(folder.path().into());
        let opened = disk.open(7).unwrap();
        opened.file.write_all_at(b"three", 2).unwrap();
        let read = || fs::read(file(folder.path(), 7));
        assert_eq!(read().unwrap(), b"\0\0three");
        opened.file.set_len(4).unwrap();
        assert_eq!(read().unwrap(), b"\0\0th");
        disk.remove(7).unwrap();
        assert!(read().is_err() && disk.remove(7).is_err());
        assert!(OnDisk(folder.path().join("none")).sync().is_err());
        // What cannot be synced.
        let null = File::open("/dev/null").unwrap();
        assert!(RecordFile::sync_data(&null).is_err());
    }
}
