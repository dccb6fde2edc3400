#!/usr/bin/env python3
"""Writes the tokenizer fixtures: strings, and what PyPI's `tokenizers` makes of them.

    make_fixture.py --text tinyshakespeare.txt --shk tokenizer.json [--out tests/tokenizer]

Seeded: the same inputs and library give the same files. Writes
  shk.json      the tokenizer.json given as --shk (GPT-2's form), and shk.bin, 10,000 strings
  llama3.json   Split + ByteLevel, ignore_merges, a template with bos; llama3.bin, 2,000 strings
  qwen2.json    NFC, Split + ByteLevel, merges as "a b"; qwen2.bin
  options.json  Digits + ByteLevel with prefix space, all options of added tokens, bytes missing from the
                vocabulary; options.bin
  patterns.bin  pre-tokenizers to put in place of llama3.json's, with strings for each

Form of a .bin: "TKFX", then records until the end. Numbers are LEB128 (7 bits a byte, low first), a
string is its length in bytes and its bytes.
  record 'P': string = JSON of a pre-tokenizer; the records after it use it (patterns.bin only)
  record 'E': number = flags, string = text, number = count, then each token id as a number; if flags & 1,
              a string = what decoding gives, else decoding gives the text.
              flags & 2: special tokens of the template are added. flags & 4: decoding skips special tokens.
"""
import argparse
import json
import pathlib
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import processors, trainers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
         r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
         r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
         r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CL100K = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|"
          r"\s*[\r\n]|\s+(?!\S)|\s")

SCRIPTS = [(0x20, 0x7e), (0xa1, 0x17f), (0x180, 0x24f), (0x300, 0x36f), (0x370, 0x3ff), (0x400, 0x52f),
           (0x531, 0x587), (0x5d0, 0x5ea), (0x600, 0x6ff), (0x900, 0x97f), (0x980, 0x9fe), (0xe01, 0xe5b),
           (0xf00, 0xfda), (0x10a0, 0x10ff), (0x1100, 0x11ff), (0x1200, 0x137c), (0x13a0, 0x13fd),
           (0x1780, 0x17f9), (0x1800, 0x1878), (0x1d00, 0x1dbf), (0x1e00, 0x1fff), (0x2010, 0x2027),
           (0x2030, 0x205e), (0x2070, 0x209c), (0x20a0, 0x20c0), (0x2100, 0x218b), (0x2190, 0x23ff),
           (0x2460, 0x24ff), (0x2500, 0x27bf), (0x2c80, 0x2cff), (0x3001, 0x303f), (0x3041, 0x30ff),
           (0x3105, 0x312f), (0x3200, 0x33ff), (0x4e00, 0x9fff), (0xa000, 0xa48c), (0xac00, 0xd7a3),
           (0xf900, 0xfad9), (0xfb00, 0xfb4f), (0xff01, 0xffdc), (0x10300, 0x1034a), (0x10400, 0x104d3),
           (0x12000, 0x12399), (0x1d400, 0x1d7ff), (0x1f300, 0x1faf8), (0x20000, 0x2a6df),
           (0x2ebf0, 0x2ee5d), (0x13460, 0x143fa), (0xe0020, 0xe007f), (0xe000, 0xf8ff)]
SPACES = [" ", " ", " ", "\n", "\n", "\t", "\r", "\r\n", "\u00a0", "\u2003", "\u3000", "\u0085", "\u2028",
          "\u200b", "\ufeff", "\x0b", "\x0c", "\x1c", "\x1f", "\u1680", "\u202f", "\u205f"]
ENDINGS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'T", "'RE", "'Ve", "'M", "'LL", "'D",
           "'\u017f", "\u2019s", "'x", "''s", "'l", "'r", "'v"]
EMOJI = ["\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\u2764\ufe0f",
         "\U0001f44d\U0001f3fd", "\U0001f3f4\U000e0067\U000e0062\U000e007f", "1\ufe0f\u20e3", "\u263a"]
COMPOSED = ["e\u0301", "a\u030a", "o\u0308\u0304", "\u1100\u1161\u11a8", "q\u0307\u0323", "\u212b", "\u2126",
            "\u0958", "\u0344", "s\u0323\u0307", "\u0b47\u0b3e", "\uf900", "\u1e9b\u0323", "\u03b1\u0345\u0301",
            "\u0301", "\u05d0\u05bc\u05b7", "\u0bc6\u0bbe", "D\u0307\u0323", "\U0001d15e", "\u0f71\u0f72"]


