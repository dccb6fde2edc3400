"""Writes tests/corpus/standard-nodes: one-node graphs of standard operators with the results of ONNX's own
reference, in the form of ONNX's node tests. They run as functions: compiled, opened, run, compared.

usage: python standard_nodes.py OUT

Needs the package onnx. A length of 7 in an input is declared as a free dimension."""
import os
import sys

import ml_dtypes
import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

rng = np.random.default_rng(11)
CASES = {}
FREE = 7


def f(*shape, dtype=np.float32):
    return np.asarray(rng.standard_normal(shape)).astype(dtype)


def i(*values, dtype=np.int64):
    return np.array(values, dtype)


def ints(shape, low, high, dtype=np.int64):
    return rng.integers(low, high, shape).astype(dtype)


def case(name, op, *inputs, nout=1, const=(), opset=21, **attrs):
    """const: numbers of the inputs that are initializers; None: an input left out."""
    assert name not in CASES, name
    CASES[name] = op, inputs, nout, set(const), opset, attrs


def info(name, array):
    dims = ["n" if d == FREE else d for d in array.shape]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), dims)


def write(folder, op, inputs, nout, const, opset, attrs):
    names = ["" if x is None else f"x{k}" for k, x in enumerate(inputs)]
    given = [k for k, x in enumerate(inputs) if x is not None and k not in const]
    node = helper.make_node(op, names, [f"y{k}" for k in range(nout)], **attrs)
    inits = [numpy_helper.from_array(inputs[k], names[k]) for k in sorted(const)]
    opsets = [helper.make_opsetid("", opset)]
    feeds = {names[k]: inputs[k] for k in given}
    bare = [helper.make_empty_tensor_value_info(f"y{k}") for k in range(nout)]
    ports = [info(names[k], inputs[k]) for k in given]
    make = lambda outs: helper.make_model(helper.make_graph([node], op, ports, outs, inits), opset_imports=opsets,
                                          ir_version=10)
    outputs = [np.asarray(y) for y in ReferenceEvaluator(make(bare)).run(None, feeds)]
    model = make([helper.make_tensor_value_info(f"y{k}", helper.np_dtype_to_tensor_dtype(y.dtype), None)
                  for k, y in enumerate(outputs)])
    data = os.path.join(folder, "test_data_set_0")
    os.makedirs(data, exist_ok=True)
    onnx.save(model, os.path.join(folder, "model.onnx"))
    for kind, arrays in (("input", [inputs[k] for k in given]), ("output", outputs)):
        for k, a in enumerate(arrays):
            with open(os.path.join(data, f"{kind}_{k}.pb"), "wb") as out:
                out.write(numpy_helper.from_array(a).SerializeToString())


half, bf16, f64 = np.float16, ml_dtypes.bfloat16, np.float64

# ---- elementwise: every dtype once, broadcasting, special values ----
for t in (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.uint64):
    case(f"add_{t.__name__}", "Add", ints((2, 3), 0, 90, t), ints((3,), 0, 90, t))
