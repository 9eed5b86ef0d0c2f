//! The element-wise operations and folds, and which code each is for which element type.
//!
//! Invariant: a table gives `None` exactly for the types the operation is not defined on; the typing
//! of a text never asks for those.

use super::element::{
    Element, for_all, for_bits, for_floats, for_integers, for_numbers, for_types,
};
use super::scalar::{Bits, Float, Integer, Number, Scalar};
use super::simd::Code;
use super::sweep::{Accumulate, Binary, Fold, FoldRuns, Map, Operands, Unary, Zip};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum UnaryOp {
    Plus,
    Negative,
    Invert,
    Absolute,
    Sqrt,
    Floor,
    Ceil,
    Trunc,
    IsNan,
    IsFinite,
    Sign,
    Exp,
    Log,
    Sin,
    Cos,
    Tan,
    Tanh,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum BinaryOp {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Modulo,
    Power,
    And,
    Or,
    Xor,
    ShiftLeft,
    ShiftRight,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Equal,
    NotEqual,
    Minimum,
    Maximum,
    Arctan2,
    /// `@`; typed into a product, never an element-wise operation.
    Matmul,
}

impl BinaryOp {
    pub(super) fn is_comparison(self) -> bool {
        use BinaryOp::{Equal, Greater, GreaterEqual, Less, LessEqual, NotEqual};
        matches!(self, Less | LessEqual | Greater | GreaterEqual | Equal | NotEqual)
    }
}

/// What a reduction folds with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum FoldOp {
    Sum,
    Product,
    Minimum,
    Maximum,
    Any,
    All,
}

macro_rules! unary_ops {
    ($($name:ident: $bound:ident -> $out:ty, |$x:ident| $body:expr;)*) => {$(
        struct $name;
        impl<T: $bound> Unary<T> for $name {
            type Out = $out;
            #[inline(always)]
            fn of($x: T) -> $out {
                $body
            }
        }
    )*};
}

macro_rules! binary_ops {
    ($($name:ident: $bound:ident -> $out:ty, |$a:ident, $b:ident| $body:expr;)*) => {$(
        struct $name;
        impl<T: $bound> Binary<T> for $name {
            type Out = $out;
            #[inline(always)]
            fn of($a: T, $b: T) -> $out {
                $body
            }
        }
    )*};
}

unary_ops! {
    Negative: Number -> T, |x| x.negative();
    Invert: Bits -> T, |x| x.invert();
    Absolute: Number -> T, |x| x.absolute();
    Sqrt: Float -> T, |x| x.sqrt();
    Floor: Float -> T, |x| x.floor();
    Ceil: Float -> T, |x| x.ceil();
    Trunc: Float -> T, |x| x.trunc();
    IsNan: Float -> bool, |x| x.is_nan();
    IsFinite: Float -> bool, |x| x.is_finite();
    Sign: Number -> T, |x| x.sign();
    Exp: Float -> T, |x| x.exp();
    Log: Float -> T, |x| x.log();
    Sin: Float -> T, |x| x.sin();
    Cos: Float -> T, |x| x.cos();
    Tan: Float -> T, |x| x.tan();
    Tanh: Float -> T, |x| x.tanh();
    Truth: Scalar -> bool, |x| x.truth();
}

binary_ops! {
    Add: Scalar -> T, |a, b| a.plus(b);
    Subtract: Number -> T, |a, b| a.minus(b);
    Multiply: Scalar -> T, |a, b| a.times(b);
    Divide: Float -> T, |a, b| a.divide(b);
    FloorDivide: Number -> T, |a, b| a.floor_divide(b);
    Modulo: Number -> T, |a, b| a.modulo(b);
    Power: Number -> T, |a, b| a.power(b);
    And: Bits -> T, |a, b| a.and(b);
    Or: Bits -> T, |a, b| a.or(b);
    Xor: Bits -> T, |a, b| a.xor(b);
    ShiftLeft: Integer -> T, |a, b| a.shift_left(b);
    ShiftRight: Integer -> T, |a, b| a.shift_right(b);
    Less: Scalar -> bool, |a, b| a < b;
    LessEqual: Scalar -> bool, |a, b| a <= b;
    Equal: Scalar -> bool, |a, b| a == b;
    NotEqual: Scalar -> bool, |a, b| a != b;
    Minimum: Scalar -> T, |a, b| a.least(b);
    Maximum: Scalar -> T, |a, b| a.greatest(b);
    Arctan2: Float -> T, |a, b| a.arctan2(b);
}

