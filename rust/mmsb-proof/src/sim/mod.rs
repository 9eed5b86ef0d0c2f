//! The simulated file system: it fails where it is told to, knows what a power loss may take, and checks on its own
//! that its caller keeps the order that durability needs ([`order`]).
//!
//! One [`SimVfs`] is the file system of one life of a process. Calls that change something are counted and are the
//! points at which a crash may happen; calls that only read are counted with them where faults are asked for.

pub mod disk;
pub mod order;
mod variants;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mmsb_core::Result;
use mmsb_core::vfs::{FileMap, OpenKind, RamVfs, StoreLock, Vfs, VfsDir, VfsFile};

use disk::Inode;
pub use disk::{Choice, Disk, SECTOR};
pub use variants::{Variant, kills, losses};

use crate::rng::{Rng, mix};

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It and all later ones do nothing and fail: the process is gone.
    Crash,
    /// It fails with this error number.
    Errno(i32),
    /// Of a write or read, half is done.
    Short,
}

/// Which calls fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// The first one, counted from 1.
    pub at: u64,
    /// What happens to it.
    pub fault: Fault,
    /// Whether all later ones fail too.
    pub persistent: bool,
    /// Whether calls that only read count and fail too.
    pub reads: bool,
    /// What was written before a failed sync is read back as it was before.
    pub reverts: bool,
}

/// The disk after a changing call, for the images of a crash at that moment.
#[derive(Debug, Clone)]
pub struct Point {
    /// What there was.
    pub disk: Disk,
    /// What the caller had set with [`SimVfs::set_mark`]; the largest number until then.
    pub mark: u64,
    /// The file and the place of the bytes that the call stored, if it stored any: a kill may have cut it short.
    pub stored: Option<Stored>,
}

/// Bytes that one call stored.
#[derive(Debug, Clone)]
pub struct Stored {
    inode: Inode,
    offset: usize,
    before: Vec<u8>,
    data: Vec<u8>,
}

impl Stored {
    /// How many bytes there were.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there were none.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The disk if only `done` bytes had been stored when the process was killed.
    pub fn cut(&self, disk: &Disk, done: usize) -> Disk {
        let mut disk = disk.clone();
        let content = disk.content(self.inode);
        let end = (self.offset + self.data.len()).min(content.now.len());
        for at in self.offset + done..end {
            content.now[at] = self.before.get(at - self.offset).copied().unwrap_or(0);
        }
        if self.before.len() < self.data.len() {
            let reached = self.offset + done.max(self.before.len());
            content.now.truncate(reached);
        }
        disk
    }
}

type Hook = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    disk: Disk,
    locks: RamVfs,
    /// Calls that change something, and those that only read.
    calls: u64,
    all_calls: u64,
    plan: Option<Plan>,
    down: bool,
    hit: bool,
    mark: u64,
    points: Option<Vec<Point>>,
    hook: Option<(u64, Hook)>,
    /// Files cannot be mapped.
    unmappable: bool,
    /// A sync failed, and what was read back then was not what had been written.
    reverted: bool,
    failed_syncs: u64,
    write_back: Option<Rng>,
}

/// A simulated file system. Clones are the same one.
#[derive(Clone, Default)]
pub struct SimVfs(Arc<Mutex<State>>);

impl std::fmt::Debug for SimVfs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimVfs").field("calls", &self.state().calls).finish_non_exhaustive()
    }
}

/// What a call may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    /// It only reads.
    Look,
    Change,
    /// It syncs the log: a commit in between could need a lock that the caller holds.
    LogSync,
    /// It cannot fail.
    Store,
}

#[derive(Debug, Clone)]
struct SimFile {
    vfs: SimVfs,
    inode: Inode,
    dir: Arc<Path>,
    writable: bool,
}

#[derive(Debug)]
struct SimDir {
    vfs: SimVfs,
    dir: PathBuf,
}

impl SimVfs {
    /// An empty file system.
    pub fn new() -> SimVfs {
        let mut disk = Disk::default();
        disk.dirs.insert(Path::new("/").into());
        disk.durable_dirs = disk.dirs.clone();
        SimVfs::of(disk)
    }