class Maker:
    """Random strings of many kinds."""

    def __init__(self, seed, lines, specials):
        self.r = random.Random(seed)
        self.lines = lines
        self.specials = specials

    def char(self):
        low, high = self.r.choice(SCRIPTS)
        return chr(self.r.randint(low, high))

    def script(self, n):
        low, high = self.r.choice(SCRIPTS)
        return "".join(chr(self.r.randint(low, high)) for _ in range(n))

    def line(self):
        line = self.r.choice(self.lines)
        start = self.r.randrange(len(line))
        return line[start:start + self.r.randint(1, 60)] if self.r.random() < 0.6 else line

    def number(self):
        digits = "0123456789"
        if self.r.random() < 0.15:
            digits = self.r.choice(["\u0660\u0661\u0662\u0669", "\u096a\u096b", "\uff11\uff12",
                                    "\u00b2\u00bd\u2167", "\U0001d7d8\U0001d7d9"])
        s = "".join(self.r.choice(digits) for _ in range(self.r.randint(1, 9)))
        return s if self.r.random() < 0.7 else self.r.choice(["-", "+", "$", " "]) + s + ".5e-3"

    def noise(self):
        """Random bytes, kept where they are UTF-8."""
        raw = bytes(self.r.randrange(256) for _ in range(self.r.randint(1, 30)))
        return raw.decode("utf-8", "replace" if self.r.random() < 0.3 else "ignore")

    def code(self):
        return self.r.choice(["for(int i=0;i<n;++i){\n\tx[i]+=y;\n}", "def f(x):\n    return x**2\n",
                              "{\"a\": [1,2,{\"b\":null}]}", "https://a.b/c?d=e&f=%20#g", "<a href='x'>y</a>",
                              "// --- ==== ---\n", "SELECT * FROM t WHERE a<>'b';", "\\n\\t\\u0041", "a_b-c/d\\e"])

    def run(self):
        c = self.r.choice(["a", "ab", " ", "\n", "!", "0", "\u00e9", "\u4e00", "the ", "Ha", "\u0301", "=-"])
        return c * self.r.randint(2, 40)

    def piece(self):
        r = self.r
        kinds = [
            (24, self.line), (6, lambda: self.script(r.randint(1, 12))), (4, self.char),
            (8, lambda: "".join(r.choice(SPACES) for _ in range(r.randint(1, 5)))), (8, self.number),
            (8, lambda: r.choice(["I", "we", "it", "don", "CAN", "\u00e9t\u00e9", ""]) + r.choice(ENDINGS)),
            (5, lambda: r.choice(EMOJI)), (4, lambda: r.choice(COMPOSED)), (3, self.noise), (3, self.code),
            (2, lambda: "".join(chr(r.randrange(32)) for _ in range(r.randint(1, 4)))), (2, self.run),
            (4, lambda: "".join(r.choice("!?.,;:-_()[]{}<>|@#%^&*~`'\"/\\+=$") for _ in range(r.randint(1, 6)))),
            (6, lambda: r.choice(self.specials)), (2, lambda: r.choice(self.specials)[:-1]),
            (1, lambda: r.choice(["\U0010ffff", "\ufffe", "\ufffd", "\u0378", "\ue000", "\u00ad", "\u0000"]))]
        return r.choices([k for _, k in kinds], [w for w, _ in kinds])[0]()

    def text(self):
        return "".join(self.piece() for _ in range(self.r.choice([1, 1, 2, 2, 3, 4])))[:160]


def number(n):
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def string(s):
    raw = s.encode()
    return number(len(raw)) + raw


def record(tok, text, r):
    add, skip = r.random() < 0.3, r.random() < 0.3
    ids = tok.encode(text, add_special_tokens=add).ids
    decoded = tok.decode(ids, skip_special_tokens=skip)
    flags = (decoded != text) | add << 1 | skip << 2
    body = b"E" + number(flags) + string(text) + number(len(ids)) + b"".join(map(number, ids))
    return body + (string(decoded) if flags & 1 else b"")


def write(path, tok, seed, count, lines, specials, long=True):
    m = Maker(seed, lines, specials)
    texts = ["", " ", "\n", "a", " a", "a "] + [m.text() for _ in range(count - 12)]
    if long:
        texts += ["a" * 3000, " " * 3000, "the cat " * 300, "\n \n" * 500, "x" + " " * 999 + "y", "\u0301" * 700]
    path.write_bytes(b"TKFX" + b"".join(record(tok, t, m.r) for t in texts))


def split(pattern, behavior="isolated", invert=False, text=False):
    return pre_tokenizers.Split(pattern if text else Regex(pattern), behavior, invert)


def byte_level(prefix=False, regex=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)


def train(path, vocab, pre, specials=()):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=list(specials), initial_alphabet=alphabet,
                                  show_progress=False)
    tok.train([str(path)], trainer)
    tok.decoder = decoders.ByteLevel()
    return tok


def save(path, tok, change=None):
    j = json.loads(tok.to_str())
    if change:
        change(j)
    text = json.dumps(j, ensure_ascii=False, separators=(",", ":"))
    path.write_text(text)
    return Tokenizer.from_str(text)


