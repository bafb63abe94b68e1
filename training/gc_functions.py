"""The operators of gated compression as ONNX model-local functions.

Every function has a body of standard operators, so a runtime that has never heard of the domain runs the
model densely and gets the same numbers; a runtime that knows the domain replaces the body by a kernel.

One node per GC layer (the flat form); `axes` are the pooled axes, [2, 3] for NCHW and [1] for tokens:

    GcStatic        (X, gate_w, gate_b, mask_in)                 -> (Y, score, stop, mask)
    GcDynamic       (X, gate_w, gate_b, h1_w, h1_b, h2_w, h2_b)  -> (Y, score, stop, mask)
    Gc...Chained    the same with `prev`, the mask of the layer before, as the last input

        a = mean(X, axes)    m = max(X, axes)
        score = sigmoid([a, m] gate_w + gate_b)         stop = score < threshold
        own   = mask_in   or   1 if relu(a h1_w + h1_b) h2_w + h2_b > 0 else 0
        mask  = own   or   own * prev                   Y = X * mask

Gate, mask and consumers apart (the staged form):

    GcGate          (X, gate_w, gate_b)         -> (score, stop)
    GcMask          (X, h1_w, h1_b, h2_w, h2_b) -> mask
    GcConv          (X, mask, W, B)             -> Y = Conv(X * mask, W, B)
    GcConvNoBias    (X, mask, W)                -> Y = Conv(X * mask, W)
    GcMatMul        (A, mask, B)                -> Y = MatMul(A * mask, B)

Attention of live heads among live tokens; attributes heads, kv_heads, scale, and causal (0 or 1):

    GcAttention     (q, k, v, head_mask, token_mask) -> y

        y_h = softmax(scale q_h k_g' over live keys) v_g     g = h kv_heads / heads     heads side by side
        y is 0 for dead heads and in the rows of dead tokens, whatever q, k and v hold there

Shapes: X [N, C, H, W] or [N, T, C]; gate_w [2C, 1]; gate_b [1]; h1_w [C, K]; h2_w [K, C]; mask [N, C] or
[1, C], 1 for a live channel; score [N, 1]; stop [N, 1] bool; q and y [N, T, heads * width]; k and v
[N, T, kv_heads * width]; head_mask and token_mask as mask, but over heads and over tokens.
"""

import numpy as np
from onnx import AttributeProto, TensorProto, helper, numpy_helper

DOMAIN = "ai.sluicegate"
DOMAIN_VERSION = 1
OPSET = 17
IR_VERSION = 8

INTS, INT, FLOAT = AttributeProto.INTS, AttributeProto.INT, AttributeProto.FLOAT
CONV_ATTRIBUTES = dict(kernel_shape=INTS, strides=INTS, pads=INTS, dilations=INTS, group=INT)


class Body:
    """Nodes of a function body; attributes may refer to attributes of the function."""

    def __init__(self):
        self.nodes = []

    def add(self, op_type, inputs, output, refs=None, **attributes):
        """Appends a node; `refs` maps attribute -> (attribute of the function, its type)."""
        node = helper.make_node(op_type, inputs, [output], **attributes)
        for name, (source, kind) in (refs or {}).items():
            node.attribute.append(AttributeProto(name=name, ref_attr_name=source, type=kind))
        self.nodes.append(node)
        return output

    def constant(self, value, output):
        return self.add("Constant", [], output, value=numpy_helper.from_array(np.array(value)))

    def function(self, name, inputs, outputs, attributes):
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_function(DOMAIN, name, inputs, outputs, self.nodes, opset, list(attributes))

    def pool(self, op_type, output):
        return self.add(op_type, ["X"], output, {"axes": ("axes", INTS)}, keepdims=0)

    def gate(self):
        """score and stop from X, avg, gate_w and gate_b."""
        self.pool("ReduceMax", "max")
        self.add("Concat", ["avg", "max"], "pooled", axis=1)
        self.add("Gemm", ["pooled", "gate_w", "gate_b"], "gate_logit")
        self.add("Sigmoid", ["gate_logit"], "score")
        self.add("Constant", [], "theta", {"value_float": ("threshold", FLOAT)})
        self.add("Less", ["score", "theta"], "stop")

    def computed_mask(self, output):
        """A mask from avg and two dense layers."""
        self.add("Gemm", ["avg", "h1_w", "h1_b"], "hidden")
        self.add("Relu", ["hidden"], "hidden_relu")
        self.add("Gemm", ["hidden_relu", "h2_w", "h2_b"], "mask_logit")
        self.constant(np.float32(0), "zero")
        self.add("Greater", ["mask_logit", "zero"], "keep")
        return self.add("Cast", ["keep"], output, to=TensorProto.FLOAT)

    def masked(self, x, axes, output):
        """x times the mask, spread over the given axes."""
        self.constant(np.array(axes, np.int64), "mask_axes")
        self.add("Unsqueeze", ["mask", "mask_axes"], "mask_spread")
        return self.add("Mul", [x, "mask_spread"], output)


