"""Writes ViT-Tiny as ONNX, dense or with GC layers: a model to take times with. Its weights are random.

    python vit.py vit_dense.onnx                              as PyTorch exports it, LayerNorm
    python vit.py vit_half.onnx --channels 0.5                half of the residual channels live
    python vit.py vit_quarter.onnx --channels 0.5 --tokens 0.5 --check 4

    patches  Conv 16 x 16, one class token in front, positions added          [1, 197, 192]
    block    x = x + o(attention(q(n), k(n), v(n))) * m      n = norm(x)      12 times
             x = x + f2(gelu(f1(norm(x)))) * m               m = tokens * channels, 1 without GC layers
    head     norm(x)[:, 0] @ w + b                                            [1, 1000]

A GC layer stands behind blocks 3, 6 and 9. Its gate never stops (threshold 0), so that every run does the
same work. Its masks are computed from the sample, and hold from there to the end:

    channels   one mask [1, 192] from the means of the channels       GcDynamic, axes [1]
    tokens     one mask [1, 197] from the means of the tokens         GcMask, axes [2]; the class token stays

A density is the share that is live behind all GC layers from the first on, or three numbers, one a layer, each
no more than the one before. Exactly that share is live, whatever the sample: channels compete in pairs,
and the logits of the two in a pair are l and -l. A pair is what competes in the next layer.

MACs, of the 1.25 G of the dense model: 0.69 with half of the channels, 0.61 with half of the tokens, 0.45 with both.

A dead token is neither a query nor a key: attention is then GcAttention (gc_functions.py). RMSNorm keeps
dead channels zero, so it is what models with masks have; LayerNorm is what the dense one has by default.
"""

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from gc_functions import DOMAIN, DOMAIN_VERSION, IR_VERSION, OPSET, functions_used, layer_name
from graph import GraphBuilder, float_value

DIM, HEADS, BLOCKS, HIDDEN, CLASSES = 192, 3, 12, 768, 1000
WIDTH = DIM // HEADS
PATCHES, PATCH = 196, 16
TOKENS = PATCHES + 1
GC_AFTER = (3, 6, 9)
MASK_HIDDEN = 16
OPEN = 1e3  # a logit that nothing outweighs


class Weights:
    """Random weights by name: the same name has the same values in every variant of the model."""

    def __init__(self, seed):
        self.seed = seed

    def normal(self, name, *shape, scale):
        rng = np.random.default_rng([self.seed, *name.encode()])
        return (scale * rng.standard_normal(shape)).astype(np.float32)


class Competition:
    """Mask heads of which every one leaves exactly the asked number live.

    A unit is a set of members of which one is live; at first every member is a unit of its own. Of two paired
    units one wins: h2 has the same column for all members of one unit, and its negative for the other.
    """

    def __init__(self, members, always=()):
        self.members = members
        self.always = [[m] for m in always]
        self.units = [[m] for m in range(members) if m not in always]

    def head(self, weights, name, inputs, live):
        """h1_w, h1_b, h2_w, h2_b of a mask with `live` live members, those that are always live included."""
        wanted = live - len(self.always)
        if not 0 <= wanted <= len(self.units):
            raise SystemExit(f"{name}: cannot have {live} of {self.members} live")
        order = np.random.default_rng([weights.seed, *name.encode()]).permutation(len(self.units))
        units = [self.units[i] for i in order]
        pairs = min(wanted, len(units) - wanted)
        kept, dropped = units[2 * pairs :][: wanted - pairs], units[pairs + wanted :]

        columns = weights.normal(f"{name}.h2", MASK_HIDDEN, pairs, scale=MASK_HIDDEN**-0.5)
        h2, bias = np.zeros((MASK_HIDDEN, self.members), np.float32), np.zeros(self.members, np.float32)
        won = []
        for pair, (one, other) in enumerate(zip(units[:pairs], units[pairs : 2 * pairs])):
            h2[:, one], h2[:, other] = columns[:, [pair]], -columns[:, [pair]]
            won.append(one + other)
        for unit in self.always + kept:
            bias[unit] = OPEN
        for unit in dropped:
            bias[unit] = -OPEN
        self.units = kept + won
        # The last hidden unit is 1 for every sample, so that no pair is ever undecided.
        h1 = weights.normal(f"{name}.h1", inputs, MASK_HIDDEN, scale=4 * inputs**-0.5)
        h1[:, -1] = 0
        h1_bias = np.zeros(MASK_HIDDEN, np.float32)
        h1_bias[-1] = 1e-2
        return {"h1.weight": h1, "h1.bias": h1_bias, "h2.weight": h2, "h2.bias": bias}


