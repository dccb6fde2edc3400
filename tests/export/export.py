#!/usr/bin/env python3
"""Exports tiny random decoders in every way that people export them, to try the compiler on.

usage: export.py OUT [--models REGEX] [--ways REGEX] [--list]

Writes OUT/MODEL-WAY/{model.onnx,tokens.pb,logits.pb,tokens_batch.pb,logits_batch.pb}: the logits are what ONNX
Runtime computes for the export itself, with a mask of ones, positions that count up and an empty past. What this
version of the libraries cannot export is listed with its reason at the end. Needs torch, transformers, onnx,
onnxruntime and onnxscript; the ways opt* also optimum-onnx. tests/export/check.sh runs the compiler on the result.
"""
import argparse
import dataclasses
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

MASK, BOTH = ("attention_mask",), ("attention_mask", "position_ids")


@dataclasses.dataclass
class Way:
    """One way of exporting. extra: inputs besides the tokens; optimize: dynamo's own optimiser or Optimum's level;
    dtype: of the weights; fixed: one sequence of this many tokens, no symbolic shape; functions: modules stay
    functions of the model; after: a tool that rewrites the finished file."""
    exporter: str
    opset: int
    attention: str = "sdpa"
    past: bool = False
    extra: tuple = BOTH
    optimize: object = True
    dtype: str = "float32"
    fixed: int = 0
    functions: bool = False
    after: str = ""


