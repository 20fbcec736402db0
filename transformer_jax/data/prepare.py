"""Makes prepared rows of a corpus, part by part: tokenises, cuts into examples, packs, writes.

A part of the corpus (`document_units`) becomes a shard by itself, with bits of its own from the
seed, the split and the part's number. So any number of workers, in any order, on any engine, write
the same bytes, and a run that was killed goes on with the shards that are not there. The memory of
a worker is that of one part, however large the corpus.

What this costs: the random sentences of next-sentence prediction come from other documents of the
same part, and an example never spans two parts.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transformer_jax.data.corpus_rows import MAKERS, ExampleKind, tokenise
from transformer_jax.data.documents import Source, Unit
from transformer_jax.data.encoder_rows import EncoderRows, plan_rows
from transformer_jax.data.encoder_tokenizer import EncoderTokenizer
from transformer_jax.data.row_records import LONGEST_ROW, VERSION, encode_rows, write_shard
from transformer_jax.data.rows_index import INDEX, SETTINGS, Shard, read_index
from transformer_jax.data.sentence_pairs import Documents, Examples
from transformer_jax.data.subword_tokenizers import load_tokenizer
from transformer_jax.errors import UserError
from transformer_jax.files import file_hash, remove_temporaries, write_whole
from transformer_jax.parsing import parse_json, parse_npy, read_regular

_STREAM = 0x5F1  # keeps the bits of the order apart from those of packing


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What rows to make.

    Attributes:
      path: the corpus, as for `documents.read_documents`.
      splits: train, valid, test, or some of them.
      examples: pairs of next sentences or of sentence order, or full sentences.
      row_length: tokens of a row.
      example_length: the most tokens of an example.
      row_examples: the most examples of a row.
      repeats: how often the train split is cut, each time into other pairs; the others once.
      seed: of all randomness.
      shard_bytes: of text, about, of which a shard is made.
    """

    path: str
    splits: tuple[str, ...] = ("train", "valid", "test")
    examples: ExampleKind = "next_sentence"
    row_length: int = 128
    example_length: int = 128
    row_examples: int = 8
    repeats: int = 1
    seed: int = 0
    shard_bytes: int = 1 << 26

    def __post_init__(self) -> None:
        for name, least in (("row_examples", 1), ("repeats", 1), ("seed", 0), ("shard_bytes", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}.")
        if not 8 <= self.example_length <= self.row_length:
            raise ValueError(
                f"example_length={self.example_length} must be at least 8, and at most "
                f"row_length={self.row_length}."
            )
        if self.row_length > LONGEST_ROW:
            raise ValueError(f"row_length={self.row_length} must be at most {LONGEST_ROW}.")


@dataclasses.dataclass(frozen=True)
class Job:
    """One part of the corpus, and the shard in `folder` that is made of it."""

    unit: Unit
    recipe: Recipe
    folder: str
    tokenizer: str

    @property
    def path(self) -> Path:
        """Of the shard; what is known of it stands beside it in a .json and an .npy."""
        unit = self.unit
        name = f"{unit.split}-{unit.number:05d}-of-{unit.count:05d}.array_record"
        return Path(self.folder) / name


def plan_jobs(
    recipe: Recipe, source: Source, folder: Path, tokenizer: Path, request: dict[str, Any]
) -> list[Job]:
    """Begins a folder of prepared rows, or goes on with one: what is to be made.

    Args:
      recipe: of the rows.
      source: the corpus at recipe.path.
      folder: where they are written.
      tokenizer: its file in this folder.
      request: more settings that another run of the same rows must have.

    Raises:
      UserError: the corpus lacks a split; the folder has rows of other settings.
    """
    units = [u for split in recipe.splits for u in source.units(split, recipe.shard_bytes)]
    write_settings(folder, _settings(recipe, source, load_tokenizer(tokenizer), tokenizer, request))
    jobs = [Job(unit, recipe, str(folder), tokenizer.name) for unit in units]
    remove_temporaries(folder)
    return jobs


def run_job(job: Job) -> None:
    """Makes a shard, unless it is there and undamaged.

    Raises:
      UserError: the documents cannot be read, or the shard cannot be written.
    """
    if finished(job) is not None:
        return
    recipe, unit = job.recipe, job.unit
    tokenizer = _tokenizer(str(Path(job.folder) / job.tokenizer))
    documents = tokenise(unit.read(), tokenizer)
    count, counts = len(documents.borders) - 1, np.zeros(tokenizer.vocab_size, np.int64)
    rows = _rows(documents, recipe, unit)
    about: dict[str, Any] = {"name": job.path.name, "documents": count}
    if rows is None:
        about |= {"examples": 0, "rows": 0, "tokens": 0, "bytes": 0, "sha256": ""}
    else:
        write_shard(job.path, encode_rows(documents, rows))
        counts = np.bincount(documents.paragraphs.tokens, minlength=tokenizer.vocab_size)
        about |= {"examples": len(rows.examples), "rows": len(rows)}
        about["tokens"] = int(rows.examples.lengths.sum())
        about |= {"bytes": job.path.stat().st_size, "sha256": file_hash(job.path)}
    _save(job.path.with_suffix(".npy"), counts)
    about["counts"] = file_hash(job.path.with_suffix(".npy"))
    # Last, for it says that the shard is finished.
    write_whole(job.path.with_suffix(".json"), _json(about))


def finished(job: Job) -> Shard | None:
    """The shard of a job, if it is there and undamaged. It has no rows if it has no file."""
    try:
        shard = Shard(**parse_json(read_regular(job.path.with_suffix(".json"))))
        whole = shard.name == job.path.name
        whole = whole and file_hash(job.path.with_suffix(".npy")) == shard.counts
        whole = whole and (not shard.rows or file_hash(job.path) == shard.sha256)
    except (OSError, ValueError, TypeError):
        return None
    return shard if whole else None


def finish(jobs: Sequence[Job]) -> dict[str, list[Shard]]:
    """Writes the index, when all jobs are done; returns the shards of each split.

    Raises:
      UserError: a split has no rows, or a shard is missing.
    """
    folder, recipe = Path(jobs[0].folder), jobs[0].recipe
    splits: dict[str, list[Shard]] = {split: [] for split in recipe.splits}
    for job in jobs:
        shard = finished(job)
        if shard is None:
            raise UserError(f"{job.path} is not there. Run the same command again.")
        splits[job.unit.split].append(shard)
    for split, shards in splits.items():
        if not any(shard.rows for shard in shards):
            raise UserError(
                f"{recipe.path}: the {sum(shard.documents for shard in shards)} documents of the "
                f"split {split!r} are too few for examples of {recipe.examples}. Put blank lines "
                f"between documents, use more text or a larger --shard-bytes in another folder, or "
                f"leave the split out with --splits."
            )
        parts = [job.path.with_suffix(".npy") for job in jobs if job.unit.split == split]
        _save(folder / f"{split}.npy", functools.reduce(np.add, map(_load, parts)))
    index = parse_json(read_regular(folder / SETTINGS))
    index["splits"] = _other_splits(folder, recipe) | {
        split: {"shards": [dataclasses.asdict(shard) for shard in shards if shard.rows]}
        for split, shards in splits.items()
    }
    write_whole(folder / INDEX, _json(index))
    remove_temporaries(folder)
    return splits


def _other_splits(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """What the index says of the splits that this recipe leaves alone."""
    try:
        splits = read_index(folder)["splits"]
    except UserError:  # there is none yet, or what a damaged one says is lost
        return {}
    return {split: about for split, about in splits.items() if split not in recipe.splits}


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Writes the settings of a folder, or compares them with those that it has.

    Raises:
      UserError: they differ.
    """
    path = folder / SETTINGS
    if not path.exists():
        write_whole(path, _json(settings))
        return
    try:
        there = parse_json(read_regular(path))
        names = [n for n in (*there, *settings) if there.get(n) != settings.get(n)]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged ({error}). Remove {folder}, or name another."
        ) from error
    if names:
        shown = (f"{n} is {there.get(n)!r}, not {settings.get(n)!r}" for n in dict.fromkeys(names))
        raise UserError(
            f"{folder} has rows of other settings: {'; '.join(shown)}. Run with these, or name "
            f"another folder."
        )


def _settings(
    recipe: Recipe,
    source: Source,
    tokenizer: EncoderTokenizer,
    file: Path,
    request: dict[str, Any],
) -> dict[str, Any]:
    about = dataclasses.asdict(recipe) | request | {"version": VERSION}
    # Other splits may follow later; and the corpus may move, but not change.
    del about["splits"], about["path"]
    about["corpus"] = source.fingerprint()
    about["tokenizer"] = {
        "file": file.name,
        "fingerprint": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "cls_id": tokenizer.cls_id,
        "sep_id": tokenizer.sep_id,
    }
    return about


def _rows(documents: Documents, recipe: Recipe, unit: Unit) -> EncoderRows | None:
    """The rows of all repeats, in random order; None if the documents give no examples."""
    digest = hashlib.sha256(f"{recipe.seed} {unit.split} {unit.number}".encode()).digest()
    seed = int.from_bytes(digest[:8], "little")
    cuts: list[Examples] = []
    ids: list[np.ndarray] = []
    for repeat in range(recipe.repeats if unit.split == "train" else 1):
        try:
            examples = MAKERS[recipe.examples](
                documents, max_tokens=recipe.example_length, seed=seed, epoch=repeat
            )
        except UserError:  # too few documents
            return None
        shape = {"row_length": recipe.row_length, "row_examples": recipe.row_examples}
        before = sum(map(len, cuts))
        ids += [row + before for row in plan_rows(examples, **shape, seed=seed, epoch=repeat).ids]
        cuts.append(examples)
    # Raw bits, for numpy may change what Generator draws from them.
    bits = np.random.Philox(np.random.SeedSequence([seed, _STREAM])).random_raw(len(ids))
    order = np.argsort(np.asarray(bits, np.uint64), kind="stable")
    return EncoderRows(_together(cuts), [ids[i] for i in order.tolist()])


def _together(parts: Sequence[Examples]) -> Examples:
    """All examples, one part after another."""
    counts = np.concatenate([np.diff(part.offsets) for part in parts])
    labels = [part.labels for part in parts if part.labels is not None]
    return Examples(
        np.concatenate([part.starts for part in parts]),
        np.concatenate([part.sizes for part in parts]),
        np.append(0, np.cumsum(counts)),
        np.concatenate(labels) if labels else None,
    )


@functools.lru_cache(1)
def _tokenizer(path: str) -> EncoderTokenizer:
    return load_tokenizer(path)


def _save(path: Path, counts: np.ndarray) -> None:
    data = io.BytesIO()
    np.save(data, counts)
    write_whole(path, data.getvalue())


def _load(path: Path) -> np.ndarray:
    try:
        return parse_npy(read_regular(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}). Remove it, and run this again.") from error


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()
