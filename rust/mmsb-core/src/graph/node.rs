//! A page's place in the graph, as its record and the log keep it: what it follows from, and how.
//!
//! The encoding is canonical: equal places have equal bytes, so that they can be compared and hashed without being
//! read. FORMAT.md gives it. The decoder trusts nothing.

use super::{Edge, Kind};
use crate::delta::Malformed;
use crate::log::{put_text, put_varint, take_varint};

/// Most bytes of an encoded place.
pub(crate) const MAX_NODE: usize = 16 << 20;

/// Who computes the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Nobody: the page has links and its bytes are written.
    Link = 0,
    /// An expression that the engine computes.
    Native = 1,
    /// A function of the program, which is bound by the page's id.
    Function = 2,
}

impl Form {
    /// All forms.
    pub const ALL: [Form; 3] = [Form::Link, Form::Native, Form::Function];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Form::Link => "link",
            Form::Native => "native",
            Form::Function => "function",
        }
    }
}

/// A page's place in the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node<'a> {
    /// Who computes the page.
    pub form: Form,
    /// It is marked stale instead of computed, until the bus is settled.
    pub deferred: bool,
    /// If it fails, it is marked poisoned and the commit goes on.
    pub poisons: bool,
    /// The expression of a native one.
    pub text: &'a str,
    /// What it is computed from, in the order of the arguments.
    pub inputs: Vec<u64>,
    /// Pages that it follows in another way, sorted.
    pub links: Vec<(u64, Kind)>,
}

const DEFERRED: u8 = 1;
const POISONS: u8 = 2;

impl<'a> Node<'a> {
    /// A page with nothing but links.
    pub fn links(links: Vec<(u64, Kind)>) -> Node<'static> {
        let inputs = Vec::new();
        Node { form: Form::Link, deferred: false, poisons: false, text: "", inputs, links }
    }

    /// Whether the page is computed.
    pub fn is_derived(&self) -> bool {
        self.form != Form::Link
    }

    /// The edges that lead to the page.
    pub fn edges(&self, dst: u64) -> impl Iterator<Item = Edge> + '_ {
        let data = self.inputs.iter().map(move |&src| Edge { src, dst, kind: Kind::Data });
        data.chain(self.links.iter().map(move |&(src, kind)| Edge { src, dst, kind }))
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut buf = vec![self.form as u8];
        buf.push((u8::from(self.deferred) * DEFERRED) | (u8::from(self.poisons) * POISONS));
        put_text(&mut buf, self.text);
        put_varint(&mut buf, self.inputs.len() as u64);
        for &input in &self.inputs {
            put_varint(&mut buf, input);
        }
        put_varint(&mut buf, self.links.len() as u64);
        for &(src, kind) in &self.links {
            put_varint(&mut buf, src);
            buf.push(kind as u8);
        }
        buf
    }

    /// Reads an encoded place, which is not empty.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Node<'a>, Malformed> {
        const SHORT: Malformed = Malformed("a place in the graph is cut short");
        if bytes.len() > MAX_NODE {
            return Err(Malformed("a place in the graph is too long"));
        }
        let (&[form, flags], rest) = bytes.split_first_chunk().ok_or(SHORT)?;
        let form =
            *Form::ALL.get(usize::from(form)).ok_or(Malformed("unknown form of a derived page"))?;
        if flags & !(DEFERRED | POISONS) != 0 {
            return Err(Malformed("unknown flag of a derived page"));
        }
        let mut rest = rest;
        let len = take_varint(&mut rest).ok_or(SHORT)?;
        let (text, after) =
            rest.split_at_checked(usize::try_from(len).unwrap_or(usize::MAX)).ok_or(SHORT)?;
        let text =
            std::str::from_utf8(text).map_err(|_| Malformed("an expression is not UTF-8"))?;
        rest = after;
        let mut node = Node {
            form,
            deferred: flags & DEFERRED != 0,
            poisons: flags & POISONS != 0,
            text,
            inputs: Vec::new(),
            links: Vec::new(),
        };
        for _ in 0..take_varint(&mut rest).ok_or(SHORT)? {
            node.inputs.push(take_varint(&mut rest).ok_or(SHORT)?);
        }
        for _ in 0..take_varint(&mut rest).ok_or(SHORT)? {
            let src = take_varint(&mut rest).ok_or(SHORT)?;
            let (&kind, after) = rest.split_first().ok_or(SHORT)?;
            rest = after;
            node.links.push((
                src,
                *Kind::ALL.get(usize::from(kind)).ok_or(Malformed("unknown kind of edge"))?,
            ));
        }
        match rest {
            [] => node.check().map(|()| node),
            _ => Err(Malformed("bytes behind a place in the graph")),
        }
    }

    /// What holds of each place.
    fn check(&self) -> Result<(), Malformed> {
        let mut inputs = self.inputs.clone();
        inputs.sort_unstable();
        if !inputs.is_sorted_by(|a, b| a < b) {
            return Err(Malformed("a page is an input twice"));
        }
        if !self.links.is_sorted_by(|a, b| a < b) {
            return Err(Malformed("links are not in order"));
        }
        if self.links.iter().any(|&(_, kind)| kind == Kind::Data) {
            return Err(Malformed("a link is no input"));
        }
        let of_function = self.deferred || self.poisons || !self.inputs.is_empty();
        match self.form {
            Form::Link if of_function || self.links.is_empty() => {
                Err(Malformed("a page without a function has links and no more"))
            }
            Form::Native | Form::Function if self.inputs.is_empty() => {
                Err(Malformed("a page that is computed has inputs"))
            }
            Form::Native if self.text.is_empty() => Err(Malformed("an expression is empty")),
            Form::Link | Form::Function if !self.text.is_empty() => {
                Err(Malformed("a text is no expression"))
            }
            _ => Ok(()),
        }
    }
}

/// Whether a page's bytes are what follows from its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks {
    /// What it follows from has changed since.
    pub stale: bool,
    /// It could not be computed; its bytes are older.
    pub poisoned: bool,
}

impl Marks {
    pub(crate) fn bits(self) -> u8 {
        u8::from(self.stale) | u8::from(self.poisoned) << 1
    }

    pub(crate) fn from_bits(bits: u8) -> Option<Marks> {
        (bits < 4).then_some(Marks { stale: bits & 1 != 0, poisoned: bits & 2 != 0 })
    }
}
