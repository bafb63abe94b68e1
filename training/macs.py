"""How many multiply-accumulates a gated model spends, stage by stage.

Counted: convolutions, dense layers, attention products, gate heads (2C) and mask heads (2CK). Not counted:
the front end, pooling, normalisation and activations.
"""

CNN_PIXELS = 25 * 5  # feature map of the DS-CNN
STEM_TAPS = 10 * 4
DEPTHWISE_TAPS = 3 * 3
MASK_HIDDEN = 16


def stage_costs(cfg, live_in, needed):
    """MACs of the stem and of every stage.

    `live_in[s]` is the number of live channels that stage s reads, `needed[s]` the number of output channels
    that somebody reads.
    """
    if cfg["kind"] == "dscnn":
        stem = CNN_PIXELS * STEM_TAPS * needed[0]
        stages = range(1, cfg["blocks"] + 1)
        return [stem] + [CNN_PIXELS * live_in[s] * (DEPTHWISE_TAPS + needed[s]) for s in stages]
    dim, ff, tokens = cfg["d"], cfg["ff"], 48 // cfg["patch"]
    costs = [tokens * cfg["feat"] * cfg["patch"] * dim]
    for s in range(1, cfg["layers"] + 1):
        projections = tokens * live_in[s] * (3 * dim + dim + 2 * ff)
        costs.append(projections + 2 * tokens * tokens * dim)
    return costs


def cumulative(cfg, live=None, read=None):
    """(MACs up to and with each gate, MACs of the whole model).

    `live` is the number of live channels after each GC layer. `read` is the number of channels in front of
    it that its gate or its mask reads: a gate looks at the map before the mask, so a channel that the mask
    drops has to be computed nevertheless, unless the gate has no weight on it. Both default to all.
    """
    gates = cfg["gc_after"]
    cnn = cfg["kind"] == "dscnn"
    channels = cfg["ch"] if cnn else cfg["d"]
    live = dict(zip(gates, live if live is not None else [channels] * len(gates)))
    read = dict(zip(gates, read if read is not None else [channels] * len(gates)))
    stages = (cfg["blocks"] if cnn else cfg["layers"]) + 1

    live_in, current = [channels], channels
    for s in range(1, stages):
        current = live.get(s - 1, channels if cnn else current)
        live_in.append(current)
    needed = [read.get(s, channels) for s in range(stages)]

    head = 2 * channels + (2 * MASK_HIDDEN * channels if cfg["mode"] == "dynamic" else 0)
    at_gate, total = [], 0
    for s, cost in enumerate(stage_costs(cfg, live_in, needed)):
        total += cost
        if s in gates:
            total += head
            at_gate.append(total)
    return at_gate, total + channels * cfg["classes"]


def without_gc(cfg):
    """MACs of the same backbone with no GC layers at all."""
    return cumulative(dict(cfg, gc_after=[], mode="off"))[1]
