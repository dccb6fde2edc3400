#!/usr/bin/env python3
"""Gather what bench/gpu.sh measured into one JSON file and a Markdown page.

usage: page.py DIR --commit C [--rehearsal]   writes DIR/gpu-DATE-C.json and .md; exits 1 when a check failed
"""
import argparse
import datetime
import json
import pathlib
import sys

STAGES = ["micro", "check", "speed", "products", "drawn", "large", "sanitize", "profile"]


def lines(path):
    return [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []


def agrees(figures):
    """None where the run says nothing (an error is a failure of its own)."""
    error, std = figures.get("max_abs_err"), figures.get("ref_std")
    return None if error is None or not std else error / std


def rows_of(stage, items):
    for item in items:
        figures = item["figures"]
        if isinstance(figures, dict):
            short = {k: v["median"] if isinstance(v, dict) and "median" in v else v for k, v in figures.items() if not isinstance(v, list)}
            yield f"| {stage} | {item['what']} | " + ", ".join(f"{k} {v}" for k, v in short.items()) + " |"
        else:
            for each in figures if isinstance(figures, list) else [figures]:
                yield f"| {stage} | {item['what']} | {json.dumps(each)} |"


def main():
    p = argparse.ArgumentParser()
    p.add_argument("dir", type=pathlib.Path)
    p.add_argument("--commit", required=True)
    p.add_argument("--rehearsal", action="store_true")
    o = p.parse_args()
    found = {s: lines(o.dir / f"{s}.jsonl") for s in STAGES}
    failed = [i["what"] for s in found.values() for i in s if isinstance(i["figures"], dict) and "error" in i["figures"]]
    if not o.rehearsal:  # the null driver computes nothing, so its logits say nothing
        for i in found["check"]:
            limit = 1e-2 if "fp16" in i["what"] or "-O2" in i["what"] else 1e-3  # ir/tolerance.h
            error = agrees(i["figures"])
            if error is not None and not error <= limit:
                failed.append(f"{i['what']}: {error:.2e} of the deviation")
        failed += [i["what"] for i in found["sanitize"] if i["figures"].get("exit")]
    name = f"gpu-{datetime.date.today()}-{o.commit}" + ("-rehearsal" if o.rehearsal else "")
    out = {"commit": o.commit, "date": str(datetime.date.today()), "rehearsal": o.rehearsal, "failed": failed, **found}
    (o.dir / f"{name}.json").write_text(json.dumps(out, indent=1) + "\n")
    head = "A rehearsal against a driver that runs nothing: the figures mean nothing." if o.rehearsal else "Measured."
    page = [f"# {name}", "", head, "", f"{len(failed)} failed" + "".join(f"\n- {f}" for f in failed), "", "| stage | what | figures |", "|---|---|---|"]
    page += [r for s, items in found.items() for r in rows_of(s, items)]
    (o.dir / f"{name}.md").write_text("\n".join(page) + "\n")
    print("\n".join(page[-40:]))
    print(f"{sum(map(len, found.values()))} measurements, {len(failed)} failed: {o.dir / name}.json")
    sys.exit(bool(failed))


main()
