"""Where sentence pairs come from: TSV files, TensorFlow datasets, gettext catalogs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformer_jax.data.tfds_builders import TFDS_SPLITS, cache_dir, open_builder, quiet
from transformer_jax.errors import UserError

SPLITS = ("train", "valid", "test")

_TFDS_BATCH = 10_000  # one record at a time is a hundred times slower
_ACCEPTED = (
    "a folder with train.tsv, valid.tsv and test.tsv of `source<TAB>target` lines; "
    "tfds:NAME/CONFIG for a TensorFlow dataset, as tfds:wmt14_translate/de-en; "
    "catalogs:installed or catalogs:FOLDER for gettext catalogs"
)


def read_pairs(
    path: str,
    split: str,
    *,
    source_language: str,
    target_language: str,
    data_dir: str | None = None,
) -> list[tuple[str, str]]:
    """The (source, target) pairs of a split, always in the same order.

    Args:
      path: a folder with train.tsv, valid.tsv and test.tsv; `tfds:NAME/CONFIG`;
        `catalogs:installed` or `catalogs:FOLDER`.
      split: train, valid or test.
      source_language: language of the source as the dataset names it; TSV files need none.
      target_language: language of the target, likewise.
      data_dir: where TFDS keeps prepared data. None means TFDS's own default for `tfds:`, and
        `$XDG_CACHE_HOME/transformer_jax` for `catalogs:`, which are prepared when needed.

    Raises:
      UserError: the data is missing, malformed, empty or not prepared.
    """
    if split not in SPLITS:
        raise UserError(f"Split {split!r} is none of {', '.join(SPLITS)}.")
    scheme, _, rest = path.partition(":")
    if scheme == "tfds" and rest:
        builder = open_builder(rest, "translate", data_dir)
        return _read_builder(builder, split, source_language, target_language)
    if scheme == "catalogs" and rest:
        return _read_catalogs(rest, split, source_language, target_language, data_dir)
    if not path or not Path(path).is_dir():
        raise UserError(f"Data path {path!r} is no existing folder. Accepted are: {_ACCEPTED}.")
    return read_tsv(Path(path) / f"{split}.tsv")


def read_tsv(file: Path) -> list[tuple[str, str]]:
    """The pairs of a UTF-8 file of `source<TAB>target` lines; a BOM and CRLF are tolerated.

    Raises:
      UserError: no file, an empty one, or a line that is not a pair, with its number.
    """
    if not file.is_file():
        raise UserError(
            f"{file} is missing. A data folder needs {', '.join(f'{s}.tsv' for s in SPLITS)}, "
            f"each with one `source<TAB>target` pair a line."
        )
    try:
        with file.open("rb") as lines:  # in bytes, so that only \n ends a line
            pairs = [_parse_line(line, file, number) for number, line in enumerate(lines, 1)]
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    if not pairs:
        raise UserError(f"{file} is empty. Write one `source<TAB>target` pair a line.")
    return pairs


def _parse_line(line: bytes, file: Path, number: int) -> tuple[str, str]:
    where = f"{file}:{number}"
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 ({error}). Save the file as UTF-8.") from error
    sides = text.removesuffix("\n").removesuffix("\r").split("\t")
    if len(sides) != 2:
        raise UserError(
            f"{where} has {len(sides) - 1} tabs where it needs one, between source and target. "
            f"Separate them by one tab, and replace tabs inside the text."
        )
    source, target = sides
    for name, side in (("source", source), ("target", target)):
        if not side.strip():
            raise UserError(f"{where} has an empty {name}. Fill it in or remove the line.")
    return source, target


def _read_catalogs(
    folder: str, split: str, source_language: str, target_language: str, data_dir: str | None
) -> list[tuple[str, str]]:
    if source_language != "en":
        raise UserError(
            f"Source language {source_language!r}: gettext catalogs translate from English. "
            f"Set the source language to en."
        )
    with quiet():
        from transformer_jax.data import catalogs

        config = catalogs.CatalogsConfig.find(
            target_language, "" if folder == "installed" else folder
        )
        builder = catalogs.prepare(config, data_dir or cache_dir())
    return _read_builder(builder, split, source_language, target_language)


def _read_builder(builder: Any, split: str, source: str, target: str) -> list[tuple[str, str]]:
    """Reads a prepared dataset whose records are {language: text}."""
    name, tfds_split = builder.info.full_name, TFDS_SPLITS[split]
    if tfds_split not in builder.info.splits:
        raise UserError(
            f"tfds:{name} has no split {tfds_split!r}, only {', '.join(builder.info.splits)}."
        )
    for language in (source, target):
        if language not in builder.info.features:
            raise UserError(
                f"tfds:{name} has no language {language!r}, only "
                f"{', '.join(builder.info.features)}. Set the source and target language to these."
            )
    with quiet():
        data = builder.as_data_source(tfds_split, file_format="array_record")
        pairs = []
        for start in range(0, len(data), _TFDS_BATCH):
            ids = list(range(start, min(start + _TFDS_BATCH, len(data))))
            pairs += [(r[source].decode(), r[target].decode()) for r in data.__getitems__(ids)]
    return pairs
