"""Dry words for a word bank: spoken by synthesizers, or read from your own folders of recordings.

    python synth.py engines data/words.npz                 every engine that is installed
    python synth.py folder  data/words.npz my_recordings   my_recordings/<word>/*.wav

Engines. Each engine plays one part, so that no test voice is ever heard in training:

    train   espeak-ng variants; flite kal16, awb, slt; festival ked, kal
    val     twelve espeak-ng variants that training does not use
    test    flite rms (a speaker of its own); festival slt_arctic_hts (an engine of its own)

Folder. One subfolder a word, named after the word: those that clips.py is told are keywords become
classes, all others become "other speech". A subfolder named `_background_` (or `_background_noise_`)
holds recordings of noise. Speakers are kept apart: a file's speaker is what --speaker matches in its
name (by default all before the first "_"), and a speaker's name decides which split takes all his files.
"""

import argparse
import hashlib
import random
import re
import sys
from pathlib import Path

from scipy.io import wavfile

from engines import EngineMissing, Espeak, Festival, Flite
from wordbank import WordBank, as_int16, tidy_word, to_16_khz
from words import BACKGROUND, HELD_OUT_WORDS, KEYWORDS, OTHER_WORDS

VALIDATION_VARIANTS = 12


def repeat(words, times, effort):
    """The list of words `times` times over, scaled by the effort, at least once."""
    return list(words) * max(1, round(times * effort))


def espeak_words(rng, effort):
    espeak = Espeak()
    variants = espeak.variants()
    rng.shuffle(variants)
    for number, variant in enumerate(variants):
        if number < VALIDATION_VARIANTS:
            split, other, times = "val", HELD_OUT_WORDS + OTHER_WORDS[::4], 6
        else:
            split, other, times = "train", OTHER_WORDS, 9
        for word in repeat(KEYWORDS, times, effort) + other:
            voice = f"{rng.choice(espeak.accents)}+{variant}"
            rate, samples = espeak.say(
                word, voice, rng.randint(110, 210), rng.randint(15, 85), rng.randint(20, 80)
            )
            yield rate, samples, word, f"espeak/{voice}", split


def flite_words(rng, effort):
    flite = Flite()
    parts = [("kal16", "train", 36, 3), ("awb", "train", 36, 3), ("slt", "train", 24, 2), ("rms", "test", 12, 2)]
    for voice, split, times, other_times in parts:
        other = OTHER_WORDS if split == "train" else HELD_OUT_WORDS
        for word in repeat(KEYWORDS, times, effort) + repeat(other, other_times, effort):
            pitch = (rng.uniform(75, 230), rng.uniform(8, 40)) if voice == "kal16" else (None, None)
            rate, samples = flite.say(word, voice, rng.uniform(0.8, 1.45), *pitch)
            yield rate, samples, word, f"flite/{voice}", split


def festival_words(rng, effort):
    festival = Festival()
    parts = [
        ("ked_diphone", "train", 36, 3, True),
        ("kal_diphone", "train", 18, 1, True),
        ("cmu_us_slt_arctic_hts", "test", 12, 2, False),
    ]
    for voice, split, times, other_times, pitched in parts:
        other = OTHER_WORDS if split == "train" else HELD_OUT_WORDS
        jobs = []
        for word in repeat(KEYWORDS, times, effort) + repeat(other, other_times, effort):
            pitch = (rng.uniform(80, 220), rng.uniform(8, 35)) if pitched else (None, None)
            jobs.append((word, rng.uniform(0.8, 1.4), *pitch))
        try:
            for word, rate, samples in festival.say_all(jobs, voice):
                yield rate, samples, word, f"festival/{voice}", split
        except EngineMissing as missing:
            print(f"skipped: {missing}", file=sys.stderr)


ENGINES = {"espeak": espeak_words, "flite": flite_words, "festival": festival_words}


def from_engines(names, effort, seed):
    """Recordings (int16 samples, word, voice, split) of all words by all engines that are there."""
    for name in names:
        count = 0
        try:
            for rate, samples, word, voice, split in ENGINES[name](random.Random(f"{seed} {name}"), effort):
                tidy = tidy_word(to_16_khz(samples, rate))
                if tidy is not None:
                    count += 1
                    yield tidy, word, voice, split
        except EngineMissing as missing:
            print(f"skipped: {missing}", file=sys.stderr)
        print(f"{name}: {count} words", file=sys.stderr)


def split_of(speaker, shares):
    """The split a speaker belongs to: decided by his name alone, so it never changes."""
    point = int.from_bytes(hashlib.sha256(speaker.encode()).digest()[:8], "big") / 2**64
    val, test = shares
    return "val" if point < val else "test" if point < val + test else "train"


def from_folder(folder, speaker_pattern, shares):
    """Recordings (int16 samples, word, voice, split) of `folder/<word>/*.wav`."""
    dropped = 0
    for path in sorted(Path(folder).glob("*/*.wav")):
        word = BACKGROUND if path.parent.name.startswith(BACKGROUND.rstrip("_")) else path.parent.name
        found = re.match(speaker_pattern, path.name)
        speaker = found.group(1) if found else path.stem
        rate, samples = wavfile.read(path)
        samples = to_16_khz(samples, rate)
        sound = as_int16(samples) if word == BACKGROUND else tidy_word(samples)
        if sound is None:
            dropped += 1
            continue
        yield sound, word, f"folder/{speaker}", split_of(speaker, shares)
    if dropped:
        print(f"left out {dropped} files: silent, or a word longer than 1.3 s", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sources = parser.add_subparsers(dest="source", required=True)

    engines = sources.add_parser("engines", help="let the installed synthesizers speak")
    engines.add_argument("out", help="word bank to write (.npz)")
    engines.add_argument("--engines", nargs="+", default=list(ENGINES), choices=list(ENGINES))
    engines.add_argument("--effort", type=float, default=1.0, help="scales how often each word is said")
    engines.add_argument("--seed", type=int, default=7)

    folder = sources.add_parser("folder", help="read <word>/*.wav")
    folder.add_argument("out", help="word bank to write (.npz)")
    folder.add_argument("folder")
    folder.add_argument("--speaker", default=r"([^_]+)_", help="regular expression; group 1 is the speaker")
    folder.add_argument("--shares", type=float, nargs=2, default=(0.1, 0.1), metavar=("VAL", "TEST"))

    args = parser.parse_args()
    if args.source == "engines":
        recordings = list(from_engines(args.engines, args.effort, args.seed))
    else:
        recordings = list(from_folder(args.folder, args.speaker, args.shares))
    if not recordings:
        sys.exit("no recordings: nothing was written")
    bank = WordBank.collect(recordings)
    bank.save(args.out)
    print(bank.summary())


if __name__ == "__main__":
    main()
