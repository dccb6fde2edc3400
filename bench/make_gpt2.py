#!/usr/bin/env python3
"""Write a GPT-2 with random weights as an ONNX graph with past and present, as exporters emit it.

usage: make_gpt2.py OUT_DIR [--layers 12 --width 768 --heads 12 --vocab 50257 --positions 1024 --seed 0]

Standard ops of opset 18, split past (past_key_values.N.key: [batch, heads, past, head size]), fp32, weights
in weights.bin beside the model. Both gptc and ONNX Runtime read it, so that they can be compared on one file.
"""
import argparse
import os

import numpy as np
import onnx
from onnx import TensorProto, helper


class Graph:
    def __init__(self, directory, seed):
        self.nodes, self.initializers = [], []
        self.rng = np.random.default_rng(seed)
        self.file = open(os.path.join(directory, "weights.bin"), "wb")

    def weight(self, name, shape, one=False):
        data = np.ones(shape, np.float32) if one else self.rng.standard_normal(shape, np.float32) * np.float32(0.02)
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape,
                             data_location=TensorProto.EXTERNAL)
        self.file.seek((self.file.tell() + 4095) // 4096 * 4096)
        for key, value in (("location", "weights.bin"), ("offset", self.file.tell()), ("length", data.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        self.file.write(data.tobytes())
        self.initializers.append(tensor)
        return name

    def const(self, name, values, dtype=np.int64):
        self.initializers.append(onnx.numpy_helper.from_array(np.array(values, dtype), name))
        return name

    def op(self, kind, inputs, out, **attrs):
        outs = [out] if isinstance(out, str) else out
        self.nodes.append(helper.make_node(kind, inputs, outs, name=outs[0], **attrs))
        return out


def block(g, n, x, width, heads):
    p = f"h.{n}."
    size = width // heads
    a = g.op("LayerNormalization", [x, g.weight(p + "ln_1.weight", [width], True), g.weight(p + "ln_1.bias", [width])],
             p + "ln_1", axis=-1, epsilon=1e-5)
    qkv = g.op("MatMul", [a, g.weight(p + "attn.qkv.weight", [width, 3 * width])], p + "qkv_mm")
    qkv = g.op("Add", [qkv, g.weight(p + "attn.qkv.bias", [3 * width])], p + "qkv")
    parts = g.op("Split", [qkv, "split3"], [p + "q", p + "k", p + "v"], axis=2)
    heads_of = []
    for part in parts:
        r = g.op("Reshape", [part, "heads_shape"], part + "_r")
        heads_of.append(g.op("Transpose", [r], part + "_t", perm=[0, 2, 1, 3]))
    q, k, v = heads_of
    k = g.op("Concat", [f"past_key_values.{n}.key", k], f"present.{n}.key", axis=2)
    v = g.op("Concat", [f"past_key_values.{n}.value", v], f"present.{n}.value", axis=2)
    kt = g.op("Transpose", [k], p + "kt", perm=[0, 1, 3, 2])
    s = g.op("MatMul", [q, kt], p + "scores")
    s = g.op("Mul", [s, g.const(p + "scale", 1.0 / np.sqrt(size), np.float32)], p + "scaled")
    s = g.op("Add", [s, "mask"], p + "masked")
    s = g.op("Softmax", [s], p + "probs", axis=-1)
    o = g.op("MatMul", [s, v], p + "mixed")
    o = g.op("Transpose", [o], p + "mixed_t", perm=[0, 2, 1, 3])
    o = g.op("Reshape", [o, "rows_shape"], p + "mixed_r")
    o = g.op("MatMul", [o, g.weight(p + "attn.proj.weight", [width, width])], p + "proj_mm")
    o = g.op("Add", [o, g.weight(p + "attn.proj.bias", [width])], p + "proj")
    x = g.op("Add", [x, o], p + "res_1")
    m = g.op("LayerNormalization", [x, g.weight(p + "ln_2.weight", [width], True), g.weight(p + "ln_2.bias", [width])],
             p + "ln_2", axis=-1, epsilon=1e-5)
    m = g.op("MatMul", [m, g.weight(p + "mlp.fc.weight", [width, 4 * width])], p + "fc_mm")
    m = g.op("Add", [m, g.weight(p + "mlp.fc.bias", [4 * width])], p + "fc")
    cube = g.op("Pow", [m, "three"], p + "cube")
    inner = g.op("Add", [m, g.op("Mul", [cube, "gelu_a"], p + "ca")], p + "inner")
    tanh = g.op("Tanh", [g.op("Mul", [inner, "gelu_b"], p + "ib")], p + "tanh")
    m = g.op("Mul", [g.op("Mul", [m, "half"], p + "half"), g.op("Add", [tanh, "one"], p + "t1")], p + "act")
    m = g.op("MatMul", [m, g.weight(p + "mlp.proj.weight", [4 * width, width])], p + "mp_mm")
    m = g.op("Add", [m, g.weight(p + "mlp.proj.bias", [width])], p + "mp")
    return g.op("Add", [x, m], p + "res_2")


def mask(g):
    """0 where key <= past + query, a large negative number elsewhere: [query, total]."""
    g.op("Shape", ["past_key_values.0.key"], "past_shape")
    g.op("Gather", ["past_shape", g.const("two", 2)], "past_len", axis=0)
    g.op("Shape", ["input_ids"], "ids_shape")
    g.op("Gather", ["ids_shape", g.const("one_i", 1)], "seq_len", axis=0)
    g.op("Add", ["past_len", "seq_len"], "total")
    g.op("Range", ["past_len", "total", "one_i"], "queries")
    g.op("Range", [g.const("zero_i", 0), "total", "one_i"], "keys")
    g.op("Unsqueeze", ["queries", g.const("axis1", [1])], "q_col")
    g.op("Unsqueeze", ["keys", g.const("axis0", [0])], "k_row")
    g.op("LessOrEqual", ["k_row", "q_col"], "allowed")
    g.op("Where", ["allowed", g.const("zero", 0.0, np.float32), g.const("low", -3.4e38, np.float32)], "mask")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("out")
    for name, default in (("layers", 12), ("width", 768), ("heads", 12), ("vocab", 50257), ("positions", 1024), ("seed", 0)):
        ap.add_argument("--" + name, type=int, default=default)
    a = ap.parse_args()
    os.makedirs(a.out, exist_ok=True)
    g = Graph(a.out, a.seed)
    size = a.width // a.heads
    g.const("split3", [a.width] * 3)
    g.const("heads_shape", [0, 0, a.heads, size])
    g.const("rows_shape", [0, 0, a.width])
    for name, value in (("three", 3.0), ("gelu_a", 0.044715), ("gelu_b", 0.7978845608), ("half", 0.5), ("one", 1.0)):
        g.const(name, value, np.float32)
    mask(g)
    wte = g.weight("wte.weight", [a.vocab, a.width])
    x = g.op("Gather", [wte, "input_ids"], "tok", axis=0)
    rows = g.op("Gather", [g.weight("wpe.weight", [a.positions, a.width]), "queries"], "pos", axis=0)
    x = g.op("Add", [x, rows], "embedded")
    for n in range(a.layers):
        x = block(g, n, x, a.width, a.heads)
    x = g.op("LayerNormalization", [x, g.weight("ln_f.weight", [a.width], True), g.weight("ln_f.bias", [a.width])],
             "ln_f", axis=-1, epsilon=1e-5)
    g.op("Transpose", [wte], "wte_t", perm=[1, 0])
    g.op("MatMul", [x, "wte_t"], "logits")
    ins = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "seq"])]
    outs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "seq", a.vocab])]
    for n in range(a.layers):
        for kind in ("key", "value"):
            ins.append(helper.make_tensor_value_info(f"past_key_values.{n}.{kind}", TensorProto.FLOAT,
                                                     ["batch", a.heads, "past", size]))
            outs.append(helper.make_tensor_value_info(f"present.{n}.{kind}", TensorProto.FLOAT,
                                                      ["batch", a.heads, "past + seq", size]))
    graph = helper.make_graph(g.nodes, "gpt2", ins, outs, g.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    g.file.close()
    onnx.save(model, os.path.join(a.out, "model.onnx"))


if __name__ == "__main__":
    main()
