"""What gates and masks do to accuracy and cost, and how a threshold is chosen. Plain numpy.

A class below `positives` is a keyword. A sample that stops at a gate is reported as "no keyword".
"""

import numpy as np

from macs import cumulative, without_gc


def gate_scores(outputs):
    """Scores [N, gates] from the outputs gate_0, gate_1, ..."""
    count = sum(name.startswith("gate_") for name in outputs)
    return np.concatenate([outputs[f"gate_{j}"] for j in range(count)], axis=1)


def exits(scores, thresholds):
    """Index of the first gate whose score is below its threshold; the number of gates when none is."""
    stop = scores < np.asarray(thresholds, np.float32)
    return np.where(stop.any(axis=1), stop.argmax(axis=1), scores.shape[1])


def calibrate(scores, is_positive, miss):
    """One threshold a gate, first gate first.

        theta_j = quantile_miss of { score_j(x) : x positive and not yet stopped }

    So each gate stops at most the share `miss` of the positives that reach it, and at most
    1 - (1 - miss)^gates of them are lost in all on this data.
    """
    alive, thresholds = is_positive.copy(), []
    for column in scores.T:
        if not alive.any():
            raise ValueError("no positive sample reaches this gate; nothing to calibrate on")
        thresholds.append(float(np.quantile(column[alive], miss)))
        alive &= column >= np.float32(thresholds[-1])
    return thresholds


def live_channels(weights, outputs, samples):
    """Live channels after every GC layer and sample, [N, gates]."""
    counts = []
    chained = None
    for j in range(weights.gates):
        if weights.cfg["mode"] == "dynamic":
            counts.append(outputs[f"mask_{j}"].sum(axis=1))
        else:
            mask = weights.tensors[f"gc{j}.mask"][0]
            if weights.cfg["kind"] != "dscnn":
                mask = chained = mask if chained is None else mask * chained
            counts.append(np.full(samples, mask.sum()))
    return np.stack(counts, axis=1).astype(int)


def channels_read(weights):
    """Which channels in front of each GC layer have to be computed, a list of boolean arrays [C].

    All, when the mask is computed from them. With a static mask, those that are live or have a weight in
    the gate: gates.py fits heads that leave the others alone.
    """
    read = []
    for j in range(weights.gates):
        if weights.cfg["mode"] == "dynamic":
            read.append(np.ones(weights.channels, bool))
        else:
            head = weights.tensors[f"gc{j}.gate.weight"].reshape(2, -1)
            read.append((weights.tensors[f"gc{j}.mask"][0] > 0) | (head != 0).any(axis=0))
    return read


def sample_macs(weights, live, left_at):
    """MACs of every sample, given its live channels [N, gates] and its exit [N]."""
    read = [int(channels.sum()) for channels in channels_read(weights)]
    known = {}
    result = np.zeros(len(left_at))
    for n, (row, exit_gate) in enumerate(zip(live, left_at)):
        key = tuple(row)
        if key not in known:
            at_gate, total = cumulative(weights.cfg, row, read)
            known[key] = [*at_gate, total]
        result[n] = known[key][exit_gate]
    return result


def report(weights, outputs, label, thresholds):
    """A dictionary of rates for labelled samples: dense, with gates, exits, cost relative to no GC."""
    left_at = exits(gate_scores(outputs), thresholds)
    stayed = left_at == weights.gates
    nothing = weights.positives
    positive, other, background = label < nothing, label == nothing, label == nothing + 1

    predicted = outputs["logits"].argmax(axis=1)
    dense = np.minimum(predicted, nothing)
    gated = np.where(stayed, dense, nothing)
    truth = np.minimum(label, nothing)
    live = live_channels(weights, outputs, len(label))
    cost = sample_macs(weights, live, left_at) / without_gc(weights.cfg)

    def share(condition, among):
        return float(np.mean(condition[among])) if among.any() else float("nan")

    def early(among):
        return [share(left_at <= j, among) for j in range(weights.gates)]

    result = dict(
        thresholds=[float(t) for t in thresholds],
        accuracy_all_classes=float(np.mean(predicted == label)),
        accuracy=float(np.mean(dense == truth)),
        accuracy_gated=float(np.mean(gated == truth)),
        recall=share(dense == label, positive),
        recall_gated=share(gated == label, positive),
        false_accepts=share(dense < nothing, ~positive),
        false_accepts_gated=share(gated < nothing, ~positive),
        added_misses=share(~stayed, positive & (dense == truth)),
        exits_background=early(background),
        exits_other_speech=early(other),
        exits_keywords=early(positive),
        live=(live[positive].mean(axis=0) / weights.channels).tolist() if positive.any() else [],
        macs_background=share(cost, background),
        macs_other_speech=share(cost, other),
        macs_keywords=share(cost, positive),
    )
    shares = ("macs_background", "macs_other_speech", "macs_keywords")
    for name, mix in (("90_9_1", (0.90, 0.09, 0.01)), ("50_49_1", (0.50, 0.49, 0.01))):
        result[f"macs_stream_{name}"] = float(sum(w * result[s] for w, s in zip(mix, shares)))
    return result


def as_text(result):
    """A few readable lines of a report."""

    def rates(values):
        return "/".join(f"{v:.2f}" for v in values)

    return "\n".join([
        f"  accuracy {result['accuracy']:.3f} -> {result['accuracy_gated']:.3f}   "
        f"recall {result['recall']:.3f} -> {result['recall_gated']:.3f}   "
        f"false accepts {result['false_accepts']:.3f} -> {result['false_accepts_gated']:.3f}   "
        f"added misses {result['added_misses']:.3f}",
        f"  stopped by gate: background {rates(result['exits_background'])}   "
        f"other speech {rates(result['exits_other_speech'])}   keywords {rates(result['exits_keywords'])}   "
        f"live channels {rates(result['live'])}",
        f"  MACs: background {result['macs_background']:.2f}   other speech {result['macs_other_speech']:.2f}   "
        f"keywords {result['macs_keywords']:.2f}   stream 90/9/1 {result['macs_stream_90_9_1']:.2f}   "
        f"50/49/1 {result['macs_stream_50_49_1']:.2f}",
    ])
