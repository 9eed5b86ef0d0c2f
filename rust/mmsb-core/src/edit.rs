//! A commit in the making: the pieces it took, the pieces it replaces, and the root it builds.
//!
//! A node whose epoch is the commit's own was made by this commit and may be changed in place; any other is copied
//! first and the old one retired. If the commit fails, every piece it took is given back and nothing else happened.

use crate::Result;
use crate::arena::{Alloc, Arena, Mem, Piece, out_of_space};
use crate::museum::{Defect, planted};
use crate::root::Root;
use crate::sync::MutexGuard;

/// A piece that the newest state no longer shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dead {
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// The epoch that made it.
    pub(crate) born: u64,
    /// The epoch that replaced it.
    pub(crate) died: u64,
    pub(crate) kind: DeadKind,
}

/// What may still hold a dead piece besides pins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeadKind {
    /// Nodes and records: nothing.
    Node,
    /// The frame of a page of one block: views counted on the frame.
    Frame,
    /// Blocks of a larger page: views counted on (page, epoch).
    Blocks(u64),
}

/// A commit in the making.
#[derive(Debug)]
pub(crate) struct Edit<'a> {
    pub(crate) arena: &'a Arena,
    /// None while others may take pieces.
    alloc: Option<MutexGuard<'a, Alloc>>,
    pub(crate) root: Root,
    /// The leaf of the table that this commit wrote to last, which is its own: its number, and where it is.
    pub(crate) leaf: Option<(u64, u64)>,
    taken: &'a mut Vec<(u64, u64)>,
    pub(crate) dead: &'a mut Vec<Dead>,
}

impl<'a> Edit<'a> {
    /// Begins the commit that follows `base`. The two vectors are the caller's, for their memory.
    pub(crate) fn begin(
        arena: &'a Arena,
        base: &Root,
        taken: &'a mut Vec<(u64, u64)>,
        dead: &'a mut Vec<Dead>,
    ) -> Edit<'a> {
        taken.clear();
        dead.clear();
        let root = Root { epoch: base.epoch + 1, ..*base };
        Edit { arena, alloc: Some(arena.alloc()), root, leaf: None, taken, dead }
    }

    /// Takes up a finished commit again, to give it back.
    pub(crate) fn resume(
        arena: &'a Arena,
        base: &Root,
        taken: &'a mut Vec<(u64, u64)>,
        dead: &'a mut Vec<Dead>,
    ) -> Edit<'a> {
        assert!(dead.iter().all(|dead| dead.died == base.epoch + 1), "it is the one that follows");
        Edit { arena, alloc: Some(arena.alloc()), root: *base, leaf: None, taken, dead }
    }

    #[inline]
    fn alloc(&mut self) -> &mut Alloc {
        /// It was let go, as few commits do.
        #[cold]
        fn again(arena: &Arena) -> MutexGuard<'_, Alloc> {
            arena.alloc()
        }
        self.alloc.get_or_insert_with(|| again(self.arena))
    }

    /// Lets others take pieces until this commit takes the next one.
    pub(crate) fn let_go(&mut self) {
        self.alloc = None;
    }

    /// Counts the in-memory log against the limit, with what this commit will add to it.
    pub(crate) fn charge(&mut self, charged: &mut u64, log: u64, more: u64) -> Result<()> {
        self.alloc().recharge(charged, log);
        if more > 0 && !self.alloc().room_for(more) {
            let mut error = out_of_space(more, self.alloc().limit());
            error
                .message
                .push_str("; the log of a bus in memory counts too (bus.retain bounds it)");
            return Err(error);
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn mem(&self) -> Mem {
        self.arena.mem
    }

    #[inline]
    pub(crate) fn epoch(&self) -> u64 {
        self.root.epoch
    }

    #[inline]
    fn piece(&mut self, len: u64) -> Result<Piece> {
        let piece = self.alloc().take(len)?;
        assert!(piece.offset != 0, "offset 0 is nothing");
        self.taken.push((piece.offset, len));
        Ok(piece)
    }

    /// Bytes whose contents are unknown.
    #[inline]
    pub(crate) fn take(&mut self, len: u64) -> Result<u64> {
        Ok(self.piece(len)?.offset)
    }

    /// Zeroed bytes.
    pub(crate) fn take_zeroed(&mut self, len: u64) -> Result<u64> {
        let piece = self.piece(len)?;
        if !piece.zero && !planted(Defect::FrameNotCleared) {
            self.mem().zero(piece.offset, len);
        }
        Ok(piece.offset)
    }

    /// Whether so much more would be within the limit.
    pub(crate) fn room_for(&mut self, bytes: u64) -> bool {
        self.alloc().room_for(bytes)
    }

    /// The limit of the arena.
    pub(crate) fn limit(&mut self) -> u64 {
        self.alloc().limit()
    }

    /// A new node: zeros, stamped with this epoch.
    #[inline]
    pub(crate) fn node(&mut self, len: u64) -> Result<u64> {
        let node = self.take_zeroed(len)?;
        self.mem().set(node, self.epoch());
        Ok(node)
    }

    /// This commit's copy of a node; 0 makes a new one.
    #[inline]
    pub(crate) fn own(&mut self, node: u64, len: u64) -> Result<u64> {
        if node == 0 {
            return self.node(len);
        }
        let born = self.mem().get(node);
        if born == self.epoch() {
            return Ok(node);
        }
        assert!(born < self.epoch(), "a node was made by a later epoch");
        let copy = self.take(len)?;
        self.mem().copy(node, copy, len);
        self.mem().set(copy, self.epoch());
        self.retire(node, len, born, DeadKind::Node);
        Ok(copy)
    }

    /// The new state no longer shows this piece.
    #[inline]
    pub(crate) fn retire(&mut self, offset: u64, len: u64, born: u64, kind: DeadKind) {
        assert!(offset != 0 && born <= self.root.epoch, "what is replaced was there");
        self.dead.push(Dead { offset, len, born, died: self.root.epoch, kind });
    }

    /// Retires a node by its own stamp.
    pub(crate) fn retire_node(&mut self, node: u64, len: u64) {
        let born = self.mem().get(node);
        self.retire(node, len, born, DeadKind::Node);
    }

    /// Gives everything back; the commit did not happen.
    pub(crate) fn abort(mut self) {
        self.dead.clear();
        let alloc = self.alloc.get_or_insert_with(|| self.arena.alloc());
        for (offset, len) in self.taken.drain(..) {
            alloc.give(offset, len);
        }
    }
}
