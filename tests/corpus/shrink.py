#!/usr/bin/env python3
"""Make a fuzzing seed of an ONNX model: the same graph without the bulk of its weights.

usage: shrink.py MODEL.onnx SEED.onnx

Large initializers become ConstantOfShape nodes, names become short, metadata goes. Needs the package onnx.
"""
import sys

import numpy as np
import onnx
from onnx import helper, numpy_helper


def main():
    model = onnx.load(sys.argv[1])
    graph = model.graph
    keep, nodes = [], []
    for t in graph.initializer:
        if int(np.prod(t.dims)) <= 32 or t.data_type != onnx.TensorProto.FLOAT:
            keep.append(t)
            continue
        shape = t.name + "_s"
        keep.append(numpy_helper.from_array(np.array(t.dims, np.int64), shape))
        value = numpy_helper.from_array(np.array([0.02], np.float32))
        nodes.append(helper.make_node("ConstantOfShape", [shape], [t.name], value=value))
    nodes += list(graph.node)
    names = {}

    def short(name):
        return names.setdefault(name, "v%d" % len(names)) if name else ""

    for p in list(graph.input) + list(graph.output):
        names[p.name] = p.name
    for t in keep:
        t.name = short(t.name)
    for n in nodes:
        n.name = n.doc_string = ""
        del n.metadata_props[:]
        for i, x in enumerate(n.input):
            n.input[i] = short(x)
        for i, x in enumerate(n.output):
            n.output[i] = short(x)
    for field in (graph.initializer, graph.node, graph.value_info, graph.metadata_props, model.metadata_props):
        del field[:]
    graph.initializer.extend(keep)
    graph.node.extend(nodes)
    onnx.save(model, sys.argv[2])


if __name__ == "__main__":
    main()
