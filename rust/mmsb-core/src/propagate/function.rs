//! Functions of the program that compute derived pages: what they are given, and how they fail.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::arena::Mem;
use crate::catalog::Desc;
use crate::table::Slot;
use crate::{Code, Error, page};

/// A function of the program that computes derived pages.
///
/// It is called by the committing thread, one page after another, while the commit holds the lock: it must not commit,
/// and may read the bus, which shows the epoch before.
pub trait Function: Send + Sync + fmt::Debug {
    /// Runs what is left of a wave. Called before the first call of [`Function::compute`] in it.
    fn enter(&self, rest: &mut dyn FnMut());

    /// Computes a page and gives all of its bytes to `done`, once.
    ///
    /// # Errors
    /// The page cannot be computed.
    fn compute(&self, call: &Call<'_>, done: &mut dyn FnMut(&[u8])) -> Result<(), Failure>;

    /// A number that functions have in common which compute many pages of one level, shape and type together; none of
    /// a function that computes one after the other.
    fn stack(&self) -> Option<usize> {
        None
    }

    /// Computes pages, and gives the bytes of each with its place among them to `done`, once. If that fails, and not
    /// for good, each is computed alone.
    ///
    /// # Errors
    /// Not all can be computed.
    fn compute_all(
        &self,
        calls: &[Call<'_>],
        done: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), Failure> {
        let mut all = calls.iter().enumerate();
        all.try_for_each(|(n, call)| self.compute(call, &mut |bytes| done(n, bytes)))
    }

    /// The function as what it is, for whoever made it.
    fn as_any(&self) -> &dyn Any;
}

/// A function, and the inputs that it was registered for: of others it knows nothing.
#[derive(Debug, Clone)]
pub(crate) struct Binding {
    pub(crate) function: Arc<dyn Function>,
    pub(crate) inputs: Box<[u64]>,
}

/// The functions of a bus, by the page that they compute.
pub(crate) type Functions = Arc<BTreeMap<u64, Binding>>;

/// Why a function gave no bytes.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What was wrong.
    pub message: String,
    /// What the function raised.
    pub cause: Option<Cause>,
    /// The commit ends also where a page may be poisoned.
    pub fatal: bool,
}

/// What a function raised, for whoever knows what it is.
#[derive(Clone)]
pub struct Cause(pub Arc<dyn Any + Send + Sync>);

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cause")
    }
}

impl PartialEq for Cause {
    fn eq(&self, other: &Cause) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Cause {}

/// What a function is given.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    pub(super) page: u64,
    pub(super) slot: Slot,
    pub(super) inputs: &'a [(u64, Slot)],
    pub(super) mem: Mem,
    /// The epoch that the commit makes.
    pub(super) epoch: u64,
    pub(super) wave: u64,
}

impl Call<'_> {
    /// The page that is to be computed.
    pub fn page(&self) -> u64 {
        self.page
    }

    /// Bytes of that page.
    pub fn nbytes(&self) -> u64 {
        self.slot.len
    }

    /// Its element type.
    pub fn dtype(&self) -> String {
        Desc::at(self.mem, self.slot.desc).dtype().to_owned()
    }

    /// Its shape in elements.
    pub fn shape(&self) -> Vec<u64> {
        Desc::at(self.mem, self.slot.desc).shape().collect()
    }

    /// Whether its pages, in their order, have the shapes and element types of another call's.
    pub(super) fn is_like(&self, other: &Call<'_>) -> bool {
        let is_like = |(a, b): (&Slot, &Slot)| {
            let (one, two) = (Desc::at(self.mem, a.desc), Desc::at(self.mem, b.desc));
            a.desc == b.desc
                || a.len == b.len && one.dtype() == two.dtype() && one.shape().eq(two.shape())
        };
        self.inputs.len() == other.inputs.len()
            && std::iter::once((&self.slot, &other.slot))
                .chain(self.inputs.iter().zip(other.inputs).map(|(a, b)| (&a.1, &b.1)))
                .all(is_like)
    }

    /// The inputs, in the order of the arguments.
    pub fn inputs(&self) -> impl ExactSizeIterator<Item = Argument> + '_ {
        (0..self.inputs.len()).map(|n| self.input(n))
    }

    /// One of them.
    pub fn input(&self, n: usize) -> Argument {
        let (page, slot) = self.inputs[n];
        let made_by = if slot.epoch == self.epoch { self.wave } else { 0 };
        Argument { page, slot, mem: self.mem, version: (slot.epoch, made_by) }
    }
}

/// One input of a function.
#[derive(Debug, Clone, Copy)]
pub struct Argument {
    page: u64,
    slot: Slot,
    mem: Mem,
    version: (u64, u64),
}

impl Argument {
    /// The page.
    pub fn page(&self) -> u64 {
        self.page
    }

    /// Bytes of the page.
    pub fn nbytes(&self) -> u64 {
        self.slot.len
    }

    /// Its element type.
    pub fn dtype(&self) -> String {
        Desc::at(self.mem, self.slot.desc).dtype().to_owned()
    }

    /// Its shape in elements.
    pub fn shape(&self) -> Vec<u64> {
        Desc::at(self.mem, self.slot.desc).shape().collect()
    }

    /// Whether it has this shape.
    pub fn has_shape(&self, shape: &[u64]) -> bool {
        Desc::at(self.mem, self.slot.desc).shape().eq(shape.iter().copied())
    }

    /// What tells its bytes from all others that the page has had in this bus: the epoch that made them, and of
    /// bytes that the commit under way made, which may fail yet, the number of its wave.
    pub fn version(&self) -> (u64, u64) {
        self.version
    }

    /// Copies its bytes into `out`, which is as long.
    pub fn copy_to(&self, out: &mut [u8]) {
        assert_eq!(out.len() as u64, self.slot.len, "all bytes of an input are copied");
        page::read(self.mem, &self.slot, 0, out);
    }
}

/// Which engine runs a function in this thread, by its address; 0 for none.
mod running {
    use std::cell::Cell;

    thread_local! {
        static RUNNING: Cell<usize> = const { Cell::new(0) };
    }

    /// Says that a function of an engine runs, until it goes.
    #[derive(Debug)]
    pub(crate) struct Running(());

    impl Running {
        pub(crate) fn begin(engine: usize) -> Running {
            RUNNING.set(engine);
            Running(())
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            RUNNING.set(0);
        }
    }

    #[inline]
    pub(crate) fn engine() -> usize {
        RUNNING.get()
    }
}

pub(super) use running::Running;

/// Fails in a function that computes a page: it would wait for its own commit.
#[inline]
pub(crate) fn check_reentrancy() -> crate::Result<()> {
    match running::engine() {
        0 => Ok(()),
        _ => Err(reentrancy()),
    }
}

/// The same for what waits for commits of one engine only.
#[inline]
pub(crate) fn check_reentrancy_of(engine: usize) -> crate::Result<()> {
    match running::engine() == engine {
        false => Ok(()),
        true => Err(reentrancy()),
    }
}

#[cold]
fn reentrancy() -> Error {
    let what = "a function that computes a page was about to wait for its own commit; it gets its \
                inputs as arguments, returns the page's bytes, and may only read the bus";
    Error::new(Code::Reentrancy, what)
}
