#!/usr/bin/env python3
"""Does a budget hold on text that neither calibration nor search saw? Ten splits, each budget, each model.

usage: splits.py --gptc BUILD_DIR --text TEXT --work DIR --out FILE.json [--splits 10] [--budgets 0.003,0.01,0.03]
                 NAME=FOLDER ...

A FOLDER has model.onnx and ../tokenizer.json. Split i holds the i-th part of TEXT back; gptc sees the rest alone, and
gptc-eval measures the KL against the exact build on the part that was held back. Beside it: the smallest uniform format
that meets the budget, as gptc's report predicts it for all matrices in one format."""
import argparse
import datetime
import json
import os
import re
import subprocess
import sys


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout, done.stderr


def hold_back(text, i, n, folder):
    size = len(text) // n
    parts = {"held": text[i * size:(i + 1) * size], "seen": text[:i * size] + text[(i + 1) * size:]}
    paths = {}
    for name, part in parts.items():
        paths[name] = os.path.join(folder, f"{name}-{i}.txt")
        with open(paths[name], "w") as f:
            f.write(part)
    return paths


def uniform_bits(page, budget):
    points = re.findall(r"all (\S+): ([0-9.]+) bits, KL ([0-9.e+-]+) \(predicted\)", page)
    return min((float(bits) for _, bits, kl in points if float(kl) <= budget), default=None)


def measure(o, model, exact, paths, budget, i):
    name = os.path.join(o.work, f"split-{i}")
    tokenizer = os.path.join(model, "..", "tokenizer.json")
    _, said = run([f"{o.gptc}/gptc", f"{model}/model.onnx", "--tokenizer", tokenizer, "--budget", f"kl={budget}",
                   "--calibrate", paths["seen"], "--report", name + ".html", "-o", name + ".bin"])
    bits = float(re.search(r"lossy +([0-9.]+) bits", said).group(1))
    seen, _ = run([f"{o.gptc}/gptc-eval", name + ".bin", "--against", exact, "--text", paths["held"], "--json"])
    result = json.loads(seen)
    with open(name + ".html") as f:
        uniform = uniform_bits(f.read(), budget)
    row = {"budget": budget, "split": i, "bits": bits, "uniform_bits_predicted": uniform,
           "mean_kl": result["mean_kl"], "mean_kl_error": result["mean_kl_error"],
           "holds": result["mean_kl"] <= budget, "smaller": uniform is None or bits < uniform}
    print(json.dumps(row), flush=True)
    return row


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("gptc", "text", "work", "out"):
        p.add_argument("--" + name, required=True)
    p.add_argument("--splits", type=int, default=10)
    p.add_argument("--budgets", default="0.003,0.01,0.03")
    p.add_argument("models", nargs="+", metavar="NAME=FOLDER")
    o = p.parse_args()
    os.makedirs(o.work, exist_ok=True)
    with open(o.text) as f:
        text = f.read()
    results = {}
    for given in o.models:
        name, model = given.split("=", 1)
        exact = os.path.join(o.work, name + ".bin")
        run([f"{o.gptc}/gptc", "-q", f"{model}/model.onnx", "--tokenizer",
             os.path.join(model, "..", "tokenizer.json"), "-o", exact])
        results[name] = [measure(o, model, exact, hold_back(text, i, o.splits, o.work), float(budget), i)
                         for budget in o.budgets.split(",") for i in range(o.splits)]
    rows = [row for model in results.values() for row in model]
    with open(o.out, "w") as f:
        json.dump({"date": datetime.date.today().isoformat(), "held": sum(r["holds"] for r in rows),
                   "smaller": sum(r["smaller"] for r in rows), "of": len(rows), "models": results}, f, indent=1)
    print(f"{sum(r['holds'] for r in rows)} of {len(rows)} hold")


if __name__ == "__main__":
    main()
