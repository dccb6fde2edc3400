"""Small decoders as people write them by hand: one block in many spellings. MODELS: name -> maker."""
import math

import torch
import torch.nn.functional as F
from torch import nn

VOCAB, WIDTH, HEADS, CONTEXT = 384, 64, 4, 128


class Base(nn.Module):
    """What every variant shares: options, embeddings, blocks, head. fixed: the shape of the tokens, if it is."""

    def __init__(self, fixed=None, layers=2, tied=True, bias=True, final_norm=True, position="learned",
                 head_all=True, **options):
        super().__init__()
        self.fixed = fixed
        self.wte = nn.Embedding(VOCAB, WIDTH)
        self.position = position
        self.scale_embedding = options.pop("scale_embedding", None)
        if position == "learned":
            self.wpe = nn.Embedding(CONTEXT, WIDTH)
        elif position == "parameter":
            self.pos = nn.Parameter(torch.zeros(1, CONTEXT, WIDTH))
        elif position == "sinusoid":
            self.register_buffer("table", sinusoid(CONTEXT, WIDTH))
        self.blocks = nn.ModuleList(Block(bias=bias, **options) for _ in range(layers))
        self.norm = make_norm(options.get("norm", "layer"), bias) if final_norm else nn.Identity()
        self.head = nn.Linear(WIDTH, VOCAB, bias=not tied and bias)
        if tied:
            self.head.weight = self.wte.weight

    def forward(self, idx):
        b, t = idx.shape
        x = self.wte(idx)
        if self.scale_embedding:
            x = x * self.scale_embedding
        if self.position == "learned":
            x = x + self.wpe(torch.arange(t, device=idx.device))
        elif self.position == "parameter":
            x = x + self.pos[:, :t, :]
        elif self.position == "sinusoid":
            x = x + self.table[:t]
        elif self.position == "ones":                       # cumulative sum over a row of ones
            x = x + sinusoid_at(torch.cumsum(torch.ones_like(idx), 1) - 1, WIDTH)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def sinusoid_at(positions, width):
    rate = torch.exp(torch.arange(0, width, 2).float() * (-math.log(10000.0) / width))
    angle = positions[..., None].float() * rate
    return torch.cat((angle.sin(), angle.cos()), -1)


def sinusoid(rows, width):
    table = torch.zeros(rows, width)
    rate = torch.exp(torch.arange(0, width, 2).float() * (-math.log(10000.0) / width))
    angle = torch.arange(rows)[:, None] * rate
    table[:, 0::2], table[:, 1::2] = angle.sin(), angle.cos()
    return table


class RMSNorm(nn.Module):
    def __init__(self, width, eps=1e-6, cast=True):
        super().__init__()
        self.weight, self.eps, self.cast = nn.Parameter(torch.ones(width)), eps, cast

    def forward(self, x):
        y = x.float() if self.cast else x
        return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)).type_as(x) * self.weight


class L2Norm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.g = nn.Parameter(torch.ones(1))
        self.scale = width ** 0.5

    def forward(self, x):
        return F.normalize(x, dim=-1) * self.scale * self.g


class LayerNorm(nn.Module):
    """Layer norm with an optional bias, as nanoGPT has it."""

    def __init__(self, width, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class ManualNorm(nn.Module):
    """Layer norm from its formula, with the deviation that divides by n - 1 if sample."""

    def __init__(self, width, sample=False):
        super().__init__()
        self.a, self.b, self.sample = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width)), sample

    def forward(self, x):
        mean = x.mean(-1, keepdim=True)
        if self.sample:
            return self.a * (x - mean) / (x.std(-1, keepdim=True) + 1e-6) + self.b
        var = x.var(-1, keepdim=True, unbiased=False)
        return self.a * (x - mean) / torch.sqrt(var + 1e-5) + self.b


def make_norm(kind, bias, width=WIDTH):
    return {"layer": lambda: LayerNorm(width, bias), "rms": lambda: RMSNorm(width),
            "plain-rms": lambda: RMSNorm(width, cast=False), "manual": lambda: ManualNorm(width),
            "sample": lambda: ManualNorm(width, True), "l2": lambda: L2Norm(width), "none": nn.Identity,
            "functional-rms": lambda: FunctionalRMS(width)}[kind]()


