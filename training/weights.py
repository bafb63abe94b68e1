"""The weights file of a gated model: a .safetensors file of float32 tensors with JSON metadata.

Metadata: `cfg` (the architecture, see models.py), `thresholds` (one per gate), `labels` (class names).
Batch normalisation is folded into the convolutions and matrices are stored [in, out], so that a layer is
y = x @ weight + bias. `s` counts blocks or layers, `j` counts gates.

    mean, istd                       [F]          input normalisation (x - mean) * istd
    gc{j}.gate.weight, .bias         [2C, 1], [1]
    gc{j}.mask                       [1, C]       static masks (0 or 1; all ones when only gates are used)
    gc{j}.h1.*, gc{j}.h2.*           [C, H], [H], [H, C], [C]     dynamic masks
    fc.weight, fc.bias               [C, classes], [classes]

    DS-CNN       conv.weight, .bias; b{s}.dw.weight; b{s}.pw.weight, .bias          s = 1 .. blocks
    transformer  emb.*, pos; e{s}.n1.weight, .qkv.*, .o.*, .n2.weight, .f1.*, .f2.*; norm.weight
                                                                                    s = 0 .. layers - 1
"""

import json
from dataclasses import dataclass

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from words import KEYWORDS, class_list


@dataclass
class Weights:
    cfg: dict
    thresholds: list
    labels: list
    tensors: dict

    @property
    def gates(self):
        return len(self.cfg["gc_after"])

    @property
    def channels(self):
        return self.cfg["ch" if self.cfg["kind"] == "dscnn" else "d"]

    @property
    def positives(self):
        """Number of keyword classes; the two classes after them are negatives."""
        return len(self.labels) - 2

    @property
    def parameters(self):
        """Numbers that training found: all but the input normalisation and the 0/1 masks."""
        fixed = ("mean", "istd")
        return sum(t.size for n, t in self.tensors.items() if n not in fixed and not n.endswith(".mask"))

    @classmethod
    def load(cls, path):
        with safe_open(path, "np") as file:
            meta = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        labels = json.loads(meta["labels"]) if "labels" in meta else class_list(KEYWORDS)
        return cls(json.loads(meta["cfg"]), json.loads(meta["thresholds"]), labels, tensors)

    def save(self, path):
        metadata = {name: json.dumps(getattr(self, name)) for name in ("cfg", "thresholds", "labels")}
        save_file({n: np.ascontiguousarray(t) for n, t in sorted(self.tensors.items())}, path, metadata)


def fold_batch_norm(weight, state, norm, eps=1e-5):
    """Weight and bias of a convolution with the batch normalisation after it folded in.

        scale = gamma / sqrt(var + eps)        weight' = scale * weight        bias' = beta - scale * mean
    """
    scale = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + eps)
    bias = state[f"{norm}.bias"] - scale * state[f"{norm}.running_mean"]
    return weight * scale.reshape(-1, *[1] * (weight.ndim - 1)), bias


def tensors_from_state(cfg, state):
    """The tensors of the file from the state of a module in models.py (numpy arrays by name)."""
    out = {"mean": state["mean"], "istd": state["istd"]}

    def linear(source, target):
        out[f"{target}.weight"] = state[f"{source}.weight"].T
        out[f"{target}.bias"] = state[f"{source}.bias"]

    def convolution(source, norm, target):
        out[f"{target}.weight"], out[f"{target}.bias"] = fold_batch_norm(state[f"{source}.weight"], state, norm)

    linear("classifier", "fc")
    if cfg["kind"] == "dscnn":
        convolution("stem", "stem_norm", "conv")
        for s in range(cfg["blocks"]):
            out[f"b{s + 1}.dw.weight"] = state[f"blocks.{s}.depthwise.weight"]
            convolution(f"blocks.{s}.pointwise", f"blocks.{s}.norm", f"b{s + 1}.pw")
    else:
        linear("embed", "emb")
        out["pos"], out["norm.weight"] = state["position"], state["norm.weight"]
        for s in range(cfg["layers"]):
            out[f"e{s}.n1.weight"] = state[f"layers.{s}.norm1.weight"]
            out[f"e{s}.n2.weight"] = state[f"layers.{s}.norm2.weight"]
            for source, target in (("qkv", "qkv"), ("merge", "o"), ("widen", "f1"), ("narrow", "f2")):
                linear(f"layers.{s}.{source}", f"e{s}.{target}")

    for j, stage in enumerate(cfg["gc_after"]):
        source, target = f"gated.{stage}", f"gc{j}"
        linear(f"{source}.gate", f"{target}.gate")
        if cfg["mode"] == "dynamic":
            linear(f"{source}.squeeze", f"{target}.h1")
            linear(f"{source}.excite", f"{target}.h2")
        elif cfg["mode"] == "static":
            out[f"{target}.mask"] = (state[f"{source}.mask_logit"] > 0)[None]
        else:
            out[f"{target}.mask"] = np.ones((1, state[f"{source}.gate.weight"].shape[1] // 2))
    return {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in out.items()}


def from_checkpoint(path):
    """Reads a checkpoint of train.py (needs torch). Thresholds start at 0.5; gates.py calibrates them."""
    import torch

    saved = torch.load(path, map_location="cpu", weights_only=True)
    state = {name: tensor.numpy() for name, tensor in saved["state"].items()}
    tensors = tensors_from_state(saved["cfg"], state)
    return Weights(saved["cfg"], [0.5] * len(saved["cfg"]["gc_after"]), saved["labels"], tensors)
