//! The kernels as a worker of the timing rig: speaks its line protocol on stdin and stdout.
//!
//! ```text
//! -> prep key=value ...      <- ok NOTE | skip REASON
//! -> run MS REPS             <- ok WALL:DIRTY:CPU:CALIBRATION ...      nanoseconds, a sample each
//! ```
//! Inputs of a density below one get a run-time mask. `SLUICEGATE_ISA` caps the instruction set; `SLUICEGATE_CONV` (`fastest`, `direct`,
//! `winograd2`, `winograd4`) says how convolutions are computed.

use std::collections::HashMap;
use std::error::Error;
use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use sluicegate::graph::Dim;
use sluicegate::{Model, Options, Tensor, Threads};
use sluicegate_kernels::epilogue::Activation;
use sluicegate_kernels::ops::conv::Conv;
use sluicegate_kernels::ops::depthwise::Depthwise;
use sluicegate_kernels::ops::matmul::{MatMul, MatMulSpec, Rows, RowsMut};
use sluicegate_kernels::ops::{Algorithm, ConvShape, ConvSpec};
use sluicegate_kernels::pool::Pool as _;
use sluicegate_kernels::{Buffer, Channels, Isa};

type Outcome<T> = Result<T, Box<dyn Error>>;
type Run = Box<dyn FnMut()>;

struct Case<'a>(HashMap<&'a str, &'a str>);

impl<'a> Case<'a> {
    fn parse(words: impl Iterator<Item = &'a str>) -> Self {
        Self(words.filter_map(|word| word.split_once('=')).collect())
    }
    fn text(&self, key: &str) -> &str {
        self.0.get(key).copied().unwrap_or("")
    }
    fn get(&self, key: &str, default: usize) -> usize {
        self.0
            .get(key)
            .and_then(|v| v.parse().ok())
            .unwrap_or(default)
    }
    fn density(&self) -> f64 {
        self.text("density").parse().unwrap_or(1.0)
    }
}

/// Random numbers, and below zeros, in memory aligned as that of the rivals is.
fn floats(n: usize, seed: u64) -> Buffer {
    let mut s = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        s
    };
    let mut data = Buffer::zeros(n);
    data.fill_with(|| (next() >> 40) as f32 / 8_388_608.0 - 1.0);
    data
}

/// A random set of `density * len` channels, at least one; none where all are live.
fn mask(len: usize, density: f64) -> Option<Vec<u64>> {
    if density >= 1.0 {
        return None;
    }
    let mut order: Vec<usize> = (0..len).collect();
    let keys = floats(len, 7);
    order.sort_by(|&a, &b| keys[a].total_cmp(&keys[b]));
    let live = ((len as f64 * density).round() as usize).max(1);
    let mut words = vec![0; len.div_ceil(64)];
    for &c in &order[..live] {
        words[c / 64] |= 1 << (c % 64);
    }
    Some(words)
}

/// Compares sampled outputs with f64 sums.
fn check(y: &[f32], expected: impl Fn(usize) -> f64) -> Outcome<()> {
    let (mut error, mut greatest) = (0f64, 1e-30f64);
    for i in (0..60).map(|t| t * 104_729 % y.len()) {
        let sum = expected(i);
        error = error.max((sum - f64::from(y[i])).abs());
        greatest = greatest.max(sum.abs());
    }
    if error / greatest > 1e-4 {
        return Err(format!("WRONG relerr={:.1e}", error / greatest).into());
    }
    Ok(())
}