class FunctionalRMS(nn.Module):
    """Without a weight: modded-nanoGPT's norm."""

    def __init__(self, width):
        super().__init__()

    def forward(self, x):
        return x / torch.sqrt(torch.mean(x * x, -1, keepdim=True) + 1e-6)


def rope_tables(t, width, base=10000.0):
    rate = 1.0 / base ** (torch.arange(0, width, 2).float() / width)
    angle = torch.outer(torch.arange(t).float(), rate)
    return angle.cos(), angle.sin()


class Attention(nn.Module):
    def __init__(self, bias=True, qkv="fused", core="sdpa", mask="tril", rope=None, kv_heads=HEADS, window=0, softcap=0.0,
                 alibi=False, qk_norm=None, order="bthd", scale=True, **_):
        super().__init__()
        self.qkv, self.core, self.mask, self.rope, self.kv = qkv, core, mask, rope, kv_heads
        self.window, self.softcap, self.order, self.scale = window, softcap, order, scale
        self.d = WIDTH // HEADS
        if qkv == "fused":
            self.c_attn = nn.Linear(WIDTH, WIDTH + 2 * kv_heads * self.d, bias=bias)
        elif qkv == "per-head":
            self.heads = nn.ModuleList(nn.ModuleList(nn.Linear(WIDTH, self.d, bias=bias) for _ in range(3))
                                       for _ in range(HEADS))
        else:
            self.wq = nn.Linear(WIDTH, WIDTH, bias=bias)
            self.wk = nn.Linear(WIDTH, kv_heads * self.d, bias=bias)
            self.wv = nn.Linear(WIDTH, kv_heads * self.d, bias=bias)
        self.proj = nn.Linear(WIDTH, WIDTH, bias=bias)
        self.qn = make_norm(qk_norm, bias, self.d) if qk_norm else nn.Identity()
        self.kn = make_norm(qk_norm, bias, self.d) if qk_norm else nn.Identity()
        allowed = torch.tril(torch.ones(CONTEXT, CONTEXT))
        if window:
            allowed = allowed * torch.triu(torch.ones(CONTEXT, CONTEXT), 1 - window)
        self.register_buffer("allowed", allowed.view(1, 1, CONTEXT, CONTEXT))
        self.register_buffer("added", torch.zeros(CONTEXT, CONTEXT).masked_fill(allowed == 0, float("-inf")))
        self.register_buffer("big", torch.where(allowed == 0, -1e9, 0.0))
        cos, sin = rope_tables(CONTEXT, self.d)
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)
        self.slopes = torch.tensor([2.0 ** (-8 * (i + 1) / HEADS) for i in range(HEADS)]) if alibi else None

    def project(self, x):
        """Three tensors [b, t, heads, d]."""
        b, t, _ = x.shape
        if self.qkv == "fused":
            q, k, v = self.c_attn(x).split([WIDTH, self.kv * self.d, self.kv * self.d], dim=2)
        elif self.qkv == "per-head":
            q, k, v = (torch.stack([h[i](x) for h in self.heads], 2) for i in range(3))
            return q, k, v
        else:
            q, k, v = self.wq(x), self.wk(x), self.wv(x)
        return q.view(b, t, HEADS, self.d), k.view(b, t, self.kv, self.d), v.view(b, t, self.kv, self.d)

    def rotate(self, x):
        t = x.shape[1]
        if self.rope == "computed":
            cos, sin = rope_tables(t, self.d)
        else:
            cos, sin = self.cos[:t], self.sin[:t]
        cos, sin = cos[None, :, None, :], sin[None, :, None, :]
        if self.rope == "pairs":                            # neighbours, stacked and flattened
            a, b = x[..., 0::2], x[..., 1::2]
            return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(3)
        if self.rope == "view":                             # neighbours, by a view of pairs
            p = x.reshape(*x.shape[:-1], -1, 2)
            a, b = p.unbind(-1)
            return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).reshape(x.shape)
        if self.rope == "signed":                           # neighbours, by rotate_every_two
            a, b = x[..., ::2], x[..., 1::2]
            turned = torch.stack((-b, a), -1).flatten(-2)
            return x * cos.repeat_interleave(2, -1) + turned * sin.repeat_interleave(2, -1)
        if self.rope == "matrix":                           # [[cos, -sin], [sin, cos]] tables, as torchtitan
            p = x.float().reshape(*x.shape[:-1], -1, 1, 2)
            table = torch.stack((cos, -sin, sin, cos), -1).reshape(1, t, 1, self.d // 2, 2, 2)
            out = table[..., 0] * p[..., 0] + table[..., 1] * p[..., 1]
            return out.reshape(x.shape)
        a, b = x.chunk(2, -1)
        if self.rope == "halves-concat":                    # modded-nanoGPT turns the other way
            return torch.cat((a * cos + b * sin, b * cos - a * sin), 3)
        cos2, sin2 = torch.cat((cos, cos), -1), torch.cat((sin, sin), -1)
        return x * cos2 + torch.cat((-b, a), -1) * sin2

    def bias_of(self, t, x):
        """What is added to the scores, or None."""
        if self.slopes is None:
            return None
        distance = torch.arange(t)[None, :] - torch.arange(t)[:, None]
        return self.slopes[:, None, None] * distance

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = self.project(x)
        q, k = self.qn(q), self.kn(k)
        if self.rope:
            q, k = self.rotate(q), self.rotate(k)
        if self.core == "einsum":
            att = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(self.d)
            att = self.soft(self.masked(self.capped(att), t, x))
            y = torch.einsum("bhqk,bkhd->bqhd", att, v)
            return self.proj(y.reshape(b, t, WIDTH))
        q, k, v = (z.transpose(1, 2) for z in (q, k, v))
        if self.kv != HEADS:
            if self.core == "broadcast":                    # multi-query: one head of keys for all
                pass
            else:
                k, v = (z.repeat_interleave(HEADS // self.kv, 1) for z in (k, v))
        if self.core == "sdpa":
            plain = not self.window and self.slopes is None
            bias = None if plain else self.masked(torch.zeros(1, 1, t, t), t, x)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=plain)
        elif self.core == "bmm":                            # heads merged into the batch
            q, k, v = (z.reshape(b * HEADS, t, self.d) for z in (q, k, v))
            att = torch.bmm(q, k.transpose(1, 2)) * (self.d ** -0.5)
            y = torch.bmm(self.soft(self.masked(att, t, x)), v).view(b, HEADS, t, self.d)
        else:
            att = q @ k.transpose(-2, -1)
            if self.scale:
                att = att * (1.0 / math.sqrt(k.size(-1)))
            y = self.soft(self.masked(self.capped(att), t, x)) @ v
        return self.proj(y.transpose(1, 2).contiguous().view(b, t, WIDTH))

    def capped(self, att):
        return self.softcap * torch.tanh(att / self.softcap) if self.softcap else att

    def soft(self, att):
        if self.core == "exp":                              # softmax by hand
            e = torch.exp(att - att.amax(-1, keepdim=True))
            return e / e.sum(-1, keepdim=True)
        return F.softmax(att, dim=-1)

    def masked(self, att, t, x):
        bias = self.bias_of(t, x)
        if bias is not None:
            att = att + bias
        if self.mask == "tril":
            allowed = self.allowed[:, :, :t, :t] if att.dim() == 4 else self.allowed[0, :, :t, :t]
            return att.masked_fill(allowed == 0, float("-inf"))
        if self.mask == "added":
            return att + self.added[:t, :t]
        if self.mask == "big":
            return att + self.big[:t, :t]
        if self.mask == "triu":
            return att.masked_fill(torch.triu(torch.ones(t, t, dtype=torch.bool), 1), float("-inf"))
        if self.mask == "full-triu":
            return att + torch.triu(torch.full((t, t), float("-inf")), 1)
        if self.mask == "arange":
            i = torch.arange(t)
            seen = i[None, :] <= i[:, None]
            if self.window:
                seen = seen & (i[None, :] > i[:, None] - self.window)
            return torch.where(seen, att, torch.finfo(att.dtype).min)
        if self.mask == "times":                            # GPT-2's first code: w * b - 1e10 * (1 - b)
            allowed = torch.tril(torch.ones(t, t))
            return att * allowed - 1e10 * (1 - allowed)
        raise ValueError(self.mask)


class MLP(nn.Module):
    def __init__(self, bias=True, act="gelu", **_):
        super().__init__()
        self.act = act
        wide = 4 * WIDTH
        if act in ("swiglu", "geglu", "swiglu-fused", "reglu"):
            self.gate = nn.Linear(WIDTH, 2 * wide if act == "swiglu-fused" else wide, bias=bias)
            if act != "swiglu-fused":
                self.up = nn.Linear(WIDTH, wide, bias=bias)
        else:
            self.fc = nn.Linear(WIDTH, wide, bias=bias)
        self.down = nn.Linear(wide, WIDTH, bias=bias)

    def forward(self, x):
        if self.act == "swiglu":
            return self.down(F.silu(self.gate(x)) * self.up(x))
        if self.act == "geglu":
            return self.down(F.gelu(self.gate(x)) * self.up(x))
        if self.act == "reglu":
            return self.down(F.relu(self.gate(x)) * self.up(x))
        if self.act == "swiglu-fused":
            a, b = self.gate(x).chunk(2, -1)
            return self.down(F.silu(a) * b)
        h = self.fc(x)
        if self.act == "gelu":
            h = F.gelu(h)
        elif self.act == "tanh":
            h = F.gelu(h, approximate="tanh")
        elif self.act == "new":
            h = 0.5 * h * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (h + 0.044715 * torch.pow(h, 3.0))))
        elif self.act == "quick":
            h = h * torch.sigmoid(1.702 * h)
        elif self.act == "relu2":
            h = F.relu(h).square()
        elif self.act == "erf":
            h = h * 0.5 * (1.0 + torch.erf(h / math.sqrt(2.0)))
        else:
            h = {"relu": F.relu, "silu": F.silu, "mish": F.mish, "leaky": F.leaky_relu, "elu": F.elu,
                 "hardswish": F.hardswish, "selu": F.selu, "softsign": F.softsign}[self.act](h)
        return self.down(h)


