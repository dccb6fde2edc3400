#!/usr/bin/env python3
"""Prints the table of docs/architectures.md: model x way, from what tests/export/check.sh printed.

usage: check.sh BUILD FOLDER… | table.py [--grep REGEX] [--why]

A line is "model-way TAB ok" or "model-way TAB the error". --why lists the refusals instead.
"""
import argparse
import re
import sys

WAY = re.compile(r"^(.*?)-((?:dynamo|ts|tf|opt1?)\d*(?:-(?:ids|eager|raw|fixed|past|fp16|sim|functions|merged|decoder|slim|"
                 r"O\d|opset\d+))*)$")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--grep", default=".")
    p.add_argument("--why", action="store_true")
    a = p.parse_args()
    cells, models, ways = {}, [], []
    for line in sys.stdin:
        name, tab, result = line.rstrip("\n").partition("\t")
        m = WAY.match(name)
        if not tab or m is None or not re.search(a.grep, m.group(2)):
            continue
        model, way = m.groups()
        wrong = "FAIL:" in result and "does not compile" not in result
        word = "ok" if result == "ok" else "wrong" if wrong else "refused"
        cells.setdefault((model, way), (word, result))
        if cells[model, way][0] == "ok":
            cells[model, way] = (word, result)          # of several versions the worst counts
        models += [model] * (model not in models)
        ways += [way] * (way not in ways)
    if a.why:
        for (model, way), (word, result) in sorted(cells.items()):
            if word != "ok":
                print(f"{model}-{way}: {word}: {result}")
        return 0
    ways.sort(key=lambda w: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", w)])
    print("| model | " + " | ".join(ways) + " |\n|" + "---|" * (len(ways) + 1))
    for model in sorted(models):
        row = [cells.get((model, way), ("", ""))[0] for way in ways]
        print(f"| {model} | " + " | ".join(row) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
