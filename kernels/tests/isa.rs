//! The vector vocabulary, lane by lane against scalars, on every instruction set.

mod nn;

use nn::{CANARY, bits, data};
use sluicegate_kernels::Isa;
use sluicegate_kernels::isa::{F32s, Task};

/// Numbers that tell operations apart: signed zeros, infinities, NaN, denormal and large ones.
fn samples() -> Vec<f32> {
    let mut x = vec![
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        1.5,
        2.5,
        -2.5,
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MIN_POSITIVE / 8.0,
        f32::MAX,
        -f32::MAX,
        8_388_609.0,
    ];
    x.extend(data(7, 17).iter().map(|x| x * 100.0));
    x
}

struct Conformance;

impl Task for Conformance {
    type Output = ();

    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        loads_and_stores(s);
        arithmetic(s);
        comparisons(s);
        lanes(s);
    }
}

#[inline(always)]
fn out<S: F32s>(s: S, v: S::V) -> Vec<f32> {
    let mut y = vec![CANARY; S::LANES];
    s.store(v, &mut y);
    y
}

fn same(name: &str, got: &[f32], want: &[f32]) {
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let equal = g.to_bits() == w.to_bits() || g.is_nan() && w.is_nan();
        assert!(equal, "{name}: lane {i} is {g}, expected {w}");
    }
    assert_eq!(got.len(), want.len(), "{name}");
}

#[inline(always)]
fn loads_and_stores<S: F32s>(s: S) {
    let x = data(1, 3 * S::LANES);
    same("splat", &out(s, s.splat(2.5)), &vec![2.5; S::LANES]);
    same("load", &out(s, s.load(&x)), &x[..S::LANES]);
    for pitch in 0..=S::LANES {
        let pitched: [S::V; 3] = s.load_pitched(&x[..2 * pitch + S::LANES], pitch);
        for (i, v) in pitched.into_iter().enumerate() {
            same("load_pitched", &out(s, v), &x[i * pitch..][..S::LANES]);
        }
    }
    for n in 0..=S::LANES + 2 {
        let mut want = vec![0.0; S::LANES];
        let k = n.min(S::LANES);
        want[..k].copy_from_slice(&x[..k]);
        same("load_some", &out(s, s.load_some(&x[..n])), &want);

        let mut to = vec![CANARY; n + 20];
        s.store_some(s.splat(1.0), &mut to[10..10 + n]);
        let mut want = vec![CANARY; n + 20];
        want[10..10 + k].fill(1.0);
        assert_eq!(bits(&to), bits(&want), "store_some of {n}");
    }
    for lanes in (0..1u32 << S::LANES).step_by(if S::LANES > 8 { 97 } else { 1 }) {
        let set = |i: usize| lanes >> i & 1 == 1;
        let end = (32 - lanes.leading_zeros()) as usize;
        let want: Vec<_> = (0..S::LANES)
            .map(|i| if set(i) { x[i] } else { 0.0 })
            .collect();
        same("load_where", &out(s, s.load_where(&x[..end], lanes)), &want);
        let mut to = vec![CANARY; end];
        s.store_where(s.load(&x), lanes, &mut to);
        let want: Vec<_> = (0..end)
            .map(|i| if set(i) { x[i] } else { CANARY })
            .collect();
        assert_eq!(bits(&to), bits(&want), "store_where {lanes:b}");
    }
    for width in 0..2 * S::LANES + 2 {
        let row = &x[..width];
        for start in -(2 * S::LANES as isize)..3 * S::LANES as isize {
            let want: Vec<_> = (0..S::LANES as isize)
                .map(|i| usize::try_from(start + i).ok())
                .map(|i| i.and_then(|i| row.get(i).copied()).unwrap_or(0.0))
                .collect();
            let window = s.window(start, width);
            let [v] = s.load_window(row, &window);
            same("load_window", &out(s, v), &want);
            for pitch in [0, 1, width] {
                let rows = &x[..(2 * pitch + width).min(x.len())];
                if rows.len() < 2 * pitch + width {
                    continue;
                }
                let many: [S::V; 3] = s.load_rows(rows, pitch, &window);
                for (i, v) in many.into_iter().enumerate() {
                    let [want] = s.load_window(&rows[i * pitch..][..width], &window);
                    same("load_rows", &out(s, v), &out(s, want));
                }
            }

            let want: Vec<_> = (0..2 * S::LANES as isize)
                .map(|i| usize::try_from(start + i).ok())
                .map(|i| i.and_then(|i| row.get(i).copied()).unwrap_or(0.0))
                .collect();
            let [a, b] = s.load_window(row, &s.window(start, width));
            same("two vectors", &[out(s, a), out(s, b)].concat(), &want);
            // Lanes 1..3 of the first, lane 0 of the second.
            let some = [s.lanes(1, 3), s.lanes(0, 1)];
            let [a, b] = s.load_window(row, &s.narrow(s.window(start, width), &some));
            let kept = |i: usize| (1..3).contains(&i) || i == S::LANES;
            let want: Vec<_> = (0..want.len())
                .map(|i| if kept(i) { want[i] } else { 0.0 })
                .collect();
            same("narrow", &[out(s, a), out(s, b)].concat(), &want);
        }
    }
    // Far away: no lane, no overflow.
    let none = [s.window(isize::MIN, 3), s.window(isize::MAX, 3)];
    for window in &none {
        let [v] = s.load_window(&x, window);
        same("far", &out(s, v), &vec![0.0; S::LANES]);
    }
}

