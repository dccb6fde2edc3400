#!/usr/bin/env python3
"""Writes small GPTs whose states, inputs and control flow take the forms that exporters and people give them.

usage: forms.py OUT [--only REGEX]

Writes OUT/NAME/{model.onnx,tokens.pb,logits.pb,tokens_batch.pb,logits_batch.pb} as export.py does; the logits are
what ONNX Runtime computes. The computation is one and the same: a pre-norm GPT of two layers with learned positions.
Needs numpy, onnx and onnxruntime. tests/models holds the results.
"""
import argparse
import os
import re

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

VOCAB, WIDTH, HEADS, ROWS, LAYERS = 37, 12, 3, 40, 2
DIM = WIDTH // HEADS


class Nodes:
    """A list of nodes with fresh names, and constants made on the way."""

    def __init__(self, parent=None):
        self.nodes, self.inits = [], []
        self.parent = parent
        self.count = parent.count if parent else [0]

    def __call__(self, op, *inputs, outputs=1, name=None, **attrs):
        names = []
        for i in range(outputs):
            self.count[0] += 1
            names.append(name if name and outputs == 1 else f"v{self.count[0]}")
        self.nodes.append(helper.make_node(op, [self.value(x) for x in inputs], names, **attrs))
        return names[0] if outputs == 1 else names

    def value(self, x):
        if isinstance(x, str):
            return x
        a = np.asarray(x)
        if a.dtype == np.float64:
            a = a.astype(np.float32)
        self.count[0] += 1
        name = f"c{self.count[0]}"
        self.inits.append(numpy_helper.from_array(a, name))
        return name


def i64(*v):
    return np.array(v, np.int64)


