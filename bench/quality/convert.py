#!/usr/bin/env python3
"""Hugging Face folder -> GGUF in fp32, by llama.cpp's own converter.

usage: convert.py LLAMA_CPP_SOURCE MODEL_FOLDER OUT.gguf   (needs torch and transformers)

The converter knows tokenizers by a hash of how they split a test text and refuses those it has not seen. Byte-level BPE
with GPT-2's splitting, whatever its merges, is "gpt-2"; measure.py checks that both sides count the same tokens."""
import runpy
import sys

source, folder, out = sys.argv[1:4]
sys.path[:0] = [source, source + "/gguf-py"]

from conversion.base import TextModel  # noqa: E402


def no_sentencepiece(self, *rest):
    raise FileNotFoundError("tokenizer.model")


TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
TextModel._set_vocab_sentencepiece = no_sentencepiece
sys.argv = ["convert_hf_to_gguf.py", folder, "--outtype", "f32", "--outfile", out]
runpy.run_path(source + "/convert_hf_to_gguf.py", run_name="__main__")
