"""Masked tokens of texts of natural lengths: packed rows beside padded and grouped batches.

The texts are 1 to --lines lines of the file that follow each other (evenly drawn), so that their
lengths spread from a few tokens to 512, where they are cut off; WordPiece of 8,192 tokens. Of the
batches of 32 that `transformers` makes of 1,600 texts with group_by_length, every tenth is used
(--every). The texts are masked once, before the time is taken, and equally for all. Tokens a second
are those that are not padding.
"""

import functools

import numpy as np
from transformers import BertForMaskedLM

from benchmarks.bert_peer import Ours, Peer, peer_model, same_as_ours
from benchmarks.bert_rows import (
    ROW,
    cut,
    masked,
    our_batches,
    packed_rows,
    read_texts,
    sample,
    their_batch,
)
from benchmarks.timing import fastest, medians, row, say
from transformer_jax.layers.attention import chunked_attention
from transformer_jax.models.bert import BertConfig

CONFIG = BertConfig(
    vocab_size=8192,
    width=256,
    num_heads=4,
    feed_forward_dim=1024,
    num_layers=4,
    max_positions=ROW,
    pooler=False,
    unroll=True,
)
BATCH, GROUP = 8, 32  # our rows; texts of a group
KERNELS = {
    "dense": None,
    "chunks of 128": functools.partial(chunked_attention, chunk_size=128),
}


def check_losses(peer, ours, examples, kernel):
    """Sums over all predictions, by both."""
    batch = their_batch(examples[:GROUP])
    few = packed_rows(examples[:GROUP])[0]
    got = ours.losses(our_batches(few, BATCH), kernel)["mlm"]
    want = peer.loss(batch)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    say(f"equal losses: {got:.5f} and {want:.5f}")


def best_peer(peer, name, groups, sizes, length):
    """The peer's updates on all groups, in the way that is fastest on the middle one."""
    choices = {f"{how} by {size}": (how, size) for how in ("eager", "sdpa") for size in sizes}

    def work(some, how, size):
        parts = [their_batch(part, length) for group in some for part in cut(group, size)]
        return functools.partial(peer.train, parts, how)

    middle = [groups[len(groups) // 2]]
    found = fastest(name, {key: work(middle, *choice) for key, choice in choices.items()})
    return work(groups, *choices[found])


def ragged(args):
    """Updates on the same texts by the peer, padded and grouped, and by us, packed."""
    texts, tokenizer = read_texts(args.data, args.lines, CONFIG.vocab_size)
    groups = sample(texts, GROUP, args.every)
    examples = masked([text for group in groups for text in group], tokenizer)
    groups = cut(examples, GROUP)
    lengths = np.array([len(x.tokens) for x in examples])
    rows, fill = packed_rows(examples)
    say(
        f"{len(examples)} texts of {lengths.min()} to {lengths.max()} tokens, {lengths.mean():.0f} "
        f"in the mean, {lengths.sum():,} in all; {len(rows)} packed rows, filled {fill:.1%}"
    )
    peer = Peer(peer_model(BertForMaskedLM, CONFIG))
    ours = Ours(CONFIG, same_as_ours(peer.model, CONFIG))
    batches = our_batches(rows, BATCH)
    for kernel in KERNELS.values():
        check_losses(peer, ours, examples, kernel)

    works = {name: ours.trainer(batches[:1], "rbg", kernel) for name, kernel in KERNELS.items()}
    packed = ours.trainer(batches, "rbg", KERNELS[fastest("packed", works)])
    packed()
    padded_ours = ours.trainer(our_batches([[x] for x in examples], BATCH), "rbg")
    works = {
        "padded": best_peer(peer, "padded", groups, (8, 16), ROW),
        "grouped": best_peer(peer, "grouped", groups, (8, 16, 32), None),
        "packed": packed,
        "padded_ours": padded_ours,
    }
    padded_ours()
    found = medians(works, args.rounds)
    tokens = int(lengths.sum())
    row("ragged, padded to 512", found["padded"], found["packed"], tokens)
    row("ragged, grouped by length", found["grouped"], found["packed"], tokens)
    row("ragged, ours padded to 512", found["padded_ours"], found["packed"], tokens)
