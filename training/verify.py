"""Runs weights files in plain numpy, really skipping dead channels and really leaving at gates.

    python verify.py ../models

For every NAME.safetensors the results on the clips of `expected/` have to equal the dense ones stored
there, and the MACs that were done have to equal those that macs.py predicts. Dead channels hold NaN after
each mask, so a computation that reads one shows. This file doubles as a specification of the two networks.
"""

import argparse
from pathlib import Path

import numpy as np
from scipy.special import expit, softmax

from metrics import channels_read, exits, gate_scores, live_channels, sample_macs
from weights import Weights

TOLERANCE = 2e-5


class Skipping:
    """One sample at a time; counts MACs as it goes."""

    def __init__(self, weights):
        self.cfg = weights.cfg
        self.weights = weights
        self.w = {name: tensor.astype(np.float64) for name, tensor in weights.tensors.items()}
        self.read = channels_read(weights)
        self.macs = 0

    def linear(self, x, name, rows=slice(None), columns=slice(None)):
        """x @ weight[rows, columns] + bias[columns]"""
        weight = self.w[f"{name}.weight"][rows][:, columns]
        self.macs += x.size // x.shape[-1] * weight.size
        return x @ weight + self.w[f"{name}.bias"][columns]

    def gate(self, j, mean, largest):
        self.macs += 2 * len(mean)
        logit = np.concatenate([mean, largest]) @ self.w[f"gc{j}.gate.weight"] + self.w[f"gc{j}.gate.bias"]
        return expit(logit[0])

    def live(self, j, mean):
        """Which channels the mask of GC layer j keeps, as booleans."""
        if self.cfg["mode"] != "dynamic":
            return self.w[f"gc{j}.mask"][0] > 0
        hidden = np.maximum(self.linear(mean, f"gc{j}.h1"), 0)
        return self.linear(hidden, f"gc{j}.h2") > 0

    def run(self, features, leave):
        """(logits or None, gate scores, MACs); with `leave`, nothing behind the first stop is done."""
        self.macs = 0
        channels, gates = self.weights.channels, self.cfg["gc_after"]
        x, mask, scores = self.first(features), np.ones(channels, bool), []
        for s in range(self.stages + 1):
            if s:
                x = self.stage(s, x, mask)
                mask = mask if self.mask_lasts else np.ones(channels, bool)
            if s in gates:
                j = gates.index(s)
                seen = np.where(mask[:, None], x, 0)  # what an earlier mask dropped counts as zero
                mean, largest = seen.mean(axis=1), seen.max(axis=1)
                scores.append(self.gate(j, mean, largest))
                mask = mask & self.live(j, mean)
                x = np.where(mask[:, None], x, np.nan)
                if leave and exits(np.float32([scores]), self.weights.thresholds[: j + 1])[0] == j:
                    return None, scores, self.macs
        return self.head(x, mask), scores, self.macs


class SkippingCnn(Skipping):
    """Maps are [C, 125]: 25 x 5 pixels in a row."""

    mask_lasts = False
    shape = (25, 5)

    @property
    def stages(self):
        return self.cfg["blocks"]

    def needed(self, s):
        """Outputs of stage s that somebody reads; the others are not computed and stay zero."""
        if s in self.cfg["gc_after"]:
            return np.flatnonzero(self.read[self.cfg["gc_after"].index(s)])
        return np.arange(self.weights.channels)

    def first(self, features):
        x = np.pad((features - self.w["mean"]) * self.w["istd"], ((5, 5), (1, 1)))
        patches = np.lib.stride_tricks.sliding_window_view(x, (10, 4))[::2, ::2].reshape(-1, 40)
        return self.pointwise(patches.T, self.w["conv.weight"].reshape(-1, 40), self.w["conv.bias"], self.needed(0))

    def pointwise(self, x, weight, bias, needed):
        out = np.zeros((len(bias), x.shape[1]))
        out[needed] = np.maximum(weight[needed] @ x + bias[needed, None], 0)
        self.macs += len(needed) * x.size
        return out

    def stage(self, s, x, mask):
        live = np.flatnonzero(mask)
        maps = np.pad(x[live].reshape(-1, *self.shape), ((0, 0), (1, 1), (1, 1)))
        taps = np.lib.stride_tricks.sliding_window_view(maps, (3, 3), (1, 2))
        depthwise = np.einsum("cyxij,cij->cyx", taps, self.w[f"b{s}.dw.weight"][live, 0]).reshape(len(live), -1)
        self.macs += 9 * depthwise.size
        weight = self.w[f"b{s}.pw.weight"][:, live, 0, 0]
        return self.pointwise(depthwise, weight, self.w[f"b{s}.pw.bias"], self.needed(s))

    def head(self, x, mask):
        return self.linear(np.where(mask, x.mean(axis=1), 0), "fc")


