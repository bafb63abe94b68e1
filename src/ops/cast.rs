//! Cast: between all types. Floats truncate and saturate, NaN becomes 0; integers wrap; anything but 0 is true.

use crate::{DType, Result, ViewMut};

use crate::ops::operands::Operands;

macro_rules! cast_to {
    ($x:expr, $y:expr, $($T:ty)*) => {
        match $y.dtype() {
            $(<$T as crate::tensor::Element>::DTYPE => {
                for (y, &x) in $y.as_slice::<$T>()?.iter_mut().zip($x) {
                    *y = x as $T;
                }
            })*
            DType::Bool => {
                for (y, &x) in $y.bytes().iter_mut().zip($x) {
                    *y = (x != Default::default()).into();
                }
            }
        }
    };
}

pub(super) fn eval(x: Operands<'_, '_>, y: &mut ViewMut<'_>) -> Result<()> {
    let input = x.view(0, "input")?;
    if input.dtype() == DType::Bool {
        // Truth values are bytes that are 0 or 1.
        cast_to!(input.bytes(), y, f32 i64 i32 u8 i8);
        return Ok(());
    }
    numeric!(input.dtype(), T => cast_to!(input.as_slice::<T>()?, y, f32 i64 i32 u8 i8));
    Ok(())
}
