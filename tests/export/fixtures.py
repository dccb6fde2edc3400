#!/usr/bin/env python3
"""Makes the small models of tests/corpus/models: families and exporters that ../shared/models/zoo lacks.

usage: fixtures.py OUT [--which torch|keras] [--models REGEX]

Each is a few thousand random weights, exported as export.py or keras_gpt.py does, without what the graph does not
need (documentation, shapes of values, long names). Which libraries made what is in FIXTURES; docs/architectures.md has versions.
"""
import argparse
import os
import re
import shutil
import sys
import tempfile

import onnx

# name: (model, way, layers if not 2); torch 2.15 for dynamo, torch 2.4 for ts and opt, torch 1.13 for opt1 and ts15-functions
FIXTURES = {
    "gpt-neo-dynamo24-past": ("gpt-neo", "dynamo24-past"),
    "falcon-new-dynamo22": ("falcon-new", "dynamo22", 1),
    "mpt-dynamo23-fixed": ("mpt", "dynamo23-fixed", 1),
    "gemma3-dynamo23-past": ("gemma3", "dynamo23-past"),
    "cohere2-dynamo24": ("cohere2", "dynamo24", 1),
    "mimo-v2-dense-dynamo18-past": ("mimo-v2-dense", "dynamo18-past"),
    "youtu-dynamo24": ("youtu", "dynamo24", 1),
    "roformer-dynamo21-past": ("roformer", "dynamo21-past", 1),
    "mistral-opt-past-fp16": ("mistral", "opt-past-fp16", 1),
    "llama-ts15-functions": ("llama", "ts15-functions", 1),
}
KERAS = {"keras-tf13": ("keras", 13), "keras-post-tf17": ("keras-post", 17)}
SMALL = {"vocab_size": 32, "hidden_size": 16, "n_embd": 16, "d_model": 16, "word_embed_proj_dim": 16,
         "embedding_size": 12, "intermediate_size": 12, "ffn_dim": 12, "decoder_ffn_dim": 12, "encoder_ffn_dim": 12,
         "max_position_embeddings": 40, "n_positions": 40, "max_seq_len": 40, "head_dim": 4, "v_head_dim": 6,
         "original_max_position_embeddings": 40, "sliding_window": 13, "window_size": 6, "kv_lora_rank": 8,
         "q_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "vocab_size_per_layer_input": 32}


def clear(message):
    for field in ("doc_string", "metadata_props", "value_info", "quantization_annotation"):
        if field in message.DESCRIPTOR.fields_by_name:
            message.ClearField(field)


def strip(path):
    """Leaves out what says nothing about the graph, and long names."""
    model = onnx.load(path)
    clear(model)
    keep = {v.name for v in [*model.graph.input, *model.graph.output]} | {""}

    def short(name, names):
        return name if name in keep else names.setdefault(name, f"v{len(names)}")

    def strip_graph(graph, names):
        clear(graph)
        for t in graph.initializer:
            clear(t)
        if graph is not model.graph:
            for v in [*graph.input, *graph.output]:
                v.name = short(v.name, names)
        for v in graph.initializer:
            v.name = short(v.name, names)
        strip_nodes(graph.node, names)

    def strip_nodes(nodes, names):
        for i, n in enumerate(nodes):
            clear(n)
            n.name = f"n{i}"
            n.input[:] = [short(v, names) for v in n.input]
            n.output[:] = [short(v, names) for v in n.output]
            for attribute in n.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    strip_graph(attribute.g, names)

    strip_graph(model.graph, {})
    for f in model.functions:
        clear(f)
        names = {}
        f.input[:] = [short(v, names) for v in f.input]
        f.output[:] = [short(v, names) for v in f.output]
        strip_nodes(f.node, names)
    onnx.save(model, path)


def make_torch(out, name, model, way, layers=2):
    import export
    kind, options = export.CONFIGS[model]
    export.VOCAB, export.ONE, export.BATCH = 32, (1, 12), (2, 16)
    small = {k: SMALL.get(k, v) if v is not None else v for k, v in options.items()}
    for key in ("num_hidden_layers", "num_layers", "n_layer", "n_layers"):
        if layers == 1 and key in small:
            small[key] = 1
    export.CONFIGS[model] = (kind, small)
    export.WAYS[way].fixed = 12 if export.WAYS[way].fixed else 0
    with tempfile.TemporaryDirectory() as folder:
        export.export_one(folder, model, way)
        shutil.move(os.path.join(folder, f"{model}-{way}"), os.path.join(out, name))


def make_keras(out, name, model, opset):
    import keras_gpt
    keras_gpt.VOCAB, keras_gpt.WIDTH, keras_gpt.HEADS, keras_gpt.CONTEXT = 32, 16, 2, 40
    keras_gpt.LAYERS = 1
    keras_gpt.ONE, keras_gpt.BATCH = (1, 12), (2, 16)
    with tempfile.TemporaryDirectory() as folder:
        keras_gpt.export(folder, model, opset)
        shutil.move(os.path.join(folder, f"{model}-tf{opset}"), os.path.join(out, name))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("out")
    p.add_argument("--which", default="torch")
    p.add_argument("--models", default=".*")
    a = p.parse_args()
    os.makedirs(a.out, exist_ok=True)
    table, make = (KERAS, make_keras) if a.which == "keras" else (FIXTURES, make_torch)
    for name, entry in table.items():
        folder = os.path.join(a.out, name)
        if not re.fullmatch(a.models, name) or os.path.exists(folder):
            continue
        try:
            make(a.out, name, *entry)
            strip(os.path.join(folder, "model.onnx"))
            print(f"{name}\t{os.path.getsize(os.path.join(folder, 'model.onnx'))} bytes", flush=True)
        except Exception as e:
            print(f"{name}\tnot made: {type(e).__name__}: {str(e)[:150]}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