impl<T: Scalar> Fold<T> for Add {
    const START: T = T::SUM_START;
}
impl<T: Scalar> Fold<T> for Multiply {
    const START: T = T::ONE;
}
impl<T: Scalar> Fold<T> for Minimum {
    const START: T = T::HIGHEST;
}
impl<T: Scalar> Fold<T> for Maximum {
    const START: T = T::LOWEST;
}

pub(super) fn unary(op: UnaryOp, element: Element) -> Option<Code<Operands>> {
    match op {
        UnaryOp::Plus => None,
        UnaryOp::Negative => for_numbers!(element, T => Code::of::<Map<T, Negative>>()),
        UnaryOp::Invert => for_bits!(element, T => Code::of::<Map<T, Invert>>()),
        UnaryOp::Absolute => for_numbers!(element, T => Code::of::<Map<T, Absolute>>()),
        UnaryOp::Sign => for_numbers!(element, T => Code::of::<Map<T, Sign>>()),
        UnaryOp::Sqrt => for_floats!(element, T => Code::of::<Map<T, Sqrt>>()),
        UnaryOp::Floor => for_floats!(element, T => Code::of::<Map<T, Floor>>()),
        UnaryOp::Ceil => for_floats!(element, T => Code::of::<Map<T, Ceil>>()),
        UnaryOp::Trunc => for_floats!(element, T => Code::of::<Map<T, Trunc>>()),
        UnaryOp::IsNan => for_floats!(element, T => Code::of::<Map<T, IsNan>>()),
        UnaryOp::IsFinite => for_floats!(element, T => Code::of::<Map<T, IsFinite>>()),
        UnaryOp::Exp => for_floats!(element, T => Code::of::<Map<T, Exp>>()),
        UnaryOp::Log => for_floats!(element, T => Code::of::<Map<T, Log>>()),
        UnaryOp::Sin => for_floats!(element, T => Code::of::<Map<T, Sin>>()),
        UnaryOp::Cos => for_floats!(element, T => Code::of::<Map<T, Cos>>()),
        UnaryOp::Tan => for_floats!(element, T => Code::of::<Map<T, Tan>>()),
        UnaryOp::Tanh => for_floats!(element, T => Code::of::<Map<T, Tanh>>()),
    }
}

pub(super) fn binary(op: BinaryOp, element: Element) -> Option<Code<Operands>> {
    match op {
        BinaryOp::Add => for_all!(element, T => Code::of::<Zip<T, Add>>()),
        BinaryOp::Subtract => for_numbers!(element, T => Code::of::<Zip<T, Subtract>>()),
        BinaryOp::Multiply => for_all!(element, T => Code::of::<Zip<T, Multiply>>()),
        BinaryOp::Divide => for_floats!(element, T => Code::of::<Zip<T, Divide>>()),
        BinaryOp::FloorDivide => for_numbers!(element, T => Code::of::<Zip<T, FloorDivide>>()),
        BinaryOp::Modulo => for_numbers!(element, T => Code::of::<Zip<T, Modulo>>()),
        BinaryOp::Power => for_numbers!(element, T => Code::of::<Zip<T, Power>>()),
        BinaryOp::And => for_bits!(element, T => Code::of::<Zip<T, And>>()),
        BinaryOp::Or => for_bits!(element, T => Code::of::<Zip<T, Or>>()),
        BinaryOp::Xor => for_bits!(element, T => Code::of::<Zip<T, Xor>>()),
        BinaryOp::ShiftLeft => for_integers!(element, T => Code::of::<Zip<T, ShiftLeft>>()),
        BinaryOp::ShiftRight => for_integers!(element, T => Code::of::<Zip<T, ShiftRight>>()),
        BinaryOp::Less => for_all!(element, T => Code::of::<Zip<T, Less>>()),
        BinaryOp::LessEqual => for_all!(element, T => Code::of::<Zip<T, LessEqual>>()),
        BinaryOp::Equal => for_all!(element, T => Code::of::<Zip<T, Equal>>()),
        BinaryOp::NotEqual => for_all!(element, T => Code::of::<Zip<T, NotEqual>>()),
        BinaryOp::Minimum => for_all!(element, T => Code::of::<Zip<T, Minimum>>()),
        BinaryOp::Maximum => for_all!(element, T => Code::of::<Zip<T, Maximum>>()),
        BinaryOp::Arctan2 => for_floats!(element, T => Code::of::<Zip<T, Arctan2>>()),
        // Typing turns these two round, and `@` into a product.
        BinaryOp::Greater | BinaryOp::GreaterEqual | BinaryOp::Matmul => None,
    }
}