case("mul_int64_wraps", "Mul", i(2**62, -3, 7), i(2, 5, -1))
case("div_int32", "Div", i(7, -7, 9, -9, dtype=np.int32), i(2, 2, -4, -4, dtype=np.int32))
case("mod_int_sign", "Mod", i(-7, 7, -8), i(3, -3, 3))
case("mod_fmod_half", "Mod", f(5, dtype=half), f(5, dtype=half), fmod=1)
case("sub_half", "Sub", f(2, 7, dtype=half), f(7, dtype=half))
case("mul_f64", "Mul", f(2, 3, dtype=f64), f(2, 1, dtype=f64))
case("add_bf16", "Add", f(2, 7, dtype=bf16), f(2, 7, dtype=bf16))
case("pow_int_exponent", "Pow", f(2, 3), i(0, 2, 3, dtype=np.int32))
case("exp_f64", "Exp", f(FREE, dtype=f64))
case("log_special", "Log", np.array([0, -1, np.inf, 1], np.float32))
case("sqrt_half", "Sqrt", abs(f(6, dtype=half)))
case("erf", "Erf", f(3, 7))
case("softplus", "Softplus", f(2, 5))
case("gelu_tanh", "Gelu", f(2, 7), approximate="tanh")
case("gelu", "Gelu", f(2, 7))
case("mish", "Mish", f(5))
case("swish", "Swish", f(5), opset=24, alpha=1.5)
case("hardswish", "HardSwish", f(9) * 3)
case("round_ties", "Round", np.array([0.5, 1.5, -0.5, -2.5, 2.4], np.float32))
case("sign_int", "Sign", i(-4, 0, 9, dtype=np.int8))
case("isinf_negative", "IsInf", np.array([np.inf, -np.inf, np.nan, 1], np.float32), detect_positive=0)
case("isnan_half", "IsNaN", np.array([np.nan, 1], half))
case("max_nan", "Max", np.array([1, np.nan, 3], np.float32), np.array([2, 2, 2], np.float32), f(2, 3))
case("min_uint64", "Min", i(2**63 + 5, 7, dtype=np.uint64), i(9, 8, dtype=np.uint64))
case("clip_int8", "Clip", ints((7,), -90, 90, np.int8), i(-10, dtype=np.int8)[0], i(20, dtype=np.int8)[0])
case("xor_broadcast", "Xor", f(2, 1, 3) > 0, f(2, 3) > 0)
case("less_uint16", "Less", ints((2, 3), 0, 60000, np.uint16), ints((3,), 0, 60000, np.uint16))
case("equal_bool", "Equal", f(2, 3) > 0, f(2, 3) > 0)
case("where_int", "Where", f(2, 3) > 0, ints((2, 3), 0, 9), ints((3,), 0, 9))
case("prelu", "PRelu", f(2, 3, 4), abs(f(4)))

# ---- conversions ----
case("cast_half_to_int8", "Cast", np.array([1.9, -1.9, 100.2], half), to=onnx.TensorProto.INT8)
case("cast_float_to_bool", "Cast", np.array([0, -0.0, 0.2, np.nan], np.float32), to=onnx.TensorProto.BOOL)
case("cast_int64_to_bf16", "Cast", i(1, 255, 257, 65537), to=onnx.TensorProto.BFLOAT16)
case("cast_f64_to_half", "Cast", np.array([1e-8, 65520, 1e9, 0.1], f64), to=onnx.TensorProto.FLOAT16)
case("castlike", "CastLike", ints((3,), 0, 9), f(1, dtype=f64))

# ---- movement ----
case("reshape_minus", "Reshape", f(2, 3, 7), i(0, -1), const=(1,))
case("transpose", "Transpose", f(2, 7, 3, dtype=half), perm=[2, 0, 1])
case("expand", "Expand", ints((3, 1), 0, 9, np.int16), i(2, 1, 4), const=(1,))
case("slice_backwards", "Slice", f(4, 7), i(3, 5), i(0, -7), i(0, 1), i(-2, -1), const=(1, 2, 3, 4))
case("slice_data_bounds", "Slice", f(4, 5), i(1), i(3), i(0))
case("concat_uint8", "Concat", ints((2, 2), 0, 9, np.uint8), ints((2, 3), 0, 9, np.uint8), axis=-1)
case("split_uneven", "Split", f(2, 7), nout=3, axis=1, num_outputs=3)
case("tile_bool", "Tile", f(2, 3) > 0, i(2, 2), const=(1,))
case("pad_reflect", "Pad", f(3, 4), i(1, 2, 1, 0), const=(1,), mode="reflect")
case("pad_edge", "Pad", f(4, 5), i(1, 0, 0, 2), const=(1,), mode="edge")
case("pad_wrap", "Pad", f(3, 4), i(1, 1, 2, 0), const=(1,), mode="wrap")
case("pad_constant_axes", "Pad", ints((2, 3), 0, 9), i(1, 2), i(7)[0], i(-1), const=(1, 3))
case("trilu_lower", "Trilu", ints((2, 4, 4), 0, 9), i(-1)[0], const=(1,), upper=0)
case("unsqueeze", "Unsqueeze", f(FREE, 2), i(0, -1), const=(1,))
case("flatten", "Flatten", f(2, 3, 4), axis=2)

