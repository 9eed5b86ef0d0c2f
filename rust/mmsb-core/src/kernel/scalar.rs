//! The arithmetic of one element: what every sweep does to each of its elements.
//!
//! Invariants: nothing here panics for any value, integers wrap, no step is fused with another, and
//! no function of the platform's mathematical library is used (`sqrt`, `floor`, `ceil` and `trunc`
//! are exact by IEEE 754, whoever computes them; everything else comes from the crate `libm`).

use std::cell::Cell;

use super::sweep::Banks;

/// A type registers hold.
pub(super) trait Lane: Copy + Default + 'static {
    /// The bytes of one element, without alignment.
    type Raw: Copy;
    fn raw(bytes: &[u8]) -> &[Self::Raw];
    fn raw_mut(bytes: &mut [u8]) -> &mut [Self::Raw];
    fn from_raw(raw: Self::Raw) -> Self;
    /// The bytes that may leave: every NaN is the canonical one.
    fn to_raw(self) -> Self::Raw;
    /// A constant of the compiler's: the low bytes hold the little-endian element.
    fn from_bits(bits: u64) -> Self;
    /// The inverse of [`Lane::from_bits`].
    fn bits(self) -> u64;
    fn bank(banks: &Banks) -> &[Cell<Self>];
    fn bank_mut(banks: &mut Banks) -> &mut Vec<Cell<Self>>;
}

/// What every type can do, `bool` included (where `+` is or, `*` is and).
pub(super) trait Scalar: Lane + PartialEq + PartialOrd {
    const ZERO: Self;
    const ONE: Self;
    /// `SUM_START + x` is `x` for every `x`; for floats that is -0.
    const SUM_START: Self;
    const LOWEST: Self;
    const HIGHEST: Self;
    fn plus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    fn is_nan(self) -> bool;

    /// NaN wins; otherwise `if other < self { other } else { self }`, so a tie of +0 and -0 is the
    /// left one.
    #[inline(always)]
    fn least(self, other: Self) -> Self {
        if other < self || other.is_nan() { other } else { self }
    }

    /// The mirror image of [`Scalar::least`].
    #[inline(always)]
    fn greatest(self, other: Self) -> Self {
        if other > self || other.is_nan() { other } else { self }
    }

    #[inline(always)]
    fn truth(self) -> bool {
        self != Self::ZERO
    }
}

/// Integers and floats.
pub(super) trait Number: Scalar {
    fn minus(self, other: Self) -> Self;
    fn floor_divide(self, other: Self) -> Self;
    fn modulo(self, other: Self) -> Self;
    fn power(self, other: Self) -> Self;
    fn negative(self) -> Self;
    fn absolute(self) -> Self;
    fn sign(self) -> Self;
}

/// `bool` and the integers.
pub(super) trait Bits: Scalar {
    fn and(self, other: Self) -> Self;
    fn or(self, other: Self) -> Self;
    fn xor(self, other: Self) -> Self;
    fn invert(self) -> Self;
}

pub(super) trait Integer: Number {
    fn shift_left(self, count: Self) -> Self;
    fn shift_right(self, count: Self) -> Self;
}

pub(super) trait Float: Number {
    fn divide(self, other: Self) -> Self;
    fn is_finite(self) -> bool;
    fn sqrt(self) -> Self;
    fn floor(self) -> Self;
    fn ceil(self) -> Self;
    fn trunc(self) -> Self;
    fn exp(self) -> Self;
    fn log(self) -> Self;
    fn sin(self) -> Self;
    fn cos(self) -> Self;
    fn tan(self) -> Self;
    fn tanh(self) -> Self;
    fn arctan2(self, other: Self) -> Self;
}

macro_rules! lane {
    ($type:ty, $field:ident, $size:literal, $from_raw:expr, $to_raw:expr,
     $from_bits:expr, $bits:expr) => {
        impl Lane for $type {
            type Raw = [u8; $size];
            #[inline(always)]
            fn raw(bytes: &[u8]) -> &[[u8; $size]] {
                bytes.as_chunks().0
            }
            #[inline(always)]
            fn raw_mut(bytes: &mut [u8]) -> &mut [[u8; $size]] {
                bytes.as_chunks_mut().0
            }
            #[inline(always)]
            fn from_raw(raw: [u8; $size]) -> $type {
                $from_raw(raw)
            }
            #[inline(always)]
            fn to_raw(self) -> [u8; $size] {
                $to_raw(self)
            }
            #[inline(always)]
            fn from_bits(bits: u64) -> $type {
                $from_bits(bits)
            }
            #[inline(always)]
            fn bits(self) -> u64 {
                $bits(self)
            }
            #[inline(always)]
            fn bank(banks: &Banks) -> &[Cell<$type>] {
                &banks.$field
            }
            #[inline(always)]
            fn bank_mut(banks: &mut Banks) -> &mut Vec<Cell<$type>> {
                &mut banks.$field
            }
        }
    };
}

