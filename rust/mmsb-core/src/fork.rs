//! fork(2): the child owns nothing, and what it inherited keeps its bytes while the host lives.
//!
//! Before the fork each live bus keeps the frames that views and snapshots show (a guard in `reclaim.rs`) for as long
//! as the child holds its end of a pipe, and a fork in memory is kept as a whole. In the child a generation number tells every handle that it is foreign, and
//! the descriptors of stores lead nowhere, so that a worker that survives does not keep a dead host's store locked.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::event::{PollFd, PollFlags};
use rustix::pipe::PipeFlags;

use crate::core::Core;
use crate::{Code, Error, Result};

static GENERATION: AtomicU64 = AtomicU64::new(0);
static REGISTRY: Mutex<Registry> =
    Mutex::new(Registry { cores: Vec::new(), kept: Vec::new(), pipe: None });

struct Registry {
    cores: Vec<Weak<Core>>,
    /// Engines in another one's arena, which would give their frames back to it, and the children that may show those.
    kept: Vec<(Arc<OwnedFd>, Arc<Core>)>,
    /// Of the fork that is under way: the child's end.
    pipe: Option<OwnedFd>,
}

fn registry() -> std::sync::MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Rises in every forked child.
#[inline]
pub(crate) fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

/// Refuses what was made in another process than this one.
#[inline]
pub(crate) fn check(made_in: u64) -> Result<()> {
    if made_in == generation() { Ok(()) } else { Err(inherited()) }
}

#[cold]
fn inherited() -> Error {
    Error::new(
        Code::ForkedHandle,
        "this handle was inherited through fork() and belongs to the parent; let the child read with \
         mmsb.attach(path), or start it with the 'spawn' method",
    )
}

/// Lets go of what was kept for children that are gone.
fn let_go() {
    let gone: Vec<_> = registry().kept.extract_if(.., |(pipe, _)| is_gone(pipe)).collect();
    // Not under the lock: an engine that goes takes others along.
    drop(gone);
}

/// A bus's memory is to be guarded at forks.
pub(crate) fn register(core: &Arc<Core>) {
    let_go();
    let mut registry = registry();
    registry.cores.retain(|core| core.strong_count() > 0);
    registry.cores.push(Arc::downgrade(core));
}

/// Whether the process that holds the pipe's other end is gone.
pub(crate) fn is_gone(pipe: &OwnedFd) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)];
    let zero = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(rustix::event::poll(&mut fds, Some(&zero)), Ok(n) if n > 0)
}

/// To be called before fork(2), in the forking thread. `wait` is called while a commit is under way that may need what
/// the caller holds.
pub fn at_fork_before(wait: &mut dyn FnMut()) {
    let_go();
    let cores: Vec<Arc<Core>> = registry().cores.iter().filter_map(Weak::upgrade).collect();
    if cores.is_empty() || guard_all(&cores) {
        return;
    }
    let _way = Way::ask();
    while !guard_all(&cores) {
        wait();
    }
}

/// How many threads wait for the end of all commits, to fork.
static WAITING: AtomicU64 = AtomicU64::new(0);

/// Keeps commits from beginning as long as it lives: one after the other would never end.
struct Way(());

impl Way {
    fn ask() -> Way {
        WAITING.fetch_add(1, Ordering::Relaxed);
        Way(())
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        WAITING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Lets whoever is about to fork go first. Fails if that takes a while and the caller must not `wait`.
#[inline]
pub(crate) fn give_way(wait: bool) -> Result<()> {
    while WAITING.load(Ordering::Relaxed) > 0 {
        if !wait {
            return Err(Error::new(Code::WouldBlock, "the process is about to fork"));
        }
        std::thread::sleep(std::time::Duration::from_micros(50));
    }
    Ok(())
}

/// Guards what is shown now; not, if a commit is under way.
fn guard_all(cores: &[Arc<Core>]) -> bool {
    let Ok((ours, childs)) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC) else {
        // Without a descriptor to spare nothing tells when the child is gone: keep the frames for good.
        cores.iter().for_each(|core| core.guard_for_ever());
        let forks = cores.iter().filter(|core| core.parent().is_some());
        forks.for_each(|core| std::mem::forget(Arc::clone(core)));
        return true;
    };
    let ours = Arc::new(ours);
    // Those that are guarded when another is not are let go with the child's end.
    if !cores.iter().all(|core| core.guard(&ours)) {
        return false;
    }
    let forks = cores.iter().filter(|core| core.parent().is_some());
    let mut registry = registry();
    registry.kept.extend(forks.map(|core| (Arc::clone(&ours), Arc::clone(core))));
    registry.pipe = Some(childs);
    true
}

/// To be called after fork(2) in the parent.
pub fn at_fork_parent() {
    registry().pipe = None;
}

/// To be called after fork(2) in the child.
pub fn at_fork_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    // Another thread of the parent may have been about to fork, too.
    WAITING.store(0, Ordering::Relaxed);
    // What cannot be given up (no descriptor to spare for /dev/null) is closed when the child ends.
    let _ = crate::vfs::give_up_descriptors();
    // Another thread of the parent may have held the lock at the fork; then nobody here will ever take it.
    let Ok(mut registry) = REGISTRY.try_lock() else { return };
    std::mem::forget(registry.pipe.take());
    std::mem::forget(std::mem::take(&mut registry.kept));
    registry.cores.clear();
}
