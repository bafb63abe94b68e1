"""Times models on the stream: this crate and stock onnxruntime on the same file, turn by turn, one thread each.

    cargo build --release --example window_time
    python time_onnxruntime.py ../models ../target/release/examples/window_time --only kwt_static kwt_dynamic

A call is one window of one second. A turn is all 371 windows, several times over; the turns of the two alternate,
and the one that begins changes from round to round, so that both meet the same phases of the machine. For every file
the medians over rounds are printed, in microseconds a window, and the median and the quartiles of the ratio within
a round.
onnxruntime reads from and writes to buffers that are bound once. The flat form it computes densely; in
the staged form it leaves at gates as well.
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime

from bundle import STREAM_HOP, read_sound, write_npy
from export import FORMS
from features import log_mel, mfcc, windows


class Rival:
    """onnxruntime on one file."""

    def __init__(self, path):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        entry = self.session.get_inputs()[0]
        self.width = entry.shape[3]
        self.buffer = np.zeros([1, *entry.shape[1:]], np.float32)
        self.binding = self.session.io_binding()
        self.binding.bind_input(entry.name, "cpu", 0, np.float32, self.buffer.shape, self.buffer.ctypes.data)
        self.results = []
        for output in self.session.get_outputs():
            result = np.zeros([1, *output.shape[1:]], np.float32)
            self.binding.bind_output(output.name, "cpu", 0, np.float32, result.shape, result.ctypes.data)
            self.results.append(result)

    def turn(self, features, passes):
        """Microseconds a window: the median of some passes, behind one to warm up."""
        times = []
        for _ in range(passes + 1):
            start = time.perf_counter()
            for window in features:
                self.buffer[0] = window
                self.session.run_with_iobinding(self.binding)
            times.append((time.perf_counter() - start) * 1e6 / len(features))
        return float(np.median(times[1:]))


def ours(program, path, features, passes):
    found = subprocess.run(
        [program, path, features, "--passes", str(passes)], capture_output=True, text=True, check=True
    )
    return json.loads(found.stdout.splitlines()[-1])["us_per_window"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("program", type=Path, help="the example `window_time`, built for release")
    parser.add_argument("--only", nargs="*", help="names of models")
    parser.add_argument("--forms", nargs="*", default=["flat"], choices=list(FORMS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--passes", type=int, default=5, help="times the stream is heard in a turn")
    args = parser.parse_args()

    sound = windows(read_sound(args.models / "stream.wav"), STREAM_HOP)
    print(f"onnxruntime {onnxruntime.__version__}, {len(sound)} windows, {args.rounds} rounds of {args.passes} passes")
    with tempfile.TemporaryDirectory() as folder:
        features = {}
        for compute in (mfcc, log_mel):
            values = compute(sound)[:, None]
            path = Path(folder) / f"{compute.__name__}.npy"
            write_npy(path, values)
            features[values.shape[3]] = values, path
        for weights in sorted(args.models.glob("*.safetensors")):
            if args.only and weights.stem not in args.only:
                continue
            for form in args.forms:
                path = weights.with_suffix(FORMS[form][1])
                if not path.exists():
                    continue
                rival = Rival(path)
                values, file = features[rival.width]
                rows = []
                for number in range(args.rounds):
                    if number % 2:
                        theirs = rival.turn(values, args.passes)
                        rows.append((ours(args.program, path, file, args.passes), theirs))
                    else:
                        mine = ours(args.program, path, file, args.passes)
                        rows.append((mine, rival.turn(values, args.passes)))
                mine, theirs = np.array(rows).T
                low, middle, high = np.quantile(mine / theirs, [0.25, 0.5, 0.75])
                print(f"{path.name:26s} ours {np.median(mine):7.2f}  onnxruntime {np.median(theirs):7.2f}  "
                      f"ratio {middle:.3f} ({low:.3f} to {high:.3f})", flush=True)


if __name__ == "__main__":
    main()