// A page may hold any byte where a bool is expected; like NumPy, whatever is not 0 is true.
lane!(
    bool,
    bool,
    1,
    |raw: [u8; 1]| raw[0] != 0,
    |x: bool| [u8::from(x)],
    |bits: u64| bits != 0,
    |x: bool| u64::from(x)
);

impl Scalar for bool {
    const ZERO: bool = false;
    const ONE: bool = true;
    const SUM_START: bool = false;
    const LOWEST: bool = false;
    const HIGHEST: bool = true;
    #[inline(always)]
    fn plus(self, other: bool) -> bool {
        self | other
    }
    #[inline(always)]
    fn times(self, other: bool) -> bool {
        self & other
    }
    #[inline(always)]
    fn is_nan(self) -> bool {
        false
    }
}

impl Bits for bool {
    #[inline(always)]
    fn and(self, other: bool) -> bool {
        self & other
    }
    #[inline(always)]
    fn or(self, other: bool) -> bool {
        self | other
    }
    #[inline(always)]
    fn xor(self, other: bool) -> bool {
        self ^ other
    }
    #[inline(always)]
    fn invert(self) -> bool {
        !self
    }
}

macro_rules! integer {
    ($type:ident, $size:literal, negative: $is_negative:expr, absolute: $absolute:expr, sign: $sign:expr) => {
        lane!(
            $type,
            $type,
            $size,
            $type::from_le_bytes,
            $type::to_le_bytes,
            |bits| bits as $type,
            |x: $type| x as u64
        );

        impl Scalar for $type {
            const ZERO: $type = 0;
            const ONE: $type = 1;
            const SUM_START: $type = 0;
            const LOWEST: $type = $type::MIN;
            const HIGHEST: $type = $type::MAX;
            #[inline(always)]
            fn plus(self, other: $type) -> $type {
                self.wrapping_add(other)
            }
            #[inline(always)]
            fn times(self, other: $type) -> $type {
                self.wrapping_mul(other)
            }
            #[inline(always)]
            fn is_nan(self) -> bool {
                false
            }
        }

        impl Number for $type {
            #[inline(always)]
            fn minus(self, other: $type) -> $type {
                self.wrapping_sub(other)
            }
            #[inline(always)]
            fn floor_divide(self, other: $type) -> $type {
                if other == 0 {
                    return 0;
                }
                let (quotient, rest) = (self.wrapping_div(other), self.wrapping_rem(other));
                let rounds_up = rest != 0 && $is_negative(rest) != $is_negative(other);
                quotient.wrapping_sub($type::from(rounds_up))
            }
            #[inline(always)]
            fn modulo(self, other: $type) -> $type {
                if other == 0 {
                    return 0;
                }
                let rest = self.wrapping_rem(other);
                let wrong_side = rest != 0 && $is_negative(rest) != $is_negative(other);
                if wrong_side { rest.wrapping_add(other) } else { rest }
            }
            /// By squaring, wrapping. A negative exponent gives the integer part of the reciprocal:
            /// 0 but for the bases 1 and -1, and 0 for the base 0 as in a division.
            #[inline(always)]
            fn power(self, other: $type) -> $type {
                if $is_negative(other) {
                    let odd = other & 1 == 1;
                    return match self {
                        1 => 1,
                        _ if self == (0 as $type).wrapping_sub(1) => {
                            if odd {
                                self
                            } else {
                                1
                            }
                        }
                        _ => 0,
                    };
                }
                let (mut result, mut base, mut exponent): ($type, _, _) = (1, self, other);
                while exponent != 0 {
                    if exponent & 1 == 1 {
                        result = result.wrapping_mul(base);
                    }
                    base = base.wrapping_mul(base);
                    exponent >>= 1;
                }
                result
            }
            #[inline(always)]
            fn negative(self) -> $type {
                self.wrapping_neg()
            }
            #[inline(always)]
            fn absolute(self) -> $type {
                $absolute(self)
            }
            #[inline(always)]
            fn sign(self) -> $type {
                $sign(self)
            }
        }

        impl Bits for $type {
            #[inline(always)]
            fn and(self, other: $type) -> $type {
                self & other
            }
            #[inline(always)]
            fn or(self, other: $type) -> $type {
                self | other
            }
            #[inline(always)]
            fn xor(self, other: $type) -> $type {
                self ^ other
            }
            #[inline(always)]
            fn invert(self) -> $type {
                !self
            }
        }

        impl Integer for $type {
            /// A count outside of the width (a negative one too) shifts everything out.
            #[inline(always)]
            fn shift_left(self, count: $type) -> $type {
                if (count as u64) < u64::from($type::BITS) {
                    self.wrapping_shl(count as u32)
                } else {
                    0
                }
            }
            #[inline(always)]
            fn shift_right(self, count: $type) -> $type {
                let inside = (count as u64) < u64::from($type::BITS);
                self.wrapping_shr(if inside { count as u32 } else { $type::BITS - 1 })
                    & if inside || $is_negative(self) { !0 } else { 0 }
            }
        }
    };
}

