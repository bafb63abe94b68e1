#!/usr/bin/env python3
"""Tables of NOTES.md and README.md, and speedup.svg, from measurements. Python 3.9, nothing else.

    benches/report.py FILE.json ...          rewrites what lies between the markers <!-- begin NAME --> and <!-- end NAME -->
    benches/report.py --check FILE.json ...  prints the figures that miss a goal instead

A file is a list of rows, or {"about": {...}, "rows": [...]}. Rows are what `density_sweep` prints, and those of a rig that times libraries side
by side in interleaved rounds:

    peer     "sluicegate", or a key of about.peers, which names it with its version
    call     "dense": all channels, whatever the mask (of sluicegate: with the mask); "gathered": the dense call on what is live, gathering not
             timed; "compact": gathering, the call, and scattering
    set      "gemm", "conv", "e2e", "sparse"; "sweep" and "net" of density_sweep
    shape, isa, threads, density, us
    operations, bytes    of the dense layer: multiplications and additions; inputs, weights and outputs

about.machine is a line of text; about.limits[isa] has "fma", GFLOP/s of one core, and "reads", pairs of a size in bytes and GB/s of one core reading
what fits into it, the last size null. Rows with nothing to compare to are left out, and a table without rows stays as it is."""
import collections
import json
import math
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
OURS = "sluicegate"


def load(files):
    about, rows = {}, []
    for name in files:
        data = json.loads(pathlib.Path(name).read_text())
        if isinstance(data, dict):
            about.update(data.get("about", {}))
            data = data["rows"]
        rows += data
    for row in rows:
        row.setdefault("call", "dense")
        row.setdefault("isa", "avx512")
        row.setdefault("density", 1.0)
    return about, rows


def geomean(values):
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values))


def best(rows):
    return min(rows, key=lambda row: row["us"], default=None)