class Gpt:
    """Subclasses say how the state comes and goes."""

    kv_heads, has_past, opset, layers = HEADS, True, 17, LAYERS
    seq, batch = "seq", "batch"
    refused = None  # what gptc says when it is right to refuse

    def __init__(self, seed):
        self.g = Nodes()
        self.rng = np.random.default_rng(seed)
        self.inputs, self.outputs = [], []
        self.weights = {}

    # ---- the model ----

    def weight(self, name, *shape, scale=None):
        if name not in self.weights:
            w = self.rng.standard_normal(shape) * (scale or 1.5 / np.sqrt(shape[0]))
            self.weights[name] = w.astype(np.float32)
            self.g.inits.append(numpy_helper.from_array(self.weights[name], name))
        return name

    def norm(self, g, x, name):
        return g("LayerNormalization", x, self.weight(name + ".w", WIDTH, scale=1), self.weight(name + ".b", WIDTH, scale=0.2),
                 epsilon=1e-5)

    def linear(self, g, x, name, n, m):
        return g("Add", g("MatMul", x, self.weight(name, n, m)), self.weight(name + ".b", m, scale=0.2))

    def past_length(self, g):
        """i64[1]"""
        return g("Slice", g("Shape", self.past_name(0)), i64(self.past_axis), i64(self.past_axis + 1)) if self.has_past else i64(0)

    def ids(self, g):
        return "input_ids"

    def positions(self, g, past, s):
        return g("Range", g("Squeeze", past), g("Squeeze", g("Add", past, s)), i64(1)[0])

    def embed(self, g):
        s = g("Slice", g("Shape", "input_ids"), i64(1), i64(2))
        past = self.past_length(g)
        rows = g("Gather", self.weight("wpe", ROWS, WIDTH, scale=1), self.positions(g, past, s))
        return g("Add", g("Gather", self.weight("wte", VOCAB, WIDTH, scale=1), self.ids(g)), rows), past, s

    def mask(self, g, past, s):
        q = g("Range", g("Squeeze", past), g("Squeeze", g("Add", past, s)), i64(1)[0])
        k = g("Range", i64(0)[0], g("Squeeze", g("Add", past, s)), i64(1)[0])
        ok = g("LessOrEqual", k, g("Unsqueeze", q, i64(1)))
        return g("Where", ok, np.float32(0), np.float32(-1e30))

    def heads(self, g, x, n):
        return g("Transpose", g("Reshape", x, i64(0, 0, n, DIM)), perm=[0, 2, 1, 3])

    def attention(self, g, x, layer, mask):
        kv = self.kv_heads * DIM
        qkv = self.linear(g, x, f"h{layer}.qkv", WIDTH, WIDTH + 2 * kv)
        q, k, v = g("Split", qkv, i64(WIDTH, kv, kv), outputs=3, axis=2)
        q = self.heads(g, q, HEADS)
        k, v = self.grow(g, layer, self.heads(g, k, self.kv_heads), self.heads(g, v, self.kv_heads))
        scores = g("Mul", g("MatMul", q, g("Transpose", k, perm=[0, 1, 3, 2])), np.float32(DIM ** -0.5))
        w = g("Softmax", g("Add", scores, mask), axis=-1)
        o = g("Reshape", g("Transpose", g("MatMul", w, v), perm=[0, 2, 1, 3]), i64(0, 0, WIDTH))
        return self.linear(g, o, f"h{layer}.proj", WIDTH, WIDTH)

    def mlp(self, g, x, layer):
        h = self.linear(g, x, f"h{layer}.up", WIDTH, 2 * WIDTH)
        h = g("Mul", h, g("Mul", g("Add", g("Erf", g("Mul", h, np.float32(2 ** -0.5))), np.float32(1)), np.float32(0.5)))
        return self.linear(g, h, f"h{layer}.down", 2 * WIDTH, WIDTH)

    def block(self, g, x, layer, mask):
        x = g("Add", x, self.attention(g, self.norm(g, x, f"h{layer}.n1"), layer, mask))
        return g("Add", x, self.mlp(g, self.norm(g, x, f"h{layer}.n2"), layer))

    def body(self, g):
        x, past, s = self.embed(g)
        mask = self.mask(g, past, s)
        for layer in range(self.layers):
            x = self.block(g, x, layer, mask)
        return self.head(g, self.norm(g, x, "nf"))

    def head(self, g, x):
        return g("MatMul", x, g("Transpose", "wte", perm=[1, 0]), name="logits")

    # ---- the state; here keys and values of their own, [b, h, past, d] ----

    past_axis = 2

    def past_name(self, layer, what="key"):
        return f"past.{layer}.{what}"

    def state_type(self, length):
        return [self.batch, self.kv_heads, length, DIM]

    def declare(self):
        self.add_input("input_ids", TensorProto.INT64, [self.batch, self.seq])
        for layer in range(self.layers if self.has_past else 0):
            for what in ("key", "value"):
                self.add_input(self.past_name(layer, what), TensorProto.FLOAT, self.state_type("past"))

    def grow(self, g, layer, k, v):
        if not self.has_past:
            return k, v
        out = []
        for what, x in (("key", k), ("value", v)):
            out.append(g("Concat", self.past_name(layer, what), x, axis=2, name=f"present.{layer}.{what}"))
            self.add_output(out[-1], self.state_type("total"))
        return out

    def finish(self, g):
        """After the layers: outputs that hold all of the state."""

    # ---- the file ----

    def add_input(self, name, dtype, shape):
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))

    def add_output(self, name, shape, dtype=TensorProto.FLOAT):
        self.outputs.append(helper.make_tensor_value_info(name, dtype, shape))

    def build(self):
        self.declare()
        self.logits = self.body(self.g)
        self.outputs.insert(0, helper.make_tensor_value_info(self.logits, TensorProto.FLOAT, self.logits_type()))
        self.finish(self.g)
        graph = helper.make_graph(self.g.nodes, "gpt", self.inputs, self.outputs, self.g.inits)
        model = helper.make_model(graph, opset_imports=self.opsets(), functions=self.functions(), ir_version=8)
        onnx.checker.check_model(model)
        return model

    def opsets(self):
        return [helper.make_opsetid("", self.opset)]

    def functions(self):
        return []

    def logits_type(self):
        return [self.batch, self.seq, VOCAB]

    def feed(self, tokens):
        b, s = tokens.shape
        symbols = {"batch": b, "seq": s, "past": 0, "total": s, "one": 1}
        feeds = {}
        for x in self.inputs:
            shape = [symbols.get(d.dim_param, b * HEADS if "x" in d.dim_param else None) if d.dim_param else d.dim_value
                     for d in x.type.tensor_type.shape.dim]
            feeds[x.name] = self.value_of(x.name, shape, x.type.tensor_type.elem_type, tokens)
        return feeds

    def value_of(self, name, shape, dtype, tokens):
        if name == "input_ids":
            return tokens.astype(helper.tensor_dtype_to_np_dtype(dtype))
        if name == "attention_mask":
            return np.ones(shape, helper.tensor_dtype_to_np_dtype(dtype))
        if name == "use_cache_branch":
            return np.ones(shape, bool)
        if name == "position_ids":
            return np.broadcast_to(np.arange(tokens.shape[1]), shape).astype(helper.tensor_dtype_to_np_dtype(dtype))
        return np.zeros(shape, helper.tensor_dtype_to_np_dtype(dtype))

    def expected(self, session, tokens):
        return session.run([self.logits], self.feed(tokens))[0]


FORMS = {}


def form(cls):
    FORMS[re.sub(r"(?<!^)(?=[A-Z0-9])", "-", cls.__name__).lower().replace("_", "")] = cls
    return cls


@form
class Plain(Gpt):
    """Keys and values apart."""


@form
class NoPast(Gpt):
    has_past = False


