"""Writes tests/corpus/nodes: one-node graphs of ONNX Runtime's operators with its own results.

usage: python nodes.py OUT [NAME...]

Each case is a folder as ONNX's node tests have it: model.onnx, test_data_set_0/{input,output}_I.pb.
Integers that a compile must know (axes, total lengths) are initializers."""
import os
import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(7)
CASES = {}


def f32(*shape):
    return (rng.standard_normal(shape) * 0.5).astype(np.float32)


def case(name, op, inputs, nout=1, domain="com.microsoft", const=(), want=None, same_as=None, stored=None, other_attrs=None,
         **attrs):
    """inputs: arrays or None; const: numbers of those that are initializers; want: outputs that are used;
    same_as: operands (and other_attrs) in another form that must give the same, for a form without a CPU kernel;
    stored: how many outputs are defined whole (the tail of a ragged cache is not)."""
    assert name not in CASES, name
    CASES[name] = (op, domain, inputs, nout, set(const), want, attrs), same_as, stored, other_attrs or {}


def build(op, domain, inputs, nout, const, want, attrs):
    names = ["" if x is None else f"x{i}" for i, x in enumerate(inputs)]
    outs = [f"y{i}" if want is None or i in want else "" for i in range(nout)]
    infos = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), list(x.shape))
             for i, (n, x) in enumerate(zip(names, inputs)) if x is not None and i not in const]
    inits = [numpy_helper.from_array(inputs[i], names[i]) for i in sorted(const)]
    node = helper.make_node(op, names, outs, domain=domain, **attrs)
    g = helper.make_graph([node], op, infos, [helper.make_empty_tensor_value_info(o) for o in outs if o], inits)
    return helper.make_model(g, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)],
                             ir_version=10)


def run(model, feeds):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feeds)


def write(folder, spec, same_as, stored, other_attrs):
    model, oracle = build(*spec), spec[:2] + (same_as or spec[2],) + spec[3:6] + ({**spec[6], **other_attrs},)
    data_of = lambda s: {f"x{i}": x for i, x in enumerate(s[2]) if x is not None and i not in s[4]}
    feeds, outputs = data_of(spec), run(build(*oracle), data_of(oracle))
    data = os.path.join(folder, "test_data_set_0")
    os.makedirs(data, exist_ok=True)
    onnx.save(model, os.path.join(folder, "model.onnx"))
    for kind, arrays in (("input", feeds.values()), ("output", outputs[:stored])):
        for i, a in enumerate(arrays):
            with open(os.path.join(data, f"{kind}_{i}.pb"), "wb") as f:
                f.write(numpy_helper.from_array(a).SerializeToString())


def i32(*v):
    return np.array(v, np.int32)


def i64(*v):
    return np.array(v, np.int64)


# ---- norms, activations, products ----
B, S, H = 2, 3, 8
x, skip, gamma, beta, bias = f32(B, S, H), f32(B, S, H), f32(H), f32(H), f32(H)
case("skip_layer_norm", "SkipLayerNormalization", [x, skip, gamma, beta, bias], 4, want=(0, 3), epsilon=1e-5)
case("skip_layer_norm_plain", "SkipLayerNormalization", [x, skip, gamma])
case("skip_layer_norm_broadcast", "SkipLayerNormalization", [x, skip[:1], gamma, beta], epsilon=1e-3)
case("skip_layer_norm_rank2", "SkipLayerNormalization", [x, skip[0], gamma, beta])
case("skip_rms_norm", "SkipSimplifiedLayerNormalization", [x, skip, gamma, bias], 4, want=(0, 3), epsilon=1e-5)
case("skip_rms_norm_default", "SkipSimplifiedLayerNormalization", [x * 1e-5, skip * 1e-5, gamma])
case("rms_norm", "SimplifiedLayerNormalization", [x, gamma], 2, domain="", want=(0, 1), epsilon=1e-3, axis=-1, stash_type=1)
ids, segments = np.array([[1, 2, 0], [4, 3, 3]], np.int32), np.array([[0, 1, 1], [0, 0, 1]], np.int32)
words, places, parts = f32(5, H), f32(7, H), f32(2, H)
case("embed_norm", "EmbedLayerNormalization", [ids, segments, words, places, parts, gamma, beta,
     np.array([[1, 1, 0], [1, 1, 1]], np.int32)], 3, want=(0, 1, 2), epsilon=1e-5)