#[inline(always)]
fn pairs<S: F32s>(
    s: S,
    name: &str,
    f: impl Fn(S::V, S::V) -> S::V,
    want: impl Fn(f32, f32) -> f32,
) {
    for a in samples() {
        for b in samples() {
            let got = out(s, f(s.splat(a), s.splat(b)));
            same(
                &format!("{name}({a}, {b})"),
                &got,
                &vec![want(a, b); S::LANES],
            );
        }
    }
}

#[inline(always)]
fn arithmetic<S: F32s>(s: S) {
    pairs(s, "add", |a, b| s.add(a, b), |a, b| a + b);
    pairs(s, "sub", |a, b| s.sub(a, b), |a, b| a - b);
    pairs(s, "mul", |a, b| s.mul(a, b), |a, b| a * b);
    pairs(s, "div", |a, b| s.div(a, b), |a, b| a / b);
    pairs(
        s,
        "max",
        |a, b| s.max(a, b),
        |a, b| if a > b { a } else { b },
    );
    pairs(
        s,
        "min",
        |a, b| s.min(a, b),
        |a, b| if a < b { a } else { b },
    );
    let nan_or = |a: f32, b: f32, x: f32| {
        if a.is_nan() || b.is_nan() {
            f32::NAN
        } else {
            x
        }
    };
    pairs(
        s,
        "max_nan",
        |a, b| s.max_nan(a, b),
        |a, b| nan_or(a, b, if a > b { a } else { b }),
    );
    pairs(
        s,
        "min_nan",
        |a, b| s.min_nan(a, b),
        |a, b| nan_or(a, b, if a < b { a } else { b }),
    );
    pairs(s, "copysign", |a, b| s.copysign(a, b), f32::copysign);
    pairs(s, "sqrt", |a, _| s.sqrt(a), |a, _| a.sqrt());
    pairs(s, "abs", |a, _| s.abs(a), |a, _| a.abs());
    pairs(s, "round", |a, _| s.round(a), |a, _| a.round_ties_even());
    pairs(s, "floor", |a, _| s.floor(a), |a, _| a.floor());
    let far = [-1e30, -151.5, -149.25, -126.5, -1e-9, -0.0, 0.7, 126.9];
    for x in far.into_iter().chain([f32::NEG_INFINITY]) {
        let (n, f) = s.split(s.splat(x));
        let power = if x < -151.0 { 0.0 } else { x.floor().exp2() };
        let got = out(s, s.scale2(s.splat(1.0), n));
        same(&format!("split({x})"), &got, &vec![power; S::LANES]);
        for f in out(s, f) {
            assert!((0.0..=1.0).contains(&f), "split({x}): {f}");
            assert!(
                x < -151.0 || (f - (x - x.floor())).abs() <= f32::EPSILON,
                "split({x}): {f}"
            );
        }
    }
    for f in out(s, s.split(s.splat(f32::NAN)).1) {
        assert!(f.is_nan(), "split(NaN): {f}");
    }
    for n in -126..=127 {
        let got = out(s, s.exp2i(s.splat(n as f32)));
        same("exp2i", &got, &vec![(n as f32).exp2(); S::LANES]);
    }
    // Exact products: fused or not, the result is one.
    let got = out(s, s.mul_add(s.splat(3.0), s.splat(-0.5), s.splat(7.0)));
    same("mul_add", &got, &vec![5.5; S::LANES]);
    // 1 - 2^-24 is lost unless it is rounded once; both are allowed, nothing else is.
    let (a, c) = (1.0 + f32::EPSILON, -1.0 - 2.0 * f32::EPSILON);
    for y in out(s, s.mul_add(s.splat(a), s.splat(a), s.splat(c))) {
        assert!(y == a.mul_add(a, c) || y == a * a + c, "mul_add");
    }
}

