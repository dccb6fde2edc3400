#!/usr/bin/env python3
"""Store the weights of an fp32 ONNX graph as fp16, each followed by a Cast back to fp32.

usage: make.py MODEL.onnx OUT.onnx

The graph still computes in fp32; the file is half as large. Vectors stay fp32. Needs the packages
onnx and numpy. examples/shakespeare/model.onnx was made from the cache-less dynamo export of a GPT-2
(6 layers, 256 wide, 1,024 tokens) that was trained on the first 90 % of tinyshakespeare.
"""
import sys

import numpy as np
import onnx
from onnx import helper, numpy_helper


def main():
    source, target = sys.argv[1:3]
    model = onnx.load(source)
    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        half = numpy_helper.to_array(tensor).astype(np.float16)
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half, name + "_f16"))
        casts.append(helper.make_node("Cast", [name + "_f16"], [name], to=onnx.TensorProto.FLOAT))
    nodes = casts + list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)
    for value in list(graph.value_info):
        graph.value_info.remove(value)
    onnx.checker.check_model(model)
    onnx.save(model, target)


if __name__ == "__main__":
    main()
