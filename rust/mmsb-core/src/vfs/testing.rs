//! Files as tests look at them and change them: whole.

use std::path::Path;

use super::{OpenKind, RamVfs, Vfs, read_exact_at, write_all_at};

/// What a file has.
pub(crate) fn contents(vfs: &dyn Vfs, path: &Path) -> Vec<u8> {
    let file = vfs.open(path, OpenKind::Read).unwrap();
    let mut bytes = vec![0; file.size().unwrap() as usize];
    read_exact_at(&*file, 0, &mut bytes).unwrap();
    bytes
}

/// A file with these bytes in place of what was there, if anything was.
pub(crate) fn put(vfs: &dyn Vfs, path: &Path, bytes: &[u8]) {
    if vfs.exists(path).unwrap() {
        vfs.unlink(path).unwrap();
    }
    write_all_at(&*vfs.open(path, OpenKind::CreateNew).unwrap(), 0, bytes).unwrap();
}

/// A file system of its own with what this one has in a directory, as a kill would leave it.
pub(crate) fn copied(vfs: &dyn Vfs, dir: &Path) -> RamVfs {
    fn go(from: &dyn Vfs, to: &RamVfs, dir: &Path) {
        to.create_dir(dir).unwrap();
        for name in from.list(dir).unwrap() {
            let path = dir.join(name);
            match from.open(&path, OpenKind::Read) {
                Ok(_) => put(to, &path, &contents(from, &path)),
                Err(_) => go(from, to, &path),
            }
        }
    }
    let to = RamVfs::new();
    if vfs.exists(dir).unwrap() {
        go(vfs, &to, dir);
    }
    to
}