WAYS = {
    "dynamo18": Way("dynamo", 18, extra=MASK),
    "dynamo18-ids": Way("dynamo", 18, "eager", extra=()),
    "dynamo18-eager": Way("dynamo", 18, "eager"),
    "dynamo18-raw": Way("dynamo", 18, optimize=False),
    "dynamo18-fixed": Way("dynamo", 18, extra=MASK, fixed=24),
    "dynamo18-past": Way("dynamo", 18, past=True),
    "dynamo18-past-raw": Way("dynamo", 18, past=True, optimize=False),
    "dynamo18-past-eager": Way("dynamo", 18, "eager", past=True, extra=MASK),
    "dynamo18-past-fp16": Way("dynamo", 18, past=True, dtype="float16"),
    "dynamo20": Way("dynamo", 20),
    "dynamo21-past": Way("dynamo", 21, past=True),
    "dynamo22": Way("dynamo", 22, extra=MASK),
    "dynamo23": Way("dynamo", 23),
    "dynamo23-raw": Way("dynamo", 23, extra=MASK, optimize=False),
    "dynamo23-fixed": Way("dynamo", 23, extra=MASK, fixed=24),
    "dynamo23-past": Way("dynamo", 23, past=True),
    "dynamo24": Way("dynamo", 24, extra=MASK),
    "dynamo24-past": Way("dynamo", 24, past=True),
    "dynamo26-past": Way("dynamo", 26, past=True),
    "ts11": Way("ts", 11, "eager", extra=()),
    "ts12": Way("ts", 12, "eager", extra=MASK),
    "ts13": Way("ts", 13, "eager", extra=MASK),
    "ts14": Way("ts", 14, extra=MASK),
    "ts15": Way("ts", 15, "eager"),
    "ts16": Way("ts", 16, extra=()),
    "ts17": Way("ts", 17),
    "ts18": Way("ts", 18, extra=MASK),
    "ts14-fixed": Way("ts", 14, extra=(), fixed=24),
    "ts11-past": Way("ts", 11, "eager", past=True, extra=MASK),
    "ts13-past": Way("ts", 13, "eager", past=True, extra=MASK),
    "ts14-past": Way("ts", 14, "eager", past=True, extra=MASK),
    "ts17-past": Way("ts", 17, past=True),
    "ts18-past": Way("ts", 18, past=True),
    "ts17-past-fp16": Way("ts", 17, past=True, dtype="float16"),
    "ts17-past-sim": Way("ts", 17, past=True, after="onnxsim"),
    "ts15-functions": Way("ts", 15, "eager", extra=MASK, functions=True),
    "opt": Way("optimum", 17),
    "opt-past": Way("optimum", 17, past=True),
    "opt-past-fp16": Way("optimum", 17, past=True, dtype="float16"),
    "opt-past-O1": Way("optimum", 17, past=True, optimize="O1"),
    "opt-past-O2": Way("optimum", 17, past=True, optimize="O2"),
    "opt-past-O3": Way("optimum", 17, past=True, optimize="O3"),
    "opt1-merged": Way("optimum", 11, past=True, after="merged"),
    "opt1-decoder": Way("optimum", 11, past=True, after="decoder"),
    "opt-past-slim": Way("optimum", 17, past=True, after="slim"),
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


def make_model(name, way):
    torch.manual_seed(0)
    attention, dtype = way.attention, getattr(torch, way.dtype)
    if name in handwritten.MODELS:
        return randomise(handwritten.MODELS[name]())
    kind, options = CONFIGS[name]
    config = transformers.AutoConfig.for_model(kind, **options)
    if getattr(config, "pad_token_id", None) is not None and config.pad_token_id >= VOCAB:
        config.pad_token_id = None
    try:
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    except TypeError:                                       # transformers before 4.36 have one implementation
        model = transformers.AutoModelForCausalLM.from_config(config)
    except (ValueError, ImportError):
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    return randomise(model.float()).to(dtype)


def empty_cache(pairs):
    """A cache that holds the given pairs, in whichever way this version of transformers makes one."""
    if not hasattr(transformers, "DynamicCache"):
        return pairs
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


def model_inputs(model, extra, past, batch=2, seq=7, prior=11):
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
            grows = [k for k, n in enumerate(t.shape) if n == prior]
            if len(grows) != 1 or grows[0] == 0 or t.shape[0] % batch:
                raise ValueError(f"a cache of shape {tuple(t.shape)} is not tried here")
            names.append(f"past_key_values.{i}.{what}")
            args.append(t.clone())
            times = t.shape[0] // batch
            axes.append({0: "batch" if times == 1 else f"batch_times_{times}", grows[0]: "past"})
    return names, args, axes, len(pairs)


def export_torch(model, way, path):
    takes = inspect.signature(model.forward).parameters
    extra = tuple(e for e in way.extra if e in takes)
    hand = isinstance(model, handwritten.Base)
    if hand and (way.past or extra):
        raise ValueError("takes tokens alone")
    if way.fixed and not hand:
        model.fixed = (1, way.fixed)
    fixed = getattr(model, "fixed", None)
    names, args, axes, layers = model_inputs(model, extra, way.past, *(fixed or (2, 7)))
    wrapped = model if hand else WithPast(model, extra, layers) if way.past else Plain(model, extra)
    outs = ["logits"] + [n.replace("past_key_values", "present") for n in names if n.startswith("past")]
    options = dict(input_names=names, output_names=outs, opset_version=way.opset)
    with torch.no_grad():
        if way.exporter == "dynamo":
            dims = tuple({k: torch.export.Dim.DYNAMIC for k in a} for a in axes) if not fixed else None
            if dims is not None and not hand:
                dims = (dims[0], tuple(dims[1:]))
            torch.onnx.export(wrapped.eval(), tuple(args), path, dynamic_shapes=dims, dynamo=True,
                              external_data=False, verbose=False, optimize=way.optimize, **options)
            return
        options["dynamic_axes"] = {} if fixed else {n: a for n, a in zip(names, axes)}
        takes = inspect.signature(torch.onnx.export).parameters
        if "dynamo" in takes:
            options["dynamo"] = False
        if way.functions:
            options["export_modules_as_functions"] = True
        torch.onnx.export(wrapped.eval(), tuple(args), path, do_constant_folding=True, **options)


def export_optimum(model, way, path):
    """Optimum's own exporter. Before 1.14 it wrote a decoder without past, one with, and both merged under an If."""
    task = "text-generation-with-past" if way.past else "text-generation"
    model.config.torch_dtype = getattr(torch, way.dtype)
    optimize = way.optimize if isinstance(way.optimize, str) else None
    with tempfile.TemporaryDirectory() as folder:
        if way.after in ("merged", "decoder"):
            from optimum.exporters.onnx import main_export
            model.save_pretrained(os.path.join(folder, "in"))
            main_export(os.path.join(folder, "in"), folder, task=task, do_validation=False)
            name = "decoder_model_merged.onnx" if way.after == "merged" else "decoder_model.onnx"
        else:
            from optimum.exporters.onnx import onnx_export_from_model
            onnx_export_from_model(model, folder, task=task, do_validation=False, no_post_process=False,
                                   optimize=optimize, slim=way.after == "slim")
            name = "model.onnx"
        onnx.save(onnx.load(os.path.join(folder, name)), path)


def simplify_file(path):
    import onnxsim
    model, fine = onnxsim.simplify(onnx.load(path))
    if not fine:
        raise ValueError("onnxsim changed the result")
    onnx.save(model, path)


DTYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32,
          "tensor(float16)": np.float16, "tensor(bool)": np.bool_}


def onnx_feeds(session, ids):
    feeds = {}
    batch, seq = ids.shape
    for i in session.get_inputs():
        dtype = DTYPES[i.type]
        if "past" in i.name:
            times = int(i.shape[0].rpartition("times_")[2]) if "times_" in str(i.shape[0]) else 1
            shape = [d if isinstance(d, int) else batch * times if k == 0 else 0 for k, d in enumerate(i.shape)]
            feeds[i.name] = np.zeros(shape, dtype)
        elif "mask" in i.name:
            feeds[i.name] = np.ones((batch, seq), dtype)
        elif "position" in i.name:
            feeds[i.name] = np.broadcast_to(np.arange(seq, dtype=dtype), (batch, seq)).copy()
        elif "use_cache_branch" in i.name:
            feeds[i.name] = np.zeros(1, dtype)
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
        model = make_model(name, way)
        (export_optimum if way.exporter == "optimum" else export_torch)(model, way, path)
        if way.after == "onnxsim":
            simplify_file(path)
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
