#!/usr/bin/env python3
"""Writes tests/models/fused-*: a decoder of one layer in the fused forms that runtimes give their graphs.

usage: fused.py OUT [NAME...]

Each folder has model.onnx, tokens_batch.pb and logits_batch.pb: what ONNX Runtime, or where it has no kernel ONNX's
own reference, computes for the whole sequence with an empty cache."""
import os
import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

VOCAB, HIDDEN, HEADS, D, MLP, CONTEXT = 40, 32, 2, 16, 32, 64
TOKENS = np.random.default_rng(5).integers(0, VOCAB, (2, 20), dtype=np.int64)


class Net:
    def __init__(self, opset=21):
        self.nodes, self.inits, self.inputs, self.outputs, self.feeds = [], [], [], [], {}
        self.rng, self.opset = np.random.default_rng(11), opset
        self.input("input_ids", TensorProto.INT64, ["batch", "seq"], TOKENS)

    def input(self, name, kind, shape, feed):
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        self.feeds[name] = feed
        return name

    def weight(self, *shape, scale=0.3, offset=0.0):
        return self.const((self.rng.standard_normal(shape) * scale + offset).astype(np.float32))

    def const(self, array):
        name = f"w{len(self.inits)}"
        self.inits.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def op(self, kind, inputs, outputs=1, domain="", **attrs):
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)] if isinstance(outputs, int) else outputs
        self.nodes.append(helper.make_node(kind, inputs, names, domain=domain, **attrs))
        used = [n for n in names if n]
        return used[0] if len(used) == 1 else used

    def ms(self, kind, inputs, outputs=1, **attrs):
        return self.op(kind, inputs, outputs, "com.microsoft", **attrs)

    def output(self, name, shape):
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def past(self, name, shape, room=0):
        """An input that holds the past, empty, or with room for rows that are not there yet."""
        feed = [room if d in ("past", "room") else 2 if d == "batch" else d for d in shape]
        return self.input(name, TensorProto.FLOAT, shape, np.zeros(feed, np.float32))

    def model(self):
        graph = helper.make_graph(self.nodes, "decoder", self.inputs, self.outputs, self.inits)
        sets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=sets, ir_version=10)

    # ---- parts that several forms share ----
    def mask(self):
        return self.input("attention_mask", TensorProto.INT32, ["batch", "total"], np.ones(TOKENS.shape, np.int32))

    def lengths(self, mask):
        """seqlens_k and total_sequence_length as the genai builder computes them."""
        last = self.op("Sub", [self.op("ReduceSum", [self.op("Cast", [mask], to=7), self.const(np.array([1], np.int64))],
                                       keepdims=0), self.const(np.array([1], np.int64))])
        total = self.op("Gather", [self.op("Shape", [mask]), self.const(np.array(1, np.int64))])
        return self.op("Cast", [last], to=6), self.op("Cast", [total], to=6)

    def tables(self):
        angle = np.arange(CONTEXT)[:, None] / 100.0 ** (np.arange(D // 2) / (D // 2))
        return self.const(np.cos(angle).astype(np.float32)), self.const(np.sin(angle).astype(np.float32))

    def tables_by_length(self, mask):
        """Other tables above 32 tokens, as models with a long and a short scaling have them."""
        total = self.op("Gather", [self.op("Shape", [mask]), self.const(np.array(1, np.int64))])
        longer = self.op("Greater", [total, self.const(np.array(32, np.int64))])

        def branch(rows, base):
            angle = np.arange(rows)[:, None] / base ** (np.arange(D // 2) / (D // 2))
            arrays = [numpy_helper.from_array(f(angle).astype(np.float32)) for f in (np.cos, np.sin)]
            names = [f"{n}_{rows}" for n in ("cos", "sin")]
            nodes = [helper.make_node("Constant", [], [n], value=a) for n, a in zip(names, arrays)]
            outs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [rows, D // 2]) for n in names]
            return helper.make_graph(nodes, f"tables_{rows}", [], outs)

        return self.op("If", [longer], 2, then_branch=branch(CONTEXT, 900.0), else_branch=branch(32, 100.0))

    def embed_rms(self):
        x = self.op("Gather", [self.weight(VOCAB, HIDDEN, scale=1.0), "input_ids"])
        return x, self.op("SimplifiedLayerNormalization", [x, self.weight(HIDDEN, offset=1.0)], axis=-1, epsilon=1e-5)

    def rest_rms(self, x, mixed):
        mixed = self.op("MatMul", [mixed, self.weight(HEADS * D, HIDDEN)])
        h, x = self.ms("SkipSimplifiedLayerNormalization", [x, mixed, self.weight(HIDDEN, offset=1.0)], ["h", "", "", "x2"])
        up = self.ms("QuickGelu", [self.op("MatMul", [h, self.weight(HIDDEN, MLP)])], alpha=1.0)
        down = self.op("MatMul", [up, self.weight(MLP, HIDDEN)])
        h = self.ms("SkipSimplifiedLayerNormalization", [x, down, self.weight(HIDDEN, offset=1.0)])
        self.op("MatMul", [h, self.weight(HIDDEN, VOCAB)], ["logits"])
        self.output("logits", ["batch", "seq", VOCAB])


def layer_norm_form(attend):
    """GPT-2: embeddings with positions, SkipLayerNormalization, FastGelu with a bias."""
    n = Net()
    at = np.broadcast_to(np.arange(TOKENS.shape[1], dtype=np.int32), TOKENS.shape).copy()
    positions = n.input("position_ids", TensorProto.INT32, ["batch", "seq"], at)
    ids = n.op("Cast", ["input_ids"], to=6)
    norm = lambda: (n.weight(HIDDEN, offset=1.0), n.weight(HIDDEN))
    h, x = n.ms("EmbedLayerNormalization", [ids, "", n.weight(VOCAB, HIDDEN, scale=1.0), n.weight(CONTEXT, HIDDEN), "",
                                           *norm(), "", positions], ["h0", "", "x0"], epsilon=1e-5)
    mixed = n.op("MatMul", [attend(n, h), n.weight(HIDDEN, HIDDEN)])
    h, x = n.ms("SkipLayerNormalization", [x, mixed, *norm(), n.weight(HIDDEN)], ["h1", "", "", "x1"], epsilon=1e-5)
    up = n.ms("FastGelu", [n.op("MatMul", [h, n.weight(HIDDEN, MLP)]), n.weight(MLP)])
    down = n.ms("FusedMatMul", [up, n.weight(HIDDEN, MLP)], transB=1, alpha=0.5)
    h = n.ms("SkipLayerNormalization", [x, down, *norm()], epsilon=1e-5)
    n.op("MatMul", [h, n.weight(HIDDEN, VOCAB)], ["logits"])
    n.output("logits", ["batch", "seq", VOCAB])
    return n


def attention(n, h):
    mask = n.mask()
    past = n.past("past_0", [2, "batch", HEADS, "past", D])
    n.output("present_0", [2, "batch", HEADS, "total", D])
    return n.ms("Attention", [h, n.weight(HIDDEN, 3 * HIDDEN), n.weight(3 * HIDDEN), mask, past], ["mixed", "present_0"],
                num_heads=HEADS, unidirectional=1)[0]


def multi_head(n, h):
    mask = n.mask()
    q, k, v = [n.op("MatMul", [h, n.weight(HIDDEN, HIDDEN)]) for _ in range(3)]
    pasts = [n.past(f"past_{w}", ["batch", HEADS, "past", D]) for w in ("key", "value")]
    for w in ("key", "value"):
        n.output(f"present_{w}", ["batch", HEADS, "total", D])
    return n.ms("MultiHeadAttention", [q, k, v, n.weight(3 * HIDDEN), mask, "", *pasts], ["mixed", "present_key", "present_value"],
                num_heads=HEADS, unidirectional=1)[0]


def grouped(packed, extra=(), room=0, past_dim="past", count=False, long=False, **attrs):
    """GroupQueryAttention; count: the lengths are inputs, or follow from the mask; long: tables for two lengths."""
    n = Net()
    x, h = n.embed_rms()
    project = lambda heads: n.op("MatMul", [h, n.weight(HIDDEN, heads * D)])
    qkv = [project(HEADS + 2), "", ""] if packed else [project(HEADS), project(1), project(1)]
    pasts = [n.past(f"past_{w}", ["batch", 1, past_dim, D], room) for w in ("key", "value")]
    for w in ("key", "value"):
        n.output(f"present_{w}", ["batch", 1, "total" if room == 0 else past_dim, D])
    if count:
        lengths = [n.input("last", TensorProto.INT32, ["batch"], np.full(2, TOKENS.shape[1] - 1, np.int32)),
                   n.input("count", TensorProto.INT32, [], np.array(TOKENS.shape[1], np.int32))]
    else:
        mask = n.mask()
        lengths = n.lengths(mask)
    more = list(n.tables_by_length(mask) if long else n.tables()) + [e(n) if e else "" for e in extra]
    mixed = n.ms("GroupQueryAttention", [*qkv, *pasts, *lengths, *more], ["mixed", "present_key", "present_value"],
                 num_heads=HEADS, kv_num_heads=1, do_rotary=1, **attrs)[0]
    n.rest_rms(x, mixed)
    return n


def standard(scatter):
    """The standard Attention of opset 24: with past operands, or over a cache that TensorScatter writes."""
    n = Net(24)
    x, h = n.embed_rms()
    tables = n.tables()
    if scatter:
        start = n.input("start", TensorProto.INT64, ["batch"], np.zeros(2, np.int64))
        count = n.input("count", TensorProto.INT64, ["batch"], np.full(2, TOKENS.shape[1], np.int64))
    at = np.broadcast_to(np.arange(TOKENS.shape[1], dtype=np.int64), TOKENS.shape).copy()
    positions = n.input("position_ids", TensorProto.INT64, ["batch", "seq"], at)
    q, k, v = [n.op("MatMul", [h, n.weight(HIDDEN, heads * D)]) for heads in (HEADS, 1, 1)]
    q, k = [n.op("RotaryEmbedding", [t, *tables, positions], num_heads=heads) for t, heads in ((q, HEADS), (k, 1))]
    names = ["present_key", "present_value"]
    if not scatter:
        pasts = [n.past(f"past_{w}", ["batch", 1, "past", D]) for w in ("key", "value")]
        mixed = n.op("Attention", [q, k, v, "", *pasts], ["mixed", *names], is_causal=1, q_num_heads=HEADS, kv_num_heads=1)[0]
    else:
        split = lambda t, heads: n.op("Transpose", [n.op("Reshape", [t, n.const(np.array([0, 0, heads, D]))])], perm=[0, 2, 1, 3])
        caches = []
        for t, name in ((k, names[0]), (v, names[1])):
            cache = n.past(name.replace("present", "past"), ["batch", 1, CONTEXT, D])
            caches.append(n.op("TensorScatter", [cache, split(t, 1), start], [name], axis=2))
        mixed = n.op("Attention", [split(q, HEADS), *caches, "", "", "", count], is_causal=1)
        mixed = n.op("Reshape", [n.op("Transpose", [mixed], perm=[0, 2, 1, 3]), n.const(np.array([0, 0, HEADS * D]))])
    for name in names:
        n.output(name, ["batch", 1, CONTEXT if scatter else "total", D])
    n.rest_rms(x, mixed)
    return n


MODELS = {
    "attention": lambda: layer_norm_form(attention),
    "multi-head": lambda: layer_norm_form(multi_head),
    "grouped-packed": lambda: grouped(True, local_window_size=6, softcap=4.0),
    "grouped-sinks": lambda: grouped(False, [None, None, lambda n: n.weight(HEADS, scale=1.0)], rotary_interleaved=1),
    "grouped-counts": lambda: grouped(False, room=CONTEXT, past_dim="room", count=True),
    "grouped-room": lambda: grouped(True, room=CONTEXT, past_dim=CONTEXT),
    "tables-by-length": lambda: grouped(True, long=True),
    "standard": lambda: standard(False),
    "standard-scatter": lambda: standard(True),
}


def quantised_cache():
    """Keys and values of 8 bits: their scales are operands."""
    scale = lambda n: n.const(np.array([0.1], np.float32))
    return grouped(False, [None, None, None, scale, scale], k_quant_type="PER_TENSOR", v_quant_type="PER_TENSOR")


def linear_attention():
    n = Net()
    x, h = n.embed_rms()
    n.rest_rms(x, n.ms("LinearAttention", [n.op("MatMul", [h, n.weight(HIDDEN, HEADS * D)])] * 3, q_num_heads=HEADS,
                       kv_num_heads=HEADS))
    return n


# What has to be refused, and a part of the line that says why.
REFUSED = {
    "quantised-cache": (quantised_cache, "a quantised cache in the graph is not supported"),
    "linear-attention": (linear_attention, "its state is no cache of keys and values"),
}


def logits_of(model, feeds):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(["logits"], feeds)[0]
    except Exception as e:
        print("  by ONNX's reference:", str(e).splitlines()[0][:160])
        for node in model.graph.node:  # ONNX's name for it, and what the fused operators of the rest come to
            if node.op_type == "SimplifiedLayerNormalization":
                node.op_type = "RMSNormalization"
        return ReferenceEvaluator(model).run(["logits"], feeds)[0]


def main():
    out, only = sys.argv[1], set(sys.argv[2:])
    for name, make in MODELS.items():
        if only and name not in only:
            continue
        net = make()
        model, folder = net.model(), os.path.join(out, f"fused-{name}")
        os.makedirs(folder, exist_ok=True)
        onnx.save(model, os.path.join(folder, "model.onnx"))
        logits = logits_of(model, net.feeds)
        print(name, logits.shape, float(logits.std()))
        for what, array in (("tokens", TOKENS), ("logits", logits)):
            with open(os.path.join(folder, f"{what}_batch.pb"), "wb") as f:
                f.write(numpy_helper.from_array(array).SerializeToString())
    if not only:
        write_refused(out)


def write_refused(out):
    for name, (make, why) in REFUSED.items():
        folder = os.path.join(out, f"refused-{name}")
        os.makedirs(folder, exist_ok=True)
        onnx.save(make().model(), os.path.join(folder, "model.onnx"))
        with open(os.path.join(folder, "refused"), "w") as f:
            f.write(why)


if __name__ == "__main__":
    main()
