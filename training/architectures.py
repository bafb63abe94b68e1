"""The two backbones as ONNX graphs, cut into stages: a stem, then one stage a block or layer, then a head.

A GC layer may follow any stage; `mask`, when there is one, is the name of the mask [N or 1, C] of the
channels that the input of a stage still has.
"""

import numpy as np


class DsCnn:
    """Depthwise-separable CNN on MFCCs [N, 1, 49, 10].

    A stage is  relu(pointwise(depthwise(x))).  The depthwise convolution has no bias, so a dead channel is
    zero behind it as well and the mask also holds for the pointwise convolution, where the MACs are.
    """

    pooled_axes = [2, 3]
    mask_lasts = False  # each block computes all channels anew

    def __init__(self, builder, cfg):
        self.b = builder
        self.stages = cfg["blocks"] + 1
        self.channels = cfg["ch"]
        self.input_shape = [1, 49, cfg["feat"]]

    def stem(self):
        b = self.b
        x = b.op("Sub", ["input", b.weight("mean")], "centred")
        x = b.op("Mul", [x, b.weight("istd")], "normalised")
        x = b.conv(x, "conv", "conv.out", strides=(2, 2), pads=(5, 1, 5, 1))
        return b.op("Relu", [x], "conv.relu")

    def stage(self, s, x, mask):
        b, name = self.b, f"b{s}"
        x = b.conv(x, f"{name}.dw", f"{name}.dw.out", mask, bias=False, pads=(1, 1, 1, 1), group=self.channels)
        x = b.conv(x, f"{name}.pw", f"{name}.pw.out", mask)
        return b.op("Relu", [x], f"{name}.relu")

    def apply_mask(self, x, mask, output):
        """Nothing to do in the staged form: every consumer of x takes the mask itself."""
        return x

    def head(self, x, output):
        b = self.b
        x = b.op("GlobalAveragePool", [x], "pool")
        x = b.op("Flatten", [x], "pool.flat", axis=1)
        return b.op("Gemm", [x, b.weight("fc.weight"), b.weight("fc.bias")], output)


class KeywordTransformer:
    """Pre-norm transformer on log-mel [N, 1, 49, 40]; a token is `patch` frames.

        x = x + o(attention(qkv(rms(x)))) * mask
        x = x + f2(relu(f1(rms(x)))) * mask            rms(x) = x / sqrt(mean(x^2) + 1e-5) * weight

    The mask stays on the residual stream: RMSNorm without a bias keeps zeros, so qkv and f1 read and o and
    f2 write live channels only, in every later layer. Masks of later GC layers are products with it.
    """

    pooled_axes = [1]
    mask_lasts = True

    def __init__(self, builder, cfg):
        self.b = builder
        self.cfg = cfg
        self.stages = cfg["layers"] + 1
        self.tokens = 48 // cfg["patch"]
        self.input_shape = [1, 49, cfg["feat"]]

    def stem(self):
        b, cfg = self.b, self.cfg
        ends = [b.ints("frame_first", 0), b.ints("frame_end", self.tokens * cfg["patch"]), b.ints("frame_axis", 2)]
        x = b.op("Slice", ["input", *ends], "frames")
        x = b.op("Sub", [x, b.weight("mean")], "centred")
        x = b.op("Mul", [x, b.weight("istd")], "normalised")
        shape = b.ints("token_shape", -1, self.tokens, cfg["patch"] * cfg["feat"])
        x = b.op("Reshape", [x, shape], "tokens")
        x = b.linear(x, "emb", "emb.out")
        return b.op("Add", [x, b.weight("pos")], "emb.placed")

    def rms_norm(self, x, name):
        b = self.b
        square = b.op("Mul", [x, x], f"{name}.square")
        mean = b.op("ReduceMean", [square], f"{name}.mean", axes=[-1], keepdims=1)
        mean = b.op("Add", [mean, b.constant("rms_eps", np.float32(1e-5))], f"{name}.eps")
        unit = b.op("Div", [x, b.op("Sqrt", [mean], f"{name}.root")], f"{name}.unit")
        return b.op("Mul", [unit, b.weight(f"{name}.weight")], f"{name}.out")

    def attention(self, x, name, mask):
        b, dim, heads = self.b, self.cfg["d"], self.cfg["heads"]
        packed = b.linear(x, f"{name}.qkv", f"{name}.qkv.out", mask)
        split = b.ints("qkv_shape", 0, 0, 3, heads, dim // heads)
        packed = b.op("Reshape", [packed, split], f"{name}.qkv.split")
        packed = b.op("Transpose", [packed], f"{name}.qkv.heads", perm=[2, 0, 3, 1, 4])
        q, k, v = (
            b.op("Gather", [packed, b.constant(f"index_{part}", np.int64(part))], f"{name}.{'qkv'[part]}", axis=0)
            for part in range(3)
        )
        k = b.op("Transpose", [k], f"{name}.k.transposed", perm=[0, 1, 3, 2])
        scores = b.op("MatMul", [q, k], f"{name}.scores")
        scale = b.constant("attention_scale", np.float32((dim // heads) ** -0.5))
        scores = b.op("Mul", [scores, scale], f"{name}.scores.scaled")
        attended = b.op("MatMul", [b.op("Softmax", [scores], f"{name}.softmax", axis=-1), v], f"{name}.attended")
        attended = b.op("Transpose", [attended], f"{name}.attended.tokens", perm=[0, 2, 1, 3])
        merged = b.op("Reshape", [attended, b.ints("merge_shape", 0, 0, dim)], f"{name}.merged")
        return b.linear(merged, f"{name}.o", f"{name}.o.out")

    def apply_mask(self, x, mask, output):
        """x * mask over tokens [N, T, C]."""
        b = self.b
        spread = b.op("Unsqueeze", [mask, b.ints("token_axis", 1)], f"{output}.mask")
        return b.op("Mul", [x, spread], output)

    def residual(self, x, update, name, mask):
        if mask:
            update = self.apply_mask(update, mask, f"{name}.live")
        return self.b.op("Add", [x, update], name)

    def stage(self, s, x, mask):
        b, name = self.b, f"e{s - 1}"
        update = self.attention(self.rms_norm(x, f"{name}.n1"), name, mask)
        x = self.residual(x, update, f"{name}.attention", mask)
        hidden = b.linear(self.rms_norm(x, f"{name}.n2"), f"{name}.f1", f"{name}.f1.out", mask)
        update = b.linear(b.op("Relu", [hidden], f"{name}.f1.relu"), f"{name}.f2", f"{name}.f2.out")
        return self.residual(x, update, f"{name}.mlp", mask)

    def head(self, x, output):
        b = self.b
        x = b.op("ReduceMean", [self.rms_norm(x, "norm")], "pool", axes=[1], keepdims=0)
        return b.op("Gemm", [x, b.weight("fc.weight"), b.weight("fc.bias")], output)


def architecture(builder, cfg):
    return (DsCnn if cfg["kind"] == "dscnn" else KeywordTransformer)(builder, cfg)
