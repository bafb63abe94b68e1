//! Patches of an image as a product.
//!
//! A convolution whose windows do not overlap, and whose result is made into tokens, is how files embed an image's patches. Its windows
//! as rows are one copy of the image, and the product of those makes tokens as they are wanted:
//!
//! ```text
//! Conv [n, c, h, w] -> [n, d, oh, ow] -> Reshape [n, d, oh ow] -> Transpose [n, oh ow, d]
//! Reshape [n, c, oh, kh, ow, kw] -> Transpose [n, oh, ow, c, kh, kw] -> Reshape [n, oh ow, c kh kw] -> Linear [n, oh ow, d]
//! ```

use super::net::{Item, Net};
use super::rewrite::{Conv, Linear, Work};
use crate::graph::{Op, ValueId};
use crate::{Result, Shape};

pub(super) fn as_rows(net: &mut Net) -> Result<()> {
    if !net
        .items
        .iter()
        .any(|item| matches!(&item.work, Work::Conv(conv) if is_patches(conv)))
    {
        return Ok(());
    }
    let readers = net.readers();
    let found: Vec<Option<[usize; 2]>> = net
        .items
        .iter()
        .map(|item| tokens(net, &readers, item))
        .collect();
    let mut gone = vec![false; net.items.len()];
    for at in found.iter().flatten().flatten() {
        gone[*at] = true;
    }
    let items = std::mem::take(&mut net.items);
    let ends: Vec<(String, ValueId)> = found
        .iter()
        .map(|found| {
            found.map_or((String::new(), ValueId(0)), |[reshape, transpose]| {
                let (a, b) = (&items[reshape], &items[transpose]);
                (format!("{} + {}", a.label, b.label), b.y())
            })
        })
        .collect();
    for (i, mut item) in items.into_iter().enumerate() {
        if gone[i] {
            continue;
        }
        if let (Some(_), Work::Conv(conv)) = (found[i], &item.work) {
            let conv = *conv;
            let rows = rows(net, &item, &conv)?;
            item.inputs[0] = Some(rows);
            item.outputs = vec![Some(ends[i].1)];
            item.append_label(&ends[i].0);
            let [n, tokens, k] = net.shape(rows)[..] else {
                unreachable!("rows of patches have three axes");
            };
            item.work = Work::Linear(Linear {
                rows: n * tokens,
                k,
                n: conv.shape.c_out,
                transposed: true,
                activation: conv.activation,
            });
        }
        net.items.push(item);
    }
    Ok(())
}

/// Windows side by side that fill the map.
fn is_patches(conv: &Conv) -> bool {
    let shape = &conv.shape;
    let fills =
        conv.hw.0.is_multiple_of(shape.kernel[0]) && conv.hw.1.is_multiple_of(shape.kernel[1]);
    let plain = shape.groups == 1 && shape.dilation == [1, 1] && shape.pads == [0; 4];
    plain && fills && shape.stride == shape.kernel && shape.kernel != [1, 1]
}

/// The reshape and the transposition that alone read a convolution's patches, and make them tokens.
fn tokens(net: &Net, readers: &[Vec<usize>], item: &Item) -> Option<[usize; 2]> {
    match &item.work {
        Work::Conv(conv) if is_patches(conv) && net.shape(item.x()).rank() == 4 => {}
        _ => return None,
    }
    let only = |id: ValueId| match readers[id.index()][..] {
        [one] if one != usize::MAX => Some(one),
        _ => None,
    };
    let reshape = only(item.y())?;
    let [n, d, oh, ow] = net.shape(item.y())[..] else {
        return None;
    };
    let flat = net.items[reshape].y();
    let joins = matches!(
        &net.items[reshape].work,
        Work::Op(Op::Reshape { .. } | Op::Flatten { .. })
    );
    if !joins || net.items[reshape].x() != item.y() || net.shape(flat)[..] != [n, d, oh * ow] {
        return None;
    }
    let transpose = only(flat)?;
    match &net.items[transpose].work {
        Work::Op(Op::Transpose { perm: Some(perm) }) if perm[..] == [0, 2, 1] => {
            Some([reshape, transpose])
        }
        _ => None,
    }
}

/// The windows as rows, each in the order of its weights.
fn rows(net: &mut Net, item: &Item, conv: &Conv) -> Result<ValueId> {
    let [n, c, h, w] = net.shape(item.x())[..] else {
        unreachable!("`tokens` saw four axes");
    };
    let [kh, kw] = conv.shape.kernel;
    let (oh, ow) = (h / kh, w / kw);
    let mut at = item.x();
    for (op, dims) in [
        (
            Op::Reshape { allow_zero: false },
            &[n, c, oh, kh, ow, kw][..],
        ),
        (
            Op::Transpose {
                perm: Some(vec![0, 2, 4, 1, 3, 5]),
            },
            &[n, oh, ow, c, kh, kw],
        ),
        (
            Op::Reshape { allow_zero: false },
            &[n, oh * ow, c * kh * kw],
        ),
    ] {
        let y = net.like(at, Shape::new(dims)?)?;
        net.items.push(Item {
            label: format!("{}: patches ({})", item.label, op.name()),
            work: Work::Op(op),
            inputs: vec![Some(at)],
            outputs: vec![Some(y)],
        });
        at = y;
    }
    Ok(at)
}
