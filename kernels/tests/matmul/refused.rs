//! Operands that do not fit are errors.

use sluicegate_kernels::ops::matmul::{MatMul, MatMulSpec, Rows, RowsMut, Strided, matmul};
use sluicegate_kernels::pool::Serial;
use sluicegate_kernels::{Channels, Error, Isa};

use crate::common::Mask;

#[test]
fn bad_operands_are_errors() {
    let isa = Isa::best();
    let b = [0.0; 12];
    let spec = MatMulSpec::new(3, 4, &b);
    let short = MatMulSpec { b: &b[1..], ..spec };
    assert!(matches!(
        MatMul::pack(isa, &short),
        Err(Error::TooShort { operand: "B", .. })
    ));
    let huge = MatMulSpec {
        k: usize::MAX,
        ..spec
    };
    assert!(matches!(
        MatMul::pack(isa, &huge),
        Err(Error::TooLarge { .. })
    ));
    let bias = MatMulSpec {
        bias: Some(&b[..3]),
        ..spec
    };
    assert!(MatMul::pack(isa, &bias).is_err());
    let five = Mask::new(&[true; 5]);
    let masked = MatMulSpec {
        live_in: Some(five.view()),
        ..spec
    };
    assert!(matches!(
        MatMul::pack(isa, &masked),
        Err(Error::Mismatch { .. })
    ));

    let mm = MatMul::pack(isa, &spec).unwrap();
    let mut scratch = vec![0.0; mm.scratch_len(2, 1)];
    let a = [0.0; 6];
    let mut c = [0.0; 8];
    let mut go = |a: Rows<'_>,
                  m: usize,
                  ld: usize,
                  index: Option<&[u32]>,
                  live: Option<Channels<'_>>,
                  s: usize| {
        let c = RowsMut {
            data: &mut c,
            m,
            ld,
            index,
        };
        mm.run(&Serial, a, live, live, c, &mut scratch[s..])
            .is_err()
    };
    assert!(!go(Rows::new(&a, 2, 3), 2, 4, None, None, 0));
    assert!(go(Rows::new(&a[1..], 2, 3), 2, 4, None, None, 0), "short A");
    assert!(
        go(Rows::new(&a, 2, 2), 2, 4, None, None, 0),
        "overlapping A"
    );
    assert!(
        go(Rows::new(&a, 2, usize::MAX), 2, 4, None, None, 0),
        "overflow"
    );
    assert!(go(Rows::new(&a, 2, 3), 2, 5, None, None, 0), "short C");
    assert!(go(Rows::new(&a, 2, 3), 1, 4, None, None, 0), "rows of C");
    assert!(
        go(Rows::new(&a, 2, 3), 2, 4, Some(&[0, 9]), None, 0),
        "index of C"
    );
    assert!(
        go(Rows::new(&a, 2, 3), 2, 4, Some(&[0]), None, 0),
        "length of the index"
    );
    assert!(
        go(Rows::new(&a, 2, 3), 2, 4, None, Some(five.view()), 0),
        "mask"
    );
    assert!(go(Rows::new(&a, 2, 3), 2, 4, None, None, 9), "scratch");

    let huge = Strided {
        data: &a,
        strides: (usize::MAX, 1),
    };
    let fits = Strided {
        data: &a,
        strides: (3, 1),
    };
    assert!(matmul(isa, &Serial, 2, 3, 2, huge, fits, &mut c, &mut []).is_err());
    assert!(matmul(isa, &Serial, 2, 3, 2, fits, fits, &mut c, &mut []).is_err());

    // Rows without columns may be as many as can be counted.
    let empty = Strided {
        data: &[],
        strides: (0, 0),
    };
    for (m, k, n) in [(usize::MAX, 0, 0), (0, 0, usize::MAX)] {
        let mut scratch = vec![0.0; 1 << 20];
        let _ = matmul(isa, &Serial, m, k, n, empty, empty, &mut [], &mut scratch);
    }
}