class Report:
    def __init__(self, about, rows):
        self.about, self.rows = about, rows

    def find(self, **wanted):
        return [row for row in self.rows if all(row.get(k) == v for k, v in wanted.items())]

    def name(self, row):
        return self.about.get("peers", {}).get(row["peer"], row["peer"])

    def short(self, row):
        return self.name(row).split(" ")[0]

    def versions(self):
        return ", ".join(self.about.get("peers", {}).values())

    def limit(self, row):
        """Microseconds that the FMAs alone take, or reading everything once from the cache that holds it."""
        limits = self.about.get("limits", {}).get(row["isa"])
        if not limits or not row.get("operations"):
            return None
        reads = next((gbs for size, gbs in limits["reads"] if size is None or row["bytes"] <= size), None)
        bound = max(row["operations"] * row["density"] / limits["fma"], row["bytes"] / reads if row["bytes"] else 0)
        return bound / 1e3

    def pairs(self, sets, threads=1, isa="avx512", density=1.0, call="dense"):
        """(ours, best peer) of each shape that both have."""
        found = []
        for ours in self.rows:
            key = (ours["threads"], ours["isa"], ours["density"])
            if ours["peer"] == OURS and ours["set"] in sets and key == (threads, isa, density):
                same = dict(set=ours["set"], shape=ours["shape"], threads=threads, isa=isa, density=density, call=call)
                peer = best(row for row in self.find(**same) if row["peer"] != OURS)
                if peer:
                    found.append((ours, peer))
        return found

    # ---- tables

    def dense(self, sets, what, threads, isa="avx512"):
        pairs = self.pairs(sets, threads, isa)
        if not pairs:
            return []
        one = {row["shape"]: row["us"] for row in self.find(peer=OURS, threads=1, isa=isa, density=1.0, call="dense") if row["set"] in sets}
        last = "of the limit" if threads == 1 else "of one thread"
        lines = [f"| {what} | ours | best peer | its time | ratio | {last} |", "|---|---:|---|---:|---:|---:|"]
        for ours, peer in pairs:
            if threads == 1:
                limit = self.limit(ours)
                extra = f"{limit / ours['us']:.0%}" if limit else ""
            else:
                extra = f"{one[ours['shape']] / ours['us']:.2f}x" if ours["shape"] in one else ""
            ratio = ours["us"] / peer["us"]
            lines.append(f"| {ours['shape']} | {ours['us']:.1f} | {self.short(peer)} | {peer['us']:.1f} | {ratio:.2f} | {extra} |")
        mean = geomean(ours["us"] / peer["us"] for ours, peer in pairs)
        return lines + ["", f"Geometric mean {mean:.2f}.", ""]

    def sparse(self, threads):
        shapes = list(dict.fromkeys(row["shape"] for row in self.find(set="sparse", peer=OURS, threads=threads)))
        densities = sorted({row["density"] for row in self.find(set="sparse", peer=OURS, threads=threads)}, reverse=True)
        lines = []
        for call, what in [("gathered", "the best dense call on what is live, nothing gathered"), ("compact", "the best that gathers, everything timed")]:
            cells = {(o["shape"], d): o["us"] / p["us"] for d in densities for o, p in self.pairs(["sparse"], threads, density=d, call=call)}
            if not cells:
                continue
            lines += [f"Against {what}:", "", "| shape | " + " | ".join(f"{d:.0%}" for d in densities) + " |", "|---|" + "---:|" * len(densities)]
            for shape in shapes:
                row = [f"{cells[shape, d]:.2f}" if (shape, d) in cells else "-" for d in densities]
                if set(row) != {"-"}:
                    lines.append(f"| {shape} | " + " | ".join(row) + " |")
            means = [[v for (_, at), v in cells.items() if at == d] for d in densities]
            lines += ["| geometric mean | " + " | ".join(f"{geomean(m):.2f}" if m else "-" for m in means) + " |", ""]
        return lines

    def sweep_cells(self, threads, isa="avx512"):
        """(shape, mask, side, density) -> time over that of the dense call; and the rows."""
        sweep = [row for row in self.rows if row["set"] in ("sweep", "net") and row["threads"] == threads and row["isa"] == isa]
        dense = {row["shape"]: row["us"] for row in sweep if row["mask"] == "none"}
        return {(r["shape"], r["mask"], r["side"], r["density"]): (r["us"] / dense[r["shape"]], r) for r in sweep if r["mask"] != "none"}

    def masks(self, threads):
        cells = self.sweep_cells(threads)
        shapes = list(dict.fromkeys(shape for shape, *_ in cells))
        columns = [("in", m, d) for d in (1.0, 0.9, 0.5, 0.1) for m in ("random", "blocked") if (m, d) != ("blocked", 1.0)]
        columns += [("out", "random", 0.9), ("out", "random", 0.5), ("both", "random", 0.5), ("both", "blocked", 0.5), ("both", "random", 0.1)]
        if not cells:
            return []
        head = [f"{side} {d:.0%}{' blocked' if m == 'blocked' else ''}" for side, m, d in columns]
        lines = ["| time / dense | " + " | ".join(head) + " |", "|---|" + "---:|" * len(columns)]
        for shape in shapes:
            row = [cells.get((shape, m, side, d)) for side, m, d in columns]
            lines.append(f"| {shape} | " + " | ".join(f"{c[0]:.2f}" if c else "-" for c in row) + " |")
        return lines + [""]

    def summary(self):
        """The table of README.md."""
        lines = ["| what | geometric mean | best and worst shape |", "|---|---:|---|"]

        def add(what, pairs):
            if pairs:
                ratios = sorted((o["us"] / p["us"], o["shape"]) for o, p in pairs)
                (low, first), (high, last) = ratios[0], ratios[-1]
                lines.append(f"| {what.format(n=len(pairs))} | {geomean(r for r, _ in ratios):.2f} | {low:.2f} ({first}), {high:.2f} ({last}) |")

        for threads in (1, 2):
            of = "" if threads == 1 else ", 2 threads"
            add("{n} products" + of, self.pairs(["gemm"], threads))
            conv = self.pairs(["conv"], threads)
            add("{n} convolutions" + of, [pair for pair in conv if not pair[0]["shape"].startswith("dw")])
            add("{n} depthwise convolutions" + of, [pair for pair in conv if pair[0]["shape"].startswith("dw")])
            add("{n} whole nets" + of, self.pairs(["e2e"], threads))
            for density in (0.5, 0.25, 0.1, 0.03):
                add(f"{{n}} layers with {density:.0%} live, against the dense call on what is live{of}", self.pairs(["sparse"], threads, density=density, call="gathered"))
            add("layers with 50% live, against gathering and the call" + of, self.pairs(["sparse"], threads, density=0.5, call="compact"))
            nets = [ratio for (_, _, _, at), (ratio, row) in self.sweep_cells(threads).items() if row["set"] == "net" and at == 0.5]
            if nets:
                what = f"{len(nets) // 2} whole nets with half of the channels dead, against our own dense run{of}"
                lines.append(f"| {what} | {geomean(nets):.2f} | {min(nets):.2f}, {max(nets):.2f} |")
        add("{n} products and convolutions, AVX2 against AVX2", self.pairs(["gemm", "conv"], 1, "avx2"))
        return lines + [""] if len(lines) > 2 else []

    # ---- goals

    def misses(self):
        out = []
        for threads, most in ((1, 1.10), (2, 1.15)):
            for ours, peer in self.pairs(["gemm", "conv"], threads):
                goal = 0.90 if ours["shape"].startswith("dw") else 1.0 if ours["shape"].startswith(("1_", "2_", "3_", "4_")) and ours["set"] == "gemm" else most
                if ours["us"] > goal * peer["us"]:
                    out.append(f"dense, {threads} threads: {ours['shape']} {ours['us'] / peer['us']:.2f} of {self.short(peer)}, goal {goal}")
            for density in (0.5, 0.25, 0.1, 0.03):
                for ours, peer in self.pairs(["sparse"], threads, density=density, call="gathered"):
                    if ours["us"] > 1.05 * peer["us"]:
                        out.append(f"sparse, {threads} threads: {ours['shape']} at {density:.0%} {ours['us'] / peer['us']:.2f} of the dense call on what is live")
                for ours, peer in self.pairs(["sparse"], threads, density=density, call="compact"):
                    if ours["us"] > peer["us"]:
                        out.append(f"sparse, {threads} threads: {ours['shape']} at {density:.0%} {ours['us'] / peer['us']:.2f} of gathering and the call")
            for ours, peer in self.pairs(["e2e"], threads):
                if ours["us"] > peer["us"]:
                    out.append(f"net, {threads} threads: {ours['shape']} {ours['us'] / peer['us']:.2f} of {self.short(peer)}")
            cells = self.sweep_cells(threads)
            for (shape, mask, side, density), (ratio, row) in cells.items():
                at = f"sweep, {threads} threads: {shape} {mask} {side} {density:.0%} {ratio:.3f} of dense"
                if ratio > 1.02:
                    out.append(f"{at}, goal 1.02")
                floor = cells.get((shape, "random", side, 0.0))
                if side == "in" or row["set"] == "net" or not floor or density in (0.0, 1.0):
                    continue
                share = row["in"] * row["out"] if not shape.startswith("depthwise") else min(row["in"], row["out"])
                goal = floor[0] + 1.10 * share
                if ratio > goal:
                    out.append(f"{at}, goal {goal:.3f} = floor + 1.10 d_in d_out")
            for (shape, mask, side, density), (ratio, row) in cells.items():
                if row["set"] == "net" and density == 0.5 and ratio > 1 / 1.7:
                    out.append(f"net, {threads} threads: {shape} {mask} 50% dead {1 / ratio:.2f}x, goal 1.7x")
        one = {(r["set"], r["shape"]): r["us"] for r in self.find(peer=OURS, threads=1, isa="avx512", density=1.0, call="dense") if r.get("mask", "none") == "none"}
        for row in self.find(peer=OURS, threads=2, isa="avx512", density=1.0, call="dense"):
            alone = one.get((row["set"], row["shape"]))
            if alone and alone > 200 and row.get("mask", "none") == "none" and alone / row["us"] < 1.8:
                out.append(f"2 threads: {row['set']} {row['shape']} {alone / row['us']:.2f}x of one thread, goal 1.8x")
        for (sets, threads, isa), most in {(("gemm", "conv"), 1, "avx512"): 1.0, (("gemm", "conv"), 2, "avx512"): 1.0, (("gemm", "conv"), 1, "avx2"): 1.05}.items():
            pairs = self.pairs(sets, threads, isa)
            mean = geomean(o["us"] / p["us"] for o, p in pairs) if pairs else 0
            if mean > most:
                out.append(f"geometric mean of {'+'.join(sets)} {isa} {threads} threads {mean:.3f}, goal {most}")
        return out

    # ---- the plot

    def curves(self):
        """density -> geometric mean of the speedup over the best dense call; of ours, of the best that gathers; least and most of ours."""
        ours, compact = collections.defaultdict(list), collections.defaultdict(list)
        shapes = {row["shape"] for row in self.find(set="sparse", peer=OURS, threads=1, isa="avx512")}
        for own, dense in self.pairs(["gemm", "conv"]):
            if own["shape"] in shapes:
                ours[1.0].append(dense["us"] / own["us"])
                compact[1.0].append(1.0)
        for density in sorted({row["density"] for row in self.find(set="sparse", threads=1, isa="avx512")}):
            for own, dense in self.pairs(["sparse"], density=density):
                ours[density].append(dense["us"] / own["us"])
            dense = {own["shape"]: peer["us"] for own, peer in self.pairs(["sparse"], density=density)}
            for own, peer in self.pairs(["sparse"], density=density, call="compact"):
                compact[density].append(dense[own["shape"]] / peer["us"])
        return ours, compact

    def plot(self):
        ours, compact = self.curves()
        if not ours:
            return None
        width, height, left, top, right, bottom = 640, 420, 60, 20, 20, 60
        x0, y0, y1 = 0.03, 0.4, 128.0
        x = lambda d: left + (width - left - right) * math.log(1 / d) / math.log(1 / x0)
        y = lambda v: height - bottom - (height - top - bottom) * math.log(v / y0) / math.log(y1 / y0)
        svg = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
               f'<rect width="{width}" height="{height}" fill="white"/>']

        def text(px, py, words, anchor="middle", **more):
            extra = "".join(f' {k}="{v}"' for k, v in more.items())
            svg.append(f'<text x="{px:.1f}" y="{py:.1f}" text-anchor="{anchor}"{extra}>{words}</text>')

        def line(points, colour, **more):
            extra = "".join(f' {k.replace("_", "-")}="{v}"' for k, v in more.items())
            path = " ".join(f"{x(d):.1f},{y(v):.1f}" for d, v in points)
            svg.append(f'<polyline points="{path}" fill="none" stroke="{colour}"{extra}/>')

        for v in (0.5, 1, 2, 4, 8, 16, 32, 64):
            line([(1, v), (x0, v)], "#ddd")
            text(left - 8, y(v) + 4, f"{v:g}x", "end")
        for d in (1.0, 0.5, 0.25, 0.1, 0.03):
            line([(d, y0), (d, y1)], "#eee")
            text(x(d), height - bottom + 18, f"{d:.0%}")
        text((left + width - right) / 2, height - 14, "share of live input channels, random masks")
        text(14, (top + height - bottom) / 2, "speedup over the best dense call", transform=f"rotate(-90 14 {(top + height - bottom) / 2:.0f})")
        line([(1, 1), (x0, 1 / x0)], "#888", stroke_dasharray="6 4")
        line([(1, 1), (x0, 1)], "#c55", stroke_width=2)
        band = [(d, min(v)) for d, v in sorted(ours.items())] + [(d, max(v)) for d, v in sorted(ours.items(), reverse=True)]
        svg.append('<polygon points="' + " ".join(f"{x(d):.1f},{y(v):.1f}" for d, v in band) + '" fill="#37a" fill-opacity="0.15"/>')
        for data, colour in ((compact, "#d80"), (ours, "#37a")):
            points = [(d, geomean(v)) for d, v in sorted(data.items())]
            line(points, colour, stroke_width=2)
            for d, v in points:
                svg.append(f'<circle cx="{x(d):.1f}" cy="{y(v):.1f}" r="3.5" fill="{colour}"/>')
        count = len(next(iter(ours.values())))
        legend = [("#888", "ideal: 1 / share"), ("#37a", f"sluicegate, mean and range of {count} layers"), ("#d80", "the best library behind a gather, mean"),
                  ("#c55", "the best library, dense")]
        for i, (colour, words) in enumerate(legend):
            svg.append(f'<rect x="{left + 14}" y="{top + 8 + 18 * i}" width="14" height="4" fill="{colour}"/>')
            text(left + 34, top + 14 + 18 * i, words, "start")
        return "\n".join(svg + ["</svg>", ""])


