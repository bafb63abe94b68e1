//! Products and convolutions.

use sluicegate::Threads;
use sluicegate_kernels::epilogue::Activation;
use sluicegate_kernels::ops::conv::{Conv, NchwcConv};
use sluicegate_kernels::ops::depthwise::{Depthwise, NchwcDepthwise};
use sluicegate_kernels::ops::matmul::{MatMul, MatMulSpec, Rows, RowsMut};
use sluicegate_kernels::ops::nchwc::{self, Live};
use sluicegate_kernels::ops::{Algorithm, ConvShape, ConvSpec};
use sluicegate_kernels::pool::Pool as _;
use sluicegate_kernels::{Buffer, Channels, Isa};

use super::{Case, Outcome, Run, check, floats, mask};

pub(crate) fn product(case: &Case<'_>, isa: Isa, pool: Threads) -> Outcome<(Run, &'static str)> {
    let (m, n, k) = (case.get("m", 0), case.get("n", 0), case.get("k", 0));
    let (a, b) = (floats(m * k, 1), floats(k * n, 2));
    let words = mask(k, case.density());
    let spec = MatMulSpec {
        masked_rows: words.as_ref().map(|_| m),
        ..MatMulSpec::new(k, n, &b)
    };
    let mm = MatMul::pack(isa, &spec)?;
    let live = words
        .as_deref()
        .map(|words| Channels::new(words, k))
        .transpose()?;
    let mut scratch = Buffer::zeros(mm.scratch_len(m, pool.threads()));
    let mut c = Buffer::zeros(m * n);
    let to = RowsMut::new(&mut c, m, n);
    mm.run(&pool, Rows::new(&a, m, k), live, None, to, &mut scratch)?;
    check(&c, |i| {
        let live = (0..k).filter(|&t| live.is_none_or(|live| live.contains(t)));
        live.map(|t| f64::from(a[i / n * k + t]) * f64::from(b[t * n + i % n]))
            .sum()
    })?;
    let name = mm.row_name(m);
    let run = move || {
        let live = words
            .as_deref()
            .map(|words| Channels::new(words, k).expect("checked"));
        let to = RowsMut::new(&mut c, m, n);
        mm.run(&pool, Rows::new(&a, m, k), live, None, to, &mut scratch)
            .expect("checked");
    };
    Ok((Box::new(run), name))
}

/// Of convolutions, with or without masks, by `SLUICEGATE_CONV`.
fn algorithm(masked: bool) -> Outcome<Algorithm> {
    match std::env::var("SLUICEGATE_CONV").as_deref() {
        Err(_) if masked => Ok(Algorithm::Adaptive),
        Err(_) | Ok("fastest") => Ok(Algorithm::Fastest),
        Ok("direct") => Ok(Algorithm::Direct),
        Ok("winograd2") => Ok(Algorithm::Winograd2),
        Ok("winograd4") => Ok(Algorithm::Winograd4),
        Ok(other) => Err(format!("SLUICEGATE_CONV={other}").into()),
    }
}

/// Elements of a map that L2 does not hold.
const FAR: usize = 1 << 18;

pub(crate) fn convolution(
    case: &Case<'_>,
    isa: Isa,
    pool: Threads,
) -> Outcome<(Run, &'static str)> {
    let h = case.get("h", 0);
    let (w, kh, s, p) = (
        case.get("w", h),
        case.get("kh", 1),
        case.get("s", 1),
        case.get("p", 0),
    );
    let pw = case.get("pw", p);
    let shape = ConvShape {
        c_in: case.get("c", 0),
        c_out: case.get("k", 0),
        groups: case.get("g", 1),
        kernel: [kh, case.get("kw", kh)],
        stride: [s, case.get("sw", s)],
        dilation: [case.get("d", 1), case.get("dw", case.get("d", 1))],
        pads: [p, pw, p, pw],
    };
    let (x, weights) = (
        floats(shape.c_in * h * w, 1),
        floats(shape.weights_len()?, 2),
    );
    let words = mask(shape.c_in, case.density());
    let spec = ConvSpec {
        shape,
        weights: &weights,
        bias: None,
        activation: Activation::None,
        live_in: None,
        live_out: None,
        masked_outputs: false,
        algorithm: algorithm(words.is_some())?,
    };
    let layout = std::env::var("SLUICEGATE_LAYOUT");
    match layout.as_deref() {
        Ok("nchwc") => return in_blocks(&spec, (h, w), words, &x, isa, pool),
        Err(_) | Ok("nchw") => {}
        Ok(other) => return Err(format!("SLUICEGATE_LAYOUT={other}").into()),
    }
    if shape.groups == shape.c_in && shape.c_in > 1 {
        // Wide maps are as fast in planes, if windows are small, unless they are a single row.
        let narrow = w <= 28 || kh > 3 || s > 1 || h == 1;
        if narrow && words.is_none() && layout.is_err() && NchwcDepthwise::serves(&shape, (h, w)) {
            return in_blocks(&spec, (h, w), None, &x, isa, pool);
        }
        return depthwise(spec, (h, w), words.clone(), x, isa, pool);
    }
    let conv = Conv::pack(isa, &spec, (h, w))?;
    // What is not computed by Winograd's filtering is in blocks, but for maps that caches do not hold and of which little is live: of a
    // block, each line with a live channel is read.
    let far = shape.c_in * h * w > FAR && case.density() < 0.3;
    // Its transforms of the outputs take as long however few inputs live.
    let winograd = conv.row_name().contains("winograd") && case.density() >= 0.05;
    let grouped = shape.groups > 1 && words.is_some();
    let direct = NchwcConv::serves(isa, &shape, (h, w))
        && NchwcConv::pays(isa, &shape, (h, w))
        && !far
        && !winograd
        && !grouped;
    if direct && layout.is_err() {
        return in_blocks(&spec, (h, w), words, &x, isa, pool);
    }
    let live = words
        .as_deref()
        .map(|words| Channels::new(words, shape.c_in))
        .transpose()?;
    let (oh, ow) = shape.output((h, w))?;
    let mut y = Buffer::zeros(shape.c_out * oh * ow);
    let mut scratch = Buffer::zeros(conv.scratch_len(pool.threads()));
    conv.run(&pool, &x, live, None, &mut y, &mut scratch)?;
    let bias = None;
    let expected =
        sluicegate_kernels::reference::conv::conv(&shape, (h, w), &x, &weights, bias, live)?;
    check(&y, |i| expected[i].value)?;
    let name = conv.row_name();
    let run = move || {
        let live = words
            .as_deref()
            .map(|words| Channels::new(words, shape.c_in).expect("checked"));
        conv.run(&pool, &x, live, None, &mut y, &mut scratch)
            .expect("checked");
    };
    Ok((Box::new(run), name))
}

