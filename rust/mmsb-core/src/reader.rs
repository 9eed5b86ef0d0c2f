//! Another process's side: two descriptors are all it needs to read consistent snapshots while the host commits.
//!
//! The arena is mapped for reading only; the control segment, where it pins, for writing too. Everything is found from
//! the head block at the arena's start by offsets.

use std::os::fd::OwnedFd;

use crate::arena::{Mapping, ReadArena, Slots};
use crate::catalog::{self, PageInfo};
use crate::root::Head;
use crate::snapshot::Pin;
use crate::{Bus, Code, Error, Result, apply, page, table};

impl Bus {
    /// Descriptors for a process that shall read this bus: the arena, which it cannot write to, and the control
    /// segment.
    pub fn reader_descriptors(&self) -> Result<(OwnedFd, OwnedFd)> {
        let core = self.core()?;
        let fail = |e: std::io::Error| {
            Error::storage(std::path::Path::new("memfd:mmsb"), &e, "cannot pass on")
        };
        let control = core.shared_pins().and_then(|slots| slots.mapping().fd());
        let (Some(arena), Some(control)) = (core.arena.mapping().fd(), control) else {
            return Err(Error::new(
                Code::Argument,
                "this bus has no memory that another process could map",
            ));
        };
        let arena = crate::arena::reopen_read_only(arena).map_err(fail)?;
        Ok((arena, control.try_clone_to_owned().map_err(fail)?))
    }
}

/// A bus of another process, for reading.
#[derive(Debug)]
pub struct Reader {
    arena: ReadArena,
    slots: Slots,
    head: Head,
}

/// All pages at one epoch of another process's bus.
#[derive(Debug)]
pub struct ReaderSnapshot<'a> {
    reader: &'a Reader,
    pin: Pin<'a>,
}

impl Reader {
    /// Maps what [`Bus::reader_descriptors`] gave.
    pub fn attach(arena: OwnedFd, control: OwnedFd) -> Result<Reader> {
        let arena = ReadArena::map(arena)?;
        let slots = Slots::attach(Mapping::shared(control)?)?;
        let head = Head::attach(arena.mem, 0).ok_or_else(|| {
            Error::new(Code::FormatVersion, "the memory is not a bus of this version of MMSB")
        })?;
        Ok(Reader { arena, slots, head })
    }

    /// The newest epoch, pinned.
    pub fn snapshot(&self) -> Result<ReaderSnapshot<'_>> {
        Ok(ReaderSnapshot { reader: self, pin: Pin::lasting(&self.slots, &self.head)? })
    }
}

impl ReaderSnapshot<'_> {
    /// The epoch that it shows.
    pub fn epoch(&self) -> u64 {
        self.pin.root.epoch
    }

    /// The descriptions of all pages, in id order.
    pub fn infos(&self) -> Vec<PageInfo> {
        let (mem, root) = (self.reader.arena.mem, &self.pin.root);
        let mut all = Vec::new();
        table::walk(mem, root.table, root.height, &mut |id, slot| {
            all.push(catalog::info(mem, id, slot))
        });
        all
    }

    /// The page of this name.
    pub fn find(&self, name: &str) -> Option<u64> {
        catalog::find_page(self.reader.arena.mem, &self.pin.root, name)
    }

    /// The bytes of a page.
    pub fn read(&self, id: u64) -> Result<Vec<u8>> {
        let (mem, root) = (self.reader.arena.mem, &self.pin.root);
        let slot =
            table::get(mem, root.table, root.height, id).ok_or_else(|| apply::no_page(id))?;
        let mut bytes = vec![0; slot.len as usize];
        page::read(mem, &slot, 0, &mut bytes);
        Ok(bytes)
    }
}
