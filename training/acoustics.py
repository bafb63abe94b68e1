"""Noise, rooms and voice changes, all synthetic, for clips.py and stream.py.

Every noise is a function (rng, n) -> n samples of any level; `Scene.noise` brings them to unit RMS.
"""

import numpy as np
from scipy.signal import fftconvolve, lfilter

from features import RATE
from words import BACKGROUND

NOISES = {}
TEST_ONLY = {}


def noise(register=NOISES):
    """Decorator: enters a generator into a family under its own name."""

    def enter(function):
        register[function.__name__] = function
        return function

    return enter


def rms(x):
    return np.sqrt(np.mean(np.square(x))) + 1e-9


def db(decibels):
    """Amplitude factor of a level difference in dB."""
    return 10 ** (decibels / 20)


def coloured(rng, n, slope):
    """Noise whose power falls with frequency as 1 / f^slope."""
    spectrum = np.fft.rfft(rng.standard_normal(n))
    return np.fft.irfft(spectrum / np.maximum(1, np.arange(len(spectrum))) ** (slope / 2), n)


def swell(rng, n, per_second):
    """A slowly wandering level between 0 and 1."""
    knots = max(2, round(n / RATE * per_second)) + 1
    return np.interp(np.linspace(0, knots - 1, n), np.arange(knots), rng.random(knots) ** 2)


