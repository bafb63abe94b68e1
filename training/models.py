"""Two keyword spotters in torch, both with gated-compression layers.

A configuration is a plain dictionary and travels with the weights:

    DS-CNN       kind="dscnn"  ch, blocks, feat=10             input [N, 1, 49, 10], MFCC
    transformer  kind="kwt"    d, layers, heads, ff, patch, feat=40   input [N, 1, 49, 40], log-mel
    both         classes, mode ("off", "static", "dynamic"), gc_after (stages with a GC layer behind them;
                 stage 0 is the stem, stage s the s-th block or layer)

`forward` returns (logits, gate logits, keep probabilities): one gate logit [N] and one tensor of keep
probabilities [N or 1, C] (None in mode "off") per GC layer. architectures.py holds the same networks as
ONNX graphs, weights.py the way from one to the other.
"""

import torch
from torch import nn
from torch.nn import functional as F

MASK_HIDDEN = 16
MASK_NOISE = 0.3  # added to mask logits in training, so that undecided channels keep being tried both ways
FIRST_MASK_LOGIT = 1.5  # masks start open: sigmoid(1.5) = 0.82


class GatedCompression(nn.Module):
    """Gate and mask on a feature map [N, C, H, W] or tokens [N, T, C].

        gate logit   w . [mean(x), max(x)] + b               sigmoid of it: the chance that a keyword is there
        keep         static  sigmoid(m)                      dynamic  sigmoid(W2 relu(W1 mean(x)))
        mask         1 where keep > 1/2, times the mask of the layer before;   y = x * mask

    A hard mask has no gradient. The straight-through estimator uses the hard mask forward and the gradient
    of the keep probability backward:  mask = hard + keep - stop_gradient(keep).
    """

    def __init__(self, channels, mode):
        super().__init__()
        self.mode = mode
        self.gate = nn.Linear(2 * channels, 1)
        if mode == "static":
            self.mask_logit = nn.Parameter(FIRST_MASK_LOGIT + 0.05 * torch.randn(channels))
        elif mode == "dynamic":
            self.squeeze = nn.Linear(channels, MASK_HIDDEN)
            self.excite = nn.Linear(MASK_HIDDEN, channels)
            nn.init.constant_(self.excite.bias, FIRST_MASK_LOGIT)

    def keep_logit(self, mean):
        if self.mode == "static":
            return self.mask_logit[None]
        return self.excite(F.relu(self.squeeze(mean)))

    def forward(self, x, previous=None):
        """(masked x, gate logit, keep probabilities, mask)"""
        axes = (2, 3) if x.dim() == 4 else (1,)
        mean = x.mean(axes)
        gate = self.gate(torch.cat([mean, x.amax(axes)], dim=1)).squeeze(1)
        if self.mode == "off":
            return x, gate, None, None

        logit = self.keep_logit(mean)
        keep = torch.sigmoid(logit)
        if self.training:
            tried = torch.sigmoid(logit + MASK_NOISE * torch.randn_like(logit))
            mask = (tried > 0.5).float() + tried - tried.detach()
        else:
            mask = (logit > 0).float()
        if previous is not None:
            mask = mask * previous
        spread = mask[:, :, None, None] if x.dim() == 4 else mask[:, None, :]
        return x * spread, gate, keep, mask


class Gated(nn.Module):
    """What both networks share: input normalisation, stages with GC layers behind some, a classifier.

    A subclass provides `first`, `stage(s, x, mask)` and `pool`, and says whether a mask outlives its stage.
    """

    mask_lasts = False

    def __init__(self, cfg, channels, stages):
        super().__init__()
        self.cfg = cfg
        self.stages = stages
        self.register_buffer("mean", torch.zeros(cfg["feat"]))
        self.register_buffer("istd", torch.ones(cfg["feat"]))
        self.gated = nn.ModuleDict({str(s): GatedCompression(channels, cfg["mode"]) for s in cfg["gc_after"]})
        self.drop = nn.Dropout(0.2 if cfg["kind"] == "dscnn" else 0.1)
        self.classifier = nn.Linear(channels, cfg["classes"])

    def normalise_like(self, features):
        """Takes mean and scale of every coefficient from examples [N, 1, frames, F]."""
        self.mean.copy_(features.mean((0, 1, 2)))
        self.istd.copy_(1 / features.std((0, 1, 2)))

    def forward(self, features):
        gates, keeps, mask = [], [], None
        x = self.first((features[:, :, : self.frames] - self.mean) * self.istd)
        for s in range(self.stages + 1):
            if s:
                x = self.stage(s, x, mask)
            if str(s) in self.gated:
                x, gate, keep, made = self.gated[str(s)](x, mask)
                mask = made if self.mask_lasts else None
                gates.append(gate)
                keeps.append(keep)
        return self.classifier(self.drop(self.pool(x))), gates, keeps


