"""Attention with dead heads and dead tokens, timed side by side with all alive; writes attention.svg and a table of NOTES.md.

    cargo build --release --example peer_worker
    benches/attention.py target/release/examples/peer_worker [--peer SHAPE=MICROSECONDS ...]

`--peer` gives the best rival's time for a dense shape (heads_tokens_width), of a timing rig that drives the same program.
The rounds of all densities of a shape are interleaved; medians are taken over rounds.
"""

import argparse
import math
import statistics
import subprocess
from pathlib import Path

from report import between

HERE = Path(__file__).parent
SHAPES = [(12, 197, 64), (8, 1024, 64)]
DENSITIES = [1.0, 0.75, 0.5, 0.25, 0.1]
COLOURS = {"heads": "#37a", "tokens": "#383"}


class Worker:
    """One prepared call in a process of its own."""

    def __init__(self, program, shape, what, density):
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        heads, tokens, width = shape
        sparse = f" what={what} density={density}" if density < 1 else ""
        answer = self.ask(f"prep op=attn heads={heads} n={tokens} d={width} threads=1{sparse}")
        if not answer.startswith("ok"):
            raise SystemExit(f"{shape} {what} {density}: {answer}")

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def microseconds(self):
        samples = self.ask("run 60 200").split()[1:]
        return statistics.median(int(sample.split(":")[0]) for sample in samples) / 1e3


def measure(program, rounds):
    """(shape, what, density) -> microseconds."""
    times = {}
    for shape in SHAPES:
        cells = [("all", 1.0)] + [(what, d) for what in COLOURS for d in DENSITIES if d < 1]
        workers = {cell: Worker(program, shape, *cell) for cell in cells}
        found = {cell: [] for cell in cells}
        for _ in range(rounds):
            for cell, worker in workers.items():
                found[cell].append(worker.microseconds())
        for (what, density), all_times in found.items():
            times[shape, what, density] = statistics.median(all_times)
        for worker in workers.values():
            worker.process.stdin.close()
            worker.process.wait()
    return times


def name(shape):
    return "_".join(map(str, shape))


def table(times, peers):
    lines = ["| heads_tokens_width | dead | 75 % live | 50 % | 25 % | 10 % | all, us | best peer, us |", "|---|---|---:|---:|---:|---:|---:|---:|"]
    for shape in SHAPES:
        dense = times[shape, "all", 1.0]
        for what in COLOURS:
            ratios = " | ".join(f"{times[shape, what, d] / dense:.3f}" for d in DENSITIES if d < 1)
            peer = peers.get(name(shape))
            lines.append(f"| {name(shape)} | {what} | {ratios} | {dense:.1f} | {f'{peer:.1f}' if peer else ''} |")
    return lines + ["", "Of the time with all alive; ideal is the share of heads, and the square of the share of tokens.", ""]


def plot(times, peers):
    width, height, left, top, right, bottom = 640, 420, 60, 20, 20, 60
    x0, y0, y1 = DENSITIES[-1], 0.6, 120.0
    x = lambda d: left + (width - left - right) * math.log(1 / d) / math.log(1 / x0)
    y = lambda v: height - bottom - (height - top - bottom) * math.log(v / y0) / math.log(y1 / y0)
    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{height}" fill="white"/>']

    def text(px, py, words, anchor="middle", more=""):
        svg.append(f'<text x="{px:.1f}" y="{py:.1f}" text-anchor="{anchor}"{more}>{words}</text>')

    def line(points, colour, more=' stroke-width="1"'):
        path = " ".join(f"{x(d):.1f},{y(v):.1f}" for d, v in points)
        svg.append(f'<polyline points="{path}" fill="none" stroke="{colour}"{more}/>')

    for v in (1, 2, 4, 8, 16, 32, 64):
        line([(1, v), (x0, v)], "#ddd")
        text(left - 8, y(v) + 4, f"{v}x", "end")
    for d in DENSITIES:
        line([(d, y0), (d, y1)], "#eee")
        text(x(d), height - bottom + 18, f"{d:.0%}")
    text((left + width - right) / 2, height - 14, "share of live heads or tokens, random masks")
    middle = (top + height - bottom) / 2
    text(14, middle, "speedup over the best dense attention", more=f' transform="rotate(-90 14 {middle:.0f})"')
    line([(1, 1), (x0, 1 / x0)], COLOURS["heads"], ' stroke-dasharray="6 4"')
    line([(1, 1), (x0, x0 ** -2)], COLOURS["tokens"], ' stroke-dasharray="6 4"')
    line([(1, 1), (x0, 1)], "#c55", ' stroke-width="2"')
    for what, colour in COLOURS.items():
        for shape, dots in zip(SHAPES, ("", ' stroke-dasharray="2 2"')):
            best = peers.get(name(shape), times[shape, "all", 1.0])
            points = [(d, best / times[shape, "all" if d == 1 else what, d]) for d in DENSITIES]
            line(points, colour, f' stroke-width="2"{dots}')
            for d, v in points:
                svg.append(f'<circle cx="{x(d):.1f}" cy="{y(v):.1f}" r="3" fill="{colour}"/>')
    words = [("#37a", "heads dead (dashed: ideal, 1 / share)"), ("#383", "tokens dead (dashed: ideal, 1 / share squared)"),
             ("#c55", "the best library, dense"), ("#888", f"solid {name(SHAPES[0])}, dotted {name(SHAPES[1])}")]
    for i, (colour, what) in enumerate(words):
        svg.append(f'<rect x="{left + 14}" y="{top + 8 + 18 * i}" width="14" height="4" fill="{colour}"/>')
        text(left + 34, top + 14 + 18 * i, what, "start")
    return "\n".join(svg + ["</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("worker")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peer", nargs="*", default=[])
    args = parser.parse_args()
    peers = {shape: float(us) for shape, us in (peer.split("=") for peer in args.peer)}
    times = measure(args.worker, args.rounds)
    (HERE / "attention.svg").write_text(plot(times, peers))
    between(HERE / "NOTES.md", "attention", table(times, peers))


if __name__ == "__main__":
    main()