class SkippingTransformer(Skipping):
    """The residual stream is [C, tokens]."""

    mask_lasts = True

    @property
    def stages(self):
        return self.cfg["layers"]

    def first(self, features):
        x = (features[:48] - self.w["mean"]) * self.w["istd"]
        tokens = x.reshape(48 // self.cfg["patch"], -1)
        return (self.linear(tokens, "emb") + self.w["pos"]).T

    def rms_norm(self, x, name, live):
        """Live channels only, but the mean is over all of them."""
        square = (x * x).sum(axis=1, keepdims=True) / self.cfg["d"]
        return x / np.sqrt(square + 1e-5) * self.w[f"{name}.weight"][live]

    def stage(self, s, x, mask):
        name, dim, heads = f"e{s - 1}", self.cfg["d"], self.cfg["heads"]
        live = np.flatnonzero(mask)
        stream = x[live].T
        tokens = len(stream)

        packed = self.linear(self.rms_norm(stream, f"{name}.n1", live), f"{name}.qkv", rows=live)
        query, key, value = packed.reshape(tokens, 3, heads, dim // heads).transpose(1, 2, 0, 3)
        attention = softmax(query @ key.transpose(0, 2, 1) * (dim // heads) ** -0.5, axis=-1)
        self.macs += 2 * tokens * tokens * dim
        attended = (attention @ value).transpose(1, 0, 2).reshape(tokens, dim)
        stream = stream + self.linear(attended, f"{name}.o", columns=live)

        hidden = np.maximum(self.linear(self.rms_norm(stream, f"{name}.n2", live), f"{name}.f1", rows=live), 0)
        stream = stream + self.linear(hidden, f"{name}.f2", columns=live)

        out = np.full(x.shape, np.nan)
        out[live] = stream.T
        return out

    def head(self, x, mask):
        live = np.flatnonzero(mask)
        pooled = np.zeros(len(mask))
        pooled[live] = self.rms_norm(x[live].T, "norm", live).mean(axis=0)
        return self.linear(pooled, "fc")


def check(weights, features, expected, name):
    """Compares both ways of running with the stored outputs; returns True when all agree."""
    network = (SkippingCnn if weights.cfg["kind"] == "dscnn" else SkippingTransformer)(weights)
    names = ["logits"] + [f"gate_{j}" for j in range(weights.gates)]
    if weights.cfg["mode"] == "dynamic":
        names += [f"mask_{j}" for j in range(weights.gates)]
    outputs = {output: np.load(expected / f"{name}.{output}.npy") for output in names}
    logits, scores = outputs["logits"], gate_scores(outputs)
    left_at = np.load(expected / f"{name}.exit.npy")
    predicted = sample_macs(weights, live_channels(weights, outputs, len(features)), left_at)

    off_logits = off_scores = wrong_exits = wrong_macs = 0
    for n, sample in enumerate(features[:, 0].astype(np.float64)):
        full, seen, _ = network.run(sample, leave=False)
        off_logits = max(off_logits, np.abs(full - logits[n]).max())
        off_scores = max(off_scores, np.abs(seen - scores[n]).max())
        kept, seen, macs = network.run(sample, leave=True)
        exit_gate = weights.gates if kept is not None else len(seen) - 1
        wrong_exits += exit_gate != left_at[n]
        wrong_macs += macs != predicted[n]
        if kept is not None:
            off_logits = max(off_logits, np.abs(kept - logits[n]).max())
    good = max(off_logits, off_scores) < TOLERANCE and wrong_exits == wrong_macs == 0
    print(f"{name}: logits {off_logits:.1e}, gate scores {off_scores:.1e}, other exits {wrong_exits}, other MACs "
          f"{wrong_macs} of {len(features)}; {predicted.mean():.0f} MACs a clip: {'equal' if good else 'DIFFERENT'}")
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="folder with weights files and expected/")
    args = parser.parse_args()

    expected = args.models / "expected"
    results = []
    for path in sorted(args.models.glob("*.safetensors")):
        weights = Weights.load(path)
        kind = "mfcc" if weights.cfg["kind"] == "dscnn" else "logmel"
        results.append(check(weights, np.load(expected / f"{kind}.npy"), expected, path.stem))
    if not results or not all(results):
        raise SystemExit("verification failed" if results else "no weights files there")


if __name__ == "__main__":
    main()