class VisionTransformer:
    def __init__(self, norm, channels, tokens, seed):
        self.w = Weights(seed)
        self.b = GraphBuilder({})
        self.norm_kind = norm
        self.live_channels = channels and [round(share * DIM) for share in channels]
        self.live_tokens = tokens and [1 + round(share * PATCHES) for share in tokens]
        self.channels = Competition(DIM)
        self.tokens = Competition(TOKENS, always=[0])
        self.channel_mask = self.token_mask = None

    def weight(self, name, *shape, scale):
        return self.b.constant(name, self.w.normal(name, *shape, scale=scale))

    def linear(self, x, name, inputs, outputs):
        weight = self.weight(f"{name}.weight", inputs, outputs, scale=inputs**-0.5)
        product = self.b.op("MatMul", [x, weight], f"{name}.product")
        return self.b.op("Add", [product, self.weight(f"{name}.bias", outputs, scale=0.02)], f"{name}.out")

    def norm(self, x, name):
        b = self.b
        scale = b.constant(f"{name}.weight", 1 + self.w.normal(f"{name}.weight", DIM, scale=0.1))
        if self.norm_kind == "layer":
            shift = self.weight(f"{name}.bias", DIM, scale=0.02)
            return b.op("LayerNormalization", [x, scale, shift], f"{name}.out", axis=-1, epsilon=1e-6)
        square = b.op("Mul", [x, x], f"{name}.square")
        mean = b.op("ReduceMean", [square], f"{name}.mean", axes=[-1], keepdims=1)
        mean = b.op("Add", [mean, b.constant("rms_eps", np.float32(1e-6))], f"{name}.eps")
        unit = b.op("Div", [x, b.op("Sqrt", [mean], f"{name}.root")], f"{name}.unit")
        return b.op("Mul", [unit, scale], f"{name}.out")

    def attention(self, q, k, v, name):
        """The decomposition of scaled_dot_product_attention: the scale is shared by both factors."""
        b = self.b
        split = b.ints("head_shape", 0, 0, HEADS, WIDTH)
        heads = [b.op("Reshape", [x, split], f"{name}.{part}.split") for part, x in zip("qkv", (q, k, v))]
        orders = [[0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]]
        q, k, v = (
            b.op("Transpose", [x], f"{name}.{part}.heads", perm=order)
            for part, x, order in zip("qkv", heads, orders)
        )
        root = b.constant("root_of_scale", np.float32(WIDTH**-0.25))
        q, k = b.op("Mul", [q, root], f"{name}.q.scaled"), b.op("Mul", [k, root], f"{name}.k.scaled")
        weights = b.op("Softmax", [b.op("MatMul", [q, k], f"{name}.scores")], f"{name}.softmax", axis=-1)
        y = b.op("Transpose", [b.op("MatMul", [weights, v], f"{name}.mix")], f"{name}.mix.tokens", perm=[0, 2, 1, 3])
        return b.op("Reshape", [y, b.ints("merge_shape", 0, 0, DIM)], f"{name}.merged")

    def gelu(self, x, name):
        b = self.b
        scaled = b.op("Div", [x, b.constant("root_of_two", np.float32(2**0.5))], f"{name}.arg")
        error = b.op("Add", [b.op("Erf", [scaled], f"{name}.erf"), b.constant("one", np.float32(1))], f"{name}.erf1")
        return b.op("Mul", [b.op("Mul", [x, error], f"{name}.x"), b.constant("half", np.float32(0.5))], f"{name}.out")

    def masked(self, x, name):
        """x times the masks that hold here."""
        b = self.b
        for mask, axis, kind in ((self.channel_mask, 1, "channels"), (self.token_mask, 2, "tokens")):
            if mask:
                spread = b.op("Unsqueeze", [mask, b.ints(f"axis_{axis}", axis)], f"{name}.{kind}.mask")
                x = b.op("Mul", [x, spread], f"{name}.{kind}")
        return x

    def block(self, s, x):
        b, name = self.b, f"b{s}"
        n = self.norm(x, f"{name}.n1")
        q, k, v = (self.linear(n, f"{name}.{part}", DIM, DIM) for part in "qkv")
        if self.token_mask:
            attributes = dict(heads=HEADS, kv_heads=HEADS, scale=WIDTH**-0.5, causal=0)
            heads = b.constant("all_heads", np.ones((1, HEADS), np.float32))
            y = b.op("GcAttention", [q, k, v, heads, self.token_mask], f"{name}.merged", DOMAIN, **attributes)
        else:
            y = self.attention(q, k, v, name)
        update = self.linear(y, f"{name}.o", DIM, DIM)
        x = b.op("Add", [x, self.masked(update, f"{name}.attention.live")], f"{name}.attention")
        hidden = self.gelu(self.linear(self.norm(x, f"{name}.n2"), f"{name}.f1", DIM, HIDDEN), f"{name}.gelu")
        update = self.linear(hidden, f"{name}.f2", HIDDEN, DIM)
        return b.op("Add", [x, self.masked(update, f"{name}.mlp.live")], f"{name}.mlp")

    def mask_head(self, competition, name, inputs, live):
        head = competition.head(self.w, name, inputs, live)
        return [self.b.constant(f"{name}.{part}", value) for part, value in head.items()]

    def gate(self, j):
        """Weight and bias of a gate that nobody leaves at."""
        bias = self.b.constant("gate.bias", np.zeros(1, np.float32))
        return [self.weight(f"gc{j}.gate.weight", 2 * DIM, 1, scale=0.1), bias]

    def gc_layer(self, j, x):
        """Gate and masks. A new mask is the layer's own times the one before; so it holds to the end."""
        b, pooled = self.b, x
        score, stop = f"gate_{j}", f"gc{j}.stop"
        if self.live_channels:
            head = self.mask_head(self.channels, f"gc{j}.channels", DIM, self.live_channels[j])
            previous = [self.channel_mask] if self.channel_mask else []
            x, _, _, self.channel_mask = b.op(
                layer_name(dynamic=True, chained=bool(previous)), [x, *self.gate(j), *head, *previous],
                [f"gc{j}.out", score, stop, f"mask_{j}"], DOMAIN, axes=[1], threshold=0.0,
            )
        else:
            b.op("GcGate", [x, *self.gate(j)], [score, stop], DOMAIN, axes=[1], threshold=0.0)
        if self.live_tokens:
            head = self.mask_head(self.tokens, f"gc{j}.tokens", TOKENS, self.live_tokens[j])
            name = f"token_mask_{j}"
            own = b.op("GcMask", [pooled, *head], f"{name}.own" if self.token_mask else name, DOMAIN, axes=[2])
            self.token_mask = b.op("Mul", [own, self.token_mask], name) if self.token_mask else own
            spread = b.op("Unsqueeze", [self.token_mask, b.ints("axis_2", 2)], f"gc{j}.tokens.mask")
            x = b.op("Mul", [x, spread], f"gc{j}.tokens.out")
        return x

    def model(self):
        b = self.b
        gated = self.live_channels or self.live_tokens
        filters = self.weight("patch.weight", DIM, 3, PATCH, PATCH, scale=(3 * PATCH * PATCH) ** -0.5)
        x = b.op("Conv", ["input", filters, self.weight("patch.bias", DIM, scale=0.02)], "patch.out",
                 kernel_shape=[PATCH, PATCH], strides=[PATCH, PATCH])
        x = b.op("Reshape", [x, b.ints("patch_shape", 1, DIM, PATCHES)], "patch.flat")
        x = b.op("Transpose", [x], "patch.tokens", perm=[0, 2, 1])
        x = b.op("Concat", [self.weight("class", 1, 1, DIM, scale=0.02), x], "embedded", axis=1)
        x = b.op("Add", [x, self.weight("position", 1, TOKENS, DIM, scale=0.02)], "placed")
        for s in range(1, BLOCKS + 1):
            x = self.block(s, x)
            if gated and s in GC_AFTER:
                x = self.gc_layer(GC_AFTER.index(s), x)
        x = b.op("Gather", [self.norm(x, "norm"), b.constant("first", np.int64(0))], "pooled", axis=1)
        weight = self.weight("head.weight", CLASSES, DIM, scale=DIM**-0.5)
        b.op("Gemm", [x, weight, self.weight("head.bias", CLASSES, scale=0.02)], "logits", transB=1)

        outputs = [float_value("logits", 1, CLASSES)]
        for j in range(len(GC_AFTER) if gated else 0):
            outputs.append(float_value(f"gate_{j}", 1, 1))
            outputs += [float_value(f"mask_{j}", 1, DIM)] if self.live_channels else []
            outputs += [float_value(f"token_mask_{j}", 1, TOKENS)] if self.live_tokens else []
        graph = helper.make_graph(
            b.nodes, "vit_tiny", [float_value("input", 1, 3, 224, 224)], outputs, list(b.initializers.values())
        )
        functions = functions_used(b.nodes)
        opsets = [helper.make_opsetid("", OPSET)] + [helper.make_opsetid(DOMAIN, DOMAIN_VERSION)] * bool(functions)
        model = helper.make_model(
            graph, opset_imports=opsets, functions=functions, ir_version=IR_VERSION, producer_name="sluicegate"
        )
        onnx.checker.check_model(model)
        return model


