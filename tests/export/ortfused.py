#!/usr/bin/env python3
"""Rewrites exports as ONNX Runtime's optimizers do, to try the compiler on fused graphs.

usage: ortfused.py OUT FOLDER... [--ways REGEX]

FOLDER holds model.onnx, tokens.pb and logits.pb as export.py writes them. Writes OUT/NAME-WAY with the same
files. A fused graph must still give the export's logits in ONNX Runtime, else it is left out with a line.
"""
import argparse
import inspect
import os
import re
import shutil
import sys

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

LEVELS = {"basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC, "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
          "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL}

# way: what optimizer.optimize_model is given
TOOL = {
    "gpt2": dict(model_type="gpt2", opt_level=0),
    "gpt2-ort1": dict(model_type="gpt2", opt_level=1),
    "gpt2-onlyort": dict(model_type="gpt2", opt_level=99, only_onnxruntime=True),
    "gpt2-gpu": dict(model_type="gpt2", opt_level=0, use_gpu=True),
    "neox": dict(model_type="gpt_neox", opt_level=0),
    "phi": dict(model_type="phi", opt_level=0),
    "bert": dict(model_type="bert", opt_level=1),
    "mha": dict(model_type="gpt2", opt_level=0, use_multi_head_attention=True),
}


def options(level=None, save=None):
    o = ort.SessionOptions()
    o.intra_op_num_threads = 1
    o.log_severity_level = 4
    if level is not None:
        o.graph_optimization_level = level
    if save is not None:
        o.optimized_model_filepath = save
    return o


def fuse(source, path, way):
    if way in LEVELS:
        ort.InferenceSession(source, options(LEVELS[way], path), providers=["CPUExecutionProvider"])
        return
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions
    args = dict(TOOL[way])
    fusion = FusionOptions(args["model_type"])
    if args.pop("use_multi_head_attention", False):
        fusion.use_multi_head_attention = True
    known = inspect.signature(optimizer.optimize_model).parameters
    heads, hidden = 4, 64
    for i in onnx.load(source).graph.input:
        shape = [d.dim_value for d in i.type.tensor_type.shape.dim]
        if "past" in i.name and len(shape) == 4 and shape[1] and shape[3]:
            heads, hidden = shape[1], shape[1] * shape[3]
    args = {k: v for k, v in args.items() if k in known}
    model = optimizer.optimize_model(source, num_heads=heads, hidden_size=hidden, optimization_options=fusion, **args)
    model.save_model_to_file(path)


def feeds_of(session, ids, head_size=0, rows=0):
    batch, seq = ids.shape
    feeds = {}
    for i in session.get_inputs():
        dtype = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float16)": np.float16}.get(i.type, np.float32)
        if "past" in i.name:
            shape = [d if isinstance(d, int) else rows for d in i.shape]
            shape[-4] = batch  # [.., batch, heads, past, d]
            if head_size and isinstance(i.shape[-1], str):
                shape[-1] = head_size
            feeds[i.name] = np.zeros(shape, dtype)
        elif "mask" in i.name:
            feeds[i.name] = np.ones((batch, seq), dtype)
        elif "position" in i.name:
            feeds[i.name] = np.broadcast_to(np.arange(seq, dtype=dtype), (batch, seq)).copy()
        else:
            feeds[i.name] = ids.astype(dtype)
    return feeds


def tensor(path):
    with open(path, "rb") as f:
        return numpy_helper.to_array(onnx.TensorProto.FromString(f.read()))


def save_tensor(path, array):
    with open(path, "wb") as f:
        f.write(numpy_helper.from_array(array).SerializeToString())


def still_right(folder):
    """The fused graph in ONNX Runtime against the export's logits."""
    session = ort.InferenceSession(os.path.join(folder, "model.onnx"), options(), providers=["CPUExecutionProvider"])
    want = tensor(os.path.join(folder, "logits.pb"))
    got = session.run(None, feeds_of(session, tensor(os.path.join(folder, "tokens.pb"))))[0]
    return float(np.abs(got - want).max() / want.std())


def one(out, folder, way):
    target = os.path.join(out, f"{os.path.basename(folder.rstrip('/'))}-{way}")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("model.onnx*"))
    try:
        fuse(os.path.join(folder, "model.onnx"), os.path.join(target, "model.onnx"), way)
        error = still_right(target)
        if not error < 1e-3:
            raise ValueError(f"ONNX Runtime is off by {error:.2g} of the deviation itself")
        ops = {n.op_type for n in onnx.load(os.path.join(target, "model.onnx")).graph.node if n.domain == "com.microsoft"}
        return " ".join(sorted(ops))
    except Exception:
        shutil.rmtree(target, ignore_errors=True)
        raise


def main():
    p = argparse.ArgumentParser()
    p.add_argument("out")
    p.add_argument("folders", nargs="+")
    p.add_argument("--ways", default=".*")
    a = p.parse_args()
    for folder in a.folders:
        for way in [w for w in (*LEVELS, *TOOL) if re.fullmatch(a.ways, w)]:
            name = f"{os.path.basename(folder.rstrip('/'))}-{way}"
            try:
                print(f"{name}\t{one(a.out, folder, way)}", flush=True)
            except Exception as e:
                print(f"{name}\tleft out: {type(e).__name__}: {(str(e).strip() or '-').splitlines()[0][:150]}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
