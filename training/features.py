"""Front end: one second of 16 kHz mono sound -> log-mel [49, 40] -> MFCC [49, 10].

    frames   x_t[n] = x[320 t + n],  n < 480,  t < 49              30 ms long, one every 20 ms, no padding
    window   h[n]   = 1/2 - 1/2 cos(2 pi n / 480)                  periodic Hann
    power    P_t[k] = |sum_n h[n] x_t[n] exp(-2 pi i k n / 512)|^2    k <= 256, zero padded to 512
    mel      E_t[m] = sum_k M[m, k] P_t[k]                         40 triangles of peak 1, 60 to 7600 Hz
    log-mel  L_t[m] = ln(E_t[m] + 1e-6)
    MFCC     C_t[q] = sum_m D[q, m] L_t[m]                         orthonormal DCT-II, q < 10

Triangle m rises from edge m to edge m+1 and falls to edge m+2; the 42 edges are equidistant on the
scale mel(f) = 2595 log10(1 + f / 700), and a weight is read at the bin's centre, 31.25 k Hz.

Samples are 16-bit integers divided by 32768. Everything is computed in float64 and rounded to float32
once, at the end. The mean and scale of each coefficient belong to the model, not to the front end.
"""

import numpy as np

RATE = 16000
FRAME = 480
HOP = 320
FFT = 512
FRAMES = (RATE - FRAME) // HOP + 1
MELS = 40
MFCCS = 10
MEL_RANGE = (60.0, 7600.0)
LOG_FLOOR = 1e-6


def hann_window():
    """Periodic Hann window, [480]."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)


def mel_filters():
    """Triangular filters M, [40, 257]."""
    low, high = (2595 * np.log10(1 + f / 700) for f in MEL_RANGE)
    edges = 700 * (10 ** (np.linspace(low, high, MELS + 2) / 2595) - 1)
    left, peak, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bins = np.arange(FFT // 2 + 1) * RATE / FFT
    rising = (bins - left) / (peak - left)
    falling = (right - bins) / (right - peak)
    return np.clip(np.minimum(rising, falling), 0, None)


def dct_matrix():
    """First ten rows D of the orthonormal DCT-II, [10, 40]."""
    angle = np.pi * np.outer(np.arange(MFCCS), np.arange(MELS) + 0.5) / MELS
    scale = np.full((MFCCS, 1), np.sqrt(2 / MELS))
    scale[0] = np.sqrt(1 / MELS)
    return scale * np.cos(angle)


_HANN, _MEL, _DCT = hann_window(), mel_filters(), dct_matrix()


def _log_mel_f64(sound):
    frames = np.lib.stride_tricks.sliding_window_view(np.asarray(sound, np.float64), FRAME, axis=-1)
    frames = frames[..., ::HOP, :][..., :FRAMES, :]
    spectrum = np.fft.rfft(frames * _HANN, FFT)
    power = spectrum.real**2 + spectrum.imag**2
    return np.log(power @ _MEL.T + LOG_FLOOR)


def log_mel(sound):
    """[..., 16000] samples in [-1, 1) -> [..., 49, 40] float32."""
    return _log_mel_f64(sound).astype(np.float32)


def mfcc(sound):
    """[..., 16000] samples in [-1, 1) -> [..., 49, 10] float32."""
    return (_log_mel_f64(sound) @ _DCT.T).astype(np.float32)


def mfcc_from_log_mel(log_mels):
    """MFCC of log-mel features that are already there (training keeps only those)."""
    return (np.asarray(log_mels, np.float64) @ _DCT.T).astype(np.float32)


def model_input(kind, log_mels):
    """What a model of this kind reads, [N, 1, 49, 10] or [N, 1, 49, 40], from log-mel [N, 49, 40]."""
    values = mfcc_from_log_mel(log_mels) if kind == "dscnn" else np.asarray(log_mels, np.float32)
    return values[:, None]


def windows(sound, hop):
    """One-second windows of a longer recording, [count, 16000], one every `hop` samples."""
    return np.lib.stride_tricks.sliding_window_view(sound, RATE)[::hop]
