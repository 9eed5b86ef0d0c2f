//! The plain model of a bus's state: a map of byte vectors.

use std::collections::BTreeMap;

use mmsb_core::{Error, Marks, Node, Snapshot};

/// A page.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// Its name.
    pub name: Option<String>,
    /// Its metadata.
    pub meta: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The last epoch that changed it.
    pub epoch: u64,
    /// Its place in the graph.
    pub node: Option<Node<'static>>,
    /// Whether its bytes are what follows from its inputs.
    pub marks: Marks,
}

/// All there is at one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// By id.
    pub pages: BTreeMap<u64, Page>,
    /// Epochs by name.
    pub tags: BTreeMap<String, u64>,
    /// The id of the next new page.
    pub next_id: u64,
}

impl State {
    /// What the digest covers.
    pub(super) fn content(&self) -> Vec<(u64, Page)> {
        self.pages.iter().map(|(&id, page)| (id, Page { epoch: 0, ..page.clone() })).collect()
    }

    /// A page by a number of any size.
    pub(super) fn pick(&self, which: u8) -> Option<u64> {
        let ids: Vec<u64> = self.pages.keys().copied().collect();
        (!ids.is_empty()).then(|| ids[which as usize % ids.len()])
    }

    pub(super) fn named(&self, name: &str) -> Option<u64> {
        self.pages.iter().find(|(_, p)| p.name.as_deref() == Some(name)).map(|(&id, _)| id)
    }
}

pub(super) fn name_of(n: u8) -> String {
    format!("page-{n}")
}

pub(super) fn meta_of(n: u8) -> String {
    if n == 0 { String::new() } else { format!("{{\"n\":{n}}}") }
}

/// Panics where a snapshot shows anything else than the model says.
///
/// # Errors
/// What kept it from being shown.
pub fn check_snapshot(snapshot: &Snapshot, want: &State) -> mmsb_core::Result<()> {
    match compare(snapshot, want) {
        Ok(()) => Ok(()),
        Err(Unlike::Refused(error)) => Err(error),
        Err(Unlike::Differs(what)) => panic!("epoch {}: {what}", snapshot.epoch()),
    }
}

/// Why a snapshot does not show what the model says.
#[derive(Debug)]
pub enum Unlike {
    /// It could not be looked at.
    Refused(Error),
    /// It shows something else, in words.
    Differs(String),
}

impl From<Error> for Unlike {
    fn from(error: Error) -> Unlike {
        Unlike::Refused(error)
    }
}

impl From<String> for Unlike {
    fn from(what: String) -> Unlike {
        Unlike::Differs(what)
    }
}

impl std::fmt::Display for Unlike {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unlike::Refused(error) => write!(f, "{error}"),
            Unlike::Differs(what) => f.write_str(what),
        }
    }
}

/// What a snapshot shows that the model does not say.
///
/// # Errors
/// The first difference.
pub fn compare(snapshot: &Snapshot, want: &State) -> Result<(), Unlike> {
    fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: T, want: T) -> Result<(), String> {
        if got == want { Ok(()) } else { Err(format!("{what} is {got:?}, not {want:?}")) }
    }
    // Page by page, as those are read that show one epoch of a store.
    let names: Vec<(u64, Option<&str>)> =
        want.pages.iter().map(|(&id, page)| (id, page.name.as_deref())).collect();
    let shown = snapshot.names();
    let shown = shown.iter().map(|(id, name)| (*id, name.as_deref())).collect();
    same("the list of pages", shown, names)?;
    for (&id, page) in &want.pages {
        let info = snapshot.info(id)?.ok_or(format!("page {id} is not there"))?;
        let of = |what: &str| format!("{what} of page {id}");
        same(&of("the name"), &info.name, &page.name)?;
        same(&of("the metadata"), &info.meta, &page.meta)?;
        same(&of("the size"), info.nbytes, page.bytes.len() as u64)?;
        same(&of("the shape"), &info.shape[..], &[page.bytes.len() as u64])?;
        same(&of("the place in the graph"), info.node(), page.node.clone())?;
        same(&of("the marks"), info.marks, page.marks)?;
        same(&of("the epoch"), info.epoch, page.epoch)?;
        if snapshot.view(id)?.bytes() != page.bytes {
            return Err(of("other bytes").into());
        }
        if let Some(name) = &page.name {
            same(&of("the page found by the name"), snapshot.find(name), Some(id))?;
        }
    }
    for n in 0..6 {
        let name = name_of(n);
        same(&format!("what {name} names"), snapshot.find(&name), want.named(&name))?;
    }
    same("the list of tags", snapshot.tags(), want.tags.clone().into_iter().collect())?;
    same("the next id", snapshot.next_id(), want.next_id)?;
    Ok(())
}
