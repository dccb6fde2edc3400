#!/usr/bin/env python3
"""Exports TensorFlow decoders through tf2onnx: GPTs written in Keras and those of transformers.

usage: keras_gpt.py OUT [--models REGEX] [--opsets 11,13,...]

Writes OUT/MODEL-tfOPSET/{model.onnx,tokens.pb,logits.pb,...} as export.py does. Needs tensorflow 2.15, tf2onnx,
onnxruntime and, for the models of transformers, a version below 5.
"""
import argparse
import os
import re
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import onnxruntime as ort
import tensorflow as tf
import tf2onnx
from onnx import numpy_helper
from tensorflow import keras
from tensorflow.keras import layers

VOCAB, WIDTH, HEADS, CONTEXT, LAYERS = 384, 64, 4, 128, 2
ONE, BATCH = (1, 24), (2, 96)


def causal_by_cumsum(n):
    ones = tf.ones((1, n), tf.int32)
    at = tf.cumsum(ones, axis=-1)
    return at[:, :, None] >= at[:, None, :]


def causal_by_range(n):
    i = tf.range(n)
    return (i[:, None] >= i[None, :])[None]


def causal_by_band(n):
    return tf.cast(tf.linalg.band_part(tf.ones((n, n)), -1, 0), tf.bool)[None]


class Position(layers.Layer):
    def build(self, shape):
        self.table = self.add_weight("table", (CONTEXT, WIDTH), initializer="normal")

    def call(self, x):
        return x + self.table[:tf.shape(x)[1]]