# ---- picking and writing ----
case("gather_negative", "Gather", f(5, 3), i(-1, 0, 2, dtype=np.int32), axis=0)
case("gather_rank0", "Gather", ints((3, 4), 0, 99), i(2)[0], axis=1)
case("gather_elements", "GatherElements", f(3, 4), ints((2, 4), -3, 3), axis=0)
case("gather_nd_batch", "GatherND", f(2, 3, 4), ints((2, 2, 1), 0, 3), batch_dims=1)
case("scatter_nd_max", "ScatterND", f(4, 3), i([0], [2], [0]), f(3, 3), reduction="max")
case("scatter_elements_add", "ScatterElements", ints((3, 4), 0, 9), ints((2, 4), 0, 3), ints((2, 4), 0, 9), axis=0,
     reduction="add")
case("one_hot", "OneHot", i(1, -1, 3), i(4)[0], f(2), axis=0, const=(1,))
case("range_down", "Range", i(10)[0], i(1)[0], i(-3)[0])
case("constant_of_shape", "ConstantOfShape", i(2, 3), value=helper.make_tensor("v", onnx.TensorProto.INT32, [1], [5]))
case("nonzero", "NonZero", i([1, 0, 2], [0, 3, 0]))

# ---- along axes ----
case("reduce_mean_all", "ReduceMean", f(2, 3, 7), keepdims=0)
case("reduce_prod_int", "ReduceProd", ints((2, 3), 1, 5, np.int32), i(1), const=(1,))
case("reduce_l2_half", "ReduceL2", f(3, 7, dtype=half), i(-1), const=(1,), keepdims=0)
case("reduce_log_sum_exp", "ReduceLogSumExp", f(2, 7) * 50, i(1), const=(1,))
case("reduce_sum_no_axes", "ReduceSum", f(2, 3), i(), const=(1,), noop_with_empty_axes=1)
case("reduce_max_empty_bool", "ReduceMax", np.zeros((2, 0), bool), i(1), const=(1,), keepdims=0)
case("argmax_last", "ArgMax", i([2, 5, 5], [1, 1, 0]), axis=1, keepdims=0, select_last_index=1)
case("argmin_half", "ArgMin", f(3, 7, dtype=half), axis=0)
case("cumsum_reverse", "CumSum", f(3, 4, dtype=f64), i(1, dtype=np.int32)[0], const=(1,), exclusive=1, reverse=1)
case("softmax_axis", "Softmax", f(2, 7, 3), axis=1)
case("log_softmax_bf16", "LogSoftmax", f(3, 5, dtype=bf16))
case("topk_smallest", "TopK", f(3, 7), i(2), nout=2, const=(1,), axis=1, largest=0)
case("topk_int", "TopK", i([3, 9, 3, 1], [4, 4, 4, 8], dtype=np.int32), i(3), nout=2, const=(1,))

# ---- products and norms ----
case("matmul_broadcast", "MatMul", f(2, 1, 3, 4), f(5, 4, 2))
case("matmul_vector", "MatMul", f(7), f(2, 7, 3))
case("matmul_int32", "MatMul", ints((2, 3), -9, 9, np.int32), ints((3, 4), -9, 9, np.int32))
case("matmul_half", "MatMul", f(3, 8, dtype=half), f(8, 4, dtype=half))
case("gemm", "Gemm", f(4, 3), f(5, 4), f(5), alpha=0.5, beta=2.0, transA=1, transB=1)
case("linear_weight", "MatMul", f(2, 7, 24), f(24, 20), const=(1,))
case("linear_f64", "MatMul", f(2, 24, dtype=f64), f(24, 3, dtype=f64), const=(1,))
case("einsum_ellipsis_diagonal", "Einsum", f(2, 3, 3), equation="...ii->...i")
case("einsum_three", "Einsum", f(2, 3), f(3, 4), f(4, 2), equation="ij,jk,kl->li")
case("einsum_implicit_trace", "Einsum", f(3, 3), equation="ii")
case("einsum_broadcast", "Einsum", f(2, 1, 4), f(2, 3, 4), equation="bij,bij->ib")
case("layer_norm", "LayerNormalization", f(2, 7, 8), f(8), f(8), epsilon=1e-3)
case("layer_norm_axes", "LayerNormalization", f(2, 3, 4), f(3, 4), f(3, 4), nout=3, axis=1)
case("rms_norm", "RMSNormalization", f(2, 7, 8), f(8), opset=23)
case("batch_norm_training", "BatchNormalization", f(2, 3, 4), f(3), f(3), f(3), abs(f(3)), nout=3, training_mode=1)
case("dynamic_quantize", "DynamicQuantizeLinear", f(3, 5), nout=3)
case("quantize_axis", "QuantizeLinear", f(2, 3, 4), abs(f(3)) + 0.1, i(1, 2, 3, dtype=np.int8), axis=1)
case("dequantize_blocked", "DequantizeLinear", ints((4, 3), 0, 255, np.uint8), abs(f(2, 3)),
     i([1, 2, 3], [4, 5, 6], dtype=np.uint8), axis=0, block_size=2)