class Block(nn.Module):
    def __init__(self, bias=True, norm="layer", form="pre", **options):
        super().__init__()
        self.form = form
        self.n1, self.n2 = make_norm(norm, bias), make_norm(norm, bias)
        self.attn, self.mlp = Attention(bias=bias, **options), MLP(bias=bias, **options)
        if form == "sandwich":
            self.n3, self.n4 = make_norm(norm, bias), make_norm(norm, bias)
        if form == "scaled":
            self.s1, self.s2 = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.ones(()))

    def forward(self, x):
        if self.form == "post":
            x = self.n1(x + self.attn(x))
            return self.n2(x + self.mlp(x))
        if self.form == "parallel":
            h = self.n1(x)
            return x + self.attn(h) + self.mlp(h)
        if self.form == "sandwich":
            x = x + self.n3(self.attn(self.n1(x)))
            return x + self.n4(self.mlp(self.n2(x)))
        if self.form == "scaled":
            x = x + self.s1 * self.attn(self.n1(x))
            return x + self.s2 * self.mlp(self.n2(x))
        x = x + self.attn(self.n1(x))
        return x + self.mlp(self.n2(x))


class BatchSecond(Base):
    """nn.TransformerEncoder's layers with a causal mask, sequence first inside."""

    def __init__(self, batch_first, norm_first, **options):
        super().__init__(layers=0, **options)
        self.batch_first = batch_first
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, HEADS, 128, 0.0, batch_first=batch_first, norm_first=norm_first)
            for _ in range(2))

    def forward(self, idx):
        t = idx.shape[1]
        x = self.wte(idx) + self.wpe(torch.arange(t, device=idx.device))
        mask = torch.triu(torch.full((t, t), float("-inf")), 1)
        if not self.batch_first:
            x = x.transpose(0, 1)
        for layer in self.layers:
            x = layer(x, src_mask=mask)
        if not self.batch_first:
            x = x.transpose(0, 1)
        return self.head(self.norm(x))