def gc_layer(dynamic, chained):
    """GcStatic, GcDynamic and their chained forms."""
    body = Body()
    body.pool("ReduceMean", "avg")
    body.gate()
    inputs = ["X", "gate_w", "gate_b"]
    if dynamic:
        inputs += ["h1_w", "h1_b", "h2_w", "h2_b"]
        own = body.computed_mask("own" if chained else "mask")
    else:
        inputs.append("mask_in")
        own = "mask_in"
    if chained:
        inputs.append("prev")
        body.add("Mul", [own, "prev"], "mask")
    elif not dynamic:
        body.add("Identity", [own], "mask")
    body.add("Constant", [], "spread_axes", {"value_ints": ("axes", INTS)})
    body.add("Unsqueeze", ["mask", "spread_axes"], "mask_spread")
    body.add("Mul", ["X", "mask_spread"], "Y")
    name = layer_name(dynamic, chained)
    return body.function(name, inputs, ["Y", "score", "stop", "mask"], ["axes", "threshold"])


def layer_name(dynamic, chained):
    return ("GcDynamic" if dynamic else "GcStatic") + ("Chained" if chained else "")


def gc_gate():
    body = Body()
    body.pool("ReduceMean", "avg")
    body.gate()
    return body.function("GcGate", ["X", "gate_w", "gate_b"], ["score", "stop"], ["axes", "threshold"])


def gc_mask():
    body = Body()
    body.pool("ReduceMean", "avg")
    body.computed_mask("mask")
    return body.function("GcMask", ["X", "h1_w", "h1_b", "h2_w", "h2_b"], ["mask"], ["axes"])


def gc_conv(bias):
    body = Body()
    body.masked("X", [2, 3], "X_live")
    refs = {name: (name, kind) for name, kind in CONV_ATTRIBUTES.items()}
    operands = ["W", "B"] if bias else ["W"]
    body.add("Conv", ["X_live", *operands], "Y", refs)
    name = "GcConv" if bias else "GcConvNoBias"
    return body.function(name, ["X", "mask", *operands], ["Y"], CONV_ATTRIBUTES)


def gc_matmul():
    body = Body()
    body.masked("A", [1], "A_live")
    body.add("MatMul", ["A_live", "B"], "Y")
    return body.function("GcMatMul", ["A", "mask", "B"], ["Y"], [])


