//! Maps in blocks of channels: the chains of planes and of products, so the same numbers, whatever lies behind the last channel.

mod groups;
mod layouts;
#[path = "../nn/mod.rs"]
mod nn;
mod product;
mod refused;
mod rows;
mod taps;

use nn::{Threads, bits, data, guarded};
use proptest::prelude::*;
use sluicegate_kernels::epilogue::Activation;
use sluicegate_kernels::ops::conv::{Conv, NchwcConv};
use sluicegate_kernels::ops::depthwise::{Depthwise, NchwcDepthwise};
use sluicegate_kernels::ops::nchwc::{self, Live};
use sluicegate_kernels::ops::{Algorithm, ConvShape, ConvSpec};
use sluicegate_kernels::pool::{Pool, Serial};
use sluicegate_kernels::{Channels, Error, Isa};

#[derive(Debug, Clone)]
struct Case {
    shape: ConvShape,
    map: (usize, usize),
    act: Activation,
    bias: bool,
    /// How many of eight inputs, and of eight outputs, are live, where they are masked at all.
    live: [Option<u64>; 2],
    seed: u64,
}

/// The first of these weights, and nothing else.
fn plain(shape: ConvShape, weights: &[f32]) -> ConvSpec<'_> {
    ConvSpec {
        shape,
        weights: &weights[..shape.weights_len().expect("small")],
        bias: None,
        activation: Activation::None,
        live_in: None,
        live_out: None,
        masked_outputs: false,
        algorithm: Algorithm::Direct,
    }
}

/// `[channels, pixels]` in blocks, NaN behind the last channel.
fn in_blocks(isa: Isa, planes: &[f32], channels: usize) -> Vec<f32> {
    let (lanes, pixels) = (isa.lanes(), planes.len() / channels.max(1));
    let mut blocks = vec![f32::NAN; nchwc::elements(isa, channels, pixels).expect("small")];
    for (i, &x) in planes.iter().enumerate() {
        let (c, p) = (i / pixels, i % pixels);
        blocks[(c / lanes * pixels + p) * lanes + c % lanes] = x;
    }
    blocks
}

/// The planes that a map with a mask holds: the live ones, or zeros in the place of the others.
fn kept(planes: &[f32], channels: usize, live: Option<Channels<'_>>) -> Vec<f32> {
    let pixels = planes.len() / channels;
    let lives = |c: usize| live.is_none_or(|live| live.contains(c));
    let compact = live.is_some_and(nchwc::is_compact);
    let planes = planes.chunks_exact(pixels.max(1)).enumerate();
    let held = planes.filter(|&(c, _)| lives(c) || !compact);
    let value = |c: usize, x: f32| if lives(c) { x } else { 0.0 };
    held.flat_map(|(c, plane)| plane.iter().map(move |&x| value(c, x)))
        .collect()
}

fn channels_of(words: Option<&[u64]>, channels: usize) -> Option<Channels<'_>> {
    words.map(|words| Channels::new(words, channels).expect("as many bits"))
}

/// The channels of a map in blocks, `[channels, pixels]`.
fn in_planes(isa: Isa, blocks: &[f32], (channels, pixels): (usize, usize)) -> Vec<f32> {
    let lanes = isa.lanes();
    let at = |c: usize, p: usize| blocks[(c / lanes * pixels + p) * lanes + c % lanes];
    let all = (0..channels).flat_map(|c| (0..pixels).map(move |p| (c, p)));
    all.map(|(c, p)| at(c, p)).collect()
}

impl Case {
    /// With a bias and a Relu.
    fn new(shape: ConvShape, map: (usize, usize), seed: u64) -> Self {
        Self {
            shape,
            map,
            act: Activation::Relu,
            bias: true,
            live: [None; 2],
            seed,
        }
    }

    /// Bits of the live inputs, or of the live outputs.
    fn mask(&self, side: usize) -> Option<Vec<u64>> {
        let channels = [self.shape.c_in, self.shape.c_out][side];
        let dice = data(self.seed + 3 + side as u64, channels);
        let words = |eighths: u64| {
            let mut words = vec![0; channels.div_ceil(64)];
            for (c, x) in dice.iter().enumerate() {
                let lives = f64::from(x.abs()) * 8.0 < eighths as f64;
                words[c / 64] |= u64::from(lives) << (c % 64);
            }
            words
        };
        self.live[side].map(words)
    }

