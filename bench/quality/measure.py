#!/usr/bin/env python3
"""Accuracy at equal bits beside llama.cpp's quantisations, made from the same weights and scored alike.

usage: measure.py --llama BIN_DIR --source LLAMA_CPP_SOURCE --gptc BUILD_DIR --train TEXT --text TEXT --work DIR
                  --out FILE.json NAME=FOLDER ...

A FOLDER has model.onnx, hf/ (the same weights) and ../tokenizer.json. llama.cpp: each type, and with an importance
matrix of the training text, scored by its own perplexity tool on TEXT (windows of 256, the second half of each, KL
against fp32). gptc: compiled with --size of that type's bytes, for the context of hf/config.json, calibrated with the training text, scored by gptc-eval
in the same way. Results are kept in DIR (peers.json, gptc.json); what is there is not measured again.

Bits a weight, for both: all stored weight bits (quantised or not, scales and tables included) / parameters, those that
the model has in hf/. Needs numpy, torch and transformers (for llama.cpp's converter)."""
import argparse
import datetime
import json
import os
import re
import struct
import subprocess
import sys
import time

TYPES = ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K"]
WITH_MATRIX = ["Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K"]
HERE = os.path.dirname(os.path.abspath(__file__))


def run(command, **more):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", **more)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {done.returncode}\n{done.stdout[-2000:]}")
    return done.stdout


