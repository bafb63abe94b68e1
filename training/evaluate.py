"""Accuracy, exits and cost of weights files on labelled clips, with stock onnxruntime. Needs no torch.

    python evaluate.py data/test.npz runs/final.safetensors models/kws_dynamic.safetensors
    python evaluate.py data/test.npz runs/final.safetensors --calibrate data/val.npz --json runs/report.json

Every model is reported at its own thresholds; with --calibrate also at thresholds that may lose 0.2, 1 or
3 % of the keywords per gate on those clips. "a -> b" is the dense model and the model with its gates at
work; MACs are relative to the same backbone without GC layers (metrics.report has all definitions).
"""

import argparse
import json
from pathlib import Path

from dataset import Clips
from export import flat
from features import model_input
from metrics import as_text, calibrate, gate_scores, report
from runtime import run
from weights import Weights

MISS_RATES = (0.002, 0.01, 0.03)


def outputs_of(weights, clips):
    if clips.labels != weights.labels:
        raise SystemExit("the clips and the model have different classes")
    return run(flat(weights), model_input(weights.cfg["kind"], clips.log_mel))


def operating_points(weights, val):
    """Name -> thresholds."""
    points = {"own thresholds": weights.thresholds}
    if val is not None:
        scores = gate_scores(outputs_of(weights, val))
        for miss in MISS_RATES:
            points[f"{100 * miss:g} % per gate"] = calibrate(scores, val.is_positive, miss)
    return points


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips")
    parser.add_argument("weights", nargs="+")
    parser.add_argument("--calibrate", help="clips to choose further thresholds on")
    parser.add_argument("--json", help="also write the reports here")
    args = parser.parse_args()

    clips = Clips.load(args.clips)
    val = Clips.load(args.calibrate) if args.calibrate else None
    collected = {}
    for path in args.weights:
        weights = Weights.load(path)
        outputs = outputs_of(weights, clips)
        print(f"{path}: {weights.parameters} parameters, {len(clips)} clips")
        collected[path] = {}
        for name, thresholds in operating_points(weights, val).items():
            result = report(weights, outputs, clips.label, thresholds)
            collected[path][name] = result
            print(f" {name}\n{as_text(result)}")
    if args.json:
        Path(args.json).write_text(json.dumps(collected, indent=1) + "\n")


if __name__ == "__main__":
    main()
