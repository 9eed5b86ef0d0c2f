//! A file system for tests: it notes every call and fails those that a rule picks.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::error::Result;
use crate::vfs::{FileMap, OpenKind, StoreLock, Vfs, VfsDir, VfsFile};

/// One call: what, on which file, and which bytes of it.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) what: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) at: u64,
    pub(crate) len: u64,
}

impl Call {
    /// Whether it may change something on the disk, or make a change durable.
    pub(crate) fn changes(&self) -> bool {
        !matches!(
            self.what,
            "read" | "size" | "next_data" | "list" | "exists" | "open" | "open_dir" | "locked"
        )
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        write!(f, "{} {name}", self.what)?;
        match self.what {
            "write" | "reserve" => write!(f, " {}+{}", self.at, self.len),
            "cut" => write!(f, " {}", self.at),
            _ => Ok(()),
        }
    }
}

type Rule = Box<dyn FnMut(&Call) -> Option<io::Error> + Send>;

struct State {
    inner: Arc<dyn Vfs>,
    calls: Mutex<Vec<Call>>,
    rule: Mutex<Option<Rule>>,
}

/// Clones share calls and rule.
#[derive(Clone)]
pub(crate) struct Double(Arc<State>);

impl fmt::Debug for Double {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Double")
    }
}

impl Double {
    pub(crate) fn new(inner: Arc<dyn Vfs>) -> Double {
        Double(Arc::new(State { inner, calls: Mutex::default(), rule: Mutex::default() }))
    }

    pub(crate) fn vfs(&self) -> Arc<dyn Vfs> {
        Arc::new(self.clone())
    }

    /// From now on a call fails where the rule gives an error.
    pub(crate) fn fail(&self, rule: impl FnMut(&Call) -> Option<io::Error> + Send + 'static) {
        *self.0.rule.lock().unwrap() = Some(Box::new(rule));
    }

    /// Fails this call of those to come, counted from 1, once.
    pub(crate) fn fail_once(&self, nth: usize, errno: i32) {
        let mut seen = 0;
        self.fail(move |_| {
            seen += 1;
            (seen == nth).then(|| io::Error::from_raw_os_error(errno))
        });
    }

    pub(crate) fn heal(&self) {
        *self.0.rule.lock().unwrap() = None;
    }

    /// The calls since the last time this was asked.
    pub(crate) fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.0.calls.lock().unwrap())
    }

    /// Those of them that change something, as text.
    pub(crate) fn changes(&self) -> Vec<String> {
        self.calls().iter().filter(|call| call.changes()).map(Call::to_string).collect()
    }

    fn note(&self, what: &'static str, path: &Path, at: u64, len: u64) -> io::Result<()> {
        let call = Call { what, path: path.to_path_buf(), at, len };
        let failed = self.0.rule.lock().unwrap().as_mut().and_then(|rule| rule(&call));
        self.0.calls.lock().unwrap().push(call);
        failed.map_or(Ok(()), Err)
    }
}

/// The working directory is the root.
fn at(path: &Path) -> PathBuf {
    Path::new("/").join(path)
}

impl Vfs for Double {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.note("mkdir", dir, 0, 0)?;
        self.0.inner.create_dir(&at(dir))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.note("list", dir, 0, 0)?;
        self.0.inner.list(&at(dir))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.note("exists", path, 0, 0)?;
        self.0.inner.exists(&at(path))
    }

    fn open(&self, path: &Path, kind: OpenKind) -> io::Result<Arc<dyn VfsFile>> {
        let what = if kind == OpenKind::CreateNew { "create" } else { "open" };
        self.note(what, path, 0, 0)?;
        let inner = self.0.inner.open(&at(path), kind)?;
        Ok(Arc::new(DoubleFile { on: self.clone(), path: path.to_path_buf(), inner }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.note("rename to", to, 0, 0)?;
        self.0.inner.rename(&at(from), &at(to))
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.note("unlink", path, 0, 0)?;
        self.0.inner.unlink(&at(path))
    }

    fn open_dir(&self, dir: &Path) -> io::Result<Box<dyn VfsDir>> {
        self.note("open_dir", dir, 0, 0)?;
        let inner = self.0.inner.open_dir(&at(dir))?;
        Ok(Box::new(DoubleDir { on: self.clone(), path: dir.to_path_buf(), inner }))
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn StoreLock>> {
        self.0.inner.lock(&at(path))
    }

    fn locked(&self, path: &Path) -> io::Result<bool> {
        self.note("locked", path, 0, 0)?;
        self.0.inner.locked(&at(path))
    }
}

#[derive(Debug)]
struct DoubleDir {
    on: Double,
    path: PathBuf,
    inner: Box<dyn VfsDir>,
}

impl VfsDir for DoubleDir {
    fn sync(&self) -> io::Result<()> {
        self.on.note("sync_dir", &self.path, 0, 0)?;
        self.inner.sync()
    }
}

#[derive(Debug)]
struct DoubleFile {
    on: Double,
    path: PathBuf,
    inner: Arc<dyn VfsFile>,
}

impl VfsFile for DoubleFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.on.note("read", &self.path, offset, buf.len() as u64)?;
        self.inner.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<usize> {
        self.on.note("write", &self.path, offset, data.len() as u64)?;
        self.inner.write_at(offset, data)
    }

    fn sync(&self) -> io::Result<()> {
        self.on.note("sync", &self.path, 0, 0)?;
        self.inner.sync()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.on.note("cut", &self.path, len, 0)?;
        self.inner.set_len(len)
    }

    fn fallocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.on.note("reserve", &self.path, offset, len)?;
        self.inner.fallocate(offset, len)
    }

    fn size(&self) -> io::Result<u64> {
        self.on.note("size", &self.path, 0, 0)?;
        self.inner.size()
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.on.note("next_data", &self.path, offset, 0)?;
        self.inner.next_data(offset)
    }

    fn map(&self, len: u64) -> io::Result<Arc<dyn FileMap>> {
        self.on.note("map", &self.path, 0, len)?;
        self.inner.map(len)
    }

    fn os_file(&self) -> Option<&File> {
        self.inner.os_file()
    }
}
