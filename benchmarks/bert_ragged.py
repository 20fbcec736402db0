"""Masked tokens of texts of natural lengths: packed rows beside padded and grouped batches.

BERT-base without pairs. The texts are 1 to --lines lines of the file that follow each other (evenly
drawn), so that their lengths spread from a few tokens to 512, where they are cut off; WordPiece of
8,192 tokens in a model of 30,522. Of 1,600 texts, `transformers` makes batches of 32 with
group_by_length, and we make packed rows; each side trains on an even sample of its own (--every),
because a whole pass would take hours. Seconds are of 1,000 tokens that are not padding. The texts
are masked once, before the time is taken, and equally for all.
"""

import functools

import numpy as np
from transformers import BertForMaskedLM

from benchmarks.bert_peer import Ours, Peer, peer_model, same_as_ours
from benchmarks.bert_rows import (
    ROW,
    cut,
    grouped,
    masked,
    our_batches,
    packed_rows,
    read_texts,
    their_batch,
)
from benchmarks.timing import fastest, medians, row, say
from transformer_jax.models.bert import BertConfig

VOCABULARY = 8192
BATCH, GROUP = 4, 32  # our rows, of 512 tokens; texts of a group
PADDED = 16  # texts that are padded to a row


def every(items, n):
    """Each n-th item, evenly from the middle of the first n on."""
    return items[n // 2 :: n]


def tokens_of(examples):
    return sum(len(x.tokens) for x in examples)


def check_losses(peer, ours, examples):
    """Means over all predictions of the same texts, by both."""
    got = ours.losses(our_batches(packed_rows(examples)[0], BATCH))["mlm"]
    want = peer.loss(their_batch(examples))
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


def examples_of(args):
    """The masked texts, and some of the groups of even length that they make."""
    texts, tokenizer = read_texts(args.data, args.lines, VOCABULARY)
    groups = grouped(texts, GROUP)
    examples = masked([text for group in groups for text in group], tokenizer)
    return examples, every(cut(examples, GROUP), args.every)


def ragged(args):
    """Updates on the same texts by the peer, padded and grouped, and by us, packed."""
    config = BertConfig.base(num_layers=args.layers, pooler=False, unroll=True)
    examples, groups = examples_of(args)
    rows, fill = packed_rows(examples)
    lengths = np.array([len(x.tokens) for x in examples])
    say(
        f"{len(examples)} texts of {lengths.min()} to {lengths.max()} tokens, {lengths.mean():.0f} "
        f"in the mean, {lengths.sum():,} in all; {len(rows)} packed rows, filled {fill:.1%}"
    )
    rows = every(rows, args.every)
    padded = every(examples, len(examples) // PADDED)[:PADDED]
    peer = Peer(peer_model(BertForMaskedLM, config))
    ours = Ours(config, same_as_ours(peer.model, config))
    check_losses(peer, ours, padded)

    packed = ours.trainer(our_batches(rows, BATCH), "rbg")
    packed()
    works = {
        "padded": best_peer(peer, "padded", cut(padded, BATCH), (BATCH,), ROW),
        "grouped": best_peer(peer, "grouped", groups, (16, 32), None),
        "packed": packed,
    }
    sizes = {
        "padded": tokens_of(padded),
        "grouped": sum(map(tokens_of, groups)),
        "packed": sum(map(tokens_of, rows)),
    }
    say(f"tokens a round: {sizes}")
    found = medians(works, args.rounds)
    found = {key: tuple(1000 * x / sizes[key] for x in pair) for key, pair in found.items()}
    row("ragged, padded to 512", found["padded"], found["packed"], 1000)
    row("ragged, grouped by length", found["grouped"], found["packed"], 1000)
