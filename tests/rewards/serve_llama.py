"""Serves a model through llama.cpp's own HTTP server, until its standard input is closed, and prints the server's address.

    python tests/rewards/serve_llama.py PLACE API_KEY

PLACE is a GGUF file; or a folder, in which it writes a tiny Llama with random weights. That one reads bytes and knows nothing,
but it has to follow the grammar that llama.cpp makes of a JSON schema.
"""

import sys
from pathlib import Path

import gguf
import numpy
import xllamacpp

WIDTH, HEADS, CONTEXT = 32, 2, 4096


def write_model(path: Path):
    """Write one layer of a Llama whose tokens are three special ones and the 256 bytes."""
    tokens = [b"<unk>", b"<s>", b"</s>", *(f"<0x{byte:02X}>".encode() for byte in range(256))]
    kinds = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 2, *[gguf.TokenType.BYTE] * 256]
    model = gguf.GGUFWriter(path, "llama")
    model.add_context_length(CONTEXT)
    model.add_embedding_length(WIDTH)
    model.add_feed_forward_length(2 * WIDTH)
    model.add_block_count(1)
    model.add_head_count(HEADS)
    model.add_head_count_kv(HEADS)
    model.add_rope_dimension_count(WIDTH // HEADS)
    model.add_layer_norm_rms_eps(1e-6)
    model.add_tokenizer_model("llama")
    model.add_token_list(tokens)
    model.add_token_scores([0.0] * len(tokens))
    model.add_token_types(kinds)
    model.add_bos_token_id(1)
    model.add_eos_token_id(2)
    model.add_unk_token_id(0)
    model.add_chat_template("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: ")
    generator = numpy.random.default_rng(0)
    shapes = {"token_embd": (len(tokens), WIDTH), "output": (len(tokens), WIDTH)}
    shapes |= {f"blk.0.attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_gate": (2 * WIDTH, WIDTH), "blk.0.ffn_up": (2 * WIDTH, WIDTH)}
    shapes |= {"blk.0.ffn_down": (WIDTH, 2 * WIDTH)}
    for name, shape in shapes.items():
        model.add_tensor(f"{name}.weight", (0.2 * generator.standard_normal(shape)).astype(numpy.float32))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        model.add_tensor(f"{name}.weight", numpy.ones(WIDTH, numpy.float32))
    model.write_header_to_file()
    model.write_kv_data_to_file()
    model.write_tensors_to_file()
    model.close()


def main(place: str, api_key: str):
    path = Path(place)
    if path.is_dir():
        path /= "tiny.gguf"
        write_model(path)
    settings = xllamacpp.CommonParams()
    settings.model.path = str(path)
    settings.n_ctx, settings.n_parallel = 4 * CONTEXT, 4
    settings.cpuparams.n_threads = 1
    settings.hostnames, settings.port = ["127.0.0.1"], 0
    settings.api_keys = [api_key]
    server = xllamacpp.Server(settings)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
