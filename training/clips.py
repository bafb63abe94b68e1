"""Mixes dry words into one-second clips with rooms, levels and noise, and writes their features.

    python clips.py data/words.npz train data/train.npz --per-keyword 800 --other 6000 --background 4000
    python clips.py data/words.npz val  data/val.npz  --per-keyword 100 --other 700 --background 700 --seed 11
    python clips.py data/words.npz test data/test.npz --per-keyword 100 --other 600 --background 1000 --seed 12

A clip is  y = level * (room * voice change * word, at a random place) + noise at a random SNR.

    level   -44 to -15 dBFS        SNR     0 to 30 dB on four clips of five, else 50 dB
    room    on 45 % of the clips   voice   0.84 to 1.22 (in the test split on half of the clips)

The .npz holds `log_mel` [n, 49, 40] (float16), `label` [n], `labels` (class names), `word`, `voice`,
`noise`, `snr_db` [n], and `audio` [n, 16000] (int16) with --audio.
"""

import argparse
from pathlib import Path

import numpy as np

from acoustics import Scene, change_voice, db, reverberate, rms, tilt
from features import MELS, FRAMES, RATE, log_mel
from wordbank import SPLITS, WordBank, as_int16
from words import KEYWORDS, NEAR_MISSES, class_list

NO_WORD = -1
SNR_OF_BACKGROUND = -99.0


def background_clip(rng, scene):
    """(samples, noise name): near silence on 6 % of the clips, else one noise between -64 and -14 dBFS."""
    if rng.random() < 0.06:
        return 10 ** rng.uniform(-5, -3.3) * rng.standard_normal(RATE), "silence"
    name, sound = scene.noise(RATE)
    return sound * db(rng.uniform(-64, -14)), name


def word_clip(rng, scene, word, vary_voice):
    """(samples, noise name, SNR in dB) of one word in a room with noise."""
    if vary_voice:
        word = change_voice(rng, word)
    word = tilt(rng, word)
    if len(word) > RATE:
        cut = (len(word) - RATE) // 2
        word = word[cut : cut + RATE]
    start = int(np.clip(rng.normal(0.5, 0.22), 0, 1) * (RATE - len(word)))
    spoken = slice(start, start + len(word))

    clip = np.zeros(RATE)
    clip[spoken] = word
    if rng.random() < 0.45:
        clip = reverberate(rng, clip)
    clip *= db(rng.uniform(-44, -15)) / rms(clip[spoken])

    name, sound = scene.noise(RATE)
    snr = rng.uniform(0, 30) if rng.random() < 0.8 else 50.0
    clip = clip + sound * rms(clip[spoken]) * db(-snr)
    clip += 10 ** rng.uniform(-5, -4) * rng.standard_normal(RATE)
    return clip, name, snr


def within_full_scale(clip):
    peak = np.abs(clip).max()
    return clip * (0.99 / peak) if peak > 0.99 else clip


def draw(rng, pool, count):
    """`count` members of a pool, each used equally often as far as it goes."""
    if count and not len(pool):
        raise SystemExit("no recording of a word that clips were asked for; see synth.py")
    return rng.permutation(np.resize(rng.permutation(pool), count))


def plan(rng, bank, split, keywords, args):
    """(class, index into the bank or NO_WORD) of every clip, shuffled.

    Formant synthesis (espeak) outnumbers the natural-sounding voices, so in training those get extra clips.
    """
    usable = bank.speech(split) & ~np.isin(bank.word, args.leave_out)
    natural = ~np.char.startswith(bank.voice.astype(str), "espeak")
    extra = args.natural_extra if split == "train" and not natural[usable].all() else 0.0
    unknown, background = len(keywords), len(keywords) + 1

    wanted = [(number, bank.word == word, args.per_keyword) for number, word in enumerate(keywords)]
    wanted.append((unknown, ~np.isin(bank.word, keywords), args.other))
    jobs = [(background, NO_WORD)] * args.background
    for label, of_class, count in wanted:
        pool = np.flatnonzero(usable & of_class)
        jobs += [(label, i) for i in draw(rng, pool, count)]
        favoured = np.flatnonzero(usable & of_class & natural)
        if extra and len(favoured):
            jobs += [(label, i) for i in draw(rng, favoured, round(count * extra))]
    return [jobs[k] for k in rng.permutation(len(jobs))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bank", help="word bank(s) from synth.py, separated by commas")
    parser.add_argument("split", choices=SPLITS)
    parser.add_argument("out", help="clips to write (.npz)")
    parser.add_argument("--keywords", nargs="+", default=KEYWORDS)
    parser.add_argument("--leave-out", nargs="*", default=NEAR_MISSES, help="words no clip may contain")
    parser.add_argument("--per-keyword", type=int, default=400)
    parser.add_argument("--other", type=int, default=3000, help="clips of other speech")
    parser.add_argument("--background", type=int, default=2000, help="clips without speech")
    parser.add_argument("--natural-extra", type=float, default=0.5, help="extra share of natural voices (training)")
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--audio", action="store_true", help="keep the sound beside the features")
    args = parser.parse_args()

    rng = np.random.default_rng(args.seed)
    bank = WordBank.load(*args.bank.split(","))
    scene = Scene(bank, args.split, rng)
    jobs = plan(rng, bank, args.split, args.keywords, args)

    features = np.zeros((len(jobs), FRAMES, MELS), np.float16)
    rows = []
    for number, (label, index) in enumerate(jobs):
        if index == NO_WORD:
            clip, noise = background_clip(rng, scene)
            snr, word, voice = SNR_OF_BACKGROUND, "", ""
        else:
            vary = args.split != "test" or rng.random() < 0.5
            clip, noise, snr = word_clip(rng, scene, bank.sound(index), vary)
            word, voice = str(bank.word[index]), str(bank.voice[index])
        samples = as_int16(within_full_scale(clip))
        features[number] = log_mel(samples / 32768)
        rows.append((label, word, voice, noise, snr, samples if args.audio else None))

    label, word, voice, noise, snr, audio = zip(*rows)
    labels = class_list(args.keywords)
    columns = dict(log_mel=features, label=np.array(label, np.int64), labels=np.array(labels), word=np.array(word),
                   voice=np.array(voice), noise=np.array(noise), snr_db=np.array(snr, np.float32))
    if args.audio:
        columns["audio"] = np.stack(audio)
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    np.savez(args.out, **columns)
    counts = np.bincount(columns["label"], minlength=len(labels))
    print(f"{args.out}: {len(rows)} clips;", ", ".join(f"{n} {c}" for n, c in zip(labels, counts)))


if __name__ == "__main__":
    main()
