"""Writes small transformer blocks as PyTorch exports them, each with an input and what PyTorch computes for it.

    pip install torch onnx onnxscript
    python make.py .

A case is a folder BLOCK.EXPORTER with model.onnx, in_K.npy and out_0.npy, as `sluicegate check` reads them. Blocks are
written the way that libraries write them (timm: one product for q, k, v; transformers: three), with the fused call
(`sdpa`) or by hand (`eager`). Exporters:

    ts17, ts17n    TorchScript, operator set 17; the same with a symbolic batch
    dyn18, dyn23   torch.export; operator set 23 has Attention, RMSNormalization and Gelu

Weights are random with a fixed seed. What exporters note about where the code was is removed.
"""

import io
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn import functional as F

SIZE, HEADS, HIDDEN, TOKENS, BATCH = 16, 2, 24, 5, 2
WIDTH = SIZE // HEADS


def heads(x, count):
    return x.view(x.shape[0], x.shape[1], count, -1).transpose(1, 2)


def merge(x):
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


class RmsNorm(nn.Module):
    """As in Llama."""

    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Fused(nn.Module):
    """timm's: one product for q, k and v."""

    def __init__(self, sdpa):
        super().__init__()
        self.sdpa = sdpa
        self.norm1, self.norm2 = nn.LayerNorm(SIZE), nn.LayerNorm(SIZE)
        self.qkv, self.o = nn.Linear(SIZE, 3 * SIZE), nn.Linear(SIZE, SIZE)
        self.f1, self.f2 = nn.Linear(SIZE, HIDDEN), nn.Linear(HIDDEN, SIZE)

    def forward(self, x):
        count, tokens, _ = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(count, tokens, 3, HEADS, WIDTH).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.sdpa:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = ((q * WIDTH**-0.5) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        x = x + self.o(merge(y))
        return x + self.f2(F.gelu(self.f1(self.norm2(x))))


class Apart(nn.Module):
    """transformers': three products; `kv_heads` heads of k and v, repeated."""

    def __init__(self, sdpa=True, causal=False, kv_heads=HEADS, gelu="none", norm=nn.LayerNorm):
        super().__init__()
        self.sdpa, self.causal, self.kv_heads, self.gelu = sdpa, causal, kv_heads, gelu
        self.norm1, self.norm2 = norm(SIZE), norm(SIZE)
        self.q, self.o = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, SIZE)
        self.k, self.v = nn.Linear(SIZE, kv_heads * WIDTH), nn.Linear(SIZE, kv_heads * WIDTH)
        self.f1, self.f2 = nn.Linear(SIZE, HIDDEN), nn.Linear(HIDDEN, SIZE)

    def repeat(self, x):
        count, kv_heads, tokens, width = x.shape
        times = HEADS // kv_heads
        if times == 1:
            return x
        return x[:, :, None].expand(count, kv_heads, times, tokens, width).reshape(count, HEADS, tokens, width)

    def forward(self, x, mask=None):
        n = self.norm1(x)
        q, k, v = heads(self.q(n), HEADS), heads(self.k(n), self.kv_heads), heads(self.v(n), self.kv_heads)
        k, v = self.repeat(k), self.repeat(v)
        if self.sdpa:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=self.causal)
        else:
            scores = q @ k.transpose(-1, -2) / math.sqrt(WIDTH)
            y = F.softmax(scores if mask is None else scores + mask, dim=-1) @ v
        x = x + self.o(merge(y))
        return x + self.f2(F.gelu(self.f1(self.norm2(x)), approximate=self.gelu))


class Rotary(nn.Module):
    """Llama's attention: halves of q and k rotated by tables."""

    def __init__(self):
        super().__init__()
        angle = torch.outer(torch.arange(TOKENS).float(), 1e4 ** -(torch.arange(0, WIDTH, 2) / WIDTH))
        angle = torch.cat([angle, angle], -1)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())
        self.q, self.k, self.v, self.o = (nn.Linear(SIZE, SIZE, bias=False) for _ in range(4))

    def rotate(self, x):
        half = WIDTH // 2
        return x * self.cos + torch.cat([-x[..., half:], x[..., :half]], -1) * self.sin

    def forward(self, x):
        q, k, v = (heads(linear(x), HEADS) for linear in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v, is_causal=True)
        return x + self.o(merge(y))


