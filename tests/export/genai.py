#!/usr/bin/env python3
"""Builds tiny random decoders with the model builder of onnxruntime-genai, to try the compiler on its graphs.

usage: genai.py OUT [--models REGEX] [--ways REGEX]

Writes OUT/MODEL-genai-WAY/{model.onnx,tokens.pb,logits.pb,tokens_batch.pb,logits_batch.pb}; the logits are
ONNX Runtime's for the graph itself. Needs torch, transformers, onnx, onnxruntime and onnxruntime-genai.
"""
import argparse
import contextlib
import json
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
from onnxruntime_genai.models.builder import create_model, parse_extra_options
from tokenizers import Tokenizer, models, pre_tokenizers

from models import CONFIGS, GATED, GROUPED, VOCAB
from ortfused import feeds_of, options, save_tensor

ONE, BATCH = (1, 24), (2, 96)
# name: (model type of transformers, options); None: as export.py has it
MODELS = dict.fromkeys("llama llama3 llama-linear llama-yarn mistral mistral-full qwen2 qwen2-window qwen3 phi3 phi3-window "
                       "gemma gemma2 granite nemotron smollm3 ernie4-5 hunyuan gpt-oss".split())
MODELS.update({
    "phi": ("phi", dict(GATED, partial_rotary_factor=0.5, num_attention_heads=2, num_key_value_heads=2)),
    "phi-gqa": ("phi", dict(GATED, partial_rotary_factor=0.5, num_attention_heads=4, hidden_size=128, num_key_value_heads=2)),
    "olmo": ("olmo", GATED),
    "llama-tied": ("llama", dict(GROUPED, tie_word_embeddings=True)),
    "phi3-long": ("phi3", dict(GROUPED, original_max_position_embeddings=96, max_position_embeddings=128,
                               rope_scaling=dict(type="longrope", short_factor=[1.0 + 0.1 * i for i in range(8)],
                                                 long_factor=[1.5 + 0.3 * i for i in range(8)]))),
})
# way: precision, execution provider (which chooses the form of the graph), options of the builder
WAYS = {
    "fp32": ("fp32", "cpu", []),
    "fp32-cuda": ("fp32", "cuda", []),
    "fp16-cuda": ("fp16", "cuda", []),
    "fp16-webgpu": ("fp16", "webgpu", []),
    "fp32-last": ("fp32", "cpu", ["prune_lm_head=true"]),
    "int4": ("int4", "cpu", []),
    "int8": ("int8", "cpu", []),
    "int4-32": ("int4", "cpu", ["block_size=32", "is_symmetric=false"]),
}


def folder_of(name, where):
    """A folder as the hub has it: config, weights, tokenizer."""
    kind, config = MODELS[name] or CONFIGS[name]
    torch.manual_seed(0)
    cfg = transformers.AutoConfig.for_model(kind, **config)
    model = transformers.AutoModelForCausalLM.from_config(cfg).float().eval()
    gen = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            noise = torch.randn(p.shape, generator=gen)
            p.copy_(p + 0.1 * noise if p.dim() < 2 else 0.12 * noise)
    model.save_pretrained(where, safe_serialization=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate(["<pad>", "<s>", "</s>", *alphabet])}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    transformers.PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>").save_pretrained(where)
    return cfg


def store_logits(folder):
    # accuracy_level lets ONNX Runtime round the activations to 8 bits; what the graph says is without it.
    model = onnx.load(os.path.join(folder, "model.onnx"))
    for node in model.graph.node:
        kept = [x for x in node.attribute if x.name != "accuracy_level"]
        del node.attribute[:]
        node.attribute.extend(kept)
    session = ort.InferenceSession(model.SerializeToString(), options(), providers=["CPUExecutionProvider"])
    with open(os.path.join(folder, "genai_config.json")) as f:
        decoder = json.load(f)["model"]["decoder"]
    # A cache cut to the window has its whole capacity from the start; a prompt does not read it.
    rows = 128 if any(x.name == "sliding_window_cache" and x.i for n in model.graph.node for x in n.attribute) else 0
    rng = np.random.default_rng(3)
    for suffix, shape in (("", ONE), ("_batch", BATCH)):
        ids = rng.integers(3, 250, shape, dtype=np.int64)
        logits = session.run(None, feeds_of(session, ids, decoder["head_size"], rows))[0].astype(np.float32)
        if logits.shape[:2] != shape or not np.isfinite(logits).all() or logits.std() < 1e-3:
            raise ValueError(f"logits {logits.shape}, deviation {logits.std()}")
        save_tensor(os.path.join(folder, f"tokens{suffix}.pb"), ids)
        save_tensor(os.path.join(folder, f"logits{suffix}.pb"), logits)


def build(out, name, way):
    target = os.path.join(out, f"{name}-genai-{way}")
    precision, provider, extra = WAYS[way]
    if os.path.exists(os.path.join(target, "logits.pb")):
        return
    shutil.rmtree(target, ignore_errors=True)
    try:
        with tempfile.TemporaryDirectory() as hub, tempfile.TemporaryDirectory() as cache:
            folder_of(name, hub)
            args = (name, hub, target, precision, provider, cache)
            with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
                create_model(*args, **parse_extra_options(*args, extra))
        store_logits(target)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def main():
    p = argparse.ArgumentParser()
    p.add_argument("out")
    p.add_argument("--models", default=".*")
    p.add_argument("--ways", default=".*")
    p.add_argument("--trace", action="store_true")
    a = p.parse_args()
    for name in [m for m in MODELS if re.fullmatch(a.models, m)]:
        for way in [w for w in WAYS if re.fullmatch(a.ways, w)]:
            try:
                build(os.path.abspath(a.out), name, way)
                print(f"{name}-genai-{way}\tok", flush=True)
            except Exception as e:
                if a.trace:
                    traceback.print_exc()
                why = (str(e).strip() or type(e).__name__).splitlines()[0][-230:]
                print(f"{name}-genai-{way}\tnot built: {type(e).__name__}: {why}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
