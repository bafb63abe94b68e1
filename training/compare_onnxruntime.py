"""Runs every form of every model in stock onnxruntime and compares it with the expected outputs.

    python compare_onnxruntime.py ../models

For each NAME.onnx, NAME.inlined.onnx and NAME.staged.onnx the largest difference to expected/NAME.*.npy on
the clips is printed. A staged model runs one clip at a time and returns zeros for what lies behind the gate
where a clip leaves; there, the exit itself is compared, and that the zeros are zeros.
"""

import argparse
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from export import FORMS
from runtime import run, session

TOLERANCE = 1e-5


def expected_outputs(folder, name):
    """Outputs by name, and the exit of every clip."""
    stored = {path.name.split(".")[1]: np.load(path) for path in folder.glob(f"{name}.*.npy")}
    left_at = stored.pop("exit")
    return {key: value for key, value in stored.items() if not key.startswith("stream_")}, left_at


def behind_exit(name, left_at, gates):
    """Which clips leave before this output is computed."""
    position = gates if name == "logits" else int(name.split("_")[1])
    return left_at < position


def compare(path, staged, features, expected, left_at, gates):
    """(largest difference, number of values that should be zero and are not)."""
    outputs = run(session(path), features, batch=1 if staged else 256)
    worst, stray = 0.0, 0
    for name, values in outputs.items():
        away = behind_exit(name, left_at, gates) if staged else np.zeros(len(values), bool)
        worst = max(worst, float(np.abs(values[~away] - expected[name][~away]).max(initial=0)))
        stray += int(np.count_nonzero(values[away]))
    return worst, stray


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    args = parser.parse_args()

    print(f"onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}")
    good, found = True, 0
    for weights in sorted(args.models.glob("*.safetensors")):
        expected, left_at = expected_outputs(args.models / "expected", weights.stem)
        gates = sum(name.startswith("gate_") for name in expected)
        for form, (_, suffix) in FORMS.items():
            path = weights.with_suffix(suffix)
            if not path.exists():
                continue
            width = onnx.load(path).graph.input[0].type.tensor_type.shape.dim[3].dim_value
            features = np.load(args.models / "expected" / ("mfcc.npy" if width == 10 else "logmel.npy"))
            worst, stray = compare(path, form == "staged", features, expected, left_at, gates)
            found += 1
            good &= worst < TOLERANCE and stray == 0
            note = f", {np.sum(left_at < gates)} clips left early, {stray} stray values" if form == "staged" else ""
            print(f"{path.name:28s} max difference {worst:.1e}{note}")
    if not good or not found:
        raise SystemExit("outputs differ" if found else "no models there")


if __name__ == "__main__":
    main()
