//! Pooling: MaxPool, AveragePool and the global ones.

use crate::graph::Window;
use crate::ops::axes::ShapeBuilder;
use crate::ops::number::Number;
use crate::ops::operands::Operands;
use crate::ops::window::{ResolvedWindow, spatial};
use crate::ops::{fail, undefined};
use crate::{DType, Result, Shape, ViewMut};

fn resolve(window: &Window, x: Shape, ceil: bool) -> Result<ResolvedWindow> {
    match &*x {
        [_, _, spatial @ ..] => window.resolve(&window.kernel, spatial, ceil),
        _ => Err(fail(format!("X of shape {x} has no samples and channels"))),
    }
}

fn result(x: Shape, window: &Window, ceil: bool) -> Result<Shape> {
    let resolved = resolve(window, x, ceil)?;
    let output = &resolved.output[..resolved.rank];
    ShapeBuilder::collect(x[..2].iter().chain(output).copied())
}

pub(super) fn average_result(
    x: Operands<'_, '_>,
    window: &Window,
    ceil: bool,
) -> Result<(DType, Shape)> {
    let input = x.typed(0, "X", DType::F32)?.shape;
    Ok((DType::F32, result(input, window, ceil)?))
}

pub(super) fn max_result(
    x: Operands<'_, '_>,
    window: &Window,
    ceil: bool,
    k: usize,
) -> Result<(DType, Shape)> {
    let input = x.get(0, "X")?;
    if !matches!(input.dtype, DType::F32 | DType::U8 | DType::I8) {
        return Err(undefined(input.dtype));
    }
    let dtype = if k == 0 { input.dtype } else { DType::I64 };
    Ok((dtype, result(input.shape, window, ceil)?))
}

/// A map under its window, both with three axes.
struct Map {
    window: ResolvedWindow,
    extents: [usize; 3],
}

impl Map {
    fn new(window: &Window, x: Shape, ceil: bool) -> Result<Self> {
        Ok(Self {
            window: resolve(window, x, ceil)?.right_aligned(),
            extents: spatial(&x[2..]),
        })
    }

    fn elements(&self) -> usize {
        self.extents.iter().product()
    }

    /// Calls `visit` with the number of each output and its coordinates.
    fn outputs(&self, mut visit: impl FnMut(usize, [usize; 3])) {
        let [depth, height, width] = self.window.output;
        for d in 0..depth {
            for h in 0..height {
                for w in 0..width {
                    visit((d * height + h) * width + w, [d, h, w]);
                }
            }
        }
    }

    /// Calls `visit` with the coordinates of each element under the window of an output, in row-major order.
    fn under(&self, [d, h, w]: [usize; 3], mut visit: impl FnMut([usize; 3])) {
        let win = &self.window;
        for td in win.taps(0, d, self.extents[0]) {
            for th in win.taps(1, h, self.extents[1]) {
                for tw in win.taps(2, w, self.extents[2]) {
                    visit([
                        win.position(0, d, td),
                        win.position(1, h, th),
                        win.position(2, w, tw),
                    ]);
                }
            }
        }
    }

    /// Place of an element, row-major.
    fn place(&self, [d, h, w]: [usize; 3]) -> usize {
        (d * self.extents[1] + h) * self.extents[2] + w
    }

    /// Place of an element when the first axis varies fastest.
    fn column_major_place(&self, [d, h, w]: [usize; 3]) -> usize {
        d + self.extents[0] * (h + self.extents[1] * w)
    }
}

/// Y = Σ of the elements under the window / their number, with the padding among them if it is to be counted
pub(super) fn average(
    x: Operands<'_, '_>,
    window: &Window,
    ceil: bool,
    count_include_pad: bool,
    y: &mut ViewMut<'_>,
) -> Result<()> {
    let input = x.view(0, "X")?;
    let map = Map::new(window, input.shape(), ceil)?;
    let (x, y) = (input.as_slice::<f32>()?, y.as_slice::<f32>()?);
    if y.is_empty() {
        return Ok(());
    }
    let (from, to) = (map.elements(), map.window.output.iter().product::<usize>());
    for (plane, y) in y.chunks_exact_mut(to).enumerate() {
        let x = &x[plane * from..][..from];
        map.outputs(|i, at| {
            let (mut sum, mut count) = (0.0, 0usize);
            map.under(at, |place| {
                sum += f64::from(x[map.place(place)]);
                count += 1;
            });
            if count_include_pad {
                let taps = |axis: usize| map.window.padded_taps(axis, at[axis], map.extents[axis]);
                count = taps(0) * taps(1) * taps(2);
            }
            y[i] = if count == 0 { 0.0 } else { sum / count as f64 } as f32;
        });
    }
    Ok(())
}

