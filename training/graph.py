"""A builder for ONNX graphs: nodes in order, initializers by name, branches of an If."""

from contextlib import contextmanager

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from gc_functions import DOMAIN


class GraphBuilder:
    """Collects nodes and initializers.

    Initializers always belong to the outermost graph; the branches of an If read them from there.
    With `fused`, a masked convolution or product is one function of mask and consumer (GcConv, GcMatMul);
    without, the input is taken to be masked already and the consumer is a plain operator.
    """

    def __init__(self, tensors, fused=False):
        self.tensors = tensors
        self.fused = fused
        self.nodes = []
        self.initializers = {}

    def weight(self, name):
        """Name of a tensor of the weights file, entered as an initializer."""
        return self.constant(name, self.tensors[name])

    def constant(self, name, value):
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.array(value, order="C"), name)
        return name

    def ints(self, name, *values):
        return self.constant(name, np.array(values, np.int64))

    def op(self, op_type, inputs, output, domain="", **attributes):
        """Appends a node; `output` is a name or a list of names, and is returned."""
        outputs = [output] if isinstance(output, str) else output
        node = helper.make_node(op_type, inputs, outputs, name=f"{outputs[0]}:{op_type}", domain=domain, **attributes)
        self.nodes.append(node)
        return output

    @contextmanager
    def branch(self):
        """Nodes added inside go to a list of their own, which is the value of the `with`."""
        outer, self.nodes = self.nodes, []
        try:
            yield self.nodes
        finally:
            self.nodes = outer

    def conv(self, x, name, output, mask=None, bias=True, strides=(1, 1), pads=(0, 0, 0, 0), group=1):
        """A convolution with every attribute written out."""
        shape = self.tensors[f"{name}.weight"].shape
        attributes = dict(
            kernel_shape=list(shape[2:]), strides=list(strides), pads=list(pads), dilations=[1, 1], group=group
        )
        operands = [self.weight(f"{name}.weight")] + ([self.weight(f"{name}.bias")] if bias else [])
        if mask and self.fused:
            return self.op("GcConv" if bias else "GcConvNoBias", [x, mask, *operands], output, DOMAIN, **attributes)
        return self.op("Conv", [x, *operands], output, **attributes)

    def linear(self, x, name, output, mask=None):
        """x @ weight + bias over the last axis of tokens."""
        weight = self.weight(f"{name}.weight")
        if mask and self.fused:
            product = self.op("GcMatMul", [x, mask, weight], f"{output}.product", DOMAIN)
        else:
            product = self.op("MatMul", [x, weight], f"{output}.product")
        return self.op("Add", [product, self.weight(f"{name}.bias")], output)


def float_value(name, *shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