case("embed_norm_positions", "EmbedLayerNormalization", [ids, None, words, places, None, gamma, beta, None,
     np.array([[3, 1, 6], [0, 1, 2]], np.int32)], 3, want=(0, 2))
case("embed_norm_shared_positions", "EmbedLayerNormalization", [ids, None, words, places, None, gamma, beta, None,
     np.array([[3, 1, 6]], np.int32)], 2, want=(0,))
case("gelu", "Gelu", [x])
case("bias_gelu", "BiasGelu", [x, bias])
case("fast_gelu", "FastGelu", [x, bias])
case("fast_gelu_plain", "FastGelu", [x])
case("quick_gelu", "QuickGelu", [x])
case("quick_gelu_alpha", "QuickGelu", [x], alpha=0.7)
a, b = f32(2, 3, 4), f32(2, 4, 5)
t = lambda m: np.ascontiguousarray(np.swapaxes(m, -1, -2))
case("fused_matmul", "FusedMatMul", [t(a), t(b)], transA=1, transB=1, alpha=0.25)
case("fused_matmul_batch", "FusedMatMul", [np.ascontiguousarray(a.transpose(1, 0, 2)), np.ascontiguousarray(b.transpose(2, 0, 1))],
     transBatchA=1, transBatchB=1, transB=1)
case("fused_matmul_rank2", "FusedMatMul", [a, f32(5, 4)], transB=1, alpha=3.0)
case("transpose_matmul", "TransposeMatMul", [t(a), b], transA=1)
for act in ("Relu", "Tanh", "Sigmoid"):
    case("fused_gemm_" + act.lower(), "FusedGemm", [f32(3, 4), f32(5, 4), f32(5)], transB=1, alpha=0.5, beta=2.0, activation=act)
case("fused_gemm_leaky", "FusedGemm", [f32(4, 3), f32(4, 5)], transA=1, activation="LeakyRelu", activation_alpha=0.3)
case("trilu", "Trilu", [f32(2, 4, 5), i64(1)[0]], const=(1,), upper=0)
case("range", "Range", [i64(2)[0], i64(9)[0], i64(3)[0]], const=(0, 1, 2))
case("range_of_two", "Range", [i64(2)[0], i64(6)[0]], const=(0, 1))
case("pad", "Pad", [f32(2, 3), i64(1, 0, 2, 1), np.array([0.5], np.float32)], const=(1, 2))
case("expand_dims", "ExpandDims", [f32(2, 3), np.array(-1, np.int32)], const=(1,))
case("gather_nd", "GatherND", [f32(2, 3, 4), np.array([[0, 1], [1, 2]], np.int64)])