@form
class SequenceFirst(Gpt):
    """[past, batch, heads, d], as Megatron and ChatGLM have it."""
    past_axis = 0

    def state_type(self, length):
        return [length, self.batch, self.kv_heads, DIM]

    def grow(self, g, layer, k, v):
        out = []
        for what, x in (("key", k), ("value", v)):
            now = g("Transpose", x, perm=[2, 0, 1, 3])
            name = g("Concat", self.past_name(layer, what), now, axis=0, name=f"present.{layer}.{what}")
            self.add_output(name, self.state_type("total"))
            out.append(g("Transpose", name, perm=[1, 2, 0, 3]))
        return out


@form
class MergedHeads(Gpt):
    """[batch, past, heads * d]"""
    past_axis = 1

    def state_type(self, length):
        return [self.batch, length, WIDTH]

    def grow(self, g, layer, k, v):
        out = []
        for what, x in (("key", k), ("value", v)):
            now = g("Reshape", g("Transpose", x, perm=[0, 2, 1, 3]), i64(0, 0, WIDTH))
            name = g("Concat", self.past_name(layer, what), now, axis=1, name=f"present.{layer}.{what}")
            self.add_output(name, self.state_type("total"))
            out.append(self.heads(g, name, HEADS))
        return out


@form
class MergedBatch(Gpt):
    """Keys [batch * heads, d, past] and values [batch * heads, past, d], as Bloom had them."""
    past_axis = 2

    def declare(self):
        self.add_input("input_ids", TensorProto.INT64, [self.batch, self.seq])
        for layer in range(self.layers):
            self.add_input(self.past_name(layer), TensorProto.FLOAT, ["batch x heads", DIM, "past"])
            self.add_input(self.past_name(layer, "value"), TensorProto.FLOAT, ["batch x heads", "past", DIM])

    def grow(self, g, layer, k, v):
        fold = lambda x: g("Reshape", x, g("Concat", i64(-1), g("Slice", g("Shape", x), i64(2), i64(4)), axis=0))
        k = g("Concat", self.past_name(layer), g("Transpose", fold(k), perm=[0, 2, 1]), axis=2, name=f"present.{layer}.key")
        v = g("Concat", self.past_name(layer, "value"), fold(v), axis=1, name=f"present.{layer}.value")
        self.add_output(k, ["batch x heads", DIM, "total"])
        self.add_output(v, ["batch x heads", "total", DIM])
        unfold = lambda x: g("Reshape", x, g("Concat", i64(-1, HEADS), g("Slice", g("Shape", x), i64(1), i64(3)), axis=0))
        return g("Transpose", unfold(k), perm=[0, 1, 3, 2]), unfold(v)


@form
class Joint(Gpt):
    """One tensor of keys and values behind one another, [batch, past, 2 * d], as GPT-BigCode has it."""
    kv_heads, past_axis = 1, 1

    def declare(self):
        self.add_input("input_ids", TensorProto.INT64, [self.batch, self.seq])
        for layer in range(self.layers):
            self.add_input(self.past_name(layer), TensorProto.FLOAT, self.state_type("past"))

    def state_type(self, length):
        return [self.batch, length, 2 * DIM]

    def grow(self, g, layer, k, v):
        now = g("Squeeze", g("Concat", k, v, axis=3), i64(1))
        all_ = g("Concat", self.past_name(layer), now, axis=1, name=f"present.{layer}")
        self.add_output(all_, self.state_type("total"))
        k, v = g("Split", all_, i64(DIM, DIM), outputs=2, axis=2)
        return g("Unsqueeze", k, i64(1)), g("Unsqueeze", v, i64(1))


@form
class JointHeads(Joint):
    """[batch, heads, past, 2 * d]"""
    kv_heads, past_axis = HEADS, 2

    def state_type(self, length):
        return [self.batch, HEADS, length, 2 * DIM]

    def grow(self, g, layer, k, v):
        all_ = g("Concat", self.past_name(layer), g("Concat", k, v, axis=3), axis=2, name=f"present.{layer}")
        self.add_output(all_, self.state_type("total"))
        return g("Slice", all_, i64(0), i64(DIM), i64(3)), g("Slice", all_, i64(DIM), i64(2 * DIM), i64(3))


@form
class Pairs(Joint):
    """One [2, batch, heads, past, d] a layer, as the contrib Attention and CTRL have it; split by Gather."""
    kv_heads, past_axis = HEADS, 3

    def state_type(self, length):
        return [2, self.batch, HEADS, length, DIM]

    def grow(self, g, layer, k, v):
        out = []
        for i, x in enumerate((k, v)):
            out.append(g("Concat", g("Gather", self.past_name(layer), np.int64(i), axis=0), x, axis=2))
        all_ = g("Concat", *[g("Unsqueeze", x, i64(0)) for x in out], axis=0, name=f"present.{layer}")
        self.add_output(all_, self.state_type("total"))
        return out


@form
class PairsPickedAgain(Pairs):
    """As pairs, but attention picks its keys out of the stacked output."""

    def grow(self, g, layer, k, v):
        super().grow(g, layer, k, v)
        k, v = g("Split", f"present.{layer}", i64(1, 1), outputs=2, axis=0)
        return g("Squeeze", k, i64(0)), g("Squeeze", v, i64(0))