/// Y = the largest element under the window, NaN if there is one; its place in X as a second result
pub(super) fn max(
    x: Operands<'_, '_>,
    window: &Window,
    ceil: bool,
    column_major: bool,
    outputs: &mut [Option<ViewMut<'_>>],
) -> Result<()> {
    let input = x.view(0, "X")?;
    let map = Map::new(window, input.shape(), ceil)?;
    let (from, to) = (map.elements(), map.window.output.iter().product::<usize>());
    // Without outputs there is nothing to walk, however many planes there are.
    let planes = if to == 0 {
        0
    } else {
        input.shape()[..2].iter().product::<usize>()
    };
    let mut outputs = outputs.iter_mut();
    let mut next = || outputs.next().and_then(Option::as_mut);
    let (mut y, mut indices) = (next(), next());
    numeric!(input.dtype(), T => {
        let x = input.as_slice::<T>()?;
        let mut y = y.as_mut().map(|y| y.as_slice::<T>()).transpose()?;
        let mut indices = indices.as_mut().map(|i| i.as_slice::<i64>()).transpose()?;
        for plane in 0..planes {
            let x = &x[plane * from..][..from];
            map.outputs(|i, at| {
                let (mut max, mut found) = (T::LOWEST, None);
                map.under(at, |place| {
                    let x = x[map.place(place)];
                    if found.is_none() || x > max || (x.is_nan() && !max.is_nan()) {
                        (max, found) = (x, Some(place));
                    }
                });
                if let Some(y) = &mut y {
                    y[plane * to + i] = max;
                }
                if let Some(indices) = &mut indices {
                    let place = found.map_or(0, |place| {
                        if column_major {
                            map.column_major_place(place)
                        } else {
                            map.place(place)
                        }
                    });
                    indices[plane * to + i] = (plane * from + place) as i64;
                }
            });
        }
    });
    Ok(())
}

fn global_result(x: Shape) -> Result<Shape> {
    if x.rank() < 2 {
        return Err(fail(format!("X of shape {x} has no samples and channels")));
    }
    ShapeBuilder::collect(
        x.iter()
            .enumerate()
            .map(|(i, &d)| if i < 2 { d } else { 1 }),
    )
}

pub(super) fn global_average_result(x: Operands<'_, '_>) -> Result<(DType, Shape)> {
    let input = x.typed(0, "X", DType::F32)?;
    Ok((DType::F32, global_result(input.shape)?))
}

pub(super) fn global_max_result(x: Operands<'_, '_>) -> Result<(DType, Shape)> {
    let input = x.typed(0, "X", DType::F32)?;
    Ok((DType::F32, global_result(input.shape)?))
}

/// Y[n, c] = mean of X[n, c, ..]
pub(super) fn global_average(x: Operands<'_, '_>, y: &mut ViewMut<'_>) -> Result<()> {
    global(x, y, |map| {
        let sum: f64 = map.iter().map(|&x| f64::from(x)).sum();
        (sum / map.len() as f64) as f32
    })
}

/// Y[n, c] = the largest of X[n, c, ..]
pub(super) fn global_max(x: Operands<'_, '_>, y: &mut ViewMut<'_>) -> Result<()> {
    global(x, y, |map| {
        map.iter().fold(f32::LOWEST, |max, &x| max.larger(x))
    })
}

fn global(x: Operands<'_, '_>, y: &mut ViewMut<'_>, of_map: impl Fn(&[f32]) -> f32) -> Result<()> {
    let input = x.view(0, "X")?;
    let inner: usize = input.shape()[2..].iter().product();
    let x = input.as_slice::<f32>()?;
    for (i, y) in y.as_slice::<f32>()?.iter_mut().enumerate() {
        *y = of_map(&x[i * inner..][..inner]);
    }
    Ok(())
}