    fn check(&self) {
        Isa::available().for_each(|isa| self.on(isa));
    }

    fn on(&self, isa: Isa) {
        let shape = self.shape;
        let weights = data(self.seed + 1, shape.weights_len().expect("small"));
        let bias = data(self.seed + 2, shape.c_out);
        let spec = ConvSpec {
            shape,
            weights: &weights,
            bias: self.bias.then_some(&bias),
            activation: self.act,
            live_in: None,
            live_out: None,
            masked_outputs: self.seed.is_multiple_of(2),
            algorithm: Algorithm::Direct,
        };
        let x = data(self.seed, shape.c_in * self.map.0 * self.map.1);
        if shape.groups == shape.c_in && shape.groups > 1 {
            self.depthwise(isa, &spec, &x);
        } else {
            self.convolution(isa, &spec, &x);
        }
    }

    fn output(&self) -> (usize, usize) {
        let (oh, ow) = self.shape.output(self.map).expect("fits");
        (self.shape.c_out, oh * ow)
    }

    fn depthwise(&self, isa: Isa, spec: &ConvSpec<'_>, x: &[f32]) {
        let (channels, pixels) = self.output();
        let words = self.mask(0);
        let live = channels_of(words.as_deref(), channels);
        let planes = Depthwise::pack(isa, spec).expect("valid");
        let mut scratch = vec![f32::NAN; planes.scratch_len(self.map, 1)];
        let mut expected = vec![0.0; channels * pixels];
        planes
            .run(
                &Serial,
                x,
                self.map,
                live,
                live,
                &mut expected,
                &mut scratch,
            )
            .expect("valid");
        let packed = NchwcDepthwise::pack(isa, spec, self.map).expect("valid");
        let x = in_blocks(isa, &kept(x, channels, live), nchwc::held(live, channels));
        self.agree(isa, &expected, live, |pool, y| {
            let mut scratch = vec![f32::NAN; packed.scratch_len(pool.threads(), live.is_some())];
            packed.run(pool, &x, live, y, &mut scratch)
        });
    }

    fn convolution(&self, isa: Isa, spec: &ConvSpec<'_>, x: &[f32]) {
        let (channels, pixels) = self.output();
        let c_in = spec.shape.c_in;
        let words = [0, 1].map(|side| self.mask(side));
        let live = channels_of(words[0].as_deref(), c_in);
        let live_out = channels_of(words[1].as_deref(), channels);
        let dead = |value: f32| {
            let mut x = x.to_vec();
            let (plane, map) = (self.map.0 * self.map.1, x.len());
            for c in (0..c_in).filter(|&c| live.is_some_and(|live| !live.contains(c))) {
                x[(c * plane).min(map)..][..plane].fill(value);
            }
            x
        };
        let expected = product::product(isa, spec, self.map, &dead(0.0));
        let x = dead(f32::NAN);
        let conv = Conv::pack(isa, spec, self.map).expect("valid");
        let mut scratch = vec![f32::NAN; conv.scratch_len(1)];
        let mut planes = vec![0.0; channels * pixels];
        conv.run(&Serial, &x, live, None, &mut planes, &mut scratch)
            .expect("valid");
        assert_eq!(planes, expected, "{isa}: planes of {self:?}");
        let check = |packed: &NchwcConv, x: &[f32], live: Option<Live<'_>>| {
            self.agree(isa, &expected, live_out, |pool, y| {
                let mut scratch = vec![f32::NAN; packed.scratch_len(pool.threads(), true)];
                packed.run(pool, x, live, live_out, y, &mut scratch)
            });
        };
        let planes = NchwcConv::pack_planes(isa, spec, self.map).expect("valid");
        let blocks = NchwcConv::pack_blocks(isa, spec, self.map).expect("valid");
        let in_place = live.map(Live::InPlace);
        check(&planes, &x, in_place);
        check(&blocks, &in_blocks(isa, &x, c_in), in_place);
        if live.is_some() {
            let x = in_blocks(isa, &kept(&x, c_in, live), nchwc::held(live, c_in));
            check(&blocks, &x, live.map(Live::Compact));
        }
    }

    /// Blocks hold what planes hold, for any number of threads, and nothing else is written.
    fn agree(
        &self,
        isa: Isa,
        expected: &[f32],
        live: Option<Channels<'_>>,
        run: impl Fn(&dyn Pool, &mut [f32]) -> Result<(), Error>,
    ) {
        let (channels, pixels) = self.output();
        let out = (nchwc::held(live, channels), pixels);
        let expected = kept(expected, channels, live);
        let len = nchwc::elements(isa, out.0, out.1).expect("small");
        let on = |pool: &dyn Pool| {
            let y = guarded(len, |y| run(pool, y).expect("valid"));
            in_planes(isa, &y, out)
        };
        let y = on(&Serial);
        assert_eq!(y, expected, "{isa}: {self:?}");
        for threads in [2, 4] {
            assert_eq!(
                bits(&on(&Threads(threads))),
                bits(&y),
                "{isa}: {threads} threads"
            );
        }
    }
}

