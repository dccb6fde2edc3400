#!/usr/bin/env python3
"""Does a budget hold on text that neither calibration nor search saw, and is the build smaller than any uniform one? Ten
splits, each budget, each model.

usage: splits.py --gptc BUILD_DIR --text TEXT --new TEXT --work DIR --out FILE.json [--splits 10]
                 [--budgets 0.003,0.01,0.03] [--threads 1] NAME=FOLDER ...

A FOLDER has model.onnx and ../tokenizer.json. Split i holds the i-th part of TEXT back; gptc sees the rest alone, and
gptc-eval measures the KL against the exact build on the part that was held back (as much of it as the --new text is
long), and on the i-th part of the --new text, which may be of another kind: text that the model was not trained on. The
builds of split 0 are measured on every part of it. Uniform builds have all matrices in one format, with
the same error feedback; they see what split 0 does and are measured on all of the new text. One meets a budget when its
mean KL there does. Results are kept in DIR (splits.json); what is there is not measured again."""
import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import time

FORMATS = ["q8", "q6g64", "n5g64", "q4g32z", "n4g64", "n4", "p8v2", "n3g32", "n3g64", "n3g128", "n2g32"]


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout, done.stderr


def part(text, i, n):
    size = len(text) // n
    return text[i * size:(i + 1) * size], text[:i * size] + text[(i + 1) * size:]


class Splits:
    def __init__(self, o):
        self.o, self.path = o, os.path.join(o.work, "splits.json")
        with open(o.text) as f:
            self.text = f.read()
        with open(o.new) as f:
            self.new = f.read()
        self.kept = json.load(open(self.path)) if os.path.exists(self.path) else {}

    def keep(self, name, key, make):
        rows = self.kept.setdefault(name, {})
        if key not in rows:
            rows[key] = make()
            with open(self.path, "w") as f:
                json.dump(self.kept, f, indent=1)
            print(name, key, json.dumps(rows[key]), flush=True)
        return rows[key]

    def file(self, name, text):
        path = os.path.join(self.o.work, name)
        with open(path, "w") as f:
            f.write(text)
        return path

    def compile(self, model, out, *options):
        _, said = run([f"{self.o.gptc}/gptc", f"{model}/model.onnx", "--tokenizer",
                       os.path.join(model, "..", "tokenizer.json"), "-o", out, "--threads", str(self.o.threads), *options])
        bits = re.search(r"lossy +([0-9.]+) bits", said)
        return float(bits.group(1)) if bits else None

    def score(self, path, exact, text):
        seen, _ = run([f"{self.o.gptc}/gptc-eval", path, "--against", exact, "--text", text, "--threads",
                       str(self.o.threads), "--json"])
        result = json.loads(seen)
        return {"mean_kl": result["mean_kl"], "mean_kl_error": result["mean_kl_error"]}

    def split(self, name, model, exact, budget, i):
        held, seen = part(self.text, i, self.o.splits)
        out, start = os.path.join(self.o.work, name + "-split.bin"), time.monotonic()
        bits = self.compile(model, out, "--budget", f"kl={budget}", "--calibrate", self.file("seen.txt", seen))
        row = {"budget": budget, "split": i, "bits": bits, "seconds": round(time.monotonic() - start, 1),
               "held": self.score(out, exact, self.file("held.txt", held[:len(self.new)]))}
        parts = range(self.o.splits) if i == 0 else [i]
        row["new"] = [self.score(out, exact, self.file("new.txt", part(self.new, k, self.o.splits)[0])) for k in parts]
        return row

    def uniform(self, name, model, exact, form):
        """A plan of any search, with all formats replaced."""
        calibration = self.file("seen.txt", part(self.text, 0, self.o.splits)[1])
        plan, out = os.path.join(self.o.work, name + ".plan"), os.path.join(self.o.work, name + "-uniform.bin")
        if not os.path.exists(plan):
            self.compile(model, out, "--bits", "6", "--calibrate", calibration, "--plan-out", plan)
        with open(plan) as f:
            changed = re.sub(r"^(site \d+ x \d+) \S+", rf"\1 {form}", f.read(), flags=re.M)
        bits = self.compile(model, out, "--plan-in", self.file("uniform.plan", changed), "--calibrate", calibration)
        return {"bits": bits, **self.score(out, exact, self.o.new)}

    def model(self, name, model):
        exact = os.path.join(self.o.work, name + ".bin")
        self.compile(model, exact)
        uniforms = {f: self.keep(name, f"uniform {f}", lambda f=f: self.uniform(name, model, exact, f)) for f in FORMATS}
        splits = [self.keep(name, f"kl={budget} split {i}", lambda b=budget, i=i: self.split(name, model, exact, b, i))
                  for i in range(self.o.splits) for budget in map(float, self.o.budgets.split(","))]
        rows = []
        for row in splits:
            within = [u["bits"] for u in uniforms.values() if u["mean_kl"] <= row["budget"]]
            rows.append({**row, "uniform_bits": min(within, default=None),
                         "holds": row["held"]["mean_kl"] <= row["budget"],
                         "holds_on_new": all(x["mean_kl"] <= row["budget"] for x in row["new"]),
                         "smaller": not within or row["bits"] < min(within)})
        return {"uniform": uniforms, "splits": rows}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("gptc", "text", "new", "work", "out"):
        p.add_argument("--" + name, required=True)
    p.add_argument("--splits", type=int, default=10)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--budgets", default="0.003,0.01,0.03")
    p.add_argument("models", nargs="+", metavar="NAME=FOLDER")
    o = p.parse_args()
    os.makedirs(o.work, exist_ok=True)
    splits = Splits(o)
    results = {name: splits.model(name, folder) for name, folder in (m.split("=", 1) for m in o.models)}
    rows = [row for r in results.values() for row in r["splits"]]
    counts = {key: sum(row[key] for row in rows) for key in ("holds", "holds_on_new", "smaller")}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE, text=True,
                            cwd=os.path.dirname(os.path.abspath(__file__)))
    with open(o.out, "w") as f:
        json.dump({"date": datetime.date.today().isoformat(), "commit": commit.stdout.strip(), **counts, "of": len(rows),
                   "models": results}, f, indent=1)
        f.write("\n")
    print(f"of {len(rows)}: " + ", ".join(f"{n} {key}" for key, n in counts.items()))


if __name__ == "__main__":
    main()
