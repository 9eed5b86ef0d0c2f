//! Reading operations back. Nothing is trusted: the bytes may come from a file.

use super::{
    CREATE, DELETE, MARK, MAX_NDIM, NODE, Op, RENAME, RESIZE, SET_META, TAG, UNTAG, WRITE,
};
use crate::graph::Marks;
use crate::log::take_varint;

/// Bytes that are not a sequence of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// New bytes at an offset of a page.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Write<'a> {
    pub(crate) id: u64,
    pub(crate) offset: u64,
    pub(crate) data: &'a [u8],
}

/// Walks encoded operations.
#[derive(Debug, Clone)]
pub(crate) struct Ops<'a> {
    rest: &'a [u8],
}

impl<'a> Ops<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Ops<'a> {
        Ops { rest: bytes }
    }

    /// The next operation, if it is a write. The way of most commits.
    #[inline]
    pub(crate) fn next_write(&mut self) -> Result<Option<Write<'a>>, Malformed> {
        match self.rest.split_first() {
            Some((&WRITE, rest)) => {
                self.rest = rest;
                let (id, offset) = (self.varint()?, self.varint()?);
                Ok(Some(Write { id, offset, data: self.bytes()? }))
            }
            _ => Ok(None),
        }
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        let (&first, rest) = self.rest.split_first().ok_or(Malformed("operation cut short"))?;
        self.rest = rest;
        Ok(first)
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Malformed> {
        take_varint(&mut self.rest).ok_or(Malformed("bad integer"))
    }

    #[inline]
    fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.varint()?;
        if len > self.rest.len() as u64 {
            return Err(Malformed("length past the end"));
        }
        let (head, rest) = self.rest.split_at(len as usize);
        self.rest = rest;
        Ok(head)
    }

    fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed("text is not UTF-8"))
    }

    fn name(&mut self) -> Result<Option<&'a str>, Malformed> {
        Ok(Some(self.text()?).filter(|name| !name.is_empty()))
    }

    fn shape(&mut self) -> Result<Vec<u64>, Malformed> {
        let ndim = self.varint()?;
        if ndim > MAX_NDIM as u64 {
            return Err(Malformed("too many dimensions"));
        }
        (0..ndim).map(|_| self.varint()).collect()
    }

    fn op(&mut self) -> Result<Op<'a>, Malformed> {
        Ok(match self.byte()? {
            CREATE => Op::Create {
                id: self.varint()?,
                name: self.name()?,
                dtype: self.text()?,
                itemsize: u32::try_from(self.varint()?).map_err(|_| Malformed("item size"))?,
                shape: self.shape()?,
                nbytes: self.varint()?,
                meta: self.text()?,
                location: self.byte()?,
            },
            DELETE => Op::Delete { id: self.varint()? },
            RENAME => Op::Rename { id: self.varint()?, name: self.name()? },
            SET_META => Op::SetMeta { id: self.varint()?, meta: self.text()? },
            RESIZE => {
                Op::Resize { id: self.varint()?, shape: self.shape()?, nbytes: self.varint()? }
            }
            WRITE => Op::Write { id: self.varint()?, offset: self.varint()?, data: self.bytes()? },
            TAG => Op::Tag {
                name: self.text()?,
                epoch: match self.byte()? {
                    0 => None,
                    1 => Some(self.varint()?),
                    _ => return Err(Malformed("tag epoch")),
                },
                move_: match self.byte()? {
                    0 => false,
                    1 => true,
                    _ => return Err(Malformed("tag move flag")),
                },
            },
            NODE => Op::Node { id: self.varint()?, node: self.bytes()? },
            MARK => Op::Mark {
                id: self.varint()?,
                marks: Marks::from_bits(self.byte()?).ok_or(Malformed("unknown mark"))?,
            },
            UNTAG => Op::Untag { name: self.text()? },
            _ => return Err(Malformed("unknown operation")),
        })
    }
}

impl<'a> Iterator for Ops<'a> {
    type Item = Result<Op<'a>, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let op = self.op();
        if op.is_err() {
            self.rest = &[];
        }
        Some(op)
    }
}