fn activations() -> impl Strategy<Value = Activation> {
    prop_oneof![
        Just(Activation::None),
        Just(Activation::Relu),
        Just(Activation::Clip { lo: -0.5, hi: 0.5 }),
        Just(Activation::LeakyRelu(0.1)),
        Just(Activation::Silu),
    ]
}

fn depthwise_cases() -> impl Strategy<Value = Case> {
    let kernel = prop_oneof![
        3 => Just([3, 3]),
        2 => Just([5, 5]),
        1 => Just([7, 7]),
        1 => Just([1, 9]),
        2 => prop::array::uniform2(1usize..8),
    ];
    let steps = (
        prop_oneof![2 => Just([1, 1]), 1 => Just([2, 2]), 1 => (1usize..4, 1usize..3).prop_map(|(h, w)| [h, w])],
        prop_oneof![3 => Just([1, 1]), 1 => prop::array::uniform2(1usize..4)],
    );
    let sizes = (
        (1usize..70, prop::option::of(0u64..9)),
        (1usize..24, 1usize..40),
    );
    (
        kernel,
        steps,
        prop::array::uniform4(0usize..4),
        sizes,
        activations(),
        any::<bool>(),
        0u64..1 << 40,
    )
        .prop_map(
            |(kernel, (stride, dilation), pads, ((c, live), map), act, bias, seed)| Case {
                shape: ConvShape {
                    c_in: c,
                    c_out: c,
                    groups: c,
                    kernel,
                    stride,
                    dilation,
                    pads,
                },
                map,
                act,
                bias,
                live: [live, None],
                seed,
            },
        )
        .prop_filter(
            "one group is a convolution of its own kind, and the kernel fits",
            |case| case.shape.groups > 1 && case.shape.output(case.map).is_ok(),
        )
}

