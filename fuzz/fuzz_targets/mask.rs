//! Sets of channels against lists of truth values.
#![no_main]

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use sluicegate::kernels::Channels;
use sluicegate::{BatchMask, ChannelMask, View};

fuzz_target!(|bytes: &[u8]| {
    let _ = check(&mut Unstructured::new(bytes));
});

fn bools(u: &mut Unstructured<'_>, len: usize) -> Result<Vec<bool>> {
    // Runs of equal bits, so that long runs are as likely as short ones.
    let mut live = Vec::with_capacity(len);
    while live.len() < len {
        let byte: u8 = u.arbitrary()?;
        let run = match byte >> 1 & 3 {
            0 => 1,
            1 => 1 + usize::from(byte >> 3) % 8,
            2 => 64,
            _ => usize::from(byte >> 3) * 5,
        };
        live.extend(std::iter::repeat_n(byte & 1 == 1, run));
        if u.is_empty() {
            live.resize(len.max(live.len()), byte & 8 != 0);
        }
    }
    live.truncate(len);
    Ok(live)
}

fn naive_runs(live: &[bool]) -> Vec<std::ops::Range<usize>> {
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    for c in (0..live.len()).filter(|&c| live[c]) {
        match runs.last_mut() {
            Some(run) if run.end == c => run.end += 1,
            _ => runs.push(c..c + 1),
        }
    }
    runs
}

fn same(mask: &ChannelMask, live: &[bool]) {
    let list: Vec<usize> = (0..live.len()).filter(|&c| live[c]).collect();
    assert_eq!(mask.len(), live.len());
    assert_eq!(mask.count(), list.len());
    assert_eq!(mask.is_empty(), list.is_empty());
    assert_eq!(mask.is_full(), list.len() == live.len());
    assert_eq!(mask.live().collect::<Vec<_>>(), list);
    assert_eq!(mask.runs().collect::<Vec<_>>(), naive_runs(live));
    assert_eq!(*mask, ChannelMask::from_bools(live));
    for c in 0..live.len() + 70 {
        assert_eq!(mask.contains(c), live.get(c).copied().unwrap_or(false));
    }
}

fn check(u: &mut Unstructured<'_>) -> Result<()> {
    let len = u.int_in_range(0..=260)?;
    let (a, b) = (bools(u, len)?, bools(u, len)?);
    let (x, y) = (ChannelMask::from_bools(&a), ChannelMask::from_bools(&b));
    same(&x, &a);
    same(&y, &b);
    let zip = |f: fn(bool, bool) -> bool| -> Vec<bool> {
        a.iter().zip(&b).map(|(&a, &b)| f(a, b)).collect()
    };
    same(&x.and(&y).unwrap(), &zip(|a, b| a && b));
    same(&x.or(&y).unwrap(), &zip(|a, b| a || b));
    same(&x.not(), &zip(|a, _| !a));
    assert_eq!(x == y, a == b);
    let longer = ChannelMask::full(len + 1);
    assert!(x.and(&longer).is_err() && x.or(&longer).is_err());

    let times = u.int_in_range(0..=5)?;
    let stretched: Vec<bool> = a
        .iter()
        .flat_map(|&live| std::iter::repeat_n(live, times))
        .collect();
    same(&x.stretch(times), &stretched);

    // The same set said in other ways.
    same(
        &ChannelMask::from_indices(len, x.live().chain(x.live())).unwrap(),
        &a,
    );
    assert!(ChannelMask::from_indices(len, [len]).is_err());
    let scores: Vec<f32> = a
        .iter()
        .zip(&b)
        .map(|(&a, &b)| {
            if a {
                1.5
            } else if b {
                f32::NAN
            } else {
                1.0
            }
        })
        .collect();
    same(&ChannelMask::from_threshold(&scores, 1.0), &a);
    let (outer, inner) = (u.int_in_range(0..=3)?, u.int_in_range(0..=3)?);
    let at = u.int_in_range(0..=8)?;
    let data: Vec<f32> = (0..outer * len * inner)
        .map(|i| {
            let chosen = i % inner == at % inner && i / inner / len == at % outer;
            if a[i / inner % len] && chosen {
                -1e-40
            } else {
                0.0
            }
        })
        .collect();
    let some: Vec<bool> = a.iter().map(|&live| live && outer * inner > 0).collect();
    let dims = [outer, len, inner];
    if let Ok(view) = View::new(&dims, &data) {
        same(&ChannelMask::from_nonzero(view, 1).unwrap(), &some);
        assert!(ChannelMask::from_nonzero(view, 3).is_err());
    }

    // The view that kernels take.
    let view = x.as_channels();
    let from = u.int_in_range(0..=len + 70)?;
    let to = u.int_in_range(from..=len + 140)?;
    assert_eq!(
        view.live_from(from).collect::<Vec<_>>(),
        x.live().filter(|&c| c >= from).collect::<Vec<_>>()
    );
    assert_eq!(view.any_in(from..to), (from..to.min(len)).any(|c| a[c]));

    // Any words are a set or an error.
    let n = u.int_in_range(0..=4)?;
    let words: Vec<u64> = (0..n).map(|_| u.arbitrary()).collect::<Result<_>>()?;
    let valid = n == len.div_ceil(64) && (len..n * 64).all(|c| words[c / 64] >> (c % 64) & 1 == 0);
    assert_eq!(Channels::new(&words, len).is_ok(), valid);

    let mut batch = BatchMask::new(3, len);
    batch.set(2, |c| b[c]);
    batch.set(1, |_| true);
    batch.set(1, |c| a[c]);
    assert_eq!(batch.sample(1), x.as_channels());
    assert_eq!(batch.sample(2), y.as_channels());
    assert!(batch.sample(0).is_empty());
    Ok(())
}