def gc_attention():
    body = Body()
    for name, source in (("head_count", "heads"), ("kv_count", "kv_heads"), ("is_causal", "causal")):
        body.add("Constant", [], name, {"value_int": (source, INT)})
    for name, value in (("one", [1]), ("as_is", [0, 0]), ("rest", [-1])):
        body.constant(np.array(value, np.int64), name)
    body.add("Reshape", ["kv_count", "one"], "kv_list")
    body.add("Div", ["head_count", "kv_list"], "each_list")

    # Queries of a group side by side: [N, kv, each, T, width] against keys [N, kv, 1, width, T].
    body.add("Concat", ["as_is", "kv_list", "each_list", "rest"], "query_shape", axis=0)
    body.add("Concat", ["as_is", "kv_list", "one", "rest"], "key_shape", axis=0)
    for name, order in (("q", [0, 2, 3, 1, 4]), ("k", [0, 2, 3, 4, 1]), ("v", [0, 2, 3, 1, 4])):
        body.add("Reshape", [name, "query_shape" if name == "q" else "key_shape"], f"{name}_split")
        body.add("Transpose", [f"{name}_split"], f"{name}_heads", perm=order)
    body.add("MatMul", ["q_heads", "k_heads"], "products")
    body.add("Constant", [], "factor", {"value_float": ("scale", FLOAT)})
    body.add("Mul", ["products", "factor"], "scores")

    # Which keys a query sees: live ones, and none behind it.
    body.constant(np.array([1, 2, 3], np.int64), "key_axes")
    body.add("Unsqueeze", ["token_mask", "key_axes"], "key_mask")
    body.constant(np.float32(0), "zero")
    body.add("Greater", ["key_mask", "zero"], "live_keys")
    body.add("Shape", ["q"], "token_list", start=1, end=2)
    for name, value in (("first", 0), ("step", 1)):
        body.constant(np.int64(value), name)
    body.add("Squeeze", ["token_list"], "token_count")
    body.add("Range", ["first", "token_count", "step"], "places")
    body.add("Unsqueeze", ["places", "one"], "query_places")
    body.add("Greater", ["places", "query_places"], "behind")
    body.add("Cast", ["is_causal"], "causal_flag", to=TensorProto.BOOL)
    body.add("And", ["behind", "causal_flag"], "hidden_keys")
    body.add("Not", ["hidden_keys"], "keys_before")
    body.add("And", ["live_keys", "keys_before"], "seen")
    body.constant(np.float32(np.finfo(np.float32).min), "lowest")
    body.add("Where", ["seen", "scores", "lowest"], "seen_scores")
    body.add("Softmax", ["seen_scores"], "weights", axis=-1)
    body.add("MatMul", ["weights", "v_heads"], "mix")

    body.constant(np.array([0], np.int64), "same")
    body.add("Concat", ["same", "kv_list", "each_list"], "group_shape", axis=0)
    body.add("Reshape", ["head_mask", "group_shape"], "head_groups")
    body.constant(np.array([3, 4], np.int64), "head_axes")
    body.add("Unsqueeze", ["head_groups", "head_axes"], "head_spread")
    body.add("Mul", ["mix", "head_spread"], "live_mix")
    body.add("Transpose", ["live_mix"], "mix_tokens", perm=[0, 3, 1, 2, 4])
    body.add("Concat", ["as_is", "rest"], "merge_shape", axis=0)
    body.add("Reshape", ["mix_tokens", "merge_shape"], "merged")
    body.constant(np.array([2], np.int64), "query_axes")
    body.add("Unsqueeze", ["token_mask", "query_axes"], "query_mask")
    body.add("Mul", ["merged", "query_mask"], "y")
    inputs = ["q", "k", "v", "head_mask", "token_mask"]
    return body.function("GcAttention", inputs, ["y"], ["heads", "kv_heads", "scale", "causal"])


def all_functions():
    layers = [gc_layer(dynamic, chained) for dynamic in (False, True) for chained in (False, True)]
    return [*layers, gc_gate(), gc_mask(), gc_conv(bias=True), gc_conv(bias=False), gc_matmul(), gc_attention()]


def functions_used(nodes):
    """The functions that these nodes call, also inside the branches of an If."""
    names, queue = set(), list(nodes)
    while queue:
        node = queue.pop()
        if node.domain == DOMAIN:
            names.add(node.op_type)
        for attribute in node.attribute:
            queue.extend(attribute.g.node)
    return [function for function in all_functions() if function.name in names]
