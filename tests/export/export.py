#!/usr/bin/env python3
"""Exports tiny random decoders in every way that people export them, to try the compiler on.

usage: export.py OUT [--models REGEX] [--ways REGEX] [--list]

Writes OUT/MODEL-WAY/{model.onnx,tokens.pb,logits.pb,tokens_batch.pb,logits_batch.pb}: the logits are what ONNX
Runtime computes for the export itself, with a mask of ones, positions that count up and an empty past. What this
version of the libraries cannot export is listed with its reason at the end. Needs torch, transformers, onnx,
onnxruntime and onnxscript; the ways opt* also optimum-onnx. tests/export/check.sh runs the compiler on the result.
"""
import argparse
import inspect
import os
import re
import shutil
import sys
import tempfile
import traceback
import warnings

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")

import numpy as np
import onnx
import onnxruntime as ort
import torch
import transformers
from onnx import numpy_helper

import handwritten
from models import CONFIGS, VOCAB

ONE, BATCH = (1, 24), (2, 96)

# way: (exporter, opset, attention implementation, past, inputs besides the tokens)
WAYS = {
    "dynamo18": ("dynamo", 18, "sdpa", False, ("attention_mask",)),
    "dynamo18-ids": ("dynamo", 18, "eager", False, ()),
    "dynamo23": ("dynamo", 23, "sdpa", False, ("attention_mask", "position_ids")),
    "dynamo18-past": ("dynamo", 18, "sdpa", True, ("attention_mask", "position_ids")),
    "ts11": ("ts", 11, "eager", False, ()),
    "ts13": ("ts", 13, "eager", False, ("attention_mask",)),
    "ts14": ("ts", 14, "sdpa", False, ("attention_mask",)),
    "ts17": ("ts", 17, "sdpa", False, ("attention_mask", "position_ids")),
    "ts17-past": ("ts", 17, "sdpa", True, ("attention_mask", "position_ids")),
    "ts14-past": ("ts", 14, "eager", True, ("attention_mask",)),
    "opt": ("optimum", 17, "sdpa", False, ()),
    "opt-past": ("optimum", 17, "sdpa", True, ()),
}


def randomise(model, seed=1):
    """Weights that leave nothing at zero or one, so that a forgotten bias or norm weight shows."""
    gen = torch.Generator().manual_seed(seed)
    seen = set()
    with torch.no_grad():
        for p in model.parameters():
            if p.data_ptr() in seen or not p.is_floating_point():
                continue
            seen.add(p.data_ptr())
            noise = torch.randn(p.shape, generator=gen)
            p.copy_(p + 0.1 * noise if p.dim() < 2 else 0.12 * noise)
    return model.eval()


def make_model(name, attention):
    torch.manual_seed(0)
    if name in handwritten.MODELS:
        return randomise(handwritten.MODELS[name]())
    kind, options = CONFIGS[name]
    config = transformers.AutoConfig.for_model(kind, **options)
    if getattr(config, "pad_token_id", None) is not None and config.pad_token_id >= VOCAB:
        config.pad_token_id = None
    try:
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    except (ValueError, ImportError):
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    return randomise(model.float())


def empty_cache(pairs):
    """A cache that holds the given pairs, in whichever way this version of transformers makes one."""
    if hasattr(transformers.DynamicCache, "from_legacy_cache"):
        return transformers.DynamicCache.from_legacy_cache(pairs)
    cache = transformers.DynamicCache()
    for i, (k, v) in enumerate(pairs):
        cache.update(k, v, i)
    return cache


def cache_pairs(cache):
    if isinstance(cache, (tuple, list)):
        return [tuple(p[:2]) for p in cache]
    if hasattr(cache, "layers"):
        return [(layer.keys, layer.values) for layer in cache.layers]
    return list(zip(cache.key_cache, cache.value_cache))


class Plain(torch.nn.Module):
    """Tokens (and mask, positions) to logits, without a cache."""

    def __init__(self, model, extra):
        super().__init__()
        self.model, self.extra = model, extra

    def forward(self, input_ids, *rest):
        out = self.model(input_ids=input_ids, use_cache=False, **dict(zip(self.extra, rest)))
        return out.logits


class WithPast(torch.nn.Module):
    """Tokens, mask, positions and past keys and values to logits and present ones."""

    def __init__(self, model, extra, layers):
        super().__init__()
        self.model, self.extra, self.layers = model, extra, layers

    def forward(self, input_ids, *rest):
        flat = rest[len(self.extra):]
        pairs = tuple((flat[2 * i], flat[2 * i + 1]) for i in range(self.layers))
        out = self.model(input_ids=input_ids, past_key_values=empty_cache(pairs), use_cache=True,
                         **dict(zip(self.extra, rest)))
        return (out.logits, *[t for p in cache_pairs(out.past_key_values) for t in p])


def model_inputs(model, extra, past, batch=2, seq=7, prior=5):
    """Example tensors, their names and which of their axes vary."""
    total = seq + (prior if past else 0)
    names, args, axes = ["input_ids"], [torch.randint(0, VOCAB, (batch, seq))], [{0: "batch", 1: "seq"}]
    for name in extra:
        if name == "attention_mask":
            args.append(torch.ones(batch, total, dtype=torch.int64))
            axes.append({0: "batch", 1: "total" if past else "seq"})
        else:
            args.append(torch.arange(total - seq, total)[None].expand(batch, seq).contiguous())
            axes.append({0: "batch", 1: "seq"})
        names.append(name)
    if not past:
        return names, args, axes, 0
    with torch.no_grad():
        pairs = cache_pairs(model(input_ids=torch.randint(0, VOCAB, (batch, prior)), use_cache=True).past_key_values)
    for i, pair in enumerate(pairs):
        for what, t in zip(("key", "value"), pair):
            if t.dim() != 4 or t.shape[2] != prior:
                raise ValueError(f"a cache of shape {tuple(t.shape)} is not tried here")
            names.append(f"past_key_values.{i}.{what}")
            args.append(t.clone())
            axes.append({0: "batch", 2: "past"})
    return names, args, axes, len(pairs)