#[inline(always)]
fn comparisons<S: F32s>(s: S) {
    let (yes, no) = (s.splat(1.0), s.splat(0.0));
    let truth = |b| f32::from(u8::from(b));
    pairs(
        s,
        "lt",
        |a, b| s.select(s.lt(a, b), yes, no),
        |a, b| truth(a < b),
    );
    pairs(
        s,
        "is_nan",
        |a, _| s.select(s.is_nan(a), yes, no),
        |a, _| truth(a.is_nan()),
    );
    for from in 0..=S::LANES {
        for to in from..=S::LANES {
            let want: Vec<_> = (0..S::LANES).map(|i| truth(from <= i && i < to)).collect();
            same(
                "lanes",
                &out(s, s.select(s.lanes(from, to), yes, no)),
                &want,
            );
        }
    }
}

#[inline(always)]
fn lanes<S: F32s>(s: S) {
    let x: Vec<f32> = (0..2 * S::LANES).map(|i| i as f32).collect();
    let (even, odd) = s.deinterleave(s.load(&x), s.load(&x[S::LANES..]));
    let every = |from: usize| x[from..].iter().copied().step_by(2).collect::<Vec<_>>();
    same("even", &out(s, even), &every(0));
    same("odd", &out(s, odd), &every(1));
    let (low, high) = s.interleave(even, odd);
    same("interleave", &out(s, low), &x[..S::LANES]);
    same("interleave", &out(s, high), &x[S::LANES..]);
    let (a, b) = (s.load(&x), s.load(&x[S::LANES..]));
    for by in 0..=S::LANES {
        same("align", &out(s, s.align(a, b, by)), &x[by..][..S::LANES]);
    }
    let last = 2 * S::LANES - 1;
    let at = s.indices(|lane| last - 2 * lane);
    let want: Vec<f32> = (0..S::LANES).map(|lane| x[last - 2 * lane]).collect();
    same("pick", &out(s, s.pick(a, b, at)), &want);
    let square = data(5, S::LANES * S::LANES);
    let mut rows = [s.splat(f32::NAN); 16];
    for (v, row) in rows.iter_mut().zip(square.chunks(S::LANES)) {
        *v = s.load(row);
    }
    s.transpose(&mut rows);
    for i in 0..S::LANES {
        let column: Vec<f32> = square[i..].iter().copied().step_by(S::LANES).collect();
        same("transpose", &out(s, rows[i]), &column);
    }
    for by in -(S::LANES as isize)..=S::LANES as isize {
        let mut want = x[..S::LANES].to_vec();
        want.rotate_left(by.rem_euclid(S::LANES as isize) as usize);
        same("rotate", &out(s, s.rotate(a, by)), &want);
    }
    let nan = s.select(s.lanes(1, S::LANES), s.splat(f32::NAN), a);
    let y = out(s, s.mul_add_where(s.lanes(0, 1), s.add(nan, b), b, a));
    let product = x[S::LANES] * x[S::LANES];
    assert_eq!((y[0], &y[1..]), (product, &x[1..S::LANES]), "mul_add_where");
    let mut half = S::LANES / 2;
    while half > 0 {
        let y = out(s, s.upper(a, half));
        same("upper", &y[..half], &x[half..2 * half]);
        half /= 2;
    }
    assert_eq!(s.first(b), S::LANES as f32);
    // The order of the sum: pairs of lanes half a vector apart first.
    let odd: Vec<f32> = data(3, S::LANES).iter().map(|x| x * 1e3 + 1e-3).collect();
    let mut sums = odd.clone();
    while sums.len() > 1 {
        let (low, high) = sums.split_at(sums.len() / 2);
        sums = low.iter().zip(high).map(|(a, b)| a + b).collect();
    }
    assert_eq!(s.sum(s.load(&odd)).to_bits(), sums[0].to_bits());
    assert_eq!(s.sum(s.load(&x)), (S::LANES * (S::LANES - 1) / 2) as f32);
    for i in 0..S::LANES {
        let mut x = vec![-1.0; S::LANES];
        x[i] = 2.0;
        assert_eq!(s.greatest(s.load(&x)), 2.0);
        x[i] = f32::NAN;
        assert!(s.greatest(s.load(&x)).is_nan(), "NaN in lane {i}");
    }
    let inside = s.vectorize(|| s.sum(s.splat(1.0)));
    assert_eq!(inside, S::LANES as f32);
}