/// The code that folds runs within a register, and the code that folds one register into another.
#[derive(Clone, Copy, Debug)]
pub(super) struct FoldCode {
    pub(super) runs: Code<Operands>,
    pub(super) accumulate: Code<Operands>,
    /// The neutral element, for [`super::sweep::Fill`].
    pub(super) start: u64,
}

fn fold_code<T: Scalar, O: Fold<T>>() -> FoldCode {
    FoldCode {
        runs: Code::of::<FoldRuns<T, O>>(),
        accumulate: Code::of::<Accumulate<T, O>>(),
        start: O::START.bits(),
    }
}

pub(super) fn fold(op: FoldOp, element: Element) -> Option<FoldCode> {
    match op {
        FoldOp::Sum => for_types!(element, T => fold_code::<T, Add>(),
            I64 i64, U64 u64, F32 f32, F64 f64),
        FoldOp::Product => for_types!(element, T => fold_code::<T, Multiply>(),
            I64 i64, U64 u64, F32 f32, F64 f64),
        FoldOp::Minimum => for_all!(element, T => fold_code::<T, Minimum>()),
        FoldOp::Maximum => for_all!(element, T => fold_code::<T, Maximum>()),
        FoldOp::Any => for_types!(element, T => fold_code::<T, Add>(), Bool bool),
        FoldOp::All => for_types!(element, T => fold_code::<T, Multiply>(), Bool bool),
    }
}

macro_rules! casts {
    ($($from:ident $from_type:ident => $($to:ident $to_type:ident),*;)*) => {
        struct Widen<U>(std::marker::PhantomData<U>);
        $($(
            impl Unary<$from_type> for Widen<$to_type> {
                type Out = $to_type;
                #[inline(always)]
                fn of(x: $from_type) -> $to_type {
                    x as $to_type
                }
            }
        )*)*

        /// The code of a conversion: along the promotion, to `bool`, from `i64` to `u64`.
        pub(super) fn cast(from: Element, to: Element) -> Option<Code<Operands>> {
            if to == Element::Bool {
                return for_all!(from, T => Code::of::<Map<T, Truth>>());
            }
            match (from, to) {
                (Element::Bool, Element::F32) => Some(Code::of::<Map<bool, FromBool>>()),
                (Element::Bool, Element::F64) => Some(Code::of::<Map<bool, FromBool64>>()),
                $($((Element::$from, Element::$to) => {
                    Some(Code::of::<Map<$from_type, Widen<$to_type>>>())
                })*)*
                _ => None,
            }
        }
    };
}

/// `bool` has no `as` to a float.
struct FromBool;
impl Unary<bool> for FromBool {
    type Out = f32;
    #[inline(always)]
    fn of(x: bool) -> f32 {
        f32::from(u8::from(x))
    }
}

struct FromBool64;
impl Unary<bool> for FromBool64 {
    type Out = f64;
    #[inline(always)]
    fn of(x: bool) -> f64 {
        f64::from(u8::from(x))
    }
}

casts! {
    Bool bool => I8 i8, I16 i16, I32 i32, I64 i64, U8 u8, U16 u16, U32 u32, U64 u64;
    I8 i8 => I16 i16, I32 i32, I64 i64, F32 f32, F64 f64;
    I16 i16 => I32 i32, I64 i64, F32 f32, F64 f64;
    I32 i32 => I64 i64, F64 f64;
    I64 i64 => U64 u64, F64 f64;
    U8 u8 => I16 i16, I32 i32, I64 i64, U16 u16, U32 u32, U64 u64, F32 f32, F64 f64;
    U16 u16 => I32 i32, I64 i64, U32 u32, U64 u64, F32 f32, F64 f64;
    U32 u32 => I64 i64, U64 u64, F64 f64;
    U64 u64 => F64 f64;
    F32 f32 => F64 f64;
}