def export_torch(model, way, path):
    exporter, opset, _, past, extra = way
    takes = inspect.signature(model.forward).parameters
    extra = tuple(e for e in extra if e in takes)
    hand = isinstance(model, handwritten.Base)
    if hand and (past or extra):
        raise ValueError("takes tokens alone")
    fixed = hand and model.fixed
    batch, seq = model.fixed if fixed else (2, 7)
    names, args, axes, layers = model_inputs(model, extra, past, batch, seq)
    wrapped = model if hand else WithPast(model, extra, layers) if past else Plain(model, extra)
    outs = ["logits"] + [n.replace("past_key_values", "present") for n in names if n.startswith("past")]
    with torch.no_grad():
        if exporter == "dynamo":
            dyn = {"batch": torch.export.Dim("batch"), "seq": torch.export.Dim("seq"),
                   "past": torch.export.Dim("past"), "total": torch.export.Dim("total")}
            dims = tuple({k: torch.export.Dim.DYNAMIC for k in a} for a in axes) if not fixed else None
            if dims is not None and not hand:
                dims = (dims[0], tuple(dims[1:]))
            del dyn
            torch.onnx.export(wrapped.eval(), tuple(args), path, input_names=names, output_names=outs,
                              opset_version=opset, dynamic_shapes=dims, dynamo=True, external_data=False,
                              verbose=False)
            return
        dyn = {} if fixed else {n: a for n, a in zip(names, axes)}
        kw = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
        torch.onnx.export(wrapped.eval(), tuple(args), path, input_names=names, output_names=outs,
                          opset_version=opset, dynamic_axes=dyn, do_constant_folding=True, **kw)


def export_optimum(model, way, path):
    from optimum.exporters.onnx import onnx_export_from_model
    task = "text-generation-with-past" if way[3] else "text-generation"
    model.config.torch_dtype = torch.float32
    with tempfile.TemporaryDirectory() as folder:
        onnx_export_from_model(model, folder, task=task, do_validation=False, no_post_process=False)
        onnx.save(onnx.load(os.path.join(folder, "model.onnx")), path)


def onnx_feeds(session, ids):
    feeds = {}
    batch, seq = ids.shape
    for i in session.get_inputs():
        dtype = np.int64 if i.type == "tensor(int64)" else np.int32 if i.type == "tensor(int32)" else np.float32
        if "past" in i.name:
            shape = [d if isinstance(d, int) else batch if k == 0 else 0 for k, d in enumerate(i.shape)]
            feeds[i.name] = np.zeros(shape, dtype)
        elif "mask" in i.name:
            feeds[i.name] = np.ones((batch, seq), dtype)
        elif "position" in i.name:
            feeds[i.name] = np.broadcast_to(np.arange(seq, dtype=dtype), (batch, seq)).copy()
        elif not feeds:
            feeds[i.name] = ids.astype(dtype)
        else:
            raise ValueError(f"input {i.name} is of no known kind")
    return feeds


def save_tensor(path, array):
    with open(path, "wb") as f:
        f.write(numpy_helper.from_array(array).SerializeToString())


def store_logits(folder, fixed):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(os.path.join(folder, "model.onnx"), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(3)
    for suffix, shape in (("", fixed or ONE), ("_batch", BATCH)):
        if fixed and suffix:
            continue
        ids = rng.integers(0, VOCAB, shape, dtype=np.int64)
        logits = session.run(None, onnx_feeds(session, ids))[0]
        if logits.shape != (*shape, VOCAB) or not np.isfinite(logits).all() or logits.std() < 1e-3:
            raise ValueError(f"logits {logits.shape}, deviation {logits.std()}")
        save_tensor(os.path.join(folder, f"tokens{suffix}.pb"), ids)
        save_tensor(os.path.join(folder, f"logits{suffix}.pb"), logits.astype(np.float32))


def export_one(out, name, way_name):
    way = WAYS[way_name]
    folder = os.path.join(out, f"{name}-{way_name}")
    if os.path.exists(os.path.join(folder, "logits.pb")):
        return
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    path = os.path.join(folder, "model.onnx")
    try:
        model = make_model(name, way[2])
        (export_optimum if way[0] == "optimum" else export_torch)(model, way, path)
        onnx.checker.check_model(path)
        store_logits(folder, getattr(model, "fixed", None))
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def main():
    p = argparse.ArgumentParser()
    p.add_argument("out")
    p.add_argument("--models", default=".")
    p.add_argument("--ways", default=".")
    p.add_argument("--list", action="store_true")
    p.add_argument("--trace", action="store_true")
    a = p.parse_args()
    names = [n for n in [*CONFIGS, *handwritten.MODELS] if re.fullmatch(a.models, n) or a.models == "."]
    ways = [w for w in WAYS if re.fullmatch(a.ways, w) or a.ways == "."]
    if a.list:
        print("\n".join(names))
        return 0
    sys.setrecursionlimit(10000)
    for name in names:
        for way in ways:
            try:
                export_one(a.out, name, way)
                print(f"{name}-{way}\tok", flush=True)
            except Exception as e:
                if a.trace:
                    traceback.print_exc()
                why = (str(e).strip() or type(e).__name__).splitlines()[0][:150]
                print(f"{name}-{way}\tnot exported: {type(e).__name__}: {why}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
