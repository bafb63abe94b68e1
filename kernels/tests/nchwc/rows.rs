//! Maps of one row.

use sluicegate_kernels::ops::ConvShape;

use super::{Case, square};

/// Tiles of a single row, and of a single column.
#[test]
fn rows_of_many_tiles() {
    for w in [17, 33, 47, 48, 49, 64, 79, 98, 130] {
        for (k, stride) in [(1, 1), (3, 1), (3, 2), (5, 1), (5, 2), (7, 1), (9, 1)] {
            let row = ConvShape {
                kernel: [1, k],
                stride: [1, stride],
                pads: [0, k / 2, 0, k / 2],
                ..square(20, k, stride)
            };
            let column = ConvShape {
                kernel: [k, 1],
                stride: [stride, 1],
                pads: [k / 2, 0, k / 2, 0],
                ..row
            };
            Case::new(row, (1, w), w as u64).check();
            Case::new(column, (w, 1), w as u64).check();
        }
    }
}
