"""Texts of natural lengths, masked once, and laid out as packed rows or as padded batches."""

import tempfile
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import torch
from transformers.trainer_pt_utils import get_length_grouped_indices

from benchmarks.bert_peer import IGNORED
from transformer_jax.data.packing import filled, pack
from transformer_jax.data.wordpiece import WordPieceTokenizer
from transformer_jax.objectives.corruption import MaskingConfig, corrupt, predictions_for

ROW = 512
GROUPS = 50  # batches that group_by_length sorts together, as in `transformers`


class Example(NamedTuple):
    """A text with [CLS] and [SEP], after masking."""

    tokens: np.ndarray  # int32 [n]
    places: np.ndarray  # int32 [p], what is predicted
    targets: np.ndarray  # int32 [p]


def read_texts(folder, most_lines, vocab_size):
    """Token ids of texts of 1 to `most_lines` lines that follow each other, and the tokenizer.

    Every line of train.tsv stands in one text; what is beyond a row is cut off.
    """
    lines = (Path(folder) / "train.tsv").read_text(encoding="utf-8").splitlines()
    lines = [line.split("\t")[0].strip() for line in lines]
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / "tokenizer.json"
        tokenizer = WordPieceTokenizer.train(lines, path, vocab_size=vocab_size, lowercase=True)
    ids = [line.ids for line in tokenizer.encode(lines)]
    rng, first, texts = np.random.default_rng(0), 0, []
    while first < len(ids):
        last = first + int(rng.integers(1, most_lines + 1))
        text = np.concatenate(ids[first:last])[: ROW - 2]
        texts.append(
            np.concatenate([[tokenizer.cls_id], text, [tokenizer.sep_id]]).astype(np.int32)
        )
        first = last
    return texts, tokenizer


def grouped(texts, batch_size):
    """The batches that group_by_length makes of some texts, even in length: lists of texts."""
    torch.manual_seed(0)
    chosen = np.random.default_rng(1).permutation(len(texts))[: GROUPS * batch_size]
    texts = [texts[i] for i in chosen]
    order = get_length_grouped_indices([len(x) for x in texts], batch_size, mega_batch_mult=GROUPS)
    return cut([texts[i] for i in order], batch_size)


def masked(texts, tokenizer):
    """Masks 15 % of each text's tokens, as BERT does."""
    tokens = np.zeros((len(texts), ROW), np.int32)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = text
    segments = (np.arange(ROW) < np.array([[len(text)] for text in texts])).astype(np.int32)
    masking = MaskingConfig()
    found = corrupt(
        np.arange(len(texts), dtype=np.uint32),
        tokens,
        segments,
        segments > 0,
        config=masking,
        mask_id=tokenizer.mask_id,
        special_ids=tokenizer.special_ids,
        vocab_size=tokenizer.vocab_size,
        predictions=predictions_for(ROW, masking.rate),
    )
    found = jax.device_get(found)
    examples = []
    for row, text in enumerate(texts):
        real = found.weights[row] > 0
        examples.append(
            Example(
                found.tokens[row, : len(text)],
                found.positions[row, real],
                found.targets[row, real],
            )
        )
    return examples


def packed_rows(examples):
    """Rows of examples that share them, and the share of the positions that hold a token."""
    lengths = np.array([[len(x.tokens)] for x in examples])
    rows = pack(lengths, (ROW,), seed=0, epoch=0)
    fill = filled(rows, lengths, (ROW,)).item()
    return [[examples[i] for i in row] for row in rows], fill


def our_batches(rows, batch_size):
    """Batches of about so many rows, each a list of examples; they have at most two sizes."""
    counts = [sum(len(x.places) for x in row) for row in rows]
    width = 4 * -(-max(counts) // 4)
    batches = []
    for chosen in np.array_split(np.arange(len(rows)), max(1, round(len(rows) / batch_size))):
        whole = {
            name: np.zeros((len(chosen), ROW), np.int32)
            for name in ("tokens", "segments", "positions")
        }
        predicted = {
            name: np.zeros((len(chosen), width), kind)
            for name, kind in (
                ("masked_positions", np.int32), ("targets", np.int32), ("weights", np.float32)
            )
        }  # fmt: skip
        for i, number_of_row in enumerate(chosen):
            row = rows[number_of_row]
            begin = np.cumsum([0] + [len(x.tokens) for x in row])
            used, count = slice(0, begin[-1]), slice(0, counts[number_of_row])
            whole["tokens"][i, used] = np.concatenate([x.tokens for x in row])
            for number, (a, b) in enumerate(zip(begin, begin[1:], strict=False), 1):
                whole["segments"][i, a:b] = number
                whole["positions"][i, a:b] = np.arange(b - a)
            places = [a + x.places for a, x in zip(begin, row, strict=False)]
            predicted["masked_positions"][i, count] = np.concatenate(places)
            predicted["targets"][i, count] = np.concatenate([x.targets for x in row])
            predicted["weights"][i, count] = 1
        batches.append(whole | predicted)
    return batches


def their_batch(examples, length=None):
    """A batch of a BertForMaskedLM, padded to a length or to the longest example."""
    length = length or max(len(x.tokens) for x in examples)
    batch = {
        name: np.full((len(examples), length), value)
        for name, value in (("input_ids", 0), ("attention_mask", 0), ("labels", IGNORED))
    }
    for i, x in enumerate(examples):
        batch["input_ids"][i, : len(x.tokens)] = x.tokens
        batch["attention_mask"][i, : len(x.tokens)] = 1
        batch["labels"][i, x.places] = x.targets
    return {name: torch.tensor(x) for name, x in batch.items()}


def cut(items, size):
    return [items[i : i + size] for i in range(0, len(items), size)]
