"""Speech synthesizers as functions that say one word, in a chosen voice, at a chosen speed and pitch.

espeak-ng runs inside this process through its C library; flite and festival are run as programs.
An engine or a voice that is not installed raises `EngineMissing`, which synth.py reports and skips.
"""

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from scipy.io import wavfile


class EngineMissing(RuntimeError):
    """The engine, or one of its voices, is not installed."""


class Espeak:
    """espeak-ng, in process: a few milliseconds a word."""

    SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: call back from within espeak_Synth
    RATE, PITCH, RANGE = 1, 3, 4  # espeak_PARAMETER
    UTF8 = 1

    # Variants that whisper, sing or sound like machines say more about the effect than about the word.
    UNUSABLE = {"whisper", "whisperf", "croak", "Demonic", "Storm", "fast", "UniRobot", "anikaRobot"}
    # "en-us" three times: it is drawn that much more often. Versions that lack an accent go without.
    ACCENTS = ["en-us", "en-us", "en-us", "en-us-nyc", "en-gb", "en-gb-x-rp", "en-gb-x-gbclan",
               "en-gb-scotland", "en-029"]

    def __init__(self, library="libespeak-ng.so.1"):
        try:
            self.lib = ctypes.CDLL(library)
        except OSError as error:
            raise EngineMissing(f"espeak-ng: {error}") from error
        self.rate = self.lib.espeak_Initialize(self.SYNCHRONOUS, 0, None, 0)
        if self.rate <= 0:
            raise EngineMissing("espeak-ng: its voice data is missing")
        self.pieces = []
        prototype = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
        )
        self.callback = prototype(self._receive)  # kept: the library holds a bare pointer to it
        self.lib.espeak_SetSynthCallback(self.callback)
        self.accents = [a for a in self.ACCENTS if self.lib.espeak_SetVoiceByName(a.encode()) == 0]

    def _receive(self, samples, count, _events):
        if samples and count > 0:
            self.pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def variants(self):
        """Names of the usable voice variants."""
        data = ctypes.c_char_p()
        self.lib.espeak_Info.restype = ctypes.c_char_p
        self.lib.espeak_Info(ctypes.byref(data))
        folder = Path(data.value.decode()) / "voices" / "!v"
        names = (entry.name for entry in folder.iterdir())
        return sorted(n for n in names if n not in self.UNUSABLE and not n.startswith("robosoft"))

    def say(self, word, voice, words_per_minute, pitch, pitch_range):
        """(rate, samples) of one word; voice is `accent+variant`, pitch and range go from 0 to 100."""
        if self.lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise EngineMissing(f"espeak-ng: no voice {voice}")
        for parameter, value in ((self.RATE, words_per_minute), (self.PITCH, pitch), (self.RANGE, pitch_range)):
            self.lib.espeak_SetParameter(parameter, int(value), 0)
        self.pieces = []
        text = word.encode() + b"\0"
        self.lib.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, 1, 0, self.UTF8, None, None)
        self.lib.espeak_Synchronize()
        samples = np.concatenate(self.pieces) if self.pieces else np.zeros(0, np.int16)
        return self.rate, samples


def _program(name):
    path = shutil.which(name)
    if path is None:
        raise EngineMissing(f"{name}: the program is not installed")
    return path


class Flite:
    """flite: one process a word. Only the diphone voice `kal16` follows a pitch target."""

    def __init__(self):
        self.path = _program("flite")
        self.folder = tempfile.TemporaryDirectory()

    def say(self, word, voice, stretch, pitch=None, pitch_spread=None):
        """(rate, samples) of one word; `stretch` multiplies durations, pitch is in Hz."""
        out = Path(self.folder.name) / "word.wav"
        command = [self.path, "-voice", voice, "--setf", f"duration_stretch={stretch:.3f}"]
        if pitch is not None:
            command += ["--setf", f"int_f0_target_mean={pitch:.1f}"]
            command += ["--setf", f"int_f0_target_stddev={pitch_spread:.1f}"]
        done = subprocess.run([*command, "-t", word, "-o", str(out)], capture_output=True)
        if done.returncode != 0:
            raise EngineMissing(f"flite: voice {voice} failed")
        return wavfile.read(out)


class Festival:
    """festival: one process for many words, driven by a generated Scheme script."""

    def __init__(self):
        self.path = _program("festival")

    def say_all(self, jobs, voice):
        """Yields (word, rate, samples) for jobs (word, stretch, pitch or None, pitch spread)."""
        with tempfile.TemporaryDirectory() as folder:
            script = [f"(voice_{voice})"]
            outputs = []
            for number, (word, stretch, pitch, spread) in enumerate(jobs):
                out = Path(folder) / f"{number}.wav"
                outputs.append((word, out))
                script.append(f"(Parameter.set 'Duration_Stretch {stretch:.3f})")
                if pitch is not None:
                    script.append(
                        f"(set! int_lr_params '((target_f0_mean {pitch:.0f}) (target_f0_std {spread:.0f})"
                        " (model_f0_mean 170) (model_f0_std 34)))"
                    )
                script.append(f'(utt.save.wave (utt.synth (Utterance Text "{word}")) "{out}")')
            scheme = Path(folder) / "words.scm"
            scheme.write_text("\n".join(script))
            subprocess.run([self.path, "-b", str(scheme)], capture_output=True)
            written = [(word, out) for word, out in outputs if out.exists()]
            if not written:
                raise EngineMissing(f"festival: voice {voice} is not installed")
            for word, out in written:
                yield word, *wavfile.read(out)