@form
class PairsTogether(Pairs):
    """Both appended at once: stacked first, one Concat, then split."""

    def grow(self, g, layer, k, v):
        now = g("Concat", g("Unsqueeze", k, i64(0)), g("Unsqueeze", v, i64(0)), axis=0)
        all_ = g("Concat", self.past_name(layer), now, axis=3, name=f"present.{layer}")
        self.add_output(all_, self.state_type("total"))
        return [g("Gather", all_, np.int64(i), axis=0) for i in range(2)]


@form
class Layers(Gpt):
    """All keys in one tensor [layers, batch, heads, past, d], and all values in another."""
    past_axis = 3

    def declare(self):
        self.add_input("input_ids", TensorProto.INT64, [self.batch, self.seq])
        self.made = {"key": [], "value": []}
        for what in self.made:
            self.add_input(f"past.{what}", TensorProto.FLOAT, [self.layers, self.batch, HEADS, "past", DIM])

    def past_name(self, layer, what="key"):
        return f"past.{what}"

    def pick(self, g, what, layer):
        return g("Squeeze", g("Slice", f"past.{what}", i64(layer), i64(layer + 1), i64(0)), i64(0))

    def grow(self, g, layer, k, v):
        out = []
        for what, x in (("key", k), ("value", v)):
            out.append(g("Concat", self.pick(g, what, layer), x, axis=2))
            self.made[what].append(out[-1])
        return out

    def finish(self, g):
        for what, all_ in self.made.items():
            name = g("Concat", *[g("Unsqueeze", x, i64(0)) for x in all_], axis=0, name=f"present.{what}")
            self.add_output(name, [self.layers, self.batch, HEADS, "total", DIM])


@form
class LayerPairs(Gpt):
    """Everything in one tensor [layers, 2, batch, heads, past, d]."""
    past_axis = 4

    def state_type(self, length):
        return [self.layers, 2, self.batch, HEADS, length, DIM]

    def declare(self):
        self.add_input("input_ids", TensorProto.INT64, [self.batch, self.seq])
        self.add_input("past", TensorProto.FLOAT, self.state_type("past"))
        self.made = []

    def past_name(self, layer, what="key"):
        return "past"

    def grow(self, g, layer, k, v):
        out = []
        pair = g("Gather", "past", np.int64(layer), axis=0)
        for i, x in enumerate((k, v)):
            out.append(g("Concat", g("Gather", pair, np.int64(i), axis=0), x, axis=2))
        self.made.append(g("Concat", *[g("Unsqueeze", x, i64(0)) for x in out], axis=0))
        return out

    def finish(self, g):
        name = g("Concat", *[g("Unsqueeze", x, i64(0)) for x in self.made], axis=0, name="present")
        self.add_output(name, self.state_type("total"))


@form
class BatchLayers(LayerPairs):
    """[batch, layers * 2, past, heads, d]: batch in front, layers and kinds merged, token-major."""
    past_axis = 2

    def state_type(self, length):
        return [self.batch, 2 * self.layers, length, HEADS, DIM]

    def grow(self, g, layer, k, v):
        out = []
        for i, x in enumerate((k, v)):
            old = g("Gather", "past", np.int64(2 * layer + i), axis=1)
            self.made.append(g("Concat", old, g("Transpose", x, perm=[0, 2, 1, 3]), axis=1))
            out.append(g("Transpose", self.made[-1], perm=[0, 2, 1, 3]))
        return out

    def finish(self, g):
        name = g("Concat", *[g("Unsqueeze", x, i64(1)) for x in self.made], axis=1, name="present")
        self.add_output(name, self.state_type("total"))


@form
class NewRowsOnly(Layers):
    """Gives back the new keys and values alone; the caller appends them."""

    def finish(self, g):
        pass

    def grow(self, g, layer, k, v):
        for what, x in (("key", k), ("value", v)):
            self.add_output(g("Identity", x, name=f"new.{layer}.{what}"), [self.batch, HEADS, "seq", DIM])
        return [g("Concat", self.pick(g, w, layer), x, axis=2) for w, x in (("key", k), ("value", v))]


@form
class NoPresent(NewRowsOnly):
    """Refused: nothing says what the next past is."""
    refused = "no output gives them back"

    def grow(self, g, layer, k, v):
        return [g("Concat", self.pick(g, w, layer), x, axis=2) for w, x in (("key", k), ("value", v))]


@form
class SwappedPairs(Pairs):
    """Refused: keys come back where values were, so the next step would read one for the other."""
    refused = "no output gives them back in its form"

    def grow(self, g, layer, k, v):
        out = [g("Concat", g("Gather", self.past_name(layer), np.int64(i), axis=0), x, axis=2) for i, x in enumerate((k, v))]
        all_ = g("Concat", *[g("Unsqueeze", x, i64(0)) for x in reversed(out)], axis=0, name=f"present.{layer}")
        self.add_output(all_, self.state_type("total"))
        return out