class OwnAttention(layers.Layer):
    """q, k and v from one product, heads by reshape, the mask added as a large number."""

    def __init__(self, mask, einsum=False):
        super().__init__()
        self.mask, self.einsum = mask, einsum
        self.qkv, self.out = layers.Dense(3 * WIDTH), layers.Dense(WIDTH)

    def call(self, x):
        b, n = tf.shape(x)[0], tf.shape(x)[1]
        q, k, v = tf.split(self.qkv(x), 3, axis=-1)
        if self.einsum:
            q, k, v = (tf.reshape(t, (b, n, HEADS, -1)) for t in (q, k, v))
            s = tf.einsum("bqhd,bkhd->bhqk", q, k) / (WIDTH / HEADS) ** 0.5
        else:
            q, k, v = (tf.transpose(tf.reshape(t, (b, n, HEADS, WIDTH // HEADS)), (0, 2, 1, 3)) for t in (q, k, v))
            s = tf.matmul(q, k, transpose_b=True) / tf.math.sqrt(tf.cast(WIDTH // HEADS, tf.float32))
        s = s + (1.0 - tf.cast(self.mask(n), tf.float32)[:, None]) * -1e9
        p = tf.nn.softmax(s, axis=-1)
        if self.einsum:
            return self.out(tf.reshape(tf.einsum("bhqk,bkhd->bqhd", p, v), (b, n, WIDTH)))
        y = tf.transpose(tf.matmul(p, v), (0, 2, 1, 3))
        return self.out(tf.reshape(y, (b, n, WIDTH)))


class LibraryAttention(layers.Layer):
    """Keras' MultiHeadAttention, with its own causal mask or one that is given."""

    def __init__(self, mask=None):
        super().__init__()
        self.mask = mask
        self.inner = layers.MultiHeadAttention(HEADS, WIDTH // HEADS)

    def call(self, x):
        if self.mask is None:
            return self.inner(x, x, use_causal_mask=True)
        return self.inner(x, x, attention_mask=self.mask(tf.shape(x)[1]))


def keras_gpt(attention, post=False, act="gelu", norm_eps=1e-6, tied=False, fixed=None):
    ids = keras.Input((fixed,), dtype="int32", name="input_ids")
    table = layers.Embedding(VOCAB, WIDTH)
    x = Position()(table(ids))
    for _ in range(LAYERS):
        if post:
            x = layers.LayerNormalization(epsilon=norm_eps)(x + attention()(x))
            h = layers.Dense(2 * WIDTH, act)(x)
            x = layers.LayerNormalization(epsilon=norm_eps)(x + layers.Dense(WIDTH)(h))
        else:
            x = x + attention()(layers.LayerNormalization(epsilon=norm_eps)(x))
            h = layers.Dense(2 * WIDTH, act)(layers.LayerNormalization(epsilon=norm_eps)(x))
            x = x + layers.Dense(WIDTH)(layers.Dropout(0.1)(h))
    x = layers.LayerNormalization(epsilon=norm_eps)(x)
    if tied:
        return keras.Model(ids, layers.Lambda(lambda t: tf.matmul(t, table.embeddings, transpose_b=True))(x))
    return keras.Model(ids, layers.Dense(VOCAB)(x))


def tanh_gelu(x):
    return keras.activations.gelu(x, approximate=True)


OWN = {
    "keras": lambda: keras_gpt(LibraryAttention),
    "keras-mask": lambda: keras_gpt(lambda: LibraryAttention(causal_by_range)),
    "keras-post": lambda: keras_gpt(lambda: LibraryAttention(causal_by_cumsum), post=True, act="relu"),
    "keras-own": lambda: keras_gpt(lambda: OwnAttention(causal_by_cumsum), act=tanh_gelu),
    "keras-band": lambda: keras_gpt(lambda: OwnAttention(causal_by_band), act="swish", tied=True),
    "keras-einsum": lambda: keras_gpt(lambda: OwnAttention(causal_by_range, einsum=True)),
    "keras-fixed": lambda: keras_gpt(LibraryAttention, fixed=24),
    "keras-fixed-own": lambda: keras_gpt(lambda: OwnAttention(causal_by_band), fixed=24),
}
N_EMBD = dict(vocab_size=VOCAB, n_embd=64, n_layer=2, n_head=4, n_positions=128)
LIBRARY = {
    "tf-gpt2": ("gpt2", N_EMBD),
    "tf-gptj": ("gptj", dict(N_EMBD, rotary_dim=8)),
    "tf-openai-gpt": ("openai-gpt", N_EMBD),
    "tf-ctrl": ("ctrl", dict(N_EMBD, dff=128)),
    "tf-opt": ("opt", dict(vocab_size=VOCAB, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, ffn_dim=128,
                           max_position_embeddings=128, word_embed_proj_dim=64, pad_token_id=0, bos_token_id=1,
                           eos_token_id=2)),
    "tf-mistral": ("mistral", dict(vocab_size=VOCAB, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
                                   num_key_value_heads=2, intermediate_size=128, sliding_window=16)),
    "tf-bert": ("bert", dict(vocab_size=VOCAB, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
                             intermediate_size=128, max_position_embeddings=128, is_decoder=True)),
}


def make(name):
    """A tf.function of tokens and the shape of the tokens that it takes."""
    tf.keras.utils.set_random_seed(3)
    if name in OWN:
        model = OWN[name]()
        fixed = model.inputs[0].shape[1]
        run = lambda ids: model(ids, training=False)
        variables = model.weights
    else:
        import transformers
        kind, options = LIBRARY[name]
        config = transformers.AutoConfig.for_model(kind, use_cache=False, **options)
        model = transformers.TFAutoModelForCausalLM.from_config(config)
        model(tf.ones((1, 4), tf.int32))
        fixed = None
        run = lambda ids: model(ids, training=False).logits
        variables = model.weights
    rng = np.random.default_rng(5)
    for v in variables:
        if v.dtype.is_floating:
            scale = 0.1 if len(v.shape) < 2 else 0.12
            base = v.numpy() if len(v.shape) < 2 else 0
            v.assign(base + scale * rng.standard_normal(v.shape))
    return run, fixed


def save(path, array):
    with open(path, "wb") as f:
        f.write(numpy_helper.from_array(array).SerializeToString())


def export(out, name, opset):
    folder = os.path.join(out, f"{name}-tf{opset}")
    if os.path.exists(os.path.join(folder, "logits.pb")):
        return
    os.makedirs(folder, exist_ok=True)
    run, fixed = make(name)
    shape = (1, fixed) if fixed else (None, None)
    function = tf.function(run)
    path = os.path.join(folder, "model.onnx")
    tf2onnx.convert.from_function(function, [tf.TensorSpec(shape, tf.int32, "input_ids")], opset=opset,
                                  output_path=path)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(3)
    for suffix, size in (("", ONE), ("_batch", BATCH)):
        if fixed and suffix:
            continue
        ids = rng.integers(0, VOCAB, size, dtype=np.int64)
        logits = session.run(None, {session.get_inputs()[0].name: ids.astype(np.int32)})[0]
        if logits.shape != (*size, VOCAB) or not np.isfinite(logits).all():
            raise ValueError(f"logits {logits.shape}")
        save(os.path.join(folder, f"tokens{suffix}.pb"), ids)
        save(os.path.join(folder, f"logits{suffix}.pb"), logits.astype(np.float32))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("out")
    p.add_argument("--models", default=".*")
    p.add_argument("--opsets", default="11,13,15,17,18")
    a = p.parse_args()
    for name in [*OWN, *LIBRARY]:
        if not re.fullmatch(a.models, name):
            continue
        for opset in map(int, a.opsets.split(",")):
            try:
                export(a.out, name, opset)
                print(f"{name}-tf{opset}\tok", flush=True)
            except Exception as e:
                print(f"{name}-tf{opset}\tnot exported: {type(e).__name__}: {str(e).splitlines()[0][:150]}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