class SeparableBlock(nn.Module):
    """relu(norm(pointwise(depthwise(x)))).

    The depthwise convolution has neither bias nor normalisation: a dead channel stays zero up to the
    pointwise convolution, so leaving it out there changes nothing.
    """

    def __init__(self, channels):
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return F.relu(self.norm(self.pointwise(self.depthwise(x))))


class DsCnn(Gated):
    """Depthwise-separable CNN, the shape of the MLPerf Tiny keyword spotter."""

    frames = 49

    def __init__(self, cfg):
        super().__init__(cfg, cfg["ch"], cfg["blocks"])
        self.stem = nn.Conv2d(1, cfg["ch"], (10, 4), stride=2, padding=(5, 1), bias=False)
        self.stem_norm = nn.BatchNorm2d(cfg["ch"])
        self.blocks = nn.ModuleList([SeparableBlock(cfg["ch"]) for _ in range(cfg["blocks"])])

    def first(self, x):
        return F.relu(self.stem_norm(self.stem(x)))

    def stage(self, s, x, mask):
        return self.blocks[s - 1](x)

    def pool(self, x):
        return x.mean((2, 3))


class RmsNorm(nn.Module):
    """x / sqrt(mean(x^2) + 1e-5) * weight. No centring and no bias, so zero channels stay zero."""

    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * self.weight


class TransformerLayer(nn.Module):
    """Pre-norm attention and MLP; both updates of the residual stream are restricted to live channels."""

    def __init__(self, dim, heads, ff):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = RmsNorm(dim), RmsNorm(dim)
        self.qkv, self.merge = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.widen, self.narrow = nn.Linear(dim, ff), nn.Linear(ff, dim)

    def attend(self, x):
        count, tokens, dim = x.shape
        packed = self.qkv(x).view(count, tokens, 3, self.heads, dim // self.heads)
        query, key, value = packed.permute(2, 0, 3, 1, 4)
        weights = torch.softmax(query @ key.transpose(-1, -2) * (dim // self.heads) ** -0.5, dim=-1)
        return self.merge((weights @ value).transpose(1, 2).reshape(count, tokens, dim))

    def forward(self, x, mask):
        live = 1.0 if mask is None else mask[:, None]
        x = x + self.attend(self.norm1(x)) * live
        return x + self.narrow(F.relu(self.widen(self.norm2(x)))) * live


class KeywordTransformer(Gated):
    """Transformer over patches of frames; masks stay on the residual stream to the end."""

    frames = 48
    mask_lasts = True

    def __init__(self, cfg):
        super().__init__(cfg, cfg["d"], cfg["layers"])
        self.tokens = self.frames // cfg["patch"]
        self.embed = nn.Linear(cfg["patch"] * cfg["feat"], cfg["d"])
        self.position = nn.Parameter(0.02 * torch.randn(self.tokens, cfg["d"]))
        self.layers = nn.ModuleList(
            [TransformerLayer(cfg["d"], cfg["heads"], cfg["ff"]) for _ in range(cfg["layers"])]
        )
        self.norm = RmsNorm(cfg["d"])

    def first(self, x):
        return self.embed(x.reshape(len(x), self.tokens, -1)) + self.position

    def stage(self, s, x, mask):
        return self.layers[s - 1](x, mask)

    def pool(self, x):
        return self.norm(x).mean(1)


def build(cfg):
    return (DsCnn if cfg["kind"] == "dscnn" else KeywordTransformer)(cfg)


def standard_cfg(kind, mode, classes, width=64, depth=None):
    """The configurations of the shipped models, at any width and depth."""
    if kind == "dscnn":
        own = dict(ch=width, blocks=depth or 4, gc_after=[0, 1, 2], feat=10)
    else:
        own = dict(d=width, layers=depth or 4, heads=4, ff=2 * width, patch=2, gc_after=[1, 2], feat=40)
    return dict(kind=kind, mode=mode, classes=classes, **own)