@form
class Latent(Gpt):
    """Keys and values are made of a small vector a token, which alone is kept, and a part that all heads share, as
    DeepSeek has it; values have another size than keys."""
    past_axis, latent, shared, value = 1, 6, 2, 5

    def past_name(self, layer, what="latent"):
        return f"past.{layer}.{what}"

    def declare(self):
        self.add_input("input_ids", TensorProto.INT64, [self.batch, self.seq])
        for layer in range(self.layers):
            self.add_input(self.past_name(layer), TensorProto.FLOAT, [self.batch, "past", self.latent])
            self.add_input(self.past_name(layer, "shared"), TensorProto.FLOAT, [self.batch, 1, "past", self.shared])

    def attention(self, g, x, layer, mask):
        h, own = f"h{layer}.", DIM - self.shared
        q = self.heads(g, self.linear(g, x, h + "q", WIDTH, WIDTH), HEADS)
        new = g("Split", self.linear(g, x, h + "down_kv", WIDTH, self.latent + self.shared), i64(self.latent, self.shared), outputs=2, axis=2)
        latent = g("Concat", self.past_name(layer), new[0], axis=1, name=f"present.{layer}.latent")
        shared = g("Concat", self.past_name(layer, "shared"), g("Unsqueeze", new[1], i64(1)), axis=2, name=f"present.{layer}.shared")
        self.add_output(latent, [self.batch, "total", self.latent])
        self.add_output(shared, [self.batch, 1, "total", self.shared])
        kv = g("MatMul", latent, self.weight(h + "up_kv", self.latent, HEADS * (own + self.value)))
        kv = g("Transpose", g("Reshape", kv, i64(0, 0, HEADS, own + self.value)), perm=[0, 2, 1, 3])
        k, v = g("Split", kv, i64(own, self.value), outputs=2, axis=3)
        spread = g("Concat", g("Slice", g("Shape", k), i64(0), i64(3)), i64(self.shared), axis=0)
        k = g("Concat", k, g("Expand", shared, spread), axis=3)
        w = g("Softmax", g("Add", g("MatMul", q, g("Transpose", k, perm=[0, 1, 3, 2])), mask), axis=-1)
        o = g("Reshape", g("Transpose", g("MatMul", w, v), perm=[0, 2, 1, 3]), i64(0, 0, HEADS * self.value))
        return self.linear(g, o, h + "proj", HEADS * self.value, WIDTH)


@form
class MergedRows(Gpt):
    """One key head; products over rows that merge positions and heads, [batch, seq * heads, total]."""
    has_past = False

    def attention(self, g, x, layer, mask):
        qkv = self.linear(g, x, f"h{layer}.qkv", WIDTH, WIDTH + 2 * DIM)
        q, k, v = g("Split", qkv, i64(WIDTH, DIM, DIM), outputs=3, axis=2)
        size = g("Shape", x)
        b, s = g("Slice", size, i64(0), i64(1)), g("Slice", size, i64(1), i64(2))
        rows = g("Mul", s, i64(HEADS))
        scores = g("MatMul", g("Reshape", q, g("Concat", b, rows, i64(DIM), axis=0)), g("Transpose", k, perm=[0, 2, 1]))
        scores = g("Reshape", g("Mul", scores, np.float32(0.5)), g("Concat", b, s, i64(HEADS), i64(-1), axis=0))
        w = g("Softmax", g("Add", scores, g("Unsqueeze", mask, i64(0, 2))), axis=-1)
        o = g("MatMul", g("Reshape", w, g("Concat", b, rows, i64(-1), axis=0)), v)
        return self.linear(g, g("Reshape", o, size), f"h{layer}.proj", WIDTH, WIDTH)


# ---- fixed shapes ----


class Fixed(Gpt):
    """Every shape a number, masks and positions constants, the length equal to another size."""
    has_past, batch = False, 1

    def embed(self, g):
        x = g("Gather", self.weight("wte", VOCAB, WIDTH, scale=1), "input_ids")
        return g("Add", x, self.weight("wpe", 1, self.seq, WIDTH, scale=1)), None, None

    def mask(self, g, past, s):
        return np.where(np.tril(np.ones((self.seq, self.seq))) == 1, 0, -1e30)

    def heads(self, g, x, n):
        return g("Transpose", g("Reshape", x, i64(1, self.seq, n, DIM)), perm=[0, 2, 1, 3])


@form
class FixedAsHeadSize(Fixed):
    seq = DIM


@form
class FixedAsHidden(Fixed):
    seq = WIDTH


@form
class FixedAsHeads(Fixed):
    seq = HEADS


@form
class FixedAsVocabulary(Fixed):
    seq = VOCAB


@form
class FixedOne(Fixed):
    """A context of one token."""
    seq = 1


