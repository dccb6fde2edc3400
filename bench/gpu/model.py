#!/usr/bin/env python3
"""Write a Llama or GPT-2 as IR text, and one file of random weights that its constants are windows of.

usage: model.py NAME OUT.gir [--context N]   NAME: llama-1b, llama-8b, gpt2-124m, tiny
"""
import argparse
import math
import pathlib
import random

# layers, width, heads, key heads, head size, hidden, vocabulary, tied head
LLAMA = {
    "tiny": (2, 64, 4, 2, 16, 160, 384, True),
    "llama-1b": (16, 2048, 32, 8, 64, 8192, 128256, True),
    "llama-8b": (32, 4096, 32, 8, 128, 14336, 128256, False),
}
GPT2 = (12, 768, 12, 50257)


class Text:
    def __init__(self):
        self.consts, self.nodes, self.next, self.file, self.bytes, self.total = [], [], 2, "", 0, 0

    def const(self, kind, shape, value=None):
        """Random ones are windows of one file, each from another place on, so that no two are equal."""
        name, self.next = f"%{self.next}", self.next + 1
        if not value:
            value = f'file("{self.file}", {4096 * self.next})'
            self.total += math.prod(shape) * 2  # gptc takes a file up to four times over
            self.bytes = max(self.bytes, 4096 * self.next + math.prod(shape) * 2, self.total // 3)
        self.consts.append(f"const {name} : {kind}[{', '.join(map(str, shape))}] = {value}")
        return name

    def node(self, shape, text, kind="f32"):
        name, self.next = f"%{self.next}", self.next + 1
        self.nodes.append(f"{name} : {kind}[{', '.join(map(str, shape))}] = {text}")
        return name

    def rows(self, width, text):
        return self.node(["batch", "seq", width], text)

    def matrix(self, rows, columns):
        small = self.const("f16", [rows, columns])
        return self.node([rows, columns], f"cast({small})")


def attention(t, x, width, heads, kv_heads, dim, turn):
    parts = []
    for n in (heads, kv_heads, kv_heads):
        y = t.rows(n * dim, f"linear({x}, {t.matrix(width, n * dim)})")
        parts.append(t.node(["batch", "seq", n, dim], f"reshape({y})"))
    q, k, v = turn(parts[0], heads), turn(parts[1], kv_heads), parts[2]
    y = t.node(["batch", "seq", heads, dim], f"attention({q}, {k}, {v}) {{scale={dim ** -0.5:.9g}, causal=true}}")
    y = t.rows(heads * dim, f"reshape({y})")
    return t.rows(width, f"linear({y}, {t.matrix(heads * dim, width)})")


def llama(t, context, layers, width, heads, kv_heads, dim, hidden, vocab, tied):
    table = t.const("f16", [vocab, width])
    cos, sin = (t.const("f32", [context, dim // 2], f"seed({s})") for s in (1, 2))
    places = t.node(["seq"], "iota()", "i64")
    gamma = t.const("f32", [width], "splat(1)")

    def turn(x, n):
        return t.node(["batch", "seq", n, dim], f"rope({x}, {cos}, {sin}, {places})")

    def norm(x):
        return t.rows(width, f"norm({x}, {gamma}) {{rms=true, eps=1e-05}}")

    x = t.rows(width, f"gather({t.node([vocab, width], f'cast({table})')}, %1)")
    for _ in range(layers):
        x = t.rows(width, f"add({x}, {attention(t, norm(x), width, heads, kv_heads, dim, turn)})")
        y = norm(x)
        gate = t.rows(hidden, f"silu({t.rows(hidden, f'linear({y}, {t.matrix(width, hidden)})')})")
        up = t.rows(hidden, f"linear({y}, {t.matrix(width, hidden)})")
        y = t.rows(hidden, f"mul({gate}, {up})")
        x = t.rows(width, f"add({x}, {t.rows(width, f'linear({y}, {t.matrix(hidden, width)})')})")
    if tied:
        head = t.node([width, vocab], f"transpose({t.node([vocab, width], f'cast({table})')}) {{perm=[1, 0]}}")
    else:
        head = t.matrix(width, vocab)
    return t.rows(vocab, f"linear({norm(x)}, {head})")


def gpt2(t, context, layers, width, heads, vocab):
    table, places = t.const("f16", [vocab, width]), t.const("f32", [context, width], "seed(1)")
    ones, zeros = t.const("f32", [width], "splat(1)"), t.const("f32", [width], "splat(0)")

    def norm(x):
        return t.rows(width, f"norm({x}, {ones}, {zeros}) {{eps=1e-05}}")

    x = t.rows(width, f"gather({t.node([vocab, width], f'cast({table})')}, %1)")
    at = t.node(["seq"], "iota()", "i64")
    x = t.rows(width, f"add({x}, {t.node(['seq', width], f'gather({places}, {at})')})")
    for _ in range(layers):
        x = t.rows(width, f"add({x}, {attention(t, norm(x), width, heads, heads, width // heads, lambda y, _: y)})")
        y = t.rows(4 * width, f"linear({norm(x)}, {t.matrix(width, 4 * width)})")
        y = t.rows(4 * width, f"gelu({y}) {{tanh=true}}")
        x = t.rows(width, f"add({x}, {t.rows(width, f'linear({y}, {t.matrix(4 * width, width)})')})")
    head = t.node([width, vocab], f"transpose({t.node([vocab, width], f'cast({table})')}) {{perm=[1, 0]}}")
    return t.rows(vocab, f"linear({norm(x)}, {head})")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("name", choices=[*LLAMA, "gpt2-124m"])
    p.add_argument("out")
    p.add_argument("--context", type=int, default=4096)
    o = p.parse_args()
    t, out = Text(), pathlib.Path(o.out)
    t.file = out.with_suffix(".weights").name
    logits = gpt2(t, o.context, *GPT2) if o.name == "gpt2-124m" else llama(t, o.context, *LLAMA[o.name])
    lines = ["gir 1 stage=raised", "symbol batch", "symbol seq", 'input %1 "input_ids" : i64[batch, seq] role=tokens']
    lines += t.consts + t.nodes + [f'output {logits} "logits" role=logits']
    out.write_text("\n".join(lines) + "\n")
    # Halves of random sign and fraction and one exponent: 1/64 to 1/32, made as one long integer.
    chunk = 1 << 24
    keep, add = (int.from_bytes(x * (chunk // 2), "little") for x in (b"\xff\x83", b"\x00\x24"))
    source = random.Random(1)
    with open(out.with_suffix(".weights"), "wb") as f:
        for at in range(0, t.bytes, chunk):
            halves = int.from_bytes(source.randbytes(chunk), "little") & keep | add
            f.write(halves.to_bytes(chunk, "little")[: t.bytes - at + 1])


main()