fn depthwise(
    spec: ConvSpec<'_>,
    map: (usize, usize),
    words: Option<Vec<u64>>,
    x: Buffer,
    isa: Isa,
    pool: Threads,
) -> Outcome<(Run, &'static str)> {
    let shape = spec.shape;
    let conv = Depthwise::pack(isa, &spec)?;
    let live = words
        .as_deref()
        .map(|words| Channels::new(words, shape.c_in))
        .transpose()?;
    let (oh, ow) = shape.output(map)?;
    let mut y = Buffer::zeros(shape.c_out * oh * ow);
    let mut scratch = Buffer::zeros(conv.scratch_len(map, pool.threads()));
    conv.run(&pool, &x, map, live, None, &mut y, &mut scratch)?;
    let expected =
        sluicegate_kernels::reference::conv::conv(&shape, map, &x, spec.weights, None, live)?;
    check(&y, |i| expected[i].value)?;
    let run = move || {
        let live = words
            .as_deref()
            .map(|words| Channels::new(words, shape.c_in).expect("checked"));
        conv.run(&pool, &x, map, live, None, &mut y, &mut scratch)
            .expect("checked");
    };
    Ok((Box::new(run), "f32_dwconv"))
}

type Layer = Box<dyn FnMut(&Threads, &mut [f32])>;

/// Maps in blocks of channels, in and out.
fn in_blocks(
    spec: &ConvSpec<'_>,
    map: (usize, usize),
    words: Option<Vec<u64>>,
    planes: &[f32],
    isa: Isa,
    pool: Threads,
) -> Outcome<(Run, &'static str)> {
    let shape = spec.shape;
    let (oh, ow) = shape.output(map)?;
    let (from, to) = ((shape.c_in, map.0 * map.1), (shape.c_out, oh * ow));
    let mut x = Buffer::zeros(nchwc::elements(isa, from.0, from.1)?);
    nchwc::from_planes(isa, &pool, planes, from, None, &mut x)?;
    let mut y = Buffer::zeros(nchwc::elements(isa, to.0, to.1)?);
    let threads = pool.threads();
    let depthwise = NchwcDepthwise::serves(&shape, map);
    if depthwise && words.is_some() {
        return Err("depthwise convolutions in blocks read live channels alone, which must be put together first".into());
    }
    let live = words
        .as_deref()
        .map(|words| Channels::new(words, shape.c_in))
        .transpose()?;
    let expected =
        sluicegate_kernels::reference::conv::conv(&shape, map, planes, spec.weights, None, live)?;
    let (mut run, name): (Layer, _) = if depthwise {
        let conv = NchwcDepthwise::pack(isa, spec, map)?;
        let mut scratch = Buffer::zeros(conv.scratch_len(threads, false));
        let run = move |pool: &Threads, y: &mut [f32]| {
            conv.run(pool, &x, None, y, &mut scratch).expect("checked");
        };
        (Box::new(run), "f32_dwconv_nchwc")
    } else {
        // The first layer of a network reads planes.
        let conv = if shape.c_in < isa.lanes() {
            x = Buffer::zeros(planes.len());
            x.copy_from_slice(planes);
            NchwcConv::pack_planes(isa, spec, map)?
        } else {
            NchwcConv::pack_blocks(isa, spec, map)?
        };
        let mut scratch = Buffer::zeros(conv.scratch_len(threads, words.is_some()));
        let run = move |pool: &Threads, y: &mut [f32]| {
            let live = words
                .as_deref()
                .map(|words| Channels::new(words, shape.c_in).expect("checked"));
            let live = live.map(Live::InPlace);
            conv.run(pool, &x, live, None, y, &mut scratch)
                .expect("checked");
        };
        (Box::new(run), "f32_conv_nchwc")
    };
    run(&pool, &mut y);
    let mut out = Buffer::zeros(to.0 * to.1);
    nchwc::to_planes(
        isa,
        &pool,
        &y,
        to,
        None,
        &mut out,
        &mut vec![0.0; to.1 * threads],
    )?;
    check(&out, |i| expected[i].value)?;
    Ok((Box::new(move || run(&pool, &mut y)), name))
}