fn convolution_cases() -> impl Strategy<Value = Case> {
    let window = prop_oneof![
        2 => Just(([1, 1], [1, 1], [1, 1], [0; 4])),
        3 => (
            prop::array::uniform2(1usize..6),
            prop::array::uniform2(1usize..4),
            prop::array::uniform2(1usize..3),
            prop::array::uniform4(0usize..4),
        ),
    ];
    let sizes = ((1usize..40, 1usize..150), (1usize..20, 1usize..30));
    let live = prop::array::uniform2(prop::option::of(0u64..9));
    let ends = (activations(), any::<bool>());
    (window, sizes, ends, live, 0u64..1 << 40)
        .prop_map(
            |((kernel, stride, dilation, pads), ((c_in, c_out), map), (act, bias), live, seed)| {
                Case {
                    shape: ConvShape {
                        c_in,
                        c_out,
                        groups: 1,
                        kernel,
                        stride,
                        dilation,
                        pads,
                    },
                    map,
                    act,
                    bias,
                    live,
                    seed,
                }
            },
        )
        .prop_filter("the kernel fits", |case| {
            case.shape.output(case.map).is_ok()
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn depthwise_equals_planes(case in depthwise_cases()) {
        case.check();
    }

    #[test]
    fn convolutions_equal_products(case in convolution_cases()) {
        case.check();
    }
}

fn square(c: usize, k: usize, stride: usize) -> ConvShape {
    ConvShape {
        c_in: c,
        c_out: c,
        groups: c,
        kernel: [k, k],
        stride: [stride, stride],
        dilation: [1, 1],
        pads: [k / 2; 4],
    }
}

/// Tiles of every width and height, windows in registers and tap by tap, maps as they lie and copied.
#[test]
fn every_size_of_a_map() {
    for w in 1..=40 {
        for (h, k, stride) in [
            (3, 3, 1),
            (9, 3, 2),
            (7, 5, 1),
            (6, 5, 2),
            (7, 7, 1),
            (4, 7, 2),
        ] {
            Case::new(square(20, k, stride), (h, w), (w * 100 + h) as u64).check();
        }
    }
}

/// There is nothing but padding.
#[test]
fn maps_without_pixels() {
    for map in [(0, 5), (5, 0), (0, 0)] {
        for (k, stride) in [(3, 1), (5, 1), (7, 2)] {
            for groups in [20, 1] {
                let shape = ConvShape {
                    pads: [4; 4],
                    groups,
                    ..square(20, k, stride)
                };
                Case::new(shape, map, k as u64).check();
            }
        }
    }
}

/// Copies that are less than a cache line each.
#[test]
fn single_pixels_with_padding() {
    for c_in in 1..=5 {
        for (map, pads) in [
            ((1, 1), [0, 1, 0, 0]),
            ((1, 2), [1, 0, 0, 0]),
            ((2, 1), [0, 0, 1, 1]),
        ] {
            let shape = ConvShape {
                c_in,
                c_out: 20,
                groups: 1,
                pads,
                ..square(1, 1, 1)
            };
            Case::new(shape, map, c_in as u64).check();
        }
    }
}

/// Those of inputs and of outputs.
fn masks() -> [[Option<u64>; 2]; 6] {
    [
        [None; 2],
        [Some(4), None],
        [Some(0), None],
        [None, Some(4)],
        [Some(5), Some(3)],
        [Some(4), Some(0)],
    ]
}

/// Live channels are put side by side first.
#[test]
fn many_outputs_read_what_lives() {
    for (c_in, map) in [(70, (7, 7)), (96, (13, 20))] {
        let shape = ConvShape {
            c_in,
            c_out: 2050,
            groups: 1,
            ..square(1, 1, 1)
        };
        for live in masks() {
            let case = Case::new(shape, map, c_in as u64);
            Case { live, ..case }.check();
        }
    }
}

/// Strips of whole rows, with zeros round the map in some.
#[test]
fn windows_of_several_strips() {
    for (c_in, c_out, map, k, stride) in [
        (64, 100, (60, 57), 3, 1),
        (33, 40, (61, 80), 5, 2),
        (80, 17, (90, 31), 1, 2),
        (20, 48, (40, 200), 3, 3),
        // More terms than a depth block has.
        (70, 70, (29, 26), 5, 1),
        (30, 50, (30, 34), 7, 2),
    ] {
        let shape = ConvShape {
            c_in,
            c_out,
            groups: 1,
            pads: [k / 2, k / 2, k / 2, 0],
            ..square(1, k, stride)
        };
        for live in masks() {
            let case = Case::new(shape, map, c_out as u64);
            Case { live, ..case }.check();
        }
    }
}

#[test]
fn many_pixels_are_several_strips() {
    for (c_in, c_out, map) in [(24, 600, (30, 21)), (17, 33, (40, 41)), (3, 1030, (9, 13))] {
        let shape = ConvShape {
            c_in,
            c_out,
            groups: 1,
            pads: [0; 4],
            ..square(1, 1, 1)
        };
        for live in masks() {
            let case = Case::new(shape, map, c_out as u64);
            Case { live, ..case }.check();
        }
    }
}
