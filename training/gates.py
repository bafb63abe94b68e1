"""Fits the gate heads of a trained model anew and calibrates their thresholds. Needs no torch.

    python gates.py runs/gated.safetensors runs/final.safetensors --train data/train.npz --val data/val.npz
    python gates.py models/kws_gates.safetensors mine.safetensors --val my_val.npz      thresholds only

The backbone and the masks stay as they are, so the features that a gate reads can be computed once. A head
is then a weighted logistic regression on z = [mean(x), max(x)], which is convex and takes seconds:

    min over w, b   - mean( y log g + alpha (1 - y) log(1 - g) ) + decay |w|^2,    g = sigmoid(w z + b)

with y = 1 for keywords. `alpha` is the weight of "stop on negatives". Much of its effect is a shift of all
scores, which calibration undoes (metrics.calibrate); what is left speaks for small values, since a small
alpha spends the head on the keywords that are hard to keep. `decay` smooths the head: larger values stop
more background and less other speech.
"""

import argparse

import numpy as np
from onnx import helper
from scipy.optimize import minimize
from scipy.special import expit

from dataset import Clips
from export import flat
from features import MELS, model_input
from gc_functions import DOMAIN
from graph import float_value
from metrics import as_text, calibrate, gate_scores, report
from runtime import run, session
from weights import Weights


def pooled_model(weights):
    """The flat model with one more output per gate: pooled_j = [mean(x), max(x)] of what gate j reads."""
    model = flat(weights)
    layers = [node for node in model.graph.node if node.domain == DOMAIN]
    for j, layer in enumerate(layers):
        axes = next(helper.get_attribute_value(a) for a in layer.attribute if a.name == "axes")
        for op_type in ("ReduceMean", "ReduceMax"):
            model.graph.node.append(
                helper.make_node(op_type, [layer.input[0]], [f"{op_type}_{j}"], axes=axes, keepdims=0)
            )
        name = f"pooled_{j}"
        model.graph.node.append(helper.make_node("Concat", [f"ReduceMean_{j}", f"ReduceMax_{j}"], [name], axis=1))
        model.graph.output.append(float_value(name, "N", 2 * weights.channels))
    return model


def vary_level(log_mels, rng):
    """Random level and spectral tilt per clip, so that a gate does not learn loudness."""
    level = 0.6 * rng.standard_normal((len(log_mels), 1, 1))
    slope = 0.5 * rng.standard_normal((len(log_mels), 1, 1))
    return (log_mels + level + slope * np.linspace(-1, 1, MELS)).astype(np.float32)


def fit_head(pooled, is_positive, usable, alpha, decay):
    """Weight [2C, 1] and bias [1] of one gate; standardisation is folded into them.

    Only the `usable` columns of `pooled` [N, 2C] get a weight.
    """
    weight = np.zeros((pooled.shape[1], 1), np.float32)
    pooled = pooled[:, usable]
    centre, spread = pooled.mean(axis=0), pooled.std(axis=0) + 1e-4
    z = ((pooled - centre) / spread).astype(np.float64)
    y = is_positive.astype(np.float64)

    def loss(parameters):
        w, b = parameters[:-1], parameters[-1]
        logit = z @ w + b
        value = np.mean(y * np.logaddexp(0, -logit) + alpha * (1 - y) * np.logaddexp(0, logit))
        slope = (alpha * (1 - y) * expit(logit) - y * expit(-logit)) / len(y)
        return value + decay * w @ w, np.append(z.T @ slope + 2 * decay * w, slope.sum())

    found = minimize(loss, np.zeros(z.shape[1] + 1), jac=True, method="L-BFGS-B", options=dict(maxiter=300))
    w = found.x[:-1] / spread
    weight[usable, 0] = w
    return weight, np.array([found.x[-1] - w @ centre], np.float32)


def refit(weights, clips, alpha, decay, seed):
    """Replaces every gate head by one fitted on these clips.

    With static masks a head gets no weight on the channels its mask drops: nobody reads them then, and the
    layer in front need not compute them.
    """
    rng = np.random.default_rng(seed)
    features = model_input(weights.cfg["kind"], vary_level(clips.log_mel, rng))
    outputs = run(session(pooled_model(weights)), features)
    for j in range(weights.gates):
        mask = weights.tensors.get(f"gc{j}.mask", np.ones((1, weights.channels)))
        usable = np.tile(mask[0] > 0, 2)
        head = fit_head(outputs[f"pooled_{j}"], clips.is_positive, usable, alpha, decay)
        weights.tensors[f"gc{j}.gate.weight"], weights.tensors[f"gc{j}.gate.bias"] = head


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", help="weights file to start from")
    parser.add_argument("out", help="weights file to write")
    parser.add_argument("--train", nargs="*", default=[], help="clips to fit the heads on; none: keep the heads")
    parser.add_argument("--val", nargs="+", required=True, help="clips to choose the thresholds on")
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--decay", type=float, default=0.01)
    parser.add_argument("--miss", type=float, default=0.01, help="share of keywords each gate may stop")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    weights = Weights.load(args.weights)
    if args.train:
        refit(weights, Clips.load(*args.train), args.alpha, args.decay, args.seed)
    val = Clips.load(*args.val)
    if val.labels != weights.labels:
        raise SystemExit("the clips and the model have different classes")
    outputs = run(flat(weights), model_input(weights.cfg["kind"], val.log_mel))
    weights.thresholds = calibrate(gate_scores(outputs), val.is_positive, args.miss)
    weights.save(args.out)
    print(f"{args.out}: thresholds", ", ".join(f"{t:.4f}" for t in weights.thresholds))
    print(as_text(report(weights, outputs, val.label, weights.thresholds)))


if __name__ == "__main__":
    main()