def patterns():
    """Pre-tokenizers that try the expression compiler and the ways to cut."""
    seq = pre_tokenizers.Sequence
    out = [seq([split(p), byte_level()]) for p in (
        O200K, CL100K, r" ?[^(\s|[.,!?\u2026\u3002\uff0c\u3001])]+", r"\p{Lu}\p{Ll}*|\S",
        r"[\p{Han}]+|[^\r\n\p{Han}]{1,4}", r"a+?b|.|\n", r"(?:the|th|t)h?e|\s",
        r"(?i:[a-c])x|(?i)K|and", r"[\x41-\x5a\u00e0-\u00ff\]\-^]+", r"\d{2,3}?|\D{2}(?=\s)", r"(a|b|c){2,}|[\p{P}$+<=>^`|~]{1,2}",
        r"\P{L}+$|x\z", r"[^\S ]+|[[a-f][^a-z]]{1,3}", r"o{,2}u|\p{^L}\p{M}*")]
    out += [seq([split(r"[aeiou\s]", b, i), byte_level(False, True)])
            for b in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous")
            for i in (False, True)]
    out += [seq([split(r"\p{N}{1,3}"), split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
                 split(r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
                       r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), byte_level()]),
            seq([split(" ", "merged_with_next", text=True), byte_level()]),
            seq([pre_tokenizers.Digits(True), byte_level(True, True)]),
            seq([pre_tokenizers.Digits(False), split("the", text=True), byte_level(True, False)]),
            byte_level(), byte_level(True, True), byte_level(True, False)]
    return out


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--text", type=pathlib.Path, required=True)
    ap.add_argument("--shk", type=pathlib.Path, required=True)
    ap.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    args = ap.parse_args()
    lines = [line for line in args.text.read_text().splitlines(keepends=True) if line.strip()]

    (args.out / "shk.json").write_bytes(args.shk.read_bytes())
    write(args.out / "shk.bin", Tokenizer.from_file(str(args.shk)), 1, 10000, lines,
          ["<|endoftext|>", "<|endoftext|><|endoftext|>", "<|endof", "<|"])

    marks = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
    tok = train(args.text, 1500, pre_tokenizers.Sequence([split(LLAMA3), byte_level()]))
    tok.add_special_tokens(marks)
    bos = tok.token_to_id(marks[0])
    tok.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single=marks[0] + " $A", special_tokens=[(marks[0], bos)])])
    tok = save(args.out / "llama3.json", tok, lambda j: j["model"].update(ignore_merges=True))
    write(args.out / "llama3.bin", tok, 2, 2000, lines, marks)

    tok_patterns = b"TKFX"
    base = json.loads(tok.to_str())
    for i, pre in enumerate(patterns()):
        tok.pre_tokenizer = pre
        base["pre_tokenizer"] = json.loads(tok.to_str())["pre_tokenizer"]
        m = Maker(100 + i, lines, marks)
        tok_patterns += b"P" + string(json.dumps(base["pre_tokenizer"], ensure_ascii=False))
        tok_patterns += b"".join(record(tok, m.text(), m.r) for _ in range(120))
    (args.out / "patterns.bin").write_bytes(tok_patterns)

    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tok = train(args.text, 1400, pre_tokenizers.Sequence([split(QWEN2), byte_level()]))
    tok.normalizer = normalizers.NFC()
    tok.add_special_tokens(marks)
    tok.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("caf\u00e9", normalized=True),
                    AddedToken("\u212b", normalized=False)])
    tok = save(args.out / "qwen2.json", tok,
               lambda j: j["model"].update(merges=[" ".join(m) for m in j["model"]["merges"]]))
    write(args.out / "qwen2.bin", tok, 3, 2000, lines, marks + ["<tool>", "cafe\u0301", "caf\u00e9", "\u212b"])

    tok = train(args.text, 900, byte_level(True, True), ["<unk>"])
    missing = ["\u00c3", "\u00e3", "\u010c", "\u00f0"]

    def drop(j):
        model = j["model"]
        model.update(unk_token="<unk>", fuse_unk=True)
        keep = [t for t in model["vocab"] if not any(c in t for c in missing)]
        model["vocab"] = {t: i for i, t in enumerate(keep)}
        model["merges"] = [m for m in model["merges"] if not any(c in a for a in m for c in missing)]
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), byte_level(True, True)])
    tok = save(args.out / "options.json", tok, drop)
    tok.add_special_tokens([AddedToken("<s>", lstrip=True), AddedToken("</s>", rstrip=True),
                            AddedToken("<mask>", lstrip=True, rstrip=True, normalized=True)])
    tok.add_tokens([AddedToken("the", single_word=True), AddedToken("and", single_word=True, lstrip=True),
                    AddedToken("  "), AddedToken("    "), AddedToken("<s", normalized=False), AddedToken("thee"),
                    AddedToken("\u00e9\u00e9"), AddedToken("a b", normalized=False), AddedToken("\u4e00", rstrip=True),
                    AddedToken("\u0120x")])
    tok.post_processor = processors.TemplateProcessing(
        single="<s> $0 </s> </s>", special_tokens=[(t, tok.token_to_id(t)) for t in ("<s>", "</s>")])
    tok = save(args.out / "options.json", tok)
    write(args.out / "options.bin", tok, 4, 2000, lines,
          ["<s>", " <s>  ", "</s>", "</s>\n\n", "  <mask> \t", "the", " the ", "_the", "thee", "and", " and,",
           "  ", "     ", "<s", "\u00e9\u00e9", "a b", "\u4e00  ", "\u0120x", "\u00e3", "\n\n", "<s>  </s>  <mask>"])


if __name__ == "__main__":
    main()