case("matmul_integer", "MatMulInteger", ints((2, 4), 0, 255, np.uint8), ints((4, 3), -99, 99, np.int8),
     i(12, dtype=np.uint8)[0], i(3, dtype=np.int8)[0])

# ---- transformers ----
case("attention_causal_grouped", "Attention", f(2, 4, 3, 8), f(2, 2, 5, 8), f(2, 2, 5, 6), opset=23, is_causal=1)
case("attention_past_softcap", "Attention", f(1, 2, 3, 4), f(1, 2, 3, 4), f(1, 2, 3, 4), f(3, 5), f(1, 2, 2, 4),
     f(1, 2, 2, 4), nout=3, opset=23, softcap=2.0)
case("rotary_interleaved", "RotaryEmbedding", f(2, 2, 3, 8), f(5, 4), f(5, 4), ints((2, 3), 0, 5), opset=23,
     interleaved=1)
case("rotary_partial", "RotaryEmbedding", f(2, 3, 16), f(5, 2), f(5, 2), ints((2, 3), 0, 5), opset=23, num_heads=2,
     rotary_embedding_dim=4)

# ---- 8 bits and below ----
edges = np.array([0, -0.0, 1e-9, -1e-9, 0.0009765625, 1.0625, -1.1875, 239, 248, 464, 465, 6e4, -1e6, np.inf, -np.inf,
                  np.nan], np.float32)
for form in ("E4M3FN", "E4M3FNUZ", "E5M2", "E5M2FNUZ"):
    to, codes = getattr(onnx.TensorProto, "FLOAT8" + form), np.arange(256, dtype=np.uint8)
    case(f"cast_to_f8{form.lower()}", "Cast", edges, to=to)
    case(f"cast_half_to_f8{form.lower()}_not_saturated", "Cast", edges.astype(half), to=to, saturate=0)
    case(f"cast_f8{form.lower()}_to_float", "Cast", codes.view(helper.tensor_dtype_to_np_dtype(to)),
         to=onnx.TensorProto.FLOAT)
case("cast_int64_to_f8e4m3fn", "Cast", i(1, -17, 1000), to=onnx.TensorProto.FLOAT8E4M3FN)
case("cast_f8e5m2_to_int32", "Cast", np.array([1.5, -3, 57344], ml_dtypes.float8_e5m2), to=onnx.TensorProto.INT32)
for t in (ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.int2, ml_dtypes.uint2):
    low, high = ml_dtypes.iinfo(t).min, ml_dtypes.iinfo(t).max
    case(f"cast_to_{t.__name__}", "Cast", np.arange(low, high + 1).astype(np.float32) + (0.25 if low == 0 else 0),
         to=helper.np_dtype_to_tensor_dtype(np.dtype(t)), opset=25)
    case(f"cast_{t.__name__}_to_half", "Cast", np.arange(low, high + 1)[::-1].astype(t), to=onnx.TensorProto.FLOAT16,
         opset=25)
case("cast_int4_constant", "Cast", np.arange(-7, 8).astype(ml_dtypes.int4), const=(0,),
     to=onnx.TensorProto.FLOAT)
case("quantize_f8_axis", "QuantizeLinear", f(2, 3, 4) * 99, abs(f(3)) / 9 + 0.1, np.zeros(3, ml_dtypes.float8_e4m3fn),
     axis=1)
case("dequantize_f8", "DequantizeLinear", f(5, dtype=ml_dtypes.float8_e5m2), f())
case("quantize_int4", "QuantizeLinear", f(3, 5) * 9, abs(f(3)) + 0.1, i(1, -2, 3).astype(ml_dtypes.int4), axis=0)


def main():
    for name, spec in CASES.items():
        write(os.path.join(sys.argv[1], name), *spec)
    print(len(CASES), "cases")


if __name__ == "__main__":
    main()
