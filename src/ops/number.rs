//! Arithmetic of the number types: integers wrap, NaN is passed on, sums are made in a wide type.

use crate::tensor::Element;

/// A number that tensors hold.
pub(super) trait Number: Element + PartialOrd {
    /// What sums of products are made in.
    type Wide: Wide;
    /// Neutral element of [`Number::larger`].
    const LOWEST: Self;

    fn wide(self) -> Self::Wide;
    /// Rounds floats, wraps integers.
    fn narrow(wide: Self::Wide) -> Self;
    fn to_f64(self) -> f64;
    /// Truncates and saturates floats.
    fn to_i64(self) -> i64;
    /// Truncates and saturates to integers.
    fn from_f64(x: f64) -> Self;

    fn plus(self, other: Self) -> Self;
    fn minus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    /// Integers truncate; the caller has made sure that they do not divide by zero.
    fn over(self, other: Self) -> Self;
    /// Whether dividing by it is an error.
    fn is_integer_zero(self) -> bool;

    /// Neither is defined to be larger than NaN.
    fn is_nan(self) -> bool;

    /// The larger of the two, NaN if either is.
    fn larger(self, other: Self) -> Self {
        if self > other || self.is_nan() {
            self
        } else {
            other
        }
    }

    /// The smaller of the two, NaN if either is.
    fn smaller(self, other: Self) -> Self {
        if self < other || self.is_nan() {
            self
        } else {
            other
        }
    }
}

/// A type for sums.
pub(super) trait Wide: Copy + Default {
    fn plus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    /// Divided by a count, which is not zero for integers.
    fn over(self, count: i64) -> Self;
    fn to_f64(self) -> f64;
}

impl Wide for f64 {
    fn plus(self, other: Self) -> Self {
        self + other
    }

    fn times(self, other: Self) -> Self {
        self * other
    }

    fn over(self, count: i64) -> Self {
        self / count as f64
    }

    fn to_f64(self) -> f64 {
        self
    }
}

impl Wide for i64 {
    fn plus(self, other: Self) -> Self {
        self.wrapping_add(other)
    }

    fn times(self, other: Self) -> Self {
        self.wrapping_mul(other)
    }

    fn over(self, count: i64) -> Self {
        self.checked_div(count).unwrap_or(0)
    }

    fn to_f64(self) -> f64 {
        self as f64
    }
}

impl Number for f32 {
    type Wide = f64;
    const LOWEST: Self = f32::NEG_INFINITY;

    fn wide(self) -> f64 {
        self.into()
    }

    fn narrow(wide: f64) -> Self {
        wide as f32
    }

    fn to_f64(self) -> f64 {
        self.into()
    }

    fn to_i64(self) -> i64 {
        self as i64
    }

    fn from_f64(x: f64) -> Self {
        x as f32
    }

    fn plus(self, other: Self) -> Self {
        self + other
    }

    fn minus(self, other: Self) -> Self {
        self - other
    }

    fn times(self, other: Self) -> Self {
        self * other
    }

    fn over(self, other: Self) -> Self {
        self / other
    }

    fn is_integer_zero(self) -> bool {
        false
    }

    fn is_nan(self) -> bool {
        self.is_nan()
    }
}

macro_rules! integer {
    ($($T:ty),*) => {$(
        impl Number for $T {
            type Wide = i64;
            const LOWEST: Self = <$T>::MIN;

            fn wide(self) -> i64 {
                self.into()
            }

            fn narrow(wide: i64) -> Self {
                wide as $T
            }

            fn to_f64(self) -> f64 {
                self as f64
            }

            fn to_i64(self) -> i64 {
                self.into()
            }

            fn from_f64(x: f64) -> Self {
                x as $T
            }

            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }

            fn minus(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }

            fn times(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }

            fn over(self, other: Self) -> Self {
                self.checked_div(other).unwrap_or(if other == 0 { 0 } else { self })
            }

            fn is_integer_zero(self) -> bool {
                self == 0
            }

            fn is_nan(self) -> bool {
                false
            }
        }
    )*};
}
integer!(i64, i32, u8, i8);