LLAMA = dict(bias=False, norm="rms", position=None, qkv="separate", act="swiglu", tied=False)
VARIANTS = {
    "nano": dict(),
    "nano-nobias": dict(bias=False),
    "nano-untied": dict(tied=False),
    "nano-manual": dict(core="matmul", act="new"),
    "nano-separate": dict(core="matmul", qkv="separate", tied=False),
    "nano-per-head": dict(core="matmul", qkv="per-head"),
    "nano-added": dict(core="matmul", mask="added", act="erf"),
    "nano-big": dict(core="matmul", mask="big", act="relu"),
    "nano-triu": dict(core="matmul", mask="triu", act="quick"),
    "nano-full-triu": dict(core="matmul", mask="full-triu", act="tanh"),
    "nano-arange": dict(core="matmul", mask="arange", act="silu"),
    "nano-times": dict(core="matmul", mask="times", act="new"),
    "nano-exp": dict(core="exp"),
    "nano-bmm": dict(core="bmm", mask="added"),
    "nano-bmm-tril": dict(core="bmm"),
    "nano-einsum": dict(core="einsum"),
    "nano-einsum-gqa": dict(core="einsum", qkv="separate", act="tanh"),
    "nano-unscaled": dict(core="matmul", scale=False),
    "nano-parameter": dict(position="parameter"),
    "nano-sinusoid": dict(position="sinusoid", core="matmul", scale_embedding=8.0),
    "nano-cumsum": dict(position="ones"),
    "nano-post": dict(form="post", final_norm=False),
    "nano-parallel": dict(form="parallel"),
    "nano-sandwich": dict(form="sandwich", norm="rms", bias=False),
    "nano-layerscale": dict(form="scaled"),
    "nano-manual-norm": dict(norm="manual"),
    "nano-sample-norm": dict(norm="sample"),
    "nano-l2-norm": dict(norm="l2", bias=False),
    "nano-no-norm": dict(norm="none"),
    "nano-mqa": dict(kv_heads=1, core="broadcast"),
    "nano-mqa-repeat": dict(kv_heads=1, core="matmul"),
    "nano-gqa": dict(kv_heads=2),
    "nano-softcap": dict(core="matmul", softcap=5.0, mask="arange"),
    "nano-window": dict(window=16),
    "nano-window-arange": dict(window=16, core="matmul", mask="arange"),
    "nano-alibi": dict(alibi=True, position=None, core="matmul"),
    "nano-alibi-sdpa": dict(alibi=True, position=None, mask="full-triu"),
    "nano-alibi-window": dict(alibi=True, position=None, core="matmul", window=16, mask="arange"),
    "nano-fixed": dict(fixed=(1, 32), core="matmul"),
    "nano-fixed-sdpa": dict(fixed=(1, 32)),
    "nano-fixed-rope": dict(fixed=(1, 32), rope="halves", **LLAMA),
    "nano-fixed-batch": dict(fixed=(2, 32), core="matmul", mask="triu"),
    "nano-fixed-full": dict(fixed=(1, 128), core="matmul", mask="added", position="parameter"),
    "nano-relu2": dict(act="relu2", rope="halves-concat", qk_norm="functional-rms", norm="functional-rms",
                       bias=False, position=None),
    "nano-leaky": dict(act="leaky"),
    "nano-elu": dict(act="elu"),
    "nano-mish": dict(act="mish"),
    "nano-hardswish": dict(act="hardswish"),
    "nano-selu": dict(act="selu"),
    "nano-softsign": dict(act="softsign"),
    "hand-llama": dict(rope="halves", core="matmul", mask="full-triu", **LLAMA),
    "hand-llama-sdpa": dict(rope="halves", **LLAMA),
    "hand-llama-pairs": dict(rope="pairs", core="matmul", mask="full-triu", **LLAMA),
    "hand-llama-view": dict(rope="view", kv_heads=2, **LLAMA),
    "hand-llama-signed": dict(rope="signed", **LLAMA),
    "hand-llama-matrix": dict(rope="matrix", **LLAMA),
    "hand-llama-computed": dict(rope="computed", **LLAMA),
    "hand-llama-einsum": dict(rope="halves", core="einsum", mask="triu", **LLAMA),
    "hand-llama-fused-gate": dict(rope="halves", **{**LLAMA, "act": "swiglu-fused"}),
    "hand-llama-geglu": dict(rope="halves", qk_norm="rms", **{**LLAMA, "act": "geglu", "norm": "plain-rms"}),
}
MODELS = {name: (lambda o=options: Base(**o)) for name, options in VARIANTS.items()}
MODELS["torch-encoder"] = lambda: BatchSecond(True, True)
MODELS["torch-encoder-post"] = lambda: BatchSecond(True, False)
MODELS["torch-encoder-seq-first"] = lambda: BatchSecond(False, True)
