//! A convolution as a product: rows are the windows of pixels, terms are (kh, kw, ci).

use sluicegate_kernels::Isa;
use sluicegate_kernels::ops::ConvSpec;
use sluicegate_kernels::ops::matmul::{MatMul, MatMulSpec, Rows, RowsMut};
use sluicegate_kernels::pool::Serial;

/// The planes of y, by the kernel of products: chains in the order of terms.
pub(super) fn product(isa: Isa, spec: &ConvSpec<'_>, map: (usize, usize), x: &[f32]) -> Vec<f32> {
    let shape = spec.shape;
    let [kernel_h, kernel_w] = shape.kernel;
    let (oh, ow) = shape.output(map).expect("fits");
    let (pixels, taps) = (oh * ow, kernel_h * kernel_w);
    let [from, to] = [shape.c_in, shape.c_out].map(|c| c / shape.groups);
    let k = taps * from;
    let inside = |o: usize, tap: usize, axis: usize, len: usize| {
        let at = o * shape.stride[axis] + tap * shape.dilation[axis];
        at.checked_sub(shape.pads[axis]).filter(|&at| at < len)
    };
    let mut y = Vec::new();
    for group in 0..shape.groups {
        let input = |pixel: usize, term: usize| {
            let (tap, c) = (term / from, group * from + term % from);
            let row = inside(pixel / ow, tap / kernel_w, 0, map.0)?;
            let column = inside(pixel % ow, tap % kernel_w, 1, map.1)?;
            Some(x[(c * map.0 + row) * map.1 + column])
        };
        let weight = |c: usize, term: usize| {
            spec.weights[((group * to + c) * from + term % from) * taps + term / from]
        };
        let rows = |n: usize| (0..n).flat_map(|i| (0..k).map(move |term| (i, term)));
        let a: Vec<f32> = rows(pixels)
            .map(|(pixel, term)| input(pixel, term).unwrap_or(0.0))
            .collect();
        let b: Vec<f32> = rows(to).map(|(c, term)| weight(c, term)).collect();
        let spec = MatMulSpec {
            transposed: true,
            bias: spec.bias.map(|bias| &bias[group * to..][..to]),
            activation: spec.activation,
            ..MatMulSpec::new(k, to, &b)
        };
        let matmul = MatMul::pack(isa, &spec).expect("valid");
        let mut scratch = vec![f32::NAN; matmul.scratch_len(pixels, 1)];
        let mut c = vec![0.0; pixels * to];
        let of_c = RowsMut::new(&mut c, pixels, to);
        let done = matmul.run(
            &Serial,
            Rows::new(&a, pixels, k),
            None,
            None,
            of_c,
            &mut scratch,
        );
        done.expect("valid");
        y.extend(
            (0..to)
                .flat_map(|c| (0..pixels).map(move |pixel| (c, pixel)))
                .map(|(i, pixel)| c[pixel * to + i]),
        );
    }
    y
}
