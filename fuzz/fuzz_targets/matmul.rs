//! Matrix products of any shape, mask and stride against the reference, on every instruction set.
#![no_main]

mod common;

use common::{Backwards, CANARY, activation, admits, bits, floats, live, maybe_mask};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use sluicegate::ChannelMask;
use sluicegate::kernels::Isa;
use sluicegate::kernels::ops::matmul::{
    MatMul, MatMulSpec, Rows, RowsMut, Strided, matmul, matmul_scratch_len,
};
use sluicegate::kernels::pool::{Pool, Serial};
use sluicegate::kernels::reference::matmul as reference;

fuzz_target!(|bytes: &[u8]| {
    let mut u = Unstructured::new(bytes);
    let _ = match u.arbitrary() {
        Ok(0u8..=150) => packed(&mut u),
        Ok(151..=220) => both_at_run_time(&mut u),
        _ => hostile(&mut u),
    };
});

/// Extents: mostly small, sometimes beyond a block; never more MACs than a run of the reference should take.
fn extents(u: &mut Unstructured<'_>) -> Result<(usize, usize, usize)> {
    let (m, k, n) = match u.int_in_range(0..=7)? {
        0 => (1, u.int_in_range(0..=600)?, u.int_in_range(0..=600)?),
        1 => (
            u.int_in_range(0..=210)?,
            u.int_in_range(0..=20)?,
            u.int_in_range(0..=70)?,
        ),
        2 => (
            u.int_in_range(0..=40)?,
            u.int_in_range(250..=530)?,
            u.int_in_range(0..=20)?,
        ),
        _ => (
            u.int_in_range(0..=15)?,
            u.int_in_range(0..=70)?,
            u.int_in_range(0..=150)?,
        ),
    };
    Ok((m, k, n))
}

/// Distinct rows out of `0..2 m`, in some order.
fn index(u: &mut Unstructured<'_>, m: usize) -> Result<Option<Vec<u32>>> {
    Ok(match u.int_in_range(0..=3)? {
        0 => Some((0..m).map(|i| 2 * i as u32 + 1).collect()),
        1 => Some((0..m).rev().map(|i| 2 * i as u32).collect()),
        _ => None,
    })
}

fn packed(u: &mut Unstructured<'_>) -> Result<()> {
    let (m, k, n) = extents(u)?;
    let seed = u64::from(u.arbitrary::<u16>()?);
    let (transposed, with_bias): (bool, bool) = (u.arbitrary()?, u.arbitrary()?);
    let act = activation(u)?;
    let static_masks = (maybe_mask(u, k)?, maybe_mask(u, n)?);
    let masks = (maybe_mask(u, k)?, maybe_mask(u, n)?);
    let (from, to) = (index(u, m)?, index(u, m)?);
    let (lda, ldc) = (k + u.int_in_range(0..=3)?, n + u.int_in_range(0..=3)?);
    let threads = u.int_in_range(1..=4)?;
    let masked_columns = u.arbitrary()?;

    let b = floats(k * n, seed + 1);
    let bias = with_bias.then(|| floats(n, seed + 2));
    let row =
        |index: &Option<Vec<u32>>, i: usize| index.as_ref().map_or(i, |index| index[i] as usize);
    let rows = |index: &Option<Vec<u32>>| if index.is_some() { 2 * m } else { m };
    // Dead inputs, padding and rows that are not asked for are NaN.
    let values = floats(m * k, seed);
    let mut a = vec![f32::NAN; rows(&from) * lda];
    for i in 0..m {
        for t in (0..k).filter(|&t| live(&static_masks.0, &masks.0, t)) {
            a[row(&from, i) * lda + t] = values[i * k + t];
        }
    }
    let effective = ChannelMask::from_fn(k, |t| live(&static_masks.0, &masks.0, t));
    let b_at = |t: usize, j: usize| {
        if transposed {
            b[j * k + t]
        } else {
            b[t * n + j]
        }
    };
    let expected = reference::matmul(
        (m, k, n),
        |i, t| values[i * k + t],
        b_at,
        bias.as_deref(),
        Some(effective.as_channels()),
    );
    fn view(mask: &Option<ChannelMask>) -> Option<sluicegate::kernels::Channels<'_>> {
        mask.as_ref().map(ChannelMask::as_channels)
    }
    for isa in Isa::available() {
        let spec = MatMulSpec {
            k,
            n,
            b: &b,
            transposed,
            bias: bias.as_deref(),
            activation: act,
            live_in: view(&static_masks.0),
            live_out: view(&static_masks.1),
            masked_rows: Some(m),
            masked_columns,
        };
        let packed = MatMul::pack(isa, &spec).unwrap();
        let run = |pool: &dyn Pool, scratch_for: usize| {
            let mut scratch = vec![f32::NAN; packed.scratch_len(m, scratch_for)];
            let mut c = vec![CANARY; rows(&to) * ldc + 3];
            let x = Rows {
                data: &a,
                m,
                ld: lda,
                index: from.as_deref(),
            };
            let y = RowsMut {
                data: &mut c,
                m,
                ld: ldc,
                index: to.as_deref(),
            };
            packed
                .run(pool, x, view(&masks.0), view(&masks.1), y, &mut scratch)
                .unwrap();
            c
        };
        let c = run(&Serial, 1);
        let mut untouched = vec![true; c.len()];
        for i in 0..m {
            for j in (0..n).filter(|&j| live(&static_masks.1, &masks.1, j)) {
                let at = row(&to, i) * ldc + j;
                untouched[at] = false;
                let sum = &expected[i * n + j];
                assert!(
                    admits(c[at], sum, act),
                    "{isa} {act:?} [{i}, {j}]: {} {sum:?}",
                    c[at]
                );
            }
        }
        assert!(
            c.iter()
                .zip(untouched)
                .all(|(&x, untouched)| !untouched || x == CANARY),
            "{isa}: a canary"
        );
        assert_eq!(
            bits(&run(&Backwards(threads), threads)),
            bits(&c),
            "{isa}: {threads} threads"
        );
    }
    Ok(())
}

