"""Pretraining BERT beside `transformers`, interleaved on the same work.

Each round runs the peer and us, in turn; the table has medians of wall and CPU seconds and their
ratios peer / ours, so more than 1 is faster here. Equal losses, without dropout and with the peer's
parameters, are checked first. The peer runs in the way that suits it best of those tried. Needs the
extra `parity`; torch.compile needs a C++ compiler, too. From the root of the repository:

    python -m benchmarks.bert --part step [--rounds 5]
    python -m benchmarks.bert --part ragged --data FOLDER [--rounds 5]
    python -m benchmarks.bert --part profile --data FOLDER [--rounds 5]

step: BERT-base, masked tokens and pairs, AdamW, float32, 8 rows of 128 tokens, 20 predictions each.
    "equal work" scores all positions, as the peer does; "best practice" scores the masked ones
    alone, and draws dropout from `jax.random.key(seed, impl="rbg")`.
ragged: masked tokens alone, of texts of natural lengths up to 512 tokens, in rows of 512; see
    `benchmarks/bert_ragged.py`. FOLDER has train.tsv, whose first column is read.
profile: where the time of these texts goes, without a peer; see `benchmarks/bert_profile.py`.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
import torch
from transformers import BertForPreTraining

from benchmarks.bert_peer import IGNORED, Ours, Peer, peer_model, same_as_ours
from benchmarks.bert_profile import profile
from benchmarks.bert_ragged import ragged
from benchmarks.timing import fastest, medians, row, say, table
from transformer_jax.models.bert import BertConfig

THREADS = 2


def random_batch(config, rows, length, predictions):
    """(ours that scores all positions, ours that scores the masked ones, the peer's) of one batch.

    Tokens are random, because no time depends on them.
    """
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, config.vocab_size, (rows, length)).astype(np.int32)
    types = np.broadcast_to(np.arange(length) >= length // 2, (rows, length)).astype(np.int32)
    chosen = np.sort(rng.permuted(np.tile(np.arange(length), (rows, 1)), axis=1)[:, :predictions])
    targets = rng.integers(5, config.vocab_size, (rows, predictions)).astype(np.int32)
    pairs = rng.integers(0, 2, (rows, 1)).astype(np.int32)
    labels = np.full((rows, length), IGNORED, np.int32)
    np.put_along_axis(labels, chosen, targets, axis=1)
    common = {
        "tokens": tokens,
        "segments": np.ones_like(tokens),
        "token_types": types,
        "pair_labels": pairs,
    }
    everywhere = common | {
        "targets": np.maximum(labels, 0),
        "weights": (labels != IGNORED).astype(np.float32),
    }
    gathered = common | {
        "masked_positions": chosen.astype(np.int32),
        "targets": targets,
        "weights": np.ones(targets.shape, np.float32),
    }
    theirs = {
        "input_ids": tokens,
        "attention_mask": common["segments"],
        "token_type_ids": types,
        "labels": labels,
        "next_sentence_label": pairs[:, 0],
    }
    theirs = {name: torch.tensor(x, dtype=torch.int64) for name, x in theirs.items()}
    return everywhere, gathered, theirs


def best_peer(peer, batch):
    """The peer's update, by the fastest of eager, sdpa and torch.compile of the better of these."""
    works = {name: lambda name=name: peer.train([batch], name) for name in ("eager", "sdpa")}
    best = fastest("transformers", works)
    if shutil.which("g++") is None:
        say("torch.compile was not tried: it needs g++, which is not installed")
        return works[best]
    compiled = torch.compile(peer.model)
    both = {
        best: works[best],
        f"torch.compile of {best}": lambda: peer.train([batch], best, compiled),
    }
    return both[fastest("transformers", both)]


def step(args):
    """One update of BERT-base."""
    config = BertConfig.base(unroll=True, num_layers=args.layers)
    everywhere, gathered, theirs = random_batch(config, rows=8, length=128, predictions=20)
    peer = Peer(peer_model(BertForPreTraining, config))
    ours = Ours(config, same_as_ours(peer.model, config))

    want = peer.loss(theirs)
    for batch in (everywhere, gathered):
        got = sum(ours.losses([batch]).values())
        np.testing.assert_allclose(got, want, rtol=1e-5)
        say(f"equal losses: {got:.5f} and {want:.5f}")

    works = {
        "equal work, dropout by threefry": ours.trainer([everywhere], "threefry2x32"),
        "equal work, dropout by rbg": ours.trainer([everywhere], "rbg"),
        "best practice (20 predictions, rbg)": ours.trainer([gathered], "rbg"),
    }
    for work in works.values():
        work()
    found = medians({"peer": best_peer(peer, theirs)} | works, args.rounds)
    for name in works:
        row(f"step of {config.num_layers} layers, {name}", found["peer"], found[name], 8 * 128)


PARTS = {"step": step, "ragged": ragged, "profile": profile}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument("--data", type=Path, help="folder with train.tsv, for ragged and profile")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--lines", type=int, default=16, help="most lines of a text")
    parser.add_argument("--every", type=int, default=25, help="which batches and rows")
    args = parser.parse_args()
    if args.part != "step" and args.data is None:
        parser.error(f"--part {args.part} needs --data")
    torch.set_num_threads(THREADS)
    if args.part != "profile":  # which has a table of its own
        table()
    PARTS[args.part](args)


if __name__ == "__main__":
    main()