macro_rules! signed {
    ($type:ident, $size:literal) => {
        integer!($type, $size, negative: |x: $type| x < 0,
            absolute: |x: $type| x.wrapping_abs(), sign: |x: $type| x.signum());
    };
}

macro_rules! unsigned {
    ($type:ident, $size:literal) => {
        integer!($type, $size, negative: |_: $type| false,
            absolute: |x: $type| x, sign: |x: $type| $type::from(x != 0));
    };
}

signed!(i8, 1);
signed!(i16, 2);
signed!(i32, 4);
signed!(i64, 8);
unsigned!(u8, 1);
unsigned!(u16, 2);
unsigned!(u32, 4);
unsigned!(u64, 8);

macro_rules! float {
    ($type:ident, $size:literal, $bits:ident, $nan:literal,
     $exp:ident, $log:ident, $sin:ident, $cos:ident, $tan:ident, $tanh:ident, $atan2:ident,
     $pow:ident, $fmod:ident) => {
        lane!(
            $type,
            $type,
            $size,
            $type::from_le_bytes,
            |x: $type| (if x.is_nan() { $nan } else { x.to_bits() }).to_le_bytes(),
            |bits| $type::from_bits(bits as $bits),
            |x: $type| u64::from(x.to_bits())
        );

        impl Scalar for $type {
            const ZERO: $type = 0.0;
            const ONE: $type = 1.0;
            const SUM_START: $type = -0.0;
            const LOWEST: $type = $type::NEG_INFINITY;
            const HIGHEST: $type = $type::INFINITY;
            #[inline(always)]
            fn plus(self, other: $type) -> $type {
                self + other
            }
            #[inline(always)]
            fn times(self, other: $type) -> $type {
                self * other
            }
            #[inline(always)]
            fn is_nan(self) -> bool {
                self != self
            }
        }

        impl Number for $type {
            #[inline(always)]
            fn minus(self, other: $type) -> $type {
                self - other
            }
            /// NumPy's: the quotient of what is left after the remainder, put right to an integer.
            #[inline(always)]
            fn floor_divide(self, other: $type) -> $type {
                if other == 0.0 {
                    return self / other;
                }
                let rest = libm::$fmod(self, other);
                let mut quotient = (self - rest) / other;
                if rest != 0.0 && (other < 0.0) != (rest < 0.0) {
                    quotient -= 1.0;
                }
                if quotient == 0.0 {
                    return (0.0 as $type).copysign(self / other);
                }
                let whole = quotient.floor();
                if quotient - whole > 0.5 { whole + 1.0 } else { whole }
            }
            #[inline(always)]
            fn modulo(self, other: $type) -> $type {
                let rest = libm::$fmod(self, other);
                if other == 0.0 {
                    rest
                } else if rest == 0.0 {
                    (0.0 as $type).copysign(other)
                } else if (other < 0.0) != (rest < 0.0) {
                    rest + other
                } else {
                    rest
                }
            }
            #[inline(always)]
            fn power(self, other: $type) -> $type {
                libm::$pow(self, other)
            }
            #[inline(always)]
            fn negative(self) -> $type {
                -self
            }
            #[inline(always)]
            fn absolute(self) -> $type {
                self.abs()
            }
            /// 1, -1, +0 for both zeros, NaN for NaN.
            #[inline(always)]
            fn sign(self) -> $type {
                if self > 0.0 {
                    1.0
                } else if self < 0.0 {
                    -1.0
                } else if self == 0.0 {
                    0.0
                } else {
                    self
                }
            }
        }

        impl Float for $type {
            #[inline(always)]
            fn divide(self, other: $type) -> $type {
                self / other
            }
            #[inline(always)]
            fn is_finite(self) -> bool {
                self.abs() < $type::INFINITY
            }
            #[inline(always)]
            fn sqrt(self) -> $type {
                $type::sqrt(self)
            }
            #[inline(always)]
            fn floor(self) -> $type {
                $type::floor(self)
            }
            #[inline(always)]
            fn ceil(self) -> $type {
                $type::ceil(self)
            }
            #[inline(always)]
            fn trunc(self) -> $type {
                $type::trunc(self)
            }
            #[inline(always)]
            fn exp(self) -> $type {
                libm::$exp(self)
            }
            #[inline(always)]
            fn log(self) -> $type {
                libm::$log(self)
            }
            #[inline(always)]
            fn sin(self) -> $type {
                libm::$sin(self)
            }
            #[inline(always)]
            fn cos(self) -> $type {
                libm::$cos(self)
            }
            #[inline(always)]
            fn tan(self) -> $type {
                libm::$tan(self)
            }
            #[inline(always)]
            fn tanh(self) -> $type {
                libm::$tanh(self)
            }
            #[inline(always)]
            fn arctan2(self, other: $type) -> $type {
                libm::$atan2(self, other)
            }
        }
    };
}

float!(f32, 4, u32, 0x7fc0_0000, expf, logf, sinf, cosf, tanf, tanhf, atan2f, powf, fmodf);
float!(f64, 8, u64, 0x7ff8_0000_0000_0000, exp, log, sin, cos, tan, tanh, atan2, pow, fmod);
