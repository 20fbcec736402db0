"""The peer of the translation benchmarks: the same model in `transformers`, on the same pairs."""

import tempfile

import numpy as np
import torch
from transformers import MarianMTModel

from transformer_jax import TransformerConfig, save_pretrained

PAD = 0


def marian_config(**changes):
    """What a MarianMTModel can hold: post-norm, sinusoids in halves, biases everywhere."""
    marian = dict(sinusoids="halves", attention_bias=True, logits_bias=True, norm_epsilon=1e-5)
    return TransformerConfig.small(**(marian | dict(activation="relu", unroll=True) | changes))


def same_in_torch(pretrained):
    """A MarianMTModel with equal parameters."""
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(folder, pretrained)
        return MarianMTModel.from_pretrained(folder)


def pairs_of(batch):
    """(source ids, ids that the decoder reads, target ids) of each pair in a packed batch."""
    pairs = []
    for row in range(len(batch["source"])):
        source_segments, target_segments = (
            batch[f"{side}_segments"][row] for side in ("source", "target")
        )
        for segment in range(1, int(source_segments.max()) + 1):
            target = target_segments == segment
            pairs.append(
                (
                    batch["source"][row][source_segments == segment],
                    batch["target_inputs"][row][target],
                    batch["targets"][row][target],
                )
            )
    return pairs


def padded(sequences):
    """A tensor of rows."""
    length = max(map(len, sequences))
    rows = np.full((len(sequences), length), PAD)
    for row, sequence in zip(rows, sequences, strict=True):
        row[: len(sequence)] = sequence
    return torch.tensor(rows)


def count_tokens(pairs):
    """Tokens of both sides."""
    return sum(len(source) + len(target) for source, _, target in pairs)


def loss_sum(model, pairs, smoothing):
    """Summed label-smoothed cross-entropy of the target tokens."""
    source, inputs, targets = map(padded, zip(*pairs, strict=True))
    valid = source != PAD
    logits = model(input_ids=source, attention_mask=valid, decoder_input_ids=inputs).logits
    real = targets != PAD
    return torch.nn.functional.cross_entropy(
        logits[real], targets[real], label_smoothing=smoothing, reduction="sum"
    )


def length_buckets(pairs, tokens):
    """Cuts pairs, sorted by length, into parts whose padded sides have about so many tokens."""
    parts, longest = [[]], 0
    for pair in sorted(pairs, key=lambda pair: (len(pair[2]), len(pair[0]))):
        longest = max(longest, len(pair[0]), len(pair[2]))
        if parts[-1] and longest * (len(parts[-1]) + 1) > tokens:
            parts.append([])
            longest = max(len(pair[0]), len(pair[2]))
        parts[-1].append(pair)
    return parts


def generate(model, sources, batch_size, **options):
    """Token ids of each source's best translation, in batches of like lengths."""
    eos = model.config.eos_token_id
    found = [None] * len(sources)
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        ids = padded([sources[i] for i in chosen])
        with torch.inference_mode():
            rows = model.generate(input_ids=ids, attention_mask=(ids != PAD).long(), **options)
        for i, row in zip(chosen, rows[:, 1:].tolist(), strict=True):
            # What follows the end is filled with padding, or with ends where padding is 0.
            found[i] = tuple(row[: row.index(eos) + 1] if eos in row else row)
    return found
