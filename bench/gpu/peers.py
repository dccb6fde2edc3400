#!/usr/bin/env python3
"""What torch does with a model of the same shape on the same GPU, fp16 weights, random: one JSON object.

usage: peers.py gpt2-124m|llama-1b|llama-8b
decode: a static cache and torch.compile(mode="reduce-overhead") (CUDA graphs), greedy, at a depth of 1,024.
prefill: torch.compile of the whole prompt. mm: torch.mm of 8192 cubed. read: a sum over 4 GB.
"""
import json
import statistics
import sys
import time

import torch

SHAPES = {  # layers, width, heads, key heads, hidden, vocabulary
    "llama-1b": (16, 2048, 32, 8, 8192, 128256, True),
    "llama-8b": (32, 4096, 32, 8, 14336, 128256, False),
}


def model(name, context):
    import transformers

    torch.manual_seed(1)
    if name == "gpt2-124m":
        config = transformers.GPT2Config(n_positions=context)
        return transformers.GPT2LMHeadModel(config)
    layers, width, heads, kv, hidden, vocab, tied = SHAPES[name]
    config = transformers.LlamaConfig(
        num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads, num_key_value_heads=kv, intermediate_size=hidden,
        vocab_size=vocab, tie_word_embeddings=tied, max_position_embeddings=context)
    with torch.device("cuda"):
        return transformers.LlamaForCausalLM(config)


def seconds(run, times):
    took = []
    for _ in range(times):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def decode(m, depth, steps):
    from transformers import StaticCache

    cache = StaticCache(config=m.config, max_cache_len=depth + 2 * steps + 16)
    ids = torch.randint(0, m.config.vocab_size, (1, depth), device="cuda")
    with torch.inference_mode():
        m(ids, past_key_values=cache, cache_position=torch.arange(depth, device="cuda"), use_cache=True)
        step = torch.compile(m, mode="reduce-overhead", fullgraph=True)
        token, at = ids[:, -1:].clone(), torch.tensor([depth], device="cuda")

        def run(n=steps):
            for _ in range(n):
                logits = step(token, past_key_values=cache, cache_position=at, use_cache=True).logits
                token.copy_(logits[:, -1:].argmax(-1))
                at.add_(1)

        run(8)
        at.fill_(depth)
        return steps / seconds(run, 1)


def prefill(m, n):
    ids = torch.randint(0, m.config.vocab_size, (1, n), device="cuda")
    forward = torch.compile(m)
    with torch.inference_mode():
        forward(ids, logits_to_keep=1)
        return n / seconds(lambda: forward(ids, logits_to_keep=1), 5)


def main():
    name = sys.argv[1]
    out = {"torch": torch.__version__, "device": torch.cuda.get_device_name()}
    x = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    y = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    x @ y
    out["mm_tflops"] = 2 * 8192**3 / seconds(lambda: x @ y, 10) / 1e12
    words = torch.randint(0, 1 << 30, (1 << 30,), device="cuda", dtype=torch.int32)
    words.sum()
    out["sum_gbs"] = words.numel() * 4 / seconds(lambda: words.sum(), 10) / 1e9
    del words
    q, k, v = (torch.randn(1, 32, 2048, 64, device="cuda", dtype=torch.float16) for _ in range(3))
    attend = torch.nn.functional.scaled_dot_product_attention
    attend(q, k, v, is_causal=True)
    out["sdpa_2048_us"] = seconds(lambda: attend(q, k, v, is_causal=True), 20) * 1e6
    m = model(name, 9000).half().cuda().eval()
    for what, run in {"decode_1024": lambda: decode(m, 1024, 128), "prefill_2048": lambda: prefill(m, 2048), "prefill_512": lambda: prefill(m, 512)}.items():
        try:
            out[what + "_tokens_s"] = run()
        except Exception as e:  # one peer that fails does not take the others along
            out[what + "_error"] = str(e)[:200]
    print(json.dumps(out))


main()
