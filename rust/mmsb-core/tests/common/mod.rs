//! What a test must leave as it found it: descriptors, threads of the engine, and mappings of its memory and files.

use std::fs;
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

/// What a process holds that a test may leave behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Where the descriptors lead, sorted; without those of indexes.
    pub(crate) descriptors: Vec<String>,
    /// Indexes that are open.
    pub(crate) indexes: usize,
    /// Names of the engine's threads, sorted.
    pub(crate) threads: Vec<String>,
    /// Mappings of arenas and log segments, sorted.
    pub(crate) mappings: Vec<String>,
}

/// Looks at this process.
pub(crate) fn held() -> Held {
    // Miri tells of leaks itself, and has no /proc.
    if cfg!(miri) {
        return Held::default();
    }
    let list = |dir: &str| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    // The descriptor of the listing itself leads to the listing.
    let mut descriptors: Vec<String> = list("/proc/self/fd")
        .filter_map(|fd| Some(fs::read_link(fd).ok()?.to_string_lossy().into_owned()))
        .filter(|to| !to.starts_with("/proc/"))
        .collect();
    let all = descriptors.len();
    descriptors.retain(|path| !path.contains("/index/"));
    let indexes = all - descriptors.len();
    let mut threads: Vec<String> = list("/proc/self/task")
        .filter_map(|task| fs::read_to_string(task.join("comm")).ok())
        .filter(|name| name.starts_with("mmsb-"))
        .collect();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut mappings: Vec<String> = maps
        .lines()
        .filter(|line| line.contains("/memfd:mmsb") || line.contains(".mlog"))
        .filter_map(|line| Some(line[line.find('/')?..].to_owned()))
        .collect();
    // A log that goes on in another segment holds as much as before.
    for path in descriptors.iter_mut().chain(&mut mappings) {
        if let Some((dir, _)) = path.split_once("/log/") {
            *path = format!("{dir}/log/");
        }
    }
    descriptors.sort();
    threads.sort();
    mappings.sort();
    Held { descriptors, indexes, threads, mappings }
}

/// Waits until no more than `base` is held: threads that were told to end take a moment.
pub(crate) fn settle(base: &Held) {
    let began = Instant::now();
    let is_more =
        |now: Held| now.indexes > base.indexes || Held { indexes: base.indexes, ..now } != *base;
    while is_more(held()) {
        assert!(began.elapsed() < Duration::from_secs(20), "{:#?}\nbut was {base:#?}", held());
        std::thread::sleep(Duration::from_millis(1));
    }
}

static RUNNING: RwLock<()> = RwLock::new(());
static BASE: OnceLock<Held> = OnceLock::new();

/// A test that is under way.
pub(crate) struct Watch(Option<RwLockReadGuard<'static, ()>>);

/// To be called first in a test. When it ends and no other runs beside it, the process must hold what it held before
/// the first test.
pub(crate) fn watch() -> Watch {
    let running = RUNNING.read().unwrap_or_else(PoisonError::into_inner);
    BASE.get_or_init(held);
    Watch(Some(running))
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0 = None;
        let Some(base) = BASE.get().filter(|_| !std::thread::panicking()) else { return };
        if let Ok(_alone) = RUNNING.try_write() {
            settle(base);
        }
    }
}

/// Address space of this process.
#[allow(dead_code)] // Not every test asks.
pub(crate) fn address_space() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmSize:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Whether a sanitizer has taken most of the address space; then no limit of it can be tried, and a request for much
/// more than there is ends the process.
#[allow(dead_code, clippy::print_stdout)] // Not every test asks; who does is told.
pub(crate) fn is_sanitized() -> bool {
    let sanitized = address_space() > 8 << 40;
    if sanitized {
        println!("skipped: a sanitizer has taken the address space");
    }
    sanitized
}