fn prepare_gemm(case: &Case<'_>, isa: Isa, pool: Threads) -> Outcome<(Run, &'static str)> {
    let (m, n, k) = (case.get("m", 0), case.get("n", 0), case.get("k", 0));
    let (a, b) = (floats(m * k, 1), floats(k * n, 2));
    let words = mask(k, case.density());
    let spec = MatMulSpec {
        k,
        n,
        b: &b,
        transposed: false,
        bias: None,
        activation: Activation::None,
        live_in: None,
        live_out: None,
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

/// Of convolutions, by `SLUICEGATE_CONV`.
fn algorithm() -> Outcome<Algorithm> {
    match std::env::var("SLUICEGATE_CONV").as_deref() {
        Err(_) | Ok("fastest") => Ok(Algorithm::Fastest),
        Ok("direct") => Ok(Algorithm::Direct),
        Ok("winograd2") => Ok(Algorithm::Winograd2),
        Ok("winograd4") => Ok(Algorithm::Winograd4),
        Ok(other) => Err(format!("SLUICEGATE_CONV={other}").into()),
    }
}

fn prepare_conv(case: &Case<'_>, isa: Isa, pool: Threads) -> Outcome<(Run, &'static str)> {
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
        algorithm: algorithm()?,
    };
    if shape.groups == shape.c_in && shape.c_in > 1 {
        return prepare_depthwise(spec, (h, w), words.clone(), x, isa, pool);
    }
    let conv = Conv::pack(isa, &spec, (h, w))?;
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

fn prepare_depthwise(
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

/// A whole model, `onnx` or `models/NAME.onnx`, on inputs that are random.
fn prepare_model(case: &Case<'_>, isa: Isa) -> Outcome<(Run, &'static str)> {
    let named = format!("models/{}.onnx", case.text("name"));
    let model = Model::load(match case.text("onnx") {
        "" => &named,
        path => path,
    })?;
    let mut session = model.session(Options {
        isa: Some(isa),
        threads: case.get("threads", 1),
        ..Options::default()
    })?;
    let mut inputs = Vec::new();
    for &id in &model.graph().inputs {
        let value = model.graph().value(id);
        let dims = value.dims.as_ref().ok_or("an input without a shape")?;
        let dims: Vec<usize> = dims
            .iter()
            .map(|dim| if let Dim::Fixed(n) = dim { *n } else { 1 })
            .collect();
        let data = floats(dims.iter().product(), 1);
        inputs.push((value.name.clone(), Tensor::new(&dims, data.to_vec())?));
    }
    let mut run = move || {
        let views: Vec<_> = inputs.iter().map(|(n, x)| (n.as_str(), x.view())).collect();
        session.run(&views).map(|_| ())
    };
    run()?;
    Ok((Box::new(move || run().expect("ran before")), "model"))
}

fn prepare(case: &Case<'_>) -> Outcome<(Run, &'static str)> {
    if !matches!(case.text("dt"), "" | "f32") {
        return Err("f32 only".into());
    }
    if !matches!(case.text("mode"), "" | "dense") {
        return Err("mode".into());
    }
    let isa = match std::env::var("SLUICEGATE_ISA") {
        Ok(name) => Isa::best_up_to(&name)?,
        Err(_) => Isa::best(),
    };
    let pool = Threads::new(case.get("threads", 1))?;
    match case.text("op") {
        "trivial" => Ok((Box::new(|| ()), "nothing")),
        "gemm" => prepare_gemm(case, isa, pool),
        "conv" => prepare_conv(case, isa, pool),
        "model" => prepare_model(case, isa),
        op => Err(format!("op {op}").into()),
    }
}

/// How often the process was preempted, and the nanoseconds that it ran.
fn scheduled() -> (i64, u64) {
    // SAFETY: both calls fill a plain structure of integers, for which zeros are a value.
    let (usage, time) = unsafe {
        let (mut usage, mut time) = std::mem::zeroed::<(libc::rusage, libc::timespec)>();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time);
        (usage, time)
    };
    (
        usage.ru_nivcsw,
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64,
    )
}

/// Nanoseconds of the rig's calibration loop: `calib_ns` of native/worker.h, instruction for instruction.
#[cfg(target_arch = "x86_64")]
fn calibrate() -> u64 {
    let start = Instant::now();
    let (mut a, mut b, mut c, mut d) = (1u64, 2u64, 3u64, 4u64);
    for _ in 0..4000 {
        // SAFETY: additions of registers that are declared as changed.
        unsafe {
            std::arch::asm!(
                "add {0}, 1", "add {1}, 1", "add {2}, 1", "add {3}, 1",
                "add {0}, 1", "add {1}, 1", "add {2}, 1", "add {3}, 1",
                "add {0}, 1", "add {1}, 1", "add {2}, 1", "add {3}, 1",
                "add {0}, 1", "add {1}, 1", "add {2}, 1", "add {3}, 1",
                inout(reg) a, inout(reg) b, inout(reg) c, inout(reg) d,
            );
        }
    }
    std::hint::black_box((a, b, c, d));
    start.elapsed().as_nanos() as u64
}

#[cfg(not(target_arch = "x86_64"))]
fn calibrate() -> u64 {
    0
}

/// Runs until `budget` is spent, at most `reps` times, and writes the samples.
fn sample(run: &mut Run, budget: Duration, reps: usize, multi: bool) -> String {
    run();
    let mut answer = String::from("ok");
    let (mut spent, mut burst) = (Duration::ZERO, Duration::ZERO);
    for i in 0..reps {
        let before = calibrate();
        let (preempted, ran) = scheduled();
        let start = Instant::now();
        run();
        let wall = start.elapsed();
        let (preempted_after, ran_after) = scheduled();
        let calibration = before.max(calibrate());
        let dirty = u8::from(preempted_after != preempted);
        let cpu = ran_after - ran;
        answer += &format!(" {}:{dirty}:{cpu}:{calibration}", wall.as_nanos());
        spent += wall;
        burst += wall;
        if spent > budget && i >= 2 {
            break;
        }
        if multi && burst.as_millis() >= 2 {
            // See native/worker.h: a process that just slept is scheduled at once, on both cores.
            burst = Duration::ZERO;
            std::thread::sleep(Duration::from_millis(4));
            run();
        }
    }
    answer
}

fn main() -> Outcome<()> {
    let (mut prepared, mut multi) = (None, false);
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let mut words = line.split_whitespace();
        let answer = match words.next() {
            Some("prep") => {
                let case = Case::parse(words);
                multi = case.get("threads", 1) > 1;
                match prepare(&case) {
                    Ok((run, name)) => {
                        prepared = Some(run);
                        format!("ok {name}")
                    }
                    Err(why) => {
                        prepared = None;
                        format!("skip {why}")
                    }
                }
            }
            Some("run") => match &mut prepared {
                Some(run) => {
                    let ms: f64 = words.next().unwrap_or("8").parse()?;
                    let reps = words.next().unwrap_or("200").parse()?;
                    sample(run, Duration::from_secs_f64(ms / 1e3), reps, multi)
                }
                None => "skip not-prepared".into(),
            },
            Some("quit") => break,
            _ => continue,
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}