def between(path, name, lines):
    """Replaces what a file has between the markers of a name."""
    if not lines:
        print(f"{path.name}: no rows for {name}")
        return
    text = path.read_text()
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
    if begin not in text:
        sys.exit(f"{path.name} has no marker {name}")
    body = re.sub(r"\n+$", "\n", "\n".join(lines) + "\n")
    head, rest = text.split(begin, 1)
    path.write_text(head + begin + body + end + rest.split(end, 1)[1])


def main():
    files = [arg for arg in sys.argv[1:] if not arg.startswith("--")]
    if not files:
        sys.exit(__doc__)
    report = Report(*load(files))
    if "--check" in sys.argv:
        print("\n".join(report.misses()))
        return
    notes, readme = HERE / "NOTES.md", HERE.parent / "README.md"
    kinds = [(["gemm"], "product (m_n_k)"), (["conv"], "convolution (window_in_out_map)"), (["e2e"], "whole net")]
    for threads in (1, 2):
        between(notes, f"dense {threads}", sum((report.dense(*kind, threads) for kind in kinds), []))
        between(notes, f"sparse {threads}", report.sparse(threads))
        between(notes, f"masks {threads}", report.masks(threads))
    between(notes, "avx2", sum((report.dense(*kind, 1, "avx2") for kind in kinds), []))
    table = report.summary()
    between(readme, "measured", table and [f"{report.about.get('machine', '')}. Peers: {report.versions()}.", ""] + table)
    plot = report.plot()
    if plot:
        (HERE / "speedup.svg").write_text(plot)


if __name__ == "__main__":
    main()