# ---- rotary ----
N, D = 2, 8
cos, sin = np.cos(f32(16, D // 2)), np.sin(f32(16, D // 2))
case("rotary", "RotaryEmbedding", [f32(B, N, S, D), np.array([[0, 1, 2], [5, 9, 3]], np.int64), cos, sin])
case("rotary_offset", "RotaryEmbedding", [f32(B, S, N * D), i64(4), cos, sin])
case("rotary_interleaved", "RotaryEmbedding", [f32(B, S, N * D), i64(0), cos, sin], interleaved=1)
case("rotary_partial", "RotaryEmbedding", [f32(B, S, N * D), i64(2), cos[:, :2].copy(), sin[:, :2].copy()], num_heads=N,
     rotary_embedding_dim=4)
case("rotary_packed_batching", "RotaryEmbedding", [f32(B, S, N * D), np.array([[0, 1, 2], [5, 9, 3]], np.int64), cos, sin],
     is_packed_batching=1)

# ---- Attention ----
E = N * D
w, wb = f32(E, 3 * E), f32(3 * E)
inp = f32(B, S, E)
P = 4
T = P + S
past = f32(2, B, N, P, D)
raw = np.array([[1, 1, 0], [0, 1, 1]], np.int32)
case("attention", "Attention", [inp, w, wb], num_heads=N)
case("attention_causal", "Attention", [inp, w, wb], 2, num_heads=N, unidirectional=1)
case("attention_scale", "Attention", [inp, w, wb], num_heads=N, scale=0.9)
case("attention_past", "Attention", [inp, w, wb, None, past], 2, num_heads=N, unidirectional=1)
case("attention_raw_mask", "Attention", [inp, w, wb, raw], num_heads=N)
case("attention_raw_mask_causal", "Attention", [inp, w, wb, raw], num_heads=N, unidirectional=1, mask_filter_value=-100.0)
case("attention_mask_3d", "Attention", [inp, w, wb, (rng.random((B, S, S)) > 0.4).astype(np.int32)], num_heads=N)
case("attention_mask_ends", "Attention", [inp, w, wb, i32(2, 3)], num_heads=N)
case("attention_mask_ends_starts", "Attention", [inp, w, wb, i32(3, 2, 1, 0)], num_heads=N)
case("attention_raw_mask_past", "Attention", [inp, w, wb, (rng.random((B, T)) > 0.3).astype(np.int32), past], 2, num_heads=N,
     unidirectional=1, mask_filter_value=-3.4e38)
case("attention_bias", "Attention", [inp, w, wb, raw, None, f32(1, N, S, S)], num_heads=N)
case("attention_sizes", "Attention", [inp, f32(E, 2 * E + 6), f32(2 * E + 6)], num_heads=N, qkv_hidden_sizes=[E, E, 6])

# ---- MultiHeadAttention ----
q, k, v = f32(B, S, E), f32(B, S + 1, E), f32(B, S + 1, 6)
case("mha", "MultiHeadAttention", [q, k, v], num_heads=N)
case("mha_bias", "MultiHeadAttention", [q, k, v, f32(2 * E + 6)], num_heads=N, scale=0.4)
qkv, kv, qkv_bias = f32(B, S, N, 3, D), f32(B, S + 1, N, 2, D), f32(3 * E)
third = lambda m, i: np.ascontiguousarray(m[:, :, :, i]).reshape(m.shape[0], m.shape[1], -1)
case("mha_packed", "MultiHeadAttention", [qkv], num_heads=N, same_as=[third(qkv, i) for i in range(3)])
case("mha_packed_bias", "MultiHeadAttention", [qkv, None, None, qkv_bias], num_heads=N,
     same_as=[third(qkv, i) for i in range(3)] + [qkv_bias])
case("mha_packed_kv", "MultiHeadAttention", [q, kv], num_heads=N, same_as=[q, third(kv, 0), third(kv, 1)])
case("mha_cross", "MultiHeadAttention", [q, f32(B, N, 5, D), f32(B, N, 5, D)], num_heads=N)
case("mha_causal", "MultiHeadAttention", [q, f32(B, S, E), f32(B, S, E)], num_heads=N, unidirectional=1)
case("mha_past", "MultiHeadAttention", [q, f32(B, S, E), f32(B, S, E), None, None, f32(1, 1, S, T), f32(B, N, P, D),
     f32(B, N, P, D)], 3, num_heads=N, unidirectional=1)
case("mha_mask_1d", "MultiHeadAttention", [q, k, v, None, i32(2, 4)], num_heads=N)
case("mha_mask_2d", "MultiHeadAttention", [q, k, v, None, np.array([[1, 1, 0, 1], [0, 1, 1, 1]], np.int32)], num_heads=N)
case("mha_mask_3d", "MultiHeadAttention", [q, k, v, None, (rng.random((B, S, S + 1)) > 0.4).astype(np.int32)], num_heads=N)
case("mha_bias_per_head", "MultiHeadAttention", [q, k, v, None, None, f32(B, N, S, S + 1)], num_heads=N)

# ---- GroupQueryAttention ----
D, KV = 16, 2
N = 4
cos, sin = np.cos(f32(16, D // 2)), np.sin(f32(16, D // 2))
heads = dict(num_heads=N, kv_num_heads=KV)


def gqa(name, tokens, past=0, extra=(), nout=3, lengths=None, total=None, dtype=np.float32, packed=False, gain=1, batch=None,
        normed=None, **attrs):
    """ONNX Runtime's kernel takes batch 1 when several tokens follow a past."""
    batch = batch or (1 if past and tokens > 1 else 2)
    total = total or past + tokens
    q, k, v = [f32(batch, tokens, n * D).astype(dtype) for n in (N, KV, KV)]
    q = q * dtype(gain)
    pasts = [f32(batch, KV, past, D).astype(dtype) for _ in range(2)] if past else [None, None]
    last = np.full(batch, total - 1, np.int32) if lengths is None else np.array(lengths, np.int32) - 1
    rest = pasts + [last, np.array([total], np.int32)] + list(extra)
    operands = [np.concatenate([q, k, v], -1), None, None] if packed else [q, k, v]
    same = None
    if normed is not None:
        rms = lambda m, w: (m.reshape(batch, tokens, -1, D) / np.sqrt(np.mean(np.square(m.reshape(batch, tokens, -1, D)), -1,
                            keepdims=True) + attrs["qk_norm_epsilon"]) * w).reshape(m.shape).astype(dtype)
        same = [rms(q, normed[0]), rms(k, normed[1]), v] + rest
        rest = rest + [None] * (14 - 3 - len(rest)) + list(normed)
    case("gqa_" + name, "GroupQueryAttention", operands + rest, nout, const=(6,), same_as=same, **{**heads, **attrs})


rope = [cos, sin]
gqa("prompt", 3)
gqa("packed", 3, packed=True)
gqa("past", 3, past=4)
gqa("step", 1, past=4)
gqa("rotary_prompt", 3, extra=rope, do_rotary=1)
gqa("rotary", 3, past=4, extra=rope, do_rotary=1)
gqa("rotary_packed", 3, past=4, extra=rope, do_rotary=1, packed=True)
gqa("rotary_interleaved", 3, past=4, extra=rope, do_rotary=1, rotary_interleaved=1)
gqa("rotary_positions", 1, past=4, extra=rope + [np.array([[7], [2]], np.int64)], do_rotary=1)
for window in (1, 2, 3):
    gqa(f"window_{window}", 3, past=4, local_window_size=window)
gqa("softcap", 3, past=4, gain=9, softcap=1.5)
gqa("smooth", 3, past=4, smooth_softmax=1)
gqa("sink", 3, past=4, extra=[None] * 4 + [f32(N)])
gqa("scale", 3, scale=0.8)
gqa("bias", 3, past=4, extra=[None] * 3 + [f32(1, 1, 3, 7)])
gqa("softcap_bias", 3, past=4, gain=9, softcap=1.5, extra=[None] * 3 + [f32(1, N, 3, 7)])
gqa("norm", 3, past=4, extra=rope, do_rotary=1, qk_norm_epsilon=1e-3, normed=(f32(D), f32(D)))
gqa("qk_after", 3, nout=4, qk_output=2)
gqa("bidirectional", 3, causal=0)
gqa("ragged_plain", 1, past=4, lengths=[3, 5], stored=1)
gqa("ragged_step", 1, past=4, lengths=[3, 5], stored=1, extra=rope, do_rotary=1)
gqa("shared_buffer", 1, past=6, total=4, lengths=[3, 4], stored=1, extra=rope, do_rotary=1)
gqa("narrow", 3, dtype=np.float16)

# ---- mixtures of experts ----
def moe(name, act, fused=False, biases=True, gated=False, rank3=False, **attrs):
    """ONNX Runtime's kernel knows neither a third matrix nor halves side by side: those are given interleaved."""
    E, H, I, S = 4, 8, 6, 5
    w1, w2, w3, b1, b2, b3 = f32(E, 2 * I if fused else I, H), f32(E, H, I), f32(E, I, H), f32(E, 2 * I if fused else I), f32(E, H), f32(E, I)
    x, router = f32(1, S, H) if rank3 else f32(S, H), f32(S, E) * 3
    w = lambda *m: [m[0], m[1] if biases else None, w2, b2 if biases else None]
    inputs, same, attrs = [x, router] + w(w1, b1), None, dict(attrs, activation_type=act)
    weave = lambda a, b: np.stack([a, b], 2).reshape(E, 2 * I, *a.shape[2:])
    if gated:
        same, inputs = [x, router] + w(weave(w1, w3), weave(b1, b3)), inputs + [w3, b3 if biases else None]
    elif attrs.get("swiglu_fusion") == 2:
        same = [x, router] + w(weave(w1[:, :I], w1[:, I:]), weave(b1[:, :I], b1[:, I:]))
    other = {"swiglu_fusion": 1} if same else None
    case("moe_" + name, "MoE", inputs, same_as=same, other_attrs=other, **attrs)


moe("relu", "relu")
moe("relu_k2", "relu", biases=False, k=2)
moe("gelu", "gelu", k=2, normalize_routing_weights=1)
moe("silu_rank3", "silu", rank3=True, k=3, normalize_routing_weights=1)
moe("identity", "identity", k=4)
moe("swiglu_interleaved", "swiglu", True, k=2, swiglu_fusion=1)
moe("swiglu_limits", "swiglu", True, k=2, swiglu_fusion=1, swiglu_limit=0.3, activation_alpha=1.702, activation_beta=1.0)
moe("swiglu_halves", "swiglu", True, k=2, swiglu_fusion=2, normalize_routing_weights=1)
moe("swiglu_three", "swiglu", gated=True, k=2, swiglu_fusion=0)

def qmoe(name, block=0, zeros=False, bits=4, **attrs):
    E, H, I, S = 4, 32, 32, 5
    per, groups = 8 // bits, (32 // block if block else 1)
    w = lambda n: rng.integers(0, 256, (E, n, 32 // per)).astype(np.uint8)
    s = lambda n: (rng.random((E, n, groups) if block else (E, n)) * 0.05 + 0.01).astype(np.float32)
    z = lambda n: rng.integers(0, 256, (E, n, -(-groups // per)) if block else (E, n // per)).astype(np.uint8)
    inputs = [f32(S, H), f32(S, E) * 3, w(2 * I), s(2 * I), f32(E, 2 * I), w(H), s(H), f32(E, H), None, None, None]
    inputs += [z(2 * I), z(H)] if zeros else []
    case("qmoe_" + name, "QMoE", inputs, const=(2, 3, 5, 6, 11, 12) if zeros else (2, 3, 5, 6), k=2, activation_type="swiglu",
         swiglu_fusion=1, expert_weight_bits=bits, weights_prepacked=0, **({"block_size": block} if block else {}), **attrs)


qmoe("rows")
qmoe("blocks", 16, normalize_routing_weights=1)
qmoe("blocks_zeros", 16, True)

# ---- QAttention: inputs, weights and past as Attention's, with scales and zero points ----
def qattention(name, columns=False, zeros=True, past=None, mask=None, nout=1, **attrs):
    E = N * D
    x, w = rng.integers(0, 256, (B, S, E)).astype(np.uint8), rng.integers(-60, 60, (E, 3 * E)).astype(np.int8)  # full range saturates in AVX2 kernels
    scale = (rng.random(3 * E) * 0.01 + 0.005).astype(np.float32) if columns else np.array(0.01, np.float32)
    zero = [np.array(128, np.uint8), np.zeros(3 * E, np.int8) if columns else np.array(3, np.int8)] if zeros else [None, None]
    case("qattention_" + name, "QAttention", [x, w, f32(3 * E), np.array(0.02, np.float32), scale, mask, *zero, past], nout,
         const=(1, 2, 4), num_heads=N, **attrs)


qattention("plain", zeros=False)
qattention("causal", unidirectional=1)
qattention("columns", columns=True, mask=raw)
qattention("past", past=f32(2, B, N, P, D), nout=2, unidirectional=1)


if __name__ == "__main__":
    out, only = sys.argv[1], set(sys.argv[2:])
    for name, spec in CASES.items():
        if only and name not in only:
            continue
        child = os.fork()  # a kernel that does not check its operands may take the process down
        if child == 0:
            try:
                write(os.path.join(out, name), *spec)
            except Exception as e:
                print("skipped", name, str(e).splitlines()[0][:200], flush=True)
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            print("crashed", name)