class Module(nn.Module):
    """torch's own layer."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(SIZE, HEADS, batch_first=True)

    def forward(self, x):
        return x + self.attention(x, x, x, need_weights=False)[0]


def blocks():
    """Name -> (module, whether it takes a mask and of which kind)."""
    return {
        "fused_sdpa": (Fused(True), None),
        "fused_eager": (Fused(False), None),
        "apart_sdpa": (Apart(), None),
        "apart_eager": (Apart(sdpa=False), None),
        "causal": (Apart(causal=True), None),
        "bool_mask": (Apart(), "bool"),
        "additive_mask": (Apart(), "float"),
        "additive_mask_eager": (Apart(sdpa=False), "float"),
        "grouped": (Apart(kv_heads=1), None),
        "gelu_tanh": (Apart(gelu="tanh"), None),
        "rms_llama": (Apart(norm=RmsNorm), None),
        "rms_torch": (Apart(norm=nn.RMSNorm), None),
        "rotary": (Rotary(), None),
        "encoder_layer": (nn.TransformerEncoderLayer(
            SIZE, HEADS, HIDDEN, dropout=0.0, activation="gelu", batch_first=True, norm_first=True), None),
        "module": (Module(), None),
    }


EXPORTERS = {
    "ts17": dict(dynamo=False, opset_version=17),
    "ts17n": dict(dynamo=False, opset_version=17, dynamic_axes={"x": {0: "N"}, "y": {0: "N"}}),
    "dyn18": dict(dynamo=True, opset_version=18, external_data=False),
    "dyn23": dict(dynamo=True, opset_version=23, external_data=False),
}


def without_traces(data):
    """The model without names of files and scopes."""
    model = onnx.load_from_string(data)
    del model.metadata_props[:]
    graphs = [model.graph, *model.functions]
    for graph in graphs:
        for item in [graph, *graph.node, *getattr(graph, "input", []), *getattr(graph, "output", []),
                     *getattr(graph, "initializer", []), *graph.value_info]:
            if hasattr(item, "metadata_props"):
                del item.metadata_props[:]
            if getattr(item, "doc_string", None):
                item.doc_string = ""
    return model.SerializeToString(deterministic=True)


def write(folder, name, exporter, module, inputs):
    file = io.BytesIO()
    names = ["x", "mask"][: len(inputs)]
    torch.onnx.export(module, inputs, file, input_names=names, output_names=["y"], verbose=False, **EXPORTERS[exporter])
    target = folder / f"{name}.{exporter}"
    target.mkdir(parents=True, exist_ok=True)
    (target / "model.onnx").write_bytes(without_traces(file.getvalue()))
    tensors = {f"in_{i}": value for i, value in enumerate(inputs)} | {"out_0": module(*inputs)}
    for label, value in tensors.items():
        with open(target / f"{label}.npy", "wb") as out:
            np.lib.format.write_array(out, np.ascontiguousarray(value.numpy()), version=(1, 0))


def main():
    warnings.filterwarnings("ignore")
    folder = Path(sys.argv[1])
    torch.manual_seed(1)
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)  # which exporters do not know
    x = torch.randn(BATCH, TOKENS, SIZE)
    masks = {"bool": torch.rand(BATCH, 1, TOKENS, TOKENS) > 0.4, "float": torch.randn(BATCH, 1, TOKENS, TOKENS)}
    masks["bool"][..., 0] = True
    with torch.no_grad():
        for name, (module, mask) in blocks().items():
            module.eval()
            for parameter in module.parameters():  # no weight of a norm is exactly 1, no bias 0
                parameter.add_(0.1 * torch.randn_like(parameter))
            inputs = (x,) if mask is None else (x, masks[mask])
            for exporter in EXPORTERS:
                try:
                    write(folder, name, exporter, module, inputs)
                except Exception as error:
                    print(f"{name}.{exporter}: not exported: {type(error).__name__}: {str(error).splitlines()[0]}")


if __name__ == "__main__":
    main()
