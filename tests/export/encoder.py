"""Writes tests/corpus/encoder: a tiny BERT with its masked-token head, and the logits that ONNX Runtime gives it.
Every token sees every other, so it has no cache and compiles with --no-kv-cache alone.

usage: python encoder.py OUT

Needs torch, transformers, onnx and onnxruntime."""
import os
import sys

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import numpy_helper
from transformers import BertConfig, BertForMaskedLM

VOCAB = 48


class Encoder(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, token_type_ids):
        return self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).logits


def main():
    torch.manual_seed(3)
    config = BertConfig(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=32, max_position_embeddings=32, attn_implementation="eager",
                        initializer_range=0.5)
    model = Encoder(BertForMaskedLM(config)).eval()
    ids = torch.randint(0, VOCAB, (2, 9))
    axes = {name: {0: "batch", 1: "seq"} for name in ("input_ids", "attention_mask", "token_type_ids", "logits")}
    os.makedirs(sys.argv[1], exist_ok=True)
    path = os.path.join(sys.argv[1], "model.onnx")
    inputs = (ids, torch.ones_like(ids), torch.zeros_like(ids))
    torch.onnx.export(model, inputs, path, input_names=list(axes)[:3], output_names=["logits"], dynamic_axes=axes,
                      opset_version=17, dynamo=False)
    tokens = np.random.default_rng(5).integers(0, VOCAB, (1, 24))
    feeds = {"input_ids": tokens, "attention_mask": np.ones_like(tokens), "token_type_ids": np.zeros_like(tokens)}
    logits = ort.InferenceSession(path).run(None, feeds)[0]
    graph = onnx.load(path)
    for node in graph.graph.node:  # names of Python modules are most of the file
        node.name = node.doc_string = ""
    onnx.save(graph, path)
    for name, array in (("tokens", tokens), ("logits", logits)):
        with open(os.path.join(sys.argv[1], name + ".pb"), "wb") as f:
            f.write(numpy_helper.from_array(array, name).SerializeToString())


if __name__ == "__main__":
    main()
