#!/usr/bin/env python3
"""What a timing rig measured, as the rows of report.py. Python 3.9, nothing else.

    benches/rows.py [--ours NAME] [--isa avx2] [--about ABOUT.json] [--limits LIMITS.jsonl] FILE.json ... > rows.json

A FILE holds {"SET|SHAPE|tTHREADS": {"PEER[:CALL]": {"us": MICROSECONDS} | {"skip": WHY}}}, as the rig does to which `--example peer_worker` is a
worker; a shape of the set `sparse` ends in `@DENSITY`. ABOUT.json is the `about` of report.py, LIMITS.jsonl has the line
{"name": "fma_f32_avx512" | "fma_f32_avx2" | "read_L1_..." | "read_L2_..." | "read_L3_..." | "read_DRAM_...", "threads": 1, "best": GFLOP/s or GB/s}
for each limit of the machine."""
import argparse
import json
import pathlib
import re

OURS = "sluicegate"
CALLS = {"compact_nogather": "gathered", "compact": "compact", "compact_a": "compact"}
# Calls that are dense ones of another layout, or of another packing.
DENSE = {"nhwc": ", NHWC", "packed": ", packed", "fused": ", fused"}


def inside(outputs, window, step, before, size):
    """Taps of all windows along one axis that are not on the padding."""
    return sum(0 <= o * step - before + i < size for o in range(outputs) for i in range(window))


def conv(channels, filters, hw, window, step, pad, groups=1):
    out = [(n + 2 * p - k) // s + 1 for n, k, s, p in zip(hw, window, step, pad)]
    taps = inside(out[0], window[0], step[0], pad[0], hw[0]) * inside(out[1], window[1], step[1], pad[1], hw[1])
    weights = filters * channels // groups * window[0] * window[1]
    floats = channels * hw[0] * hw[1] + weights + filters * out[0] * out[1]
    return 2.0 * taps * filters * channels / groups, 4.0 * floats


def work(kind, shape):
    """Operations and bytes of a dense layer; none where they do not follow from the name."""
    if kind in ("gemm", "sparse") and (found := re.fullmatch(r"(\d+)_(\d+)_(\d+)", shape)):
        m, n, k = map(int, found.groups())
        return 2.0 * m * n * k, 4.0 * (m * k + k * n + m * n)
    if found := re.fullmatch(r"(dw)?(\d)x\2(s2)?_(\d+)_(?:(\d+)_)?(\d+)", shape):
        depthwise, k, step, channels, filters, size = found.groups()
        k, channels, size, s = int(k), int(channels), int(size), 2 if step else 1
        filters, groups = (channels, channels) if depthwise else (int(filters), 1)
        return conv(channels, filters, (size, size), (k, k), (s, s), (k // 2, k // 2), groups)
    if shape == "kws_1_64_10x4s2":
        return conv(1, 64, (49, 10), (10, 4), (2, 2), (5, 1))
    if shape == "kws_pw_64_64_25x5":
        return conv(64, 64, (25, 5), (1, 1), (1, 1), (0, 0))
    return None


def rows(data, ours, isa):
    for key, peers in data.items():
        kind, name, threads = key.split("|")
        name, _, density = name.partition("@")
        shape = name.removeprefix("gemm_").removeprefix("attn_")
        known = work(kind, shape)
        for label, figures in peers.items():
            peer, _, variant = label.partition(":")
            if "us" not in figures or variant not in ("", *CALLS, *DENSE):
                continue
            row = {
                "peer": OURS if peer == ours else peer + (":" + variant if variant in DENSE else ""),
                "call": CALLS.get(variant, "dense"),
                "set": kind,
                "shape": shape,
                "isa": isa,
                "threads": int(threads[1:]),
                "density": float(density or 1),
                "us": figures["us"],
            }
            if known:
                row["operations"], row["bytes"] = known
            yield row


def limits(path):
    best = {}
    for line in path.read_text().splitlines():
        figure = json.loads(line)
        if figure["threads"] == 1:
            best[figure["name"]] = figure["best"]
    size = {"L1": 32 << 10, "L2": 1 << 20, "L3": 32 << 20, "DRAM": None}
    reads = {level: max(v for name, v in best.items() if name.startswith("read_" + level)) for level in size}
    reads = [[size[level], gbs] for level, gbs in reads.items()]
    return {isa: {"fma": best["fma_f32_" + isa], "reads": reads} for isa in ("avx512", "avx2") if "fma_f32_" + isa in best}


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--ours", default="sg", help="what the rig calls this crate")
    args.add_argument("--isa", default="avx512", help="what all peers were capped at")
    args.add_argument("--about", type=pathlib.Path)
    args.add_argument("--limits", type=pathlib.Path)
    args.add_argument("files", nargs="+", type=pathlib.Path)
    args = args.parse_args()
    about = json.loads(args.about.read_text()) if args.about else {}
    if args.limits:
        about["limits"] = limits(args.limits)
    found = [row for file in args.files for row in rows(json.loads(file.read_text()), args.ours, args.isa)]
    print(json.dumps({"about": about, "rows": found}, indent=0))


if __name__ == "__main__":
    main()