def parameters(folder):
    """Numbers in the safetensors file: its header is JSON behind 8 bytes of length."""
    with open(f"{folder}/hf/model.safetensors", "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
    count = 0
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        n = 1
        for d in tensor["shape"]:
            n *= d
        count += n
    return count


class Kept:
    """Results by model and type in a file of WORK; what is there is not measured again."""

    def __init__(self, path):
        self.path = path
        self.results = json.load(open(path)) if os.path.exists(path) else {}

    def of(self, name):
        return self.results.setdefault(name, {})

    def keep(self, name, key, value):
        self.of(name)[key] = value
        with open(self.path, "w") as f:
            json.dump(self.results, f, indent=1)
        print(name, key, value, flush=True)


class Peers:
    """llama.cpp: converts, quantises and scores."""

    def __init__(self, args):
        self.args, self.kept = args, Kept(f"{args.work}/peers.json")

    def tool(self, name, *rest):
        environment = dict(os.environ, OMP_WAIT_POLICY="passive")
        return run([f"{self.args.llama}/{name}", *rest], env=environment)

    def stored_bits(self, path):
        sys.path.insert(0, self.args.source + "/gguf-py")
        from gguf import GGUFReader
        return 8 * sum(int(t.n_bytes) for t in GGUFReader(path).tensors)

    def score(self, model, base):
        """The tool's log is written by a thread of its own, whose last lines are lost now and then: three tries."""
        for _ in range(3):
            said = self.tool("llama-perplexity", "-m", model, "-c", "256", "-b", "256", "--kl-divergence",
                             "--kl-divergence-base", base, "-t", str(self.args.threads))
            if "Same top p:" in said:
                break

        def figure(label):
            m = re.search(re.escape(label) + r"\s*:\s*(-?[0-9.]+)(?:\s*±\s*([0-9.]+))?", said)
            if not m:
                sys.exit(f"{model}: llama-perplexity says no {label!r}:\n{said[-1000:]}")
            return float(m[1]), float(m[2]) if m[2] else None
        kl, kl_error = figure("Mean    KLD")
        top, top_error = figure("Same top p")
        ratio, ratio_error = figure("Mean ln(PPL(Q)/PPL(base))")
        return {"mean_kl": kl, "mean_kl_error": kl_error, "p99_kl": figure("99.0%   KLD")[0],
                "same_top": top / 100, "same_top_error": top_error / 100,
                "log_ratio": ratio, "log_ratio_error": ratio_error, "rms_dp": figure("RMS Δp    ")[0] / 100}

    def base(self, name, folder):
        """The model in fp32, and its log-probabilities; how many windows it counts is checked by the caller."""
        stem = f"{self.args.work}/{name}"
        if not os.path.exists(f"{stem}-f32.gguf"):
            run([sys.executable, f"{HERE}/convert.py", self.args.source, f"{folder}/hf", f"{stem}-f32.gguf"])
        if "base" not in self.kept.of(name):
            said = self.tool("llama-perplexity", "-m", f"{stem}-f32.gguf", "-f", self.args.text, "-c", "256", "-b", "256",
                             "--kl-divergence-base", f"{stem}-base.dat", "-t", str(self.args.threads))
            self.kept.keep(name, "base", {"windows": int(re.search(r"over (\d+) chunks", said)[1])})
        return stem

    def measure(self, name, folder):
        stem = self.base(name, folder)
        for kind in TYPES + [t + "+imatrix" for t in WITH_MATRIX]:
            if kind in self.kept.of(name):
                continue
            kind_of, matrix = kind.partition("+")[::2]
            if matrix and not os.path.exists(f"{stem}.imatrix"):
                self.tool("llama-imatrix", "-m", f"{stem}-f32.gguf", "-f", self.args.train, "-o", f"{stem}.imatrix", "-c",
                          "256", "-b", "256", "-t", str(self.args.threads), "--chunks", "512")
            out = f"{stem}-{kind}.gguf"
            self.tool("llama-quantize", *(["--imatrix", f"{stem}.imatrix"] if matrix else []), f"{stem}-f32.gguf", out,
                      kind_of)
            score = self.score(out, f"{stem}-base.dat")
            self.kept.keep(name, kind, {"bits": self.stored_bits(out) / parameters(folder), **score})
            os.remove(out)
        return self.kept.of(name)


class Gptc:
    def __init__(self, args):
        self.args, self.kept = args, Kept(f"{args.work}/gptc.json")

    def tool(self, name, *rest):
        return run([f"{self.args.gptc}/{name}", *rest])

    def compile(self, name, folder, out, *options):
        config = json.load(open(f"{folder}/hf/config.json"))
        context = config.get("max_position_embeddings") or config["n_positions"]
        self.tool("gptc", "-q", f"{folder}/model.onnx", "-o", out, "--tokenizer", f"{folder}/../tokenizer.json", "--ctx",
                  str(context), *options)

    def score(self, path, base):
        return json.loads(self.tool("gptc-eval", path, "--against", base, "--text", self.args.text, "--window", "256",
                                    "--score=second-half", "--threads", str(self.args.threads), "--json"))

    def stored_bits(self, path):
        """Of the tensors, not of the section: what pads them to 64 bytes is no weight."""
        facts = json.loads(self.tool("gptc-inspect", path, "--tensors", "--json"))
        return 8 * sum(t["bytes"] for t in facts["tensors"])

    def measure(self, name, folder, kind, bits):
        if kind in self.kept.of(name):
            return self.kept.of(name)[kind]
        base, out = f"{self.args.work}/{name}.bin", f"{self.args.work}/{name}-{kind}.bin"
        threads = str(self.args.threads)
        if not os.path.exists(base):
            self.compile(name, folder, base, "-O1")
        start = time.monotonic()
        size = int(bits * parameters(folder) / 8)
        self.compile(name, folder, out, "--size", str(size), "--calibrate", self.args.train, "--threads", threads)
        self.kept.keep(name, kind, {"bits": self.stored_bits(out) / parameters(folder), **self.score(out, base),
                                    "compile_seconds": time.monotonic() - start})
        return self.kept.of(name)[kind]


def table(results):
    lines = ["| model | type | bits | KL | with imatrix | same top | gptc bits | gptc KL | gptc same top | KL ratio |",
             "|---|---|---|---|---|---|---|---|---|---|"]
    for name, rows in results.items():
        for kind, row in rows.items():
            peer, matrix, own = row["llama.cpp"], row.get("llama.cpp+imatrix"), row.get("gptc")
            best = min(peer["mean_kl"], matrix["mean_kl"] if matrix else peer["mean_kl"])
            lines.append(f"| {name} | {kind} | {peer['bits']:.2f} | {peer['mean_kl']:.3g} | "
                         + (f"{matrix['mean_kl']:.3g}" if matrix else "–") + f" | {peer['same_top']:.1%} | "
                         + (f"{own['bits']:.2f} | {own['mean_kl']:.3g} | {own['same_top']:.1%} | "
                            f"{own['mean_kl'] / best:.2f} |" if own else "– | – | – | – |"))
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser()
    for name in ["llama", "source", "gptc", "train", "text", "work", "out"]:
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers-only", action="store_true", help="llama.cpp alone")
    parser.add_argument("--kept-only", action="store_true", help="report what is kept in DIR, measure nothing")
    parser.add_argument("models", nargs="+", metavar="NAME=FOLDER")
    args = parser.parse_args()
    os.makedirs(args.work, exist_ok=True)
    peers, own, results = Peers(args), Gptc(args), {}
    for name, folder in (m.split("=", 1) for m in args.models):
        kept = peers.kept.of(name) if args.kept_only else peers.measure(name, folder)
        results[name] = {}
        for kind in TYPES:
            row = results[name][kind] = {"llama.cpp": kept[kind]}
            if kind + "+imatrix" in kept:
                row["llama.cpp+imatrix"] = kept[kind + "+imatrix"]
            if kind in own.kept.of(name) or not (args.peers_only or args.kept_only):
                row["gptc"] = own.measure(name, folder, kind, kept[kind]["bits"])
                if row["gptc"]["windows"] != kept["base"]["windows"]:
                    sys.exit(f"{name}: llama.cpp counts {kept['base']['windows']} windows, gptc {row['gptc']['windows']}")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE, text=True, cwd=HERE)
    with open(args.out, "w") as f:
        json.dump({"date": str(datetime.date.today()), "commit": commit.stdout.strip(), "results": results}, f, indent=1)
        f.write("\n")
    print(table(results))


if __name__ == "__main__":
    main()
