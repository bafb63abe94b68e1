"""A word bank: many short dry recordings in one file, each with its word, its voice and its split.

The .npz file holds `audio` (all samples one after another, int16, 16 kHz), `offset` [n + 1] (recording i
is audio[offset[i]:offset[i+1]]) and the string arrays `word`, `voice` and `split` [n].
"""

from dataclasses import dataclass
from math import gcd
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

from features import RATE
from words import BACKGROUND

SPLITS = ("train", "val", "test")


@dataclass
class WordBank:
    audio: np.ndarray
    offset: np.ndarray
    word: np.ndarray
    voice: np.ndarray
    split: np.ndarray

    def __len__(self):
        return len(self.word)

    def sound(self, index):
        """Recording `index` as float samples in [-1, 1)."""
        return self.audio[self.offset[index] : self.offset[index + 1]].astype(np.float64) / 32768

    def speech(self, split):
        """Mask of the spoken recordings of one split (background recordings are not speech)."""
        return (self.split == split) & (self.word != BACKGROUND)

    def save(self, path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **vars(self))

    @classmethod
    def load(cls, *paths):
        """Reads one bank, or several as one."""
        banks = []
        for path in paths:
            with np.load(path) as file:
                banks.append(cls(**{name: file[name] for name in file.files}))
        lengths = np.concatenate([np.diff(bank.offset) for bank in banks])
        fields = {name: np.concatenate([getattr(bank, name) for bank in banks])
                  for name in ("audio", "word", "voice", "split")}
        return cls(offset=np.concatenate([[0], np.cumsum(lengths)]), **fields)

    @classmethod
    def collect(cls, recordings):
        """Builds a bank from (int16 samples, word, voice, split) tuples."""
        sounds, words, voices, splits = zip(*recordings)
        return cls(
            audio=np.concatenate(sounds),
            offset=np.concatenate([[0], np.cumsum([len(s) for s in sounds])]),
            word=np.array(words),
            voice=np.array(voices),
            split=np.array(splits),
        )

    def summary(self):
        lines = []
        for split in SPLITS:
            chosen = self.split == split
            seconds = np.diff(self.offset)[chosen].sum() / RATE
            voices = len(set(self.voice[chosen]))
            lines.append(f"{split:5s} {chosen.sum():6d} recordings  {voices:4d} voices  {seconds:8.0f} s")
        return "\n".join(lines)


def to_16_khz(samples, rate):
    """Mono float samples at 16 kHz from integer or float samples at any rate, one channel or several."""
    samples = np.asarray(samples)
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float64) - 128) / 128
    elif np.issubdtype(samples.dtype, np.integer):
        samples = samples.astype(np.float64) / -float(np.iinfo(samples.dtype).min)
    if samples.ndim == 2:
        samples = samples.mean(axis=1)
    if rate != RATE:
        common = gcd(int(rate), RATE)
        samples = resample_poly(samples, RATE // common, rate // common)
    return np.asarray(samples, np.float64)


def as_int16(samples):
    return np.round(np.clip(samples, -1, 32767 / 32768) * 32768).astype(np.int16)


def tidy_word(samples, longest=1.3):
    """Cuts the silence around a word and sets its peak; None when nothing usable is left.

    Silence is whatever lies 38 dB under the loudest 10 ms; 20 ms before and 30 ms after are kept.
    """
    if len(samples) < RATE // 40:
        return None
    envelope = np.sqrt(np.convolve(samples**2, np.full(160, 1 / 160), "same"))
    if envelope.max() < 1e-3:
        return None
    loud = np.flatnonzero(envelope > envelope.max() * 10 ** (-38 / 20))
    word = samples[max(0, loud[0] - 320) : loud[-1] + 480]
    if len(word) > longest * RATE:
        return None
    return as_int16(word * (0.6 / np.abs(word).max()))
