"""Writes a long always-on recording of held-out voices: mostly background, a word now and then.

    python stream.py data/words.npz data/stream.wav --seconds 75

Stretches of noise, 4 to 9 s each, are cross-faded over 0.1 s; a word starts every 3 to 7.5 s, 6 to 25 dB
above the noise around it, and about half of the words are keywords. A .json file of the same name lists
`events` (start and end in seconds, word, keyword or not, voice) and `background` (start, noise, level).
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.io import wavfile

from acoustics import Scene, db, reverberate, rms
from features import RATE
from wordbank import SPLITS, WordBank, as_int16
from words import KEYWORDS, NEAR_MISSES

FADE = RATE // 10


def lay_background(rng, scene, length):
    """(samples, list of stretches) of changing noise."""
    sound, stretches, start = np.zeros(length), [], 0
    ramp = np.linspace(0, 1, FADE)
    while length - start > 2 * FADE:
        n = min(int(rng.uniform(4, 9) * RATE), length - start)
        name, piece = scene.noise(n)
        level = rng.uniform(-60, -34)
        piece[:FADE] *= ramp
        piece[-FADE:] *= ramp[::-1]
        sound[start : start + n] += piece * db(level)
        stretches.append(dict(start=round(start / RATE, 3), noise=name, rms_db=round(level, 1)))
        start += n - FADE
    return sound, stretches


def add_words(rng, bank, split, keywords, leave_out, sound):
    """Adds words to the sound in place and returns the list of events."""
    usable = bank.speech(split) & ~np.isin(bank.word, leave_out)
    is_keyword = np.isin(bank.word, keywords)
    events, now = [], 2.5
    while now < len(sound) / RATE - 2:
        keyword = bool(rng.random() < 0.45)
        index = rng.choice(np.flatnonzero(usable & (is_keyword == keyword)))
        word = bank.sound(index)[:15000]
        if rng.random() < 0.4:
            word = reverberate(rng, word)
        start = int(now * RATE)
        around = sound[start : start + len(word)]
        level = np.clip(rms(around) * db(rng.uniform(6, 25)), 0.02, 0.25)
        around += word * (level / rms(word))
        events.append(dict(start=round(now, 3), end=round(now + len(word) / RATE, 3), word=str(bank.word[index]),
                           keyword=keyword, voice=str(bank.voice[index])))
        now += rng.uniform(3, 7.5)
    return events


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bank", help="word bank(s) from synth.py, separated by commas")
    parser.add_argument("out", help="recording to write (.wav)")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--seconds", type=float, default=75)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--keywords", nargs="+", default=KEYWORDS)
    parser.add_argument("--leave-out", nargs="*", default=NEAR_MISSES)
    args = parser.parse_args()

    rng = np.random.default_rng(args.seed)
    bank = WordBank.load(*args.bank.split(","))
    scene = Scene(bank, args.split, rng)
    sound, background = lay_background(rng, scene, int(args.seconds * RATE))
    events = add_words(rng, bank, args.split, args.keywords, args.leave_out, sound)
    sound += 1e-4 * rng.standard_normal(len(sound))
    sound *= min(1.0, 0.9 / np.abs(sound).max())

    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(out, RATE, as_int16(sound))
    out.with_suffix(".json").write_text(json.dumps(dict(events=events, background=background), indent=1) + "\n")
    print(f"{out}: {len(sound) / RATE:.0f} s, {len(events)} words, {sum(e['keyword'] for e in events)} keywords")


if __name__ == "__main__":
    main()