def check(path, samples, seed):
    """Runs random images in stock onnxruntime and prints what is live, and how much that differs."""
    from runtime import run

    images = np.random.default_rng(seed).standard_normal((samples, 3, 224, 224), np.float32)
    outputs = run(path, images, batch=1)
    for name, values in outputs.items():
        if "mask" in name:
            counts = values.sum(axis=1)
            changing = np.mean(values.min(axis=0) != values.max(axis=0))
            live = f"{counts.min():.0f} to {counts.max():.0f} of {values.shape[1]} live"
            print(f"  {name}: {live}, {changing:.0%} differ between samples")
        else:
            print(f"  {name}: {values.min():.3f} to {values.max():.3f}")


def densities(text):
    """One share or three, as `0.5` or `0.7,0.5,0.3`."""
    shares = [float(share) for share in text.split(",")]
    shares = shares * len(GC_AFTER) if len(shares) == 1 else shares
    if len(shares) != len(GC_AFTER) or not all(0 <= b <= a <= 1 for a, b in zip([1, *shares], shares)):
        raise argparse.ArgumentTypeError(f"{text}: one share, or {len(GC_AFTER)} that do not grow")
    return shares


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--norm", choices=["layer", "rms"], help="default: rms with masks, else layer")
    parser.add_argument("--channels", type=densities, metavar="SHARE", help="share of the channels that is live")
    parser.add_argument("--tokens", type=densities, metavar="SHARE", help="share of the patches that is live")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--check", type=int, default=0, metavar="N", help="run N random images in onnxruntime")
    args = parser.parse_args()

    norm = args.norm or ("rms" if args.channels or args.tokens else "layer")
    if norm == "layer" and args.channels:
        raise SystemExit("LayerNorm centres: dead channels would not stay zero; use --norm rms")
    model = VisionTransformer(norm, args.channels, args.tokens, args.seed).model()
    args.out.write_bytes(model.SerializeToString(deterministic=True))
    print(f"{args.out}  {args.out.stat().st_size} bytes")
    if args.check:
        check(args.out, args.check, args.seed)


if __name__ == "__main__":
    main()