fn both_at_run_time(u: &mut Unstructured<'_>) -> Result<()> {
    let (m, k, n) = extents(u)?;
    let seed = u64::from(u.arbitrary::<u16>()?);
    let threads = u.int_in_range(1..=4)?;
    let mut strides = |rows: usize, cols: usize| -> Result<(usize, usize)> {
        let (gap, transposed) = (u.int_in_range(0..=2)?, u.arbitrary()?);
        Ok(match u.int_in_range(0..=9)? {
            0 => (0, 1),
            1 => (1, 0),
            _ if transposed => (1 + gap, rows * (1 + gap)),
            _ => (cols + gap, 1),
        })
    };
    let (sa, sb) = (strides(m, k)?, strides(k, n)?);
    let operand = |rows: usize, cols: usize, s: (usize, usize), seed| {
        let len = if rows * cols == 0 {
            0
        } else {
            (rows - 1) * s.0 + (cols - 1) * s.1 + 1
        };
        floats(len, seed)
    };
    let (a, b) = (operand(m, k, sa, seed), operand(k, n, sb, seed + 1));
    let expected = reference::matmul(
        (m, k, n),
        |i, t| a[i * sa.0 + t * sa.1],
        |t, j| b[t * sb.0 + j * sb.1],
        None,
        None,
    );
    for isa in Isa::available() {
        let run = |pool: &dyn Pool| {
            let mut scratch = vec![f32::NAN; matmul_scratch_len(isa, m, k, n, threads)];
            let mut c = vec![CANARY; m * n + 3];
            let (a, b) = (
                Strided {
                    data: &a,
                    strides: sa,
                },
                Strided {
                    data: &b,
                    strides: sb,
                },
            );
            matmul(isa, pool, m, k, n, a, b, &mut c, &mut scratch).unwrap();
            c
        };
        let c = run(&Serial);
        for (x, sum) in c.iter().zip(&expected) {
            assert!(sum.admits(*x), "{isa}: {x} {sum:?}");
        }
        assert!(c[m * n..].iter().all(|&x| x == CANARY), "{isa}: a canary");
        assert_eq!(
            bits(&run(&Backwards(threads))),
            bits(&c),
            "{isa}: {threads} threads"
        );
    }
    Ok(())
}

/// Extents, strides and lengths that do not fit each other: an answer or an error.
fn hostile(u: &mut Unstructured<'_>) -> Result<()> {
    let mut extent = || -> Result<usize> {
        Ok(match u.int_in_range(0..=5)? {
            0 => usize::MAX - u.int_in_range(0..=2)?,
            1 => 1 << u.int_in_range(10..=63)?,
            _ => u.int_in_range(0..=20)?,
        })
    };
    let (m, k, n, lda, ldc) = (extent()?, extent()?, extent()?, extent()?, extent()?);
    let (row_stride, col_stride) = (extent()?, extent()?);
    let mut len = || u.int_in_range(0..=500usize);
    let (a, b, bias) = (floats(len()?, 1), floats(len()?, 2), floats(len()?, 3));
    let (mut c, mut scratch) = (vec![CANARY; len()?], vec![0.0; 40 * len()?]);
    let (over_in, over_out) = (u.int_in_range(0..=30)?, u.int_in_range(0..=30)?);
    let masks = (maybe_mask(u, over_in)?, maybe_mask(u, over_out)?);
    let fixed: bool = u.arbitrary()?;
    let rows: Vec<u32> = (0..u.int_in_range(0..=8)?)
        .map(|_| u.arbitrary())
        .collect::<Result<_>>()?;
    let index = u.arbitrary::<bool>()?.then_some(rows.as_slice());
    let view = |mask: &'static str| {
        let mask = if mask == "in" { &masks.0 } else { &masks.1 };
        mask.as_ref().map(ChannelMask::as_channels)
    };
    let isa = Isa::best();
    if k.checked_mul(n) == Some(0) && k.max(n) > 1 << 16 {
        return Ok(()); // the lists of k and n take memory even where B has no elements
    }
    let spec = MatMulSpec {
        k,
        n,
        b: &b,
        transposed: u.arbitrary()?,
        bias: u.arbitrary::<bool>()?.then_some(&bias),
        activation: activation(u)?,
        live_in: view("in").filter(|_| fixed),
        live_out: view("out").filter(|_| fixed),
        masked_rows: u.arbitrary()?,
        masked_columns: u.arbitrary()?,
    };
    if let Ok(packed) = MatMul::pack(isa, &spec) {
        let x = Rows {
            data: &a,
            m,
            ld: lda,
            index,
        };
        let y = RowsMut {
            data: &mut c,
            m,
            ld: ldc,
            index,
        };
        let _ = packed.run(&Serial, x, view("in"), view("out"), y, &mut scratch);
    }
    let strides = (row_stride, col_stride);
    let (a, b) = (
        Strided {
            data: &a,
            strides: (lda, 1),
        },
        Strided { data: &b, strides },
    );
    let _ = matmul(isa, &Serial, m, k, n, a, b, &mut c, &mut scratch);
    Ok(())
}
