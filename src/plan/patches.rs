//! Patches of an image as a product.
//!
//! A convolution whose windows do not overlap, and whose result is made into tokens, is how files embed an image's patches. Its windows
//! as rows are one copy of the image, and the product of those makes tokens as they are wanted:
//!
//! ```text
//! Conv [n, c, h, w] -> [n, d, oh, ow] -> Reshape [n, d, oh ow] -> Transpose [n, oh ow, d]
//! Reshape [n, c, oh, kh, ow, kw] -> Transpose [n, oh, ow, c, kh, kw] -> Reshape [n, oh ow, c kh kw] -> Linear [n, oh ow, d]
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::net::{Item, Net, Readers};
use super::rewrite::{Conv, Linear, Work};
use crate::graph::{Op, ValueId};
use crate::{Result, Shape};

pub(super) fn as_rows(net: &mut Net) -> Result<()> {
    let readers = net.readers();
    // The tokens that a convolution's patches become, and what makes them of those.
    let (mut ends, mut gone) = (BTreeMap::new(), BTreeSet::new());
    for (i, item) in net.items.iter().enumerate() {
        if let Some(pair) = tokens(net, &readers, item) {
            let [reshape, transpose] = pair.map(|at| &net.items[at]);
            let label = format!("{} + {}", reshape.label, transpose.label);
            ends.insert(i, (label, transpose.y()));
            gone.extend(pair);
        }
    }
    if ends.is_empty() {
        return Ok(());
    }
    for (i, mut item) in std::mem::take(&mut net.items).into_iter().enumerate() {
        if gone.contains(&i) {
            continue;
        }
        if let (Some((label, y)), &Work::Conv(conv)) = (ends.get(&i), &item.work) {
            let rows = rows(net, &item, &conv)?;
            item.inputs[0] = Some(rows);
            item.outputs = vec![Some(*y)];
            item.append_label(label);
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
fn tokens(net: &Net, readers: &Readers, item: &Item) -> Option<[usize; 2]> {
    match &item.work {
        Work::Conv(conv) if is_patches(conv) && net.shape(item.x()).rank() == 4 => {}
        _ => return None,
    }
    let reshape = readers.only(item.y())?;
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
    let transpose = readers.only(flat)?;
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
