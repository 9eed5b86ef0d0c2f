//! The element types and how two of them become one.
//!
//! Invariant: [`Element::promote`] is the promotion of NumPy 2 for arrays; every cast the compiler
//! makes goes along it, to `bool`, or from `i64` to `u64` in an exact comparison.

/// The type of an array's elements.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[allow(missing_docs, reason = "the names say it all")]
pub(crate) enum Element {
    Bool,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    F32,
    F64,
}

impl Element {
    /// How many element types there are.
    pub(super) const COUNT: usize = 11;

    /// The bytes of one element.
    pub(crate) fn size(self) -> usize {
        match self {
            Element::Bool | Element::I8 | Element::U8 => 1,
            Element::I16 | Element::U16 => 2,
            Element::I32 | Element::U32 | Element::F32 => 4,
            Element::I64 | Element::U64 | Element::F64 => 8,
        }
    }

    /// The name NumPy gives the type.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Element::Bool => "bool",
            Element::I8 => "int8",
            Element::I16 => "int16",
            Element::I32 => "int32",
            Element::I64 => "int64",
            Element::U8 => "uint8",
            Element::U16 => "uint16",
            Element::U32 => "uint32",
            Element::U64 => "uint64",
            Element::F32 => "float32",
            Element::F64 => "float64",
        }
    }

    pub(super) fn is_float(self) -> bool {
        matches!(self, Element::F32 | Element::F64)
    }

    pub(super) fn is_signed(self) -> bool {
        matches!(self, Element::I8 | Element::I16 | Element::I32 | Element::I64)
    }

    pub(super) fn is_unsigned(self) -> bool {
        matches!(self, Element::U8 | Element::U16 | Element::U32 | Element::U64)
    }

    /// The smallest and the largest value of an integer type.
    pub(super) fn range(self) -> Option<(i128, i128)> {
        let bits = 8 * self.size();
        if self.is_signed() {
            Some((-(1 << (bits - 1)), (1 << (bits - 1)) - 1))
        } else if self.is_unsigned() {
            Some((0, (1 << bits) - 1))
        } else {
            None
        }
    }

    /// The type two arrays are brought to before they meet.
    pub(super) fn promote(self, other: Element) -> Element {
        let (low, high) = if self.rank() <= other.rank() { (self, other) } else { (other, self) };
        if high.is_float() && !low.is_float() {
            let exact_in_f32 = low == Element::Bool || low.size() <= 2;
            return if exact_in_f32 { high } else { Element::F64 };
        }
        if low.is_unsigned() && high.is_signed() {
            return Self::signed_of((2 * low.size()).max(high.size()));
        }
        high
    }

    /// Orders the kinds: bool, unsigned, signed, float; within a kind by size.
    fn rank(self) -> usize {
        let kind = match self {
            Element::Bool => 0,
            _ if self.is_unsigned() => 1,
            _ if self.is_signed() => 2,
            _ => 3,
        };
        16 * kind + self.size()
    }

    /// The signed integer of so many bytes; what no integer holds becomes f64, as in NumPy.
    fn signed_of(size: usize) -> Element {
        match size {
            1 => Element::I8,
            2 => Element::I16,
            4 => Element::I32,
            8 => Element::I64,
            _ => Element::F64,
        }
    }
}

/// `$body` for the types of the list, with `$T` standing for the Rust type; `None` for the others.
macro_rules! for_types {
    ($element:expr, $T:ident => $body:expr, $($variant:ident $type:ty),*) => {{
        #[allow(unreachable_patterns, reason = "the full list leaves nothing over")]
        match $element {
            $($crate::kernel::element::Element::$variant => { type $T = $type; Some($body) })*
            _ => None,
        }
    }};
}

macro_rules! for_floats {
    ($element:expr, $T:ident => $body:expr) => {
        $crate::kernel::element::for_types!($element, $T => $body, F32 f32, F64 f64)
    };
}

macro_rules! for_integers {
    ($element:expr, $T:ident => $body:expr) => {
        $crate::kernel::element::for_types!($element, $T => $body,
            I8 i8, I16 i16, I32 i32, I64 i64, U8 u8, U16 u16, U32 u32, U64 u64)
    };
}

macro_rules! for_bits {
    ($element:expr, $T:ident => $body:expr) => {
        $crate::kernel::element::for_types!($element, $T => $body, Bool bool,
            I8 i8, I16 i16, I32 i32, I64 i64, U8 u8, U16 u16, U32 u32, U64 u64)
    };
}

macro_rules! for_numbers {
    ($element:expr, $T:ident => $body:expr) => {
        $crate::kernel::element::for_types!($element, $T => $body,
            I8 i8, I16 i16, I32 i32, I64 i64, U8 u8, U16 u16, U32 u32, U64 u64, F32 f32, F64 f64)
    };
}

macro_rules! for_all {
    ($element:expr, $T:ident => $body:expr) => {
        $crate::kernel::element::for_types!($element, $T => $body, Bool bool, I8 i8, I16 i16,
            I32 i32, I64 i64, U8 u8, U16 u16, U32 u32, U64 u64, F32 f32, F64 f64)
    };
}

pub(super) use {for_all, for_bits, for_floats, for_integers, for_numbers, for_types};
