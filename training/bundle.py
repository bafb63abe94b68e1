"""Fills a models folder from the weights files in it: ONNX files, demo clips, expected outputs.

    python bundle.py ../models                                                      all from what is there
    python bundle.py ../models --pick data/test.npz --stream data/stream.wav        with new demo material

Reads NAME.safetensors, clips/*.wav with clips.json, and stream.wav. Writes

    NAME.onnx, NAME.inlined.onnx, NAME.staged.onnx    (see export.py)
    expected/mfcc.npy, logmel.npy        features of the clips, [clips, 1, 49, 10] and [clips, 1, 49, 40]
    expected/NAME.logits.npy, .gate_j.npy, .mask_j.npy (dynamic), .exit.npy              of the clips
    expected/NAME.stream_logits.npy, .stream_gate_j.npy, .stream_exit.npy    of the stream, every 0.2 s

Expected outputs are those of the flat form in stock onnxruntime, which computes everything: logits are
there even where a gate stops. `exit` is the first gate whose score is below its threshold, or the number
of gates. All .npy files are version 1.0, C order, float32 or int64.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
from scipy.io import wavfile

from export import FORMS, export_file, flat
from features import HOP, RATE, log_mel, mfcc, windows
from metrics import exits, gate_scores
from runtime import run
from weights import Weights

STREAM_HOP = 10 * HOP


def write_npy(path, values):
    """Version 1.0, C order; anything but float32 becomes int64."""
    values = np.ascontiguousarray(values)
    if values.dtype != np.float32:
        values = values.astype(np.int64)
    with open(path, "wb") as file:
        np.lib.format.write_array(file, values, version=(1, 0))


def read_sound(path):
    rate, samples = wavfile.read(path)
    if rate != RATE or samples.dtype != np.int16 or samples.ndim != 1:
        raise SystemExit(f"{path}: not 16-bit mono at {RATE} Hz")
    return samples / 32768


def choose(clips, per_keyword, others):
    """Indices of demo clips: for every keyword the voices in turn at more than 3 dB SNR, then negatives."""
    keywords = len(clips["labels"]) - 2
    chosen = []
    for label in range(keywords + 2):
        fitting = np.flatnonzero((clips["label"] == label) & ((clips["snr_db"] > 3) | (label >= keywords)))
        voices = [list(fitting[clips["voice"][fitting] == voice]) for voice in np.unique(clips["voice"][fitting])]
        wanted = per_keyword if label < keywords else others
        while wanted and any(voices):
            for voice in voices:
                if wanted and voice:
                    chosen.append(voice.pop(0))
                    wanted -= 1
    return sorted(chosen, key=lambda i: clips["label"][i])


def write_clips(folder, source, per_keyword, others):
    """clips/*.wav and clips.json from a clip file that was made with --audio."""
    with np.load(source) as file:
        clips = {name: file[name] for name in file.files}
    if "audio" not in clips:
        raise SystemExit(f"{source}: has no sound; run clips.py with --audio")
    labels = clips["labels"].tolist()
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    rows = []
    for number, i in enumerate(choose(clips, per_keyword, others)):
        label = labels[clips["label"][i]]
        name = f"clips/{number:02d}_{label.strip('_')}.wav"
        wavfile.write(folder / name, RATE, clips["audio"][i])
        rows.append(dict(file=name, label=label, word=str(clips["word"][i]), voice=str(clips["voice"][i]),
                         noise=str(clips["noise"][i]), snr_db=round(float(clips["snr_db"][i]), 1)))
    (folder / "clips.json").write_text(json.dumps(dict(labels=labels, clips=rows), indent=1) + "\n")


def write_expected(target, name, prefix, weights, model, features):
    """Outputs of one model on one set of inputs; returns the exits."""
    outputs = run(model, features)
    left_at = exits(gate_scores(outputs), weights.thresholds)
    for output, values in outputs.items():
        if not (prefix and output.startswith("mask_")):
            write_npy(target / f"{name}.{prefix}{output}.npy", values)
    write_npy(target / f"{name}.{prefix}exit.npy", left_at)
    return left_at


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("--pick", help="clip file (.npz with sound) to take new demo clips from")
    parser.add_argument("--per-keyword", type=int, default=3)
    parser.add_argument("--others", type=int, default=9, help="clips of other speech, and as many of background")
    parser.add_argument("--stream", type=Path, help="recording and .json of stream.py to take over")
    args = parser.parse_args()

    folder, target = args.models, args.models / "expected"
    target.mkdir(parents=True, exist_ok=True)
    if args.pick:
        write_clips(folder, args.pick, args.per_keyword, args.others)
    if args.stream:
        shutil.copy(args.stream, folder / "stream.wav")
        shutil.copy(args.stream.with_suffix(".json"), folder / "stream.json")

    listed = json.loads((folder / "clips.json").read_text())["clips"]
    clips = np.stack([read_sound(folder / clip["file"]) for clip in listed])
    stream = windows(read_sound(folder / "stream.wav"), STREAM_HOP)
    inputs = {}
    for front, compute in (("mfcc", mfcc), ("logmel", log_mel)):
        inputs[front] = [compute(sounds)[:, None] for sounds in (clips, stream)]
        write_npy(target / f"{front}.npy", inputs[front][0])

    for path in sorted(folder.glob("*.safetensors")):
        weights = Weights.load(path)
        cnn = weights.cfg["kind"] == "dscnn"
        for written in export_file(weights, path, list(FORMS)):
            print(written, written.stat().st_size)
        model = flat(weights).SerializeToString()
        for prefix, features in zip(("", "stream_"), inputs["mfcc" if cnn else "logmel"]):
            left_at = write_expected(target, path.stem, prefix, weights, model, features)
            counts = np.bincount(left_at, minlength=weights.gates + 1)
            print(f"  {prefix or 'clips '}exits at gates {counts[:-1].tolist()}, to the end {counts[-1]}")


if __name__ == "__main__":
    main()
