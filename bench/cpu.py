#!/usr/bin/env python3
"""Speed on a CPU beside ONNX Runtime, on the same graph, in turns.

usage: cpu.py BUILD_DIR MODEL_DIR [--threads 2 --prompt 256 --tokens 64 --rounds 5 --out FILE.json]

MODEL_DIR/model.onnx is a graph with past (make_gpt2.py). Each round runs ONNX Runtime, then gptc; ratios are
of the medians. Needs the packages onnxruntime and numpy.
"""
import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time

import numpy as np
import onnxruntime as ort


def machine():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


class OnnxRuntime:
    def __init__(self, path, threads):
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.past = {i.name: (i.shape[1], i.shape[3]) for i in self.session.get_inputs() if i.name != "input_ids"}
        self.outputs = [o.name for o in self.session.get_outputs()]

    def run(self, ids, state):
        """Past and present stay ONNX Runtime's own values, so that none is copied between steps."""
        feed = {"input_ids": ort.OrtValue.ortvalue_from_numpy(np.array([ids], np.int64)), **state}
        out = self.session.run_with_ort_values(None, feed)
        return out[0].numpy(), dict(zip(self.past, out[1:]))

    def measure(self, prompt, tokens):
        empty = {n: ort.OrtValue.ortvalue_from_numpy(np.zeros((1, h, 0, d), np.float32))
                 for n, (h, d) in self.past.items()}
        ids = [(i * 7919) % 1000 for i in range(prompt)]
        start = time.perf_counter()
        self.run(ids, empty)
        prefill = prompt / (time.perf_counter() - start)
        state, token = empty, 1
        start = time.perf_counter()
        for _ in range(tokens):
            logits, state = self.run([token], state)
            token = int(logits[0, -1].argmax())
        return prefill, tokens / (time.perf_counter() - start)


def gptc(build, model, threads, prompt, tokens):
    out = subprocess.run([os.path.join(build, "gptc-bench"), model, "-p", str(prompt), "-n", str(tokens), "-t",
                          str(threads), "-r", "1", "--json"], check=True, capture_output=True, text=True).stdout
    return json.loads(out)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("build")
    ap.add_argument("model")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--prompt", type=int, default=256)
    ap.add_argument("--tokens", type=int, default=64)
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--out")
    a = ap.parse_args()
    onnx_path = os.path.join(a.model, "model.onnx")
    with tempfile.TemporaryDirectory() as work:
        compiled = os.path.join(work, "model.bin")
        start = time.perf_counter()
        subprocess.run([os.path.join(a.build, "gptc"), "-q", onnx_path, "-O1", "-o", compiled], check=True)
        seconds = time.perf_counter() - start
        peer = OnnxRuntime(onnx_path, a.threads)
        peer.measure(a.prompt, 8)
        rows = []
        for _ in range(a.rounds):
            theirs = peer.measure(a.prompt, a.tokens)
            ours = gptc(a.build, compiled, a.threads, a.prompt, a.tokens)
            rows.append({"onnxruntime": {"prefill_tps": theirs[0], "decode_tps": theirs[1]}, "gptc": ours})
    def median(who, what):
        values = [r[who][what] for r in rows]
        return statistics.median(v["median"] if isinstance(v, dict) else v for v in values)
    result = {
        "date": datetime.date.today().isoformat(),
        "commit": subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "machine": machine(), "threads": a.threads, "onnxruntime": ort.__version__, "compile_seconds": seconds,
        "prompt": a.prompt, "tokens": a.tokens, "rounds": rows,
    }
    for what in ("prefill", "decode"):
        ours, theirs = median("gptc", what + "_tps"), median("onnxruntime", what + "_tps")
        result[what] = {"gptc": ours, "onnxruntime": theirs, "ratio": ours / theirs}
        print(f"{what:8} gptc {ours:8.1f} tokens/s   onnxruntime {theirs:8.1f} tokens/s   ratio {ours / theirs:.3f}")
    if a.out:
        json.dump(result, open(a.out, "w"), indent=1)


if __name__ == "__main__":
    main()