#[test]
fn vocabulary_conforms_on_every_isa() {
    for isa in Isa::available() {
        isa.run(Conformance);
    }
}

struct Short;
struct ShortRows;
struct ShortPitched;

impl Task for ShortPitched {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        let [.., v]: [S::V; 3] = s.load_pitched(&[0.0; 40][..S::LANES + 1], 1);
        let _ = out(s, v);
    }
}

impl Task for ShortRows {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        let window = s.window(0, 5);
        let [.., v]: [S::V; 3] = s.load_rows(&[0.0; 10], 3, &window);
        let _ = out(s, v);
    }
}

impl Task for Short {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        let window = s.window(0, 5);
        let [v] = s.load_window(&[0.0; 4], &window);
        let _ = out(s, v);
    }
}

#[test]
fn a_row_shorter_than_its_window_is_refused() {
    for isa in Isa::available() {
        let caught = std::panic::catch_unwind(|| isa.run(Short));
        assert!(caught.is_err(), "{isa}");
        let caught = std::panic::catch_unwind(|| isa.run(ShortRows));
        assert!(caught.is_err(), "{isa}: rows");
        let caught = std::panic::catch_unwind(|| isa.run(ShortPitched));
        assert!(caught.is_err(), "{isa}: pitched");
    }
}

#[test]
fn names_and_order() {
    assert_eq!(Isa::available().next(), Some(Isa::PORTABLE));
    assert!(Isa::available().all(|isa| isa <= Isa::best()));
    for isa in Isa::available() {
        assert_eq!(Isa::named(isa.name()), Ok(isa));
        assert_eq!(Isa::best_up_to(isa.name()), Ok(isa));
    }
    assert!(Isa::named("mmx").is_err());
    assert!(Isa::best_up_to("").is_err());
}