# ---- control flow ----


class Branches(Gpt):
    """All of the model in the two branches of an If."""

    def branch(self, with_past):
        g = Nodes(self.g)
        self.made, past, self.has_past = [], self.has_past, with_past
        logits = self.body(g)
        self.has_past = past
        outputs = [logits] + self.made
        graph = helper.make_graph(g.nodes, "branch", [], [helper.make_tensor_value_info(x, TensorProto.FLOAT, None) for x in outputs],
                                  g.inits)
        return graph

    def grow(self, g, layer, k, v):
        if self.has_past:
            k, v = [g("Concat", self.past_name(layer, w), x, axis=2) for w, x in (("key", k), ("value", v))]
        self.made += [k, v]
        return k, v

    def head(self, g, x):
        return g("MatMul", x, g("Transpose", "wte", perm=[1, 0]))

    def build(self):
        self.declare()
        condition = self.condition()
        names = ["logits"] + [f"present.{i // 2}.{('key', 'value')[i % 2]}" for i in range(2 * self.layers)]
        self.g.nodes.append(helper.make_node("If", [condition], names, then_branch=self.branch(True), else_branch=self.branch(False)))
        self.logits = "logits"
        self.add_output("logits", self.logits_type())
        for name in names[1:]:
            self.add_output(name, self.state_type("total"))
        graph = helper.make_graph(self.g.nodes, "gpt", self.inputs, self.outputs, self.g.inits)
        model = helper.make_model(graph, opset_imports=self.opsets(), ir_version=8)
        onnx.checker.check_model(model)
        return model


@form
class UseCacheBranch(Branches):
    """As Optimum merges a decoder with past and one without."""

    def condition(self):
        self.add_input("use_cache_branch", TensorProto.BOOL, [1])
        return "use_cache_branch"


@form
class PastIsEmpty(Branches):
    """The graph looks at the length of the past itself."""

    def condition(self):
        return self.g("Greater", self.g("Squeeze", self.past_length(self.g)), np.int64(0))


@form
class NotFirst(Branches):
    """Told by a flag that is inverted."""

    def condition(self):
        self.add_input("is_first", TensorProto.BOOL, [])
        return self.g("Not", "is_first")

    def value_of(self, name, shape, dtype, tokens):
        return np.zeros(shape, bool) if name == "is_first" else super().value_of(name, shape, dtype, tokens)


@form
class BranchedMask(Plain):
    """A mask is made only when there are several tokens."""

    def mask(self, g, past, s):
        many, one = Nodes(g), Nodes(g)
        y = [super().mask(many, past, s), one("Expand", np.float32(0), one("Concat", s, one("Add", past, s), axis=0))]
        graphs = [helper.make_graph(n.nodes, "branch", [], [helper.make_tensor_value_info(v, TensorProto.FLOAT, None)], n.inits)
                  for n, v in zip((many, one), y)]
        return g("If", g("Squeeze", g("Greater", s, i64(1))), then_branch=graphs[0], else_branch=graphs[1])


@form
class LayerLoop(Plain):
    """The same block three times, in a Loop; without a cache of its own."""
    has_past, layers = False, 1

    def block(self, g, x, layer, mask):
        b = Nodes(g)
        y = super().block(b, "x", layer, mask)
        names = [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("go", TensorProto.BOOL, []),
                 helper.make_tensor_value_info("x", TensorProto.FLOAT, None)]
        go = b("Identity", "go")
        out = [helper.make_tensor_value_info(go, TensorProto.BOOL, []), helper.make_tensor_value_info(y, TensorProto.FLOAT, None)]
        return g("Loop", np.int64(3), np.bool_(True), x, body=helper.make_graph(b.nodes, "body", names, out, b.inits))


@form
class LayerScan(Plain):
    """Weights stacked by layer, the block in a Scan over them."""
    has_past, layers = False, 1

    def linear(self, g, x, name, n, m):
        if name != "h0.up":
            return super().linear(g, x, name, n, m)
        b = Nodes(g)
        w, bias = self.weight("stack.w", 2, n, m, scale=1.5 / np.sqrt(n)), self.weight("stack.b", 2, m, scale=0.2)
        y = b("Add", b("MatMul", "x", "w"), "b")
        keep = b("Identity", "x")
        info = lambda v: helper.make_tensor_value_info(v, TensorProto.FLOAT, None)
        body = helper.make_graph(b.nodes, "body", [info("x"), info("w"), info("b")], [info(keep), info(y)], b.inits)
        ys = g("Scan", x, w, bias, outputs=2, num_scan_inputs=2, body=body)[1]
        return g("ReduceSum", ys, i64(0), keepdims=0)


