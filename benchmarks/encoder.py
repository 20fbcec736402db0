"""Vectors of texts beside `transformers`, interleaved on the same work.

Each round runs the peer and us, in turn; the table has medians of wall and CPU seconds and their
ratios peer / ours, so more than 1 is faster here. Equal vectors are checked first. The peer runs
in the way that suits it best of those tried. Needs the extra `parity`. From the root of the
repository:

    python -m benchmarks.encoder --model ENCODER --data FOLDER [--rounds 5]

ENCODER is a Hugging Face folder of a BERT; FOLDER has test.tsv and valid.tsv, whose first column is
read.
fixed: 32 rows of 128 tokens, none of them padding: the last hidden states.
ragged: all texts, from tokens to their mean states; the peer has batches of like lengths.
"""

import argparse
from pathlib import Path

import jax
import numpy as np
import torch
from transformers import AutoModel

from benchmarks.timing import fastest, medians, row, say, table
from transformer_jax import load_pretrained
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.tasks.embedding import Embedder

THREADS, ROWS, LENGTH = 2, 32, 128
SIZES = (16, 32, 128)  # of the peer's batches of texts


def read_texts(folder):
    """The first column of two files, without their headers."""
    lines = [
        line
        for name in ("test", "valid")
        for line in (folder / f"{name}.tsv").read_text(encoding="utf-8").splitlines()[1:]
    ]
    return [line.partition("\t")[0] for line in lines]


def peers_of(folder):
    """{name: model}: eager, sdpa, and torch.compile of sdpa."""
    models = {
        name: AutoModel.from_pretrained(folder, attn_implementation=name).eval()
        for name in ("eager", "sdpa")
    }
    return models | {"torch.compile of sdpa": torch.compile(models["sdpa"], dynamic=False)}


def fixed(args, loaded, peers):
    """Last hidden states of full rows."""
    tokens = np.random.default_rng(0).integers(1000, 20_000, (ROWS, LENGTH)).astype(np.int32)
    batch = torch.tensor(tokens, dtype=torch.int64)
    ours = jax.jit(lambda params, ids: loaded.model.apply({"params": params}, ids))

    def peer(model):
        with torch.inference_mode():
            return model(input_ids=batch).last_hidden_state

    works = {name: lambda model=model: peer(model) for name, model in peers.items()}
    want, got = peer(peers["sdpa"]).numpy(), np.asarray(ours(loaded.params, tokens))
    np.testing.assert_allclose(got, want, atol=2e-5)
    say(f"equal states: largest difference {np.abs(got - want).max():.1e}")
    works = {"peer": works[fastest("transformers", works)]}
    works["ours"] = lambda: jax.block_until_ready(ours(loaded.params, tokens))
    found = medians(works, args.rounds)
    row(f"{ROWS} rows of {LENGTH} tokens", found["peer"], found["ours"], ROWS * LENGTH)


def ragged(args, loaded, peers):
    """Mean states of texts of natural lengths."""
    embedder = Embedder(loaded, mesh=make_mesh(MeshConfig()))
    examples = embedder.examples(read_texts(args.data))
    lengths = examples.tokens.lengths
    order = np.argsort(lengths, kind="stable")

    def peer(model, size=ROWS):
        vectors = np.zeros((len(examples), loaded.config.width), np.float32)
        for start in range(0, len(order), size):
            ids = order[start : start + size]
            tokens = torch.zeros((len(ids), int(lengths[ids].max())), dtype=torch.int64)
            for place, i in enumerate(ids):
                tokens[place, : lengths[i]] = torch.tensor(examples.tokens[i])
            there = torch.arange(tokens.shape[1]) < torch.tensor(lengths[ids])[:, None]
            with torch.inference_mode():
                states = model(input_ids=tokens, attention_mask=there.long()).last_hidden_state
                weights = there[..., None].float()
                vectors[ids] = ((states * weights).sum(1) / weights.sum(1)).numpy()
        return vectors

    want, got = peer(peers["sdpa"]), embedder(examples)
    np.testing.assert_allclose(got, want, atol=2e-5)
    say(f"equal vectors: largest difference {np.abs(got - want).max():.1e}")
    say(f"{len(examples)} texts of {lengths.min()} to {lengths.max()}, mean {lengths.mean():.0f}")
    works = {
        f"{name} by {size}": lambda name=name, size=size: peer(peers[name], size)
        for name in ("eager", "sdpa")
        for size in SIZES
    }
    works = {"peer": works[fastest("transformers", works)], "ours": lambda: embedder(examples)}
    found = medians(works, args.rounds)
    row(f"{len(examples)} texts", found["peer"], found["ours"], int(lengths.sum()))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    loaded, peers = load_pretrained(args.model, kind="encoder"), peers_of(args.model)
    table()
    fixed(args, loaded, peers)
    ragged(args, loaded, peers)


if __name__ == "__main__":
    main()
