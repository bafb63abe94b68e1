"""Writes a weights file as ONNX, in three forms of one model.

    python export.py models/kws_dynamic.safetensors                    all forms, next to the weights
    python export.py --checkpoint runs/gated.pt runs/gated.safetensors --forms flat

flat     NAME.onnx          a GC layer is one node (X, heads) -> (Y, score, stop, mask). Any batch. A stock
                            runtime computes everything; the caller may honour the gates afterwards.
inlined  NAME.inlined.onnx  the same graph with the functions expanded, for runtimes without functions.
staged   NAME.staged.onnx   batch 1. All behind a gate sits in the else-branch of an If, and a mask is an
                            operand of the operator that reads the masked tensor. The then-branch returns
                            zeros for every output that the exit leaves uncomputed.

Inputs and outputs: `input`, `logits`, `gate_j` for every gate, and `mask_j` for every dynamic mask (not
in the staged form). Exporting the same weights twice gives the same bytes.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.inliner import inline_local_functions

from architectures import architecture
from gc_functions import DOMAIN, DOMAIN_VERSION, IR_VERSION, OPSET, functions_used, layer_name
from graph import GraphBuilder, float_value
from weights import Weights, from_checkpoint


def finish(weights, builder, shape, outputs, batch):
    """A checked model from the nodes of a builder."""
    graph = helper.make_graph(
        builder.nodes, "gated", [float_value("input", batch, *shape)], outputs, list(builder.initializers.values())
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)],
        functions=functions_used(builder.nodes),
        ir_version=IR_VERSION,
        producer_name="sluicegate",
    )
    features = "mfcc" if weights.cfg["kind"] == "dscnn" else "log_mel"
    helper.set_model_props(model, {"labels": json.dumps(weights.labels), "features": features})
    onnx.checker.check_model(model, full_check=True)
    return model


def gate_operands(builder, j):
    return [builder.weight(f"gc{j}.gate.weight"), builder.weight(f"gc{j}.gate.bias")]


def mask_operands(builder, weights, j):
    """The static mask, or the two dense layers of a dynamic one."""
    if weights.cfg["mode"] != "dynamic":
        return [builder.weight(f"gc{j}.mask")]
    return [builder.weight(f"gc{j}.{layer}.{part}") for layer in ("h1", "h2") for part in ("weight", "bias")]


def flat(weights):
    """One node a GC layer, symbolic batch."""
    cfg = weights.cfg
    b = GraphBuilder(weights.tensors)
    net = architecture(b, cfg)
    dynamic = cfg["mode"] == "dynamic"
    x, mask = net.stem(), None
    for s in range(net.stages):
        if s:
            x = net.stage(s, x, mask)
        if s in cfg["gc_after"]:
            j = cfg["gc_after"].index(s)
            previous = [mask] if mask else []
            x, _, _, made = b.op(
                layer_name(dynamic, bool(previous)),
                [x, *gate_operands(b, j), *mask_operands(b, weights, j), *previous],
                [f"gc{j}.out", f"gate_{j}", f"gc{j}.stop", f"mask_{j}"],
                DOMAIN,
                axes=net.pooled_axes,
                threshold=float(weights.thresholds[j]),
            )
            mask = made if net.mask_lasts else None
    net.head(x, "logits")

    outputs = [float_value("logits", "N", cfg["classes"])]
    outputs += [float_value(f"gate_{j}", "N", 1) for j in range(weights.gates)]
    if dynamic:
        outputs += [float_value(f"mask_{j}", "N", weights.channels) for j in range(weights.gates)]
    return finish(weights, b, net.input_shape, outputs, "N")


def inlined(weights):
    """The flat form without functions; constants are tensors, as the plainest readers expect."""
    model = inline_local_functions(flat(weights))
    for node in model.graph.node:
        if node.op_type == "Constant":
            attribute = node.attribute[0]
            if attribute.name != "value":
                dtype = np.float32 if attribute.name.startswith("value_float") else np.int64
                value = numpy_helper.from_array(np.array(helper.get_attribute_value(attribute), dtype))
                node.attribute[0].CopyFrom(helper.make_attribute("value", value))
    kept = [opset for opset in model.opset_import if opset.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    onnx.checker.check_model(model, full_check=True)
    return model


class Staged:
    """Builds the nested form; `run` and `gate` call each other once per gate."""

    def __init__(self, weights):
        self.weights = weights
        self.cfg = weights.cfg
        self.b = GraphBuilder(weights.tensors, fused=True)
        self.net = architecture(self.b, self.cfg)

    def outputs(self, first_gate):
        """What is computed from gate `first_gate` on: name -> shape."""
        gates = {f"gate_{j}": (1, 1) for j in range(first_gate, self.weights.gates)}
        return {"logits": (1, self.cfg["classes"])} | gates

    def model(self):
        self.run(0, self.net.stem(), None, 0, "")
        outputs = [float_value(name, *shape) for name, shape in self.outputs(0).items()]
        return finish(self.weights, self.b, self.net.input_shape, outputs, 1)

    def run(self, s, x, mask, j, suffix):
        """Stages from `s` on, up to the next gate and what is behind it; outputs get the suffix."""
        net = self.net
        for stage in range(s, net.stages):
            if stage:
                x = net.stage(stage, x, mask)
                mask = mask if net.mask_lasts else None
            if stage in self.cfg["gc_after"]:
                self.gate(stage, x, mask, j, suffix)
                return
        net.head(x, f"logits{suffix}")

    def gate(self, s, x, mask, j, suffix):
        b = self.b
        operands = [x, *gate_operands(b, j)]
        attributes = dict(axes=self.net.pooled_axes, threshold=float(self.weights.thresholds[j]))
        _, stop = b.op("GcGate", operands, [f"gate_{j}{suffix}", f"gc{j}.stop"], DOMAIN, **attributes)
        condition = b.op("Reshape", [stop, b.ints("scalar_shape")], f"gc{j}.exit")

        behind = self.outputs(j + 1)
        with b.branch() as exit_nodes:
            for name, shape in behind.items():
                zeros = numpy_helper.from_array(np.zeros(shape, np.float32))
                b.op("Constant", [], f"{name}.exit{j}", value=zeros)
        with b.branch() as stay_nodes:
            live, mask = self.mask(x, mask, j)
            self.run(s + 1, live, mask, j + 1, f".stay{j}")
        b.op(
            "If",
            [condition],
            [f"{name}{suffix}" for name in behind],
            then_branch=self.branch_graph(f"exit{j}", exit_nodes, behind, f".exit{j}"),
            else_branch=self.branch_graph(f"stay{j}", stay_nodes, behind, f".stay{j}"),
        )

    def mask(self, x, previous, j):
        """(tensor, mask) that the next stage reads; no mask when the model has gates only."""
        b, mode = self.b, self.cfg["mode"]
        if mode == "off":
            return x, previous
        operands = mask_operands(b, self.weights, j)
        if mode == "dynamic":
            mask = b.op("GcMask", [x, *operands], f"mask_{j}", DOMAIN, axes=self.net.pooled_axes)
        else:
            mask = operands[0]
        if previous:
            mask = b.op("Mul", [mask, previous], f"mask_{j}.chained")
        return self.net.apply_mask(x, mask, f"gc{j}.out"), mask

    @staticmethod
    def branch_graph(name, nodes, outputs, suffix):
        values = [float_value(f"{output}{suffix}", *shape) for output, shape in outputs.items()]
        return helper.make_graph(nodes, name, [], values)


def staged(weights):
    """Every stage behind a gate in an If, masks fused with their consumers, batch 1."""
    return Staged(weights).model()


FORMS = {"flat": (flat, ".onnx"), "inlined": (inlined, ".inlined.onnx"), "staged": (staged, ".staged.onnx")}


def export_file(weights, path, forms):
    """Writes the chosen forms next to `path` and returns their paths."""
    written = []
    for form in forms:
        build, suffix = FORMS[form]
        target = Path(path).with_suffix(suffix)
        target.write_bytes(build(weights).SerializeToString(deterministic=True))
        written.append(target)
    return written


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", help="weights file (.safetensors); written first when --checkpoint is given")
    parser.add_argument("--checkpoint", help="checkpoint of train.py to convert (needs torch)")
    parser.add_argument("--forms", nargs="*", default=list(FORMS), choices=list(FORMS))
    args = parser.parse_args()

    if args.checkpoint:
        from_checkpoint(args.checkpoint).save(args.weights)
        print(args.weights)
    for path in export_file(Weights.load(args.weights), args.weights, args.forms):
        print(f"{path}  {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