@form
class TokenLoop(LayerLoop):
    """Refused: as many rounds as there are tokens."""
    refused = "Loop: "

    def block(self, g, x, layer, mask):
        y = super().block(g, x, layer, mask)
        rounds = g("Squeeze", g("Slice", g("Shape", "input_ids"), i64(1), i64(2)))
        node = next(n for n in reversed(g.nodes) if n.op_type == "Loop")
        g.nodes.remove(node)
        node.input[0] = rounds
        g.nodes.append(node)
        return y


@form
class Functions(Plain):
    """Blocks of nodes as local functions, one in the other, with attributes of the call's."""

    def mlp(self, g, x, layer):
        weights = [self.weight(f"h{layer}.up", WIDTH, 2 * WIDTH), self.weight(f"h{layer}.up.b", 2 * WIDTH, scale=0.2),
                   self.weight(f"h{layer}.down", 2 * WIDTH, WIDTH), self.weight(f"h{layer}.down.b", WIDTH, scale=0.2)]
        return g("FeedForward", x, *weights, domain="test", slope=0.5 + layer)

    def opsets(self):
        return super().opsets() + [helper.make_opsetid("test", 1), helper.make_opsetid("test.inner", 1)]

    def functions(self):
        n = helper.make_node
        inner = n("Scale", ["h"], ["s"], domain="test.inner")
        inner.attribute.add(name="by", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
        outer = helper.make_function(
            "test", "FeedForward", ["x", "w", "b", "v", "c"], ["y"],
            [n("MatMul", ["x", "w"], ["m"]), n("Add", ["m", "b"], ["h"]), inner, n("Sigmoid", ["s"], ["g"]), n("Mul", ["h", "g"], ["a"]),
             n("MatMul", ["a", "v"], ["o"]), n("Add", ["o", "c"], ["y"])],
            [helper.make_opsetid("", 17), helper.make_opsetid("test.inner", 1)], ["slope"])
        k = n("Constant", [], ["k"])
        k.attribute.add(name="value_float", ref_attr_name="by", type=onnx.AttributeProto.FLOAT)
        scale = helper.make_function(
            "test.inner", "Scale", ["x"], ["y"],
            [k, n("Constant", [], ["one"], value_floats=[1.0]), n("ReduceSum", ["one"], ["u"], keepdims=0), n("Mul", ["x", "k"], ["z"]),
             n("Mul", ["z", "u"], ["y"])],
            [helper.make_opsetid("", 17)], ["by"])
        return [outer, scale]


# ---- what inputs and outputs are for ----


@form
class Bytes(Plain):
    """Fewer tokens than positions, a head of its own, positions given: the larger table is not the embedding."""

    def declare(self):
        self.add_input("position_ids", TensorProto.INT64, [self.batch, self.seq])
        super().declare()

    def positions(self, g, past, s):
        return "position_ids"

    def embed(self, g):
        self.weight("wpe", 64, WIDTH, scale=1)
        return super().embed(g)

    def head(self, g, x):
        return g("MatMul", x, self.weight("head", WIDTH, VOCAB), name="logits")


@form
class Segments(Bytes):
    """Segments from a table of their own, beside positions; 32-bit ids."""

    def declare(self):
        self.add_input("token_type_ids", TensorProto.INT64, [self.batch, self.seq])
        self.add_input("position_ids", TensorProto.INT64, [self.batch, self.seq])
        self.add_input("input_ids", TensorProto.INT32, [self.batch, self.seq])
        for layer in range(self.layers):
            for what in ("key", "value"):
                self.add_input(self.past_name(layer, what), TensorProto.FLOAT, self.state_type("past"))

    def embed(self, g):
        x, past, s = super().embed(g)
        return g("Add", x, g("Gather", self.weight("wtt", 3, WIDTH, scale=1), "token_type_ids")), past, s


@form
class TokenSegments(Segments):
    """Segments that pick from the embedding of the tokens, as GPT-2 has them."""

    def embed(self, g):
        x, past, s = Bytes.embed(self, g)
        return g("Add", x, g("Gather", "wte", "token_type_ids")), past, s

    def value_of(self, name, shape, dtype, tokens):
        return np.zeros(shape, np.int64) if name == "token_type_ids" else super().value_of(name, shape, dtype, tokens)


class MaskInput(Plain):
    """The mask is an input; the graph has none of its own."""
    mask_type, mask_shape = TensorProto.FLOAT, ["batch", 1, "seq", "total"]

    def declare(self):
        super().declare()
        self.add_input("mask", self.mask_type, self.mask_shape)

    def value_of(self, name, shape, dtype, tokens):
        if name != "mask":
            return super().value_of(name, shape, dtype, tokens)
        return np.broadcast_to(self.seen(np.tril(np.ones(shape[-2:]))), shape).astype(helper.tensor_dtype_to_np_dtype(dtype))


@form
class AddedMask(MaskInput):
    """What is added to the scores."""

    def mask(self, g, past, s):
        return "mask"

    def seen(self, allowed):
        return np.where(allowed == 1, 0, -3.4e38)


@form
class FlagMask(MaskInput):
    """1 where a key may be seen."""
    mask_type = TensorProto.INT64

    def mask(self, g, past, s):
        return g("Mul", g("Sub", np.float32(1), g("Cast", "mask", to=TensorProto.FLOAT)), np.float32(-1e30))

    def seen(self, allowed):
        return allowed


@form
class BlockedMask(MaskInput):
    """True where a key may not be seen, [batch, seq, total]."""
    mask_type, mask_shape = TensorProto.BOOL, ["batch", "seq", "total"]

    def mask(self, g, past, s):
        return g("Where", g("Unsqueeze", "mask", i64(1)), np.float32(-1e30), np.float32(0))

    def seen(self, allowed):
        return allowed == 0


@form
class AddedPadding(MaskInput):
    """[batch, total], added: 0 for tokens that are there."""
    mask_shape = ["batch", "total"]

    def mask(self, g, past, s):
        return g("Add", super().mask(g, past, s), g("Unsqueeze", "mask", i64(1, 2)))

    def value_of(self, name, shape, dtype, tokens):
        return np.zeros(shape, np.float32) if name == "mask" else Plain.value_of(self, name, shape, dtype, tokens)


@form
class Lengths(Plain):
    """The number of earlier tokens, of all tokens, and of logits wanted as inputs, and positions as a vector."""

    def declare(self):
        super().declare()
        for name in ("past_length", "total_length", "logits_to_keep"):
            self.add_input(name, TensorProto.INT64, [])
        self.add_input("cache_position", TensorProto.INT64, ["seq"])

    def positions(self, g, past, s):
        return "cache_position"

    def mask(self, g, past, s):
        q = g("Range", "past_length", g("Add", "past_length", g("Squeeze", s)), i64(1)[0])
        ok = g("LessOrEqual", g("Range", i64(0)[0], "total_length", i64(1)[0]), g("Unsqueeze", q, i64(1)))
        return g("Where", ok, np.float32(0), np.float32(-1e30))

    def head(self, g, x):
        start = g("Unsqueeze", g("Neg", "logits_to_keep"), i64(0))
        return super().head(g, g("Slice", x, start, i64(2 ** 31 - 1), i64(1)))

    def value_of(self, name, shape, dtype, tokens):
        if name == "cache_position":
            return np.arange(tokens.shape[1])
        length = {"past_length": 0, "total_length": tokens.shape[1], "logits_to_keep": 0}
        return np.array(length[name]) if name in length else super().value_of(name, shape, dtype, tokens)


@form
class MoreOutputs(Plain):
    """Hidden states wider than the logits, attention weights, probabilities and the best token as outputs as well."""

    def attention(self, g, x, layer, mask):
        self.add_output(g("Identity", x, name=f"hidden.{layer}"), [self.batch, self.seq, WIDTH])
        y = super().attention(g, x, layer, mask)
        weights = next(n for n in reversed(g.nodes) if n.op_type == "Softmax")
        self.add_output(weights.output[0], [self.batch, HEADS, self.seq, "total"])
        wide = g("Concat", x, x, x, x, axis=2, name=f"wide.{layer}")
        self.add_output(wide, [self.batch, self.seq, 4 * WIDTH])
        return y

    def finish(self, g):
        self.add_output(g("Softmax", "logits", axis=-1, name="probabilities"), self.logits_type())
        best = g("ArgMax", "logits", axis=-1, keepdims=0, name="best")
        self.add_output(best, [self.batch, self.seq], TensorProto.INT64)


@form
class LastLogits(Plain):
    """Logits of the last token alone, [batch, vocabulary]."""

    def head(self, g, x):
        return super().head(g, g("Gather", x, np.int64(-1), axis=1))

    def logits_type(self):
        return [self.batch, VOCAB]

    def expected(self, session, tokens):
        return np.stack([super(LastLogits, self).expected(session, tokens[:, :i + 1]) for i in range(tokens.shape[1])], axis=1)


def save(array, path):
    with open(path, "wb") as f:
        f.write(numpy_helper.from_array(array).SerializeToString())


def write(name, cls, out):
    made = cls(sum(map(ord, name)))
    model = made.build()
    folder = os.path.join(out, name)
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "model.onnx")
    onnx.save(model, path)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    shape = [d if isinstance(d, int) else n for d, n in ((made.batch, 2), (made.seq, 23))]
    tokens = np.random.default_rng(1).integers(0, VOCAB, shape)
    logits = made.expected(session, tokens)
    if cls.refused:
        with open(os.path.join(folder, "refused"), "w") as f:
            f.write(cls.refused + "\n")
        return
    suffix = "_batch" if shape[0] > 1 else ""
    save(tokens, os.path.join(folder, f"tokens{suffix}.pb"))
    save(logits, os.path.join(folder, f"logits{suffix}.pb"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    for name, cls in FORMS.items():
        if re.search(args.only, name):
            write(name, cls, args.out)
            print(name)


if __name__ == "__main__":
    main()