    /// A file system with this content, for a new life of the process.
    pub fn of(disk: Disk) -> SimVfs {
        let vfs = SimVfs::default();
        vfs.state().disk = disk;
        vfs.set_mark(u64::MAX);
        vfs
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is now.
    pub fn disk(&self) -> Disk {
        self.state().disk.clone()
    }

    /// Changing calls so far.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// All calls so far, those that only read among them.
    pub fn all_calls(&self) -> u64 {
        self.state().all_calls
    }

    /// Lets calls fail from now on; `at` counts from here.
    pub fn set_plan(&self, mut plan: Plan) {
        let mut state = self.state();
        plan.at += if plan.reads { state.all_calls } else { state.calls };
        state.plan = Some(plan);
        state.hit = false;
    }

    /// The file system works again.
    pub fn lift(&self) {
        self.state().plan = None;
    }

    /// Crashes at the `at`-th changing call from now on.
    pub fn crash_at(&self, at: u64) {
        let fault = Fault::Crash;
        self.set_plan(Plan { at, fault, persistent: true, reads: false, reverts: false });
    }

    /// The process is killed: whatever is still called does nothing.
    pub fn kill(&self) {
        self.state().down = true;
    }

    /// A new host begins in the same boot: what it syncs it does not ask for again.
    pub fn new_host(&self) {
        self.state().disk.new_host();
    }

    /// From now on no file can be mapped: all appends are writes.
    pub fn refuse_maps(&self) {
        self.state().unmappable = true;
    }

    /// From now on the system writes some of what is not durable whenever it likes.
    pub fn write_back(&self, seed: u64) {
        self.state().write_back = Some(Rng(seed));
    }

    /// How many syncs have failed, of files and directories.
    pub fn failed_syncs(&self) -> u64 {
        self.state().failed_syncs
    }

    /// Whether a failed sync took back what had been written.
    pub fn reverted(&self) -> bool {
        self.state().reverted
    }

    /// Whether a call has failed as planned.
    pub fn hit(&self) -> bool {
        self.state().hit
    }

    /// Keeps the disk of every changing call from now on.
    pub fn record(&self) {
        self.state().points = Some(Vec::new());
    }

    /// What `record` kept so far.
    pub fn take_points(&self) -> Vec<Point> {
        self.state().points.take().unwrap_or_default()
    }

    /// A number that the points from now on carry.
    pub fn set_mark(&self, mark: u64) {
        self.state().mark = mark;
    }

    /// Runs `hook` at the beginning of the `at`-th changing call from now on, or of the next one that does not sync the
    /// log: something else happens meanwhile. A sync of the log holds a lock that a commit may need.
    pub fn at_call(&self, at: u64, hook: impl FnOnce() + Send + 'static) {
        let mut state = self.state();
        let at = state.calls + at;
        state.hook = Some((at, Box::new(hook)));
    }

    /// What [`SimVfs::at_call`] asked for and has not happened does not happen any more.
    pub fn clear_hook(&self) {
        let hook = self.state().hook.take();
        drop(hook);
    }

    /// The caller has told somebody that `epoch` is committed: then the log in `dir` has it, durably if `durable`.
    pub fn acknowledged(&self, dir: &Path, epoch: u64, durable: bool) {
        order::acknowledged(&self.state().disk, dir, epoch, durable);
    }

    /// Counts a call; says what happens to it. Without an answer it is done as it should be.
    fn call(&self, call: Call) -> io::Result<(MutexGuard<'_, State>, Option<Fault>)> {
        let mut state = self.state();
        let changes = call != Call::Look;
        state.all_calls += 1;
        state.calls += u64::from(changes);
        let hooked = matches!(call, Call::Change | Call::Store);
        if hooked && state.hook.as_ref().is_some_and(|&(at, _)| at <= state.calls) {
            let hook = state.hook.take();
            drop(state);
            if let Some((_, hook)) = hook {
                hook();
            }
            state = self.state();
        }
        // Whoever panics because of a broken rule goes on calling while it unwinds.
        if state.down || std::thread::panicking() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let Some(plan) = state.plan.filter(|plan| changes || plan.reads) else {
            return Ok((state, None));
        };
        if call == Call::Store && plan.fault != Fault::Crash {
            return Ok((state, None));
        }
        let number = if plan.reads { state.all_calls } else { state.calls };
        if number < plan.at || number > plan.at && !plan.persistent {
            return Ok((state, None));
        }
        state.hit = true;
        match plan.fault {
            Fault::Crash => {
                state.down = true;
                Err(io::ErrorKind::NotConnected.into())
            }
            fault => Ok((state, Some(fault))),
        }
    }

    /// A changing call that is done or fails as a whole.
    fn change<T>(&self, act: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        let (mut state, fault) = self.call(Call::Change)?;
        refuse(fault)?;
        let done = act(&mut state.disk)?;
        state.keep_point(None);
        Ok(done)
    }

    fn look<T>(&self, act: impl FnOnce(&Disk) -> io::Result<T>) -> io::Result<T> {
        let (state, fault) = self.call(Call::Look)?;
        refuse(fault)?;
        act(&state.disk)
    }
}

fn refuse(fault: Option<Fault>) -> io::Result<()> {
    match fault {
        Some(Fault::Errno(errno)) => Err(io::Error::from_raw_os_error(errno)),
        _ => Ok(()),
    }
}

fn sync_in(dir: &Path) -> Call {
    if dir.ends_with("log") { Call::LogSync } else { Call::Change }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl State {
    fn keep_point(&mut self, stored: Option<Stored>) {
        if let Some(rng) = &mut self.write_back
            && rng.below(4) == 0
        {
            self.disk.write_back(&mut || rng.coin());
        }
        let (disk, mark) = (&self.disk, self.mark);
        if let Some(points) = &mut self.points {
            points.push(Point { disk: disk.clone(), mark, stored });
        }
    }

    fn store(&mut self, inode: Inode, offset: usize, data: &[u8]) {
        let content = self.disk.content(inode);
        let before = content.now.get(offset..).unwrap_or_default();
        let before = before[..before.len().min(data.len())].to_vec();
        content.write(offset, data);
        let stored = Stored { inode, offset, before, data: data.to_vec() };
        self.keep_point(Some(stored));
    }
}

impl Vfs for SimVfs {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.change(|disk| {
            if dir.parent().is_some_and(|parent| !disk.dirs.contains(parent)) {
                return Err(not_found());
            }
            disk.dirs.insert(dir.into());
            Ok(())
        })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.look(|disk| {
            if !disk.dirs.contains(dir) {
                return Err(not_found());
            }
            let every = disk.names.keys().chain(&disk.dirs);
            let inside: BTreeSet<String> = every
                .filter(|path| path.parent() == Some(dir))
                .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
                .collect();
            Ok(inside.into_iter().collect())
        })
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.look(|disk| Ok(disk.names.contains_key(path) || disk.dirs.contains(path)))
    }

    fn open(&self, path: &Path, kind: OpenKind) -> io::Result<Arc<dyn VfsFile>> {
        let found = |disk: &Disk| disk.names.get(path).copied().ok_or_else(not_found);
        let inode = match kind {
            OpenKind::Read | OpenKind::ReadWrite => self.look(found)?,
            OpenKind::CreateNew => self.change(|disk| {
                if disk.names.contains_key(path) {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                if path.parent().is_some_and(|dir| !disk.dirs.contains(dir)) {
                    return Err(not_found());
                }
                Ok(disk.add(path))
            })?,
        };
        let (vfs, dir) = (self.clone(), path.parent().unwrap_or(path).into());
        Ok(Arc::new(SimFile { vfs, inode, dir, writable: kind != OpenKind::Read }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|disk| {
            order::renames(disk, from, to);
            let inode = disk.names.remove(from).ok_or_else(not_found)?;
            disk.names.insert(to.into(), inode);
            Ok(())
        })
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.change(|disk| {
            order::unlinks(disk, path);
            disk.names.remove(path).map(|_| ()).ok_or_else(not_found)
        })
    }

    fn open_dir(&self, dir: &Path) -> io::Result<Box<dyn VfsDir>> {
        self.look(|disk| if disk.dirs.contains(dir) { Ok(()) } else { Err(not_found()) })?;
        Ok(Box::new(SimDir { vfs: self.clone(), dir: dir.to_path_buf() }))
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn StoreLock>> {
        self.state().locks.lock(path)
    }

    fn locked(&self, path: &Path) -> io::Result<bool> {
        self.state().locks.locked(path)
    }
}

impl VfsDir for SimDir {
    fn sync(&self) -> io::Result<()> {
        let dir = self.dir.as_path();
        let (mut state, fault) = self.vfs.call(sync_in(dir))?;
        order::syncs_dir(&state.disk, dir);
        if let Err(error) = refuse(fault) {
            state.disk.dir_sync_failed.insert(dir.to_path_buf());
            state.failed_syncs += 1;
            return Err(error);
        }
        let disk = &mut state.disk;
        if !disk.dirs.contains(dir) {
            return Err(not_found());
        }
        let is_inside = |path: &Path| path.parent() == Some(dir);
        disk.durable_names.retain(|path, _| !is_inside(path));
        let inside = disk.names.iter().filter(|(path, _)| is_inside(path));
        disk.durable_names.extend(inside.map(|(path, &inode)| (path.clone(), inode)));
        let inside = disk.dirs.iter().filter(|path| is_inside(path));
        disk.durable_dirs.extend(inside.cloned());
        state.keep_point(None);
        Ok(())
    }
}

impl SimFile {
    fn change(&self, act: impl FnOnce(&mut disk::Content)) -> io::Result<()> {
        self.vfs.change(|disk| {
            act(disk.content(self.inode));
            Ok(())
        })
    }
}

impl VfsFile for SimFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let (state, fault) = self.vfs.call(Call::Look)?;
        refuse(fault)?;
        let from = state.disk.files[&self.inode].now.get(offset as usize..).unwrap_or_default();
        let mut n = from.len().min(buf.len());
        if fault.is_some() && n > 1 {
            n /= 2;
        }
        buf[..n].copy_from_slice(&from[..n]);
        Ok(n)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<usize> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let (mut state, fault) = self.vfs.call(Call::Change)?;
        refuse(fault)?;
        let n = if fault.is_some() && data.len() > 1 { data.len() / 2 } else { data.len() };
        state.store(self.inode, offset as usize, &data[..n]);
        Ok(n)
    }

    fn sync(&self) -> io::Result<()> {
        let (mut state, fault) = self.vfs.call(sync_in(&self.dir))?;
        let reverts = state.plan.is_some_and(|plan| plan.reverts);
        let number = state.calls;
        order::syncs(&state.disk, self.inode);
        let content = state.disk.content(self.inode);
        if let Err(error) = refuse(fault) {
            content.fail_sync(reverts, &mut |sector| mix(number, sector as u64) & 1 == 1);
            state.reverted |= reverts;
            state.failed_syncs += 1;
            return Err(error);
        }
        content.sync();
        state.keep_point(None);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(|content| {
            let (len, before) = (len as usize, content.now.len());
            content.touch(len.min(before), before.max(len));
            content.now.resize(len, 0);
        })
    }

    fn fallocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.change(|content| {
            let end = (offset + len) as usize;
            if content.now.len() < end {
                content.now.resize(end, 0);
            }
        })
    }

    fn size(&self) -> io::Result<u64> {
        self.vfs.look(|disk| Ok(disk.files[&self.inode].now.len() as u64))
    }

    fn map(&self, _len: u64) -> io::Result<Arc<dyn FileMap>> {
        if self.vfs.state().unmappable {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.change(|_| {})?;
        Ok(Arc::new(self.clone()))
    }

    fn os_file(&self) -> Option<&File> {
        None
    }
}

/// Stores into memory that the system writes to the disk at any time and in any order, sector by sector.
impl FileMap for SimFile {
    fn populate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.change(|content| {
            assert!(offset + len <= content.now.len() as u64, "only what is reserved is populated");
        })
    }

    fn store(&self, offset: u64, data: &[u8]) {
        // Only a crash keeps a store from happening.
        let Ok((mut state, _)) = self.vfs.call(Call::Store) else { return };
        let end = offset as usize + data.len();
        assert!(end <= state.disk.content(self.inode).now.len(), "a store behind the file's end");
        state.store(self.inode, offset as usize, data);
    }
}