def pitch(rng, low, high):
    """A frequency, uniform on the logarithmic scale."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


@noise()
def white(rng, n):
    return rng.standard_normal(n)


@noise()
def pink(rng, n):
    return coloured(rng, n, 1)


@noise()
def brown(rng, n):
    return coloured(rng, n, 2)


@noise()
def hum(rng, n):
    """Mains hum with eleven harmonics."""
    time = np.arange(n) / RATE
    base = rng.choice([50, 60]) * rng.uniform(0.99, 1.01)
    total = 0.05 * rng.standard_normal(n)
    for harmonic in range(1, 12):
        phase = 2 * np.pi * (base * harmonic * time + rng.random())
        total += rng.random() / harmonic * np.sin(phase)
    return total


@noise()
def tones(rng, n):
    """A few beeps."""
    total = 0.01 * rng.standard_normal(n)
    for _ in range(rng.integers(1, 4)):
        start, end = np.sort(rng.integers(0, n, 2))
        total[start:end] += rng.random() * np.sin(2 * np.pi * pitch(rng, 150, 5000) / RATE * np.arange(end - start))
    return total


@noise()
def clicks(rng, n):
    """Random impulses through one resonance: keys, cups, footsteps."""
    impulses = np.zeros(n)
    count = rng.integers(2, 25)
    impulses[rng.integers(0, n, count)] = rng.standard_normal(count)
    radius, angle = rng.uniform(0.8, 0.985), 2 * np.pi * rng.uniform(500, 5000) / RATE
    ringing = lfilter([1], [1, -2 * radius * np.cos(angle), radius**2], impulses)
    return ringing + 0.003 * rng.standard_normal(n)


@noise()
def pluck(rng, n):
    """Plucked strings (Karplus-Strong): something like music."""
    total = np.zeros(n)
    for _ in range(rng.integers(2, 7)):
        period = int(RATE / pitch(rng, 80, 900))
        start = rng.integers(0, max(1, n - 800))
        burst = np.zeros(n - start)
        burst[:period] = rng.standard_normal(min(period, n - start))
        loop = np.zeros(period + 2)
        loop[0], loop[period], loop[period + 1] = 1, -0.498, -0.498
        total[start:] += rng.random() * lfilter([1], loop, burst)
    return total


@noise()
def wind(rng, n):
    return coloured(rng, n, 2) * (0.2 + swell(rng, n, 4)) + 0.02 * rng.standard_normal(n)


@noise()
def pulses(rng, n):
    """Noise chopped at 15 to 90 Hz: engines and fans."""
    turns = rng.uniform(15, 90) * (1 + 0.03 * rng.standard_normal()) * np.arange(n) / RATE
    bursts = np.clip(np.sin(2 * np.pi * turns), 0, None) ** 8 * rng.standard_normal(n)
    return lfilter([1, -0.5], [1, -0.9], bursts)


@noise(TEST_ONLY)
def rain(rng, n):
    drops = (rng.random(n) < 0.02) * rng.random(n) * rng.standard_normal(n)
    return lfilter([1, -0.95], [1, -0.3], drops)


@noise(TEST_ONLY)
def siren(rng, n):
    time = np.arange(n) / RATE
    sweep = np.sin(2 * np.pi * (rng.uniform(0.3, 3) * time + rng.random()))
    phase = 2 * np.pi * np.cumsum(rng.uniform(500, 900) + rng.uniform(100, 400) * sweep) / RATE
    return np.sin(phase) + 0.3 * np.sin(2 * phase) + 0.02 * rng.standard_normal(n)


def reverberate(rng, x, decay=None):
    """Adds an exponentially decaying tail, 60 dB in `decay` seconds; keeps the length."""
    decay = decay or rng.uniform(0.1, 0.6)
    length = int(decay * RATE)
    tail = rng.standard_normal(length) * db(-60 * np.arange(length) / length)
    tail = lfilter([0.4], [1, -0.6], tail)
    tail /= np.sqrt(np.sum(tail**2)) + 1e-9
    delay = rng.integers(20, 200)
    response = np.concatenate([[1], np.zeros(delay - 1), rng.uniform(0.2, 0.7) * tail])
    return fftconvolve(x, response)[: len(x)]


def change_voice(rng, x):
    """Resamples by 0.84 to 1.22: speed, pitch and formants move together, as with a longer vocal tract."""
    factor = pitch(rng, 0.84, 1.22)
    return np.interp(np.arange(int(len(x) / factor)) * factor, np.arange(len(x)), x)


def tilt(rng, x):
    """A random gentle first-order filter: microphones and distances."""
    return lfilter([1, rng.uniform(-0.6, 0.3)], [1, rng.uniform(-0.3, 0.3)], x)


class Scene:
    """The noises one split may use: the synthetic families, babble of its own voices, own recordings."""

    def __init__(self, bank, split, rng):
        self.bank, self.rng = bank, rng
        self.talk = np.flatnonzero(bank.speech(split))
        self.recordings = np.flatnonzero((bank.split == split) & (bank.word == BACKGROUND))
        self.families = dict(NOISES)
        if split == "test":
            self.families |= TEST_ONLY
        if len(self.talk):
            self.families["babble"] = self._babble
        if len(self.recordings):
            self.families["recorded"] = self._recorded

    def noise(self, n):
        """(name of the main family, n samples of unit RMS); a quarter of the noises mix two families."""
        name = self.rng.choice(list(self.families))
        sound = self.families[name](self.rng, n)
        if self.rng.random() < 0.25:
            second = self.rng.choice(list(self.families))
            sound = sound + self.rng.random() * self.families[second](self.rng, n)
        return str(name), sound / rms(sound)

    def _babble(self, rng, n):
        """Six to thirteen words at once, in a room."""
        total = np.zeros(n)
        for index in rng.choice(self.talk, rng.integers(6, 14)):
            word = self.bank.sound(index)[:n]
            at = rng.integers(-len(word) // 2, n - len(word) // 2)
            start, end = max(0, at), min(n, at + len(word))
            total[start:end] += rng.uniform(0.4, 1) * word[start - at : end - at]
        return reverberate(rng, total, 0.5)

    def _recorded(self, rng, n):
        """A random stretch of a random background recording, repeated when it is too short."""
        sound = self.bank.sound(rng.choice(self.recordings))
        if len(sound) < n:
            sound = np.resize(sound, n)
        start = rng.integers(0, len(sound) - n + 1)
        return sound[start : start + n]
