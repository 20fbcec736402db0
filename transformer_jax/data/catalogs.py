"""English sentences and their translations from the gettext catalogs of Python packages.

Programs carry their translations as files LANGUAGE/LC_MESSAGES/*.mo. Those of the packages that are
installed anyway make a small parallel corpus that needs no download of its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from transformer_jax.errors import UserError
from transformer_jax.parsing import read_regular

Pair = tuple[str, str]

MAX_WORDS = 60
_MARKUP = re.compile(r"</?[A-Za-z!][^>]*>|&(?:\w+|#\d+);")
_PLACEHOLDER = re.compile(r"%\(\w+\)[a-z]|%[-#0 +]*\d*(?:\.\d+)?[a-z]|\{[^{}]*\}")
_LETTER = re.compile(r"[^\W\d_]")
_BYTE_ORDER = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}


@dataclasses.dataclass(eq=False)
class CatalogsConfig(tfds.core.BuilderConfig):
    """Which catalogs: made by `find`, whose name changes when the catalogs change.

    Attributes:
      language: language of the translations, as fr or pt_BR.
      folders: where they were looked for.
      files: the catalogs, in the order of preference.
    """

    language: str = ""
    folders: tuple[Path, ...] = ()
    files: tuple[Path, ...] = ()

    @classmethod
    def find(cls, language: str, folder: str = "") -> CatalogsConfig:
        """The catalogs of a language in a folder, or in the installed packages if it is "".

        Raises:
          UserError: no such folder, or no catalog in it.
        """
        roots = [Path(folder).expanduser()] if folder else installed_folders()
        if folder and not roots[0].is_dir():
            raise UserError(f"The folder of catalogs {roots[0]} does not exist.")
        found = [(p.relative_to(root), p) for root in roots for p in find_catalogs(root, language)]
        found.sort(key=lambda item: item[0].as_posix())
        if not found:
            raise _too_few("no gettext catalogs", language, roots)
        digest = hashlib.sha256()
        for _, path in found:  # hashes, so that no byte can pass from one file to the next
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return cls(
            name=f"en-{language}-{digest.hexdigest()[:12]}",
            language=language,
            folders=tuple(roots),
            files=tuple(path for _, path in found),
        )


class GettextCatalogs(tfds.core.GeneratorBasedBuilder):
    """Records {"en": message, LANGUAGE: translation}, split by a hash of the message."""

    VERSION = tfds.core.Version("1.0.0")  # raise it when the same catalogs give other pairs
    BUILDER_CONFIGS: list[CatalogsConfig] = []

    def _info(self) -> tfds.core.DatasetInfo:
        languages = ("en", self.builder_config.language)
        return self.dataset_info_from_configs(
            description="Messages of installed programs and their translations.",
            features=tfds.features.FeaturesDict({lang: tfds.features.Text() for lang in languages}),
            supervised_keys=languages,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        config = self.builder_config
        splits: dict[str, list[Pair]] = {"train": [], "validation": [], "test": []}
        messages = (m for file in config.files for m in read_catalog(file))
        for source, target in clean_pairs(messages):
            splits[split_of(source)].append((source, target))
        if not all(splits.values()):
            count = sum(map(len, splits.values()))
            raise _too_few(f"only {count} sentence pairs", config.language, config.folders)
        return {name: self._generate_examples(pairs) for name, pairs in splits.items()}

    def _generate_examples(self, pairs: list[Pair]) -> Iterator[tuple[int, dict]]:
        for key, (source, target) in enumerate(pairs):
            yield key, {"en": source, self.builder_config.language: target}


def prepare(config: CatalogsConfig, data_dir: str) -> GettextCatalogs:
    """The builder, its pairs read and written unless data_dir has them already.

    Raises:
      UserError: a damaged catalog, or too few pairs.
    """
    tfds.disable_progress_bar()
    builder = GettextCatalogs(config=config, data_dir=data_dir)
    try:
        builder.download_and_prepare(file_format="array_record")
    except OSError:  # another process may have been first, with the same files
        builder = GettextCatalogs(config=config, data_dir=data_dir)
        if not builder.is_prepared():
            raise
    return builder


def installed_folders() -> list[Path]:
    """The folders of installed packages on Python's path."""
    paths = [Path(p).resolve() for p in sys.path if p]
    folders = [p for p in paths if p.name in ("site-packages", "dist-packages") and p.is_dir()]
    return list(dict.fromkeys(folders))


def find_catalogs(root: Path, language: str) -> list[Path]:
    """The files LANGUAGE/LC_MESSAGES/*.mo anywhere below a folder, sorted."""
    found = []
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if name != "__pycache__"]
        here = Path(folder)
        if here.name == "LC_MESSAGES" and is_language(here.parent.name, language):
            found += [here / name for name in files if name.endswith(".mo")]
    return sorted(found)


def is_language(folder: str, language: str) -> bool:
    """Whether a folder is of a language: fr has fr, fr_FR and fr-CA; fr_FR has fr_FR and fr-FR."""
    folder, language = (name.replace("-", "_").lower() for name in (folder, language))
    return folder == language or ("_" not in language and folder.startswith(f"{language}_"))


def read_catalog(path: Path) -> list[Pair]:
    """The messages of a .mo file and their translations, as they stand there.

    Raises:
      UserError: the file is damaged.
    """
    try:
        return list(parse_mo(read_regular(path)))
    except (OSError, ValueError, LookupError, struct.error) as error:
        raise UserError(
            f"{path} is not a gettext catalog that can be read: {error}. Reinstall the package "
            f"that it belongs to, or remove the file."
        ) from error


def parse_mo(data: bytes) -> Iterator[Pair]:
    """Messages of a .mo file of either byte order, without their contexts.

    Of a message with plural forms come two pairs: the singular with the first translation and the
    plural with the last. See the GNU gettext manual, "The Format of GNU MO Files".
    """
    if data[:4] not in _BYTE_ORDER:
        raise ValueError("it does not start as a .mo file")
    order = _BYTE_ORDER[data[:4]]
    count, *tables = struct.unpack_from(f"{order}3I", data, 8)
    charset, left = "utf-8", len(data)  # texts lie apart from one another
    for i in range(count):
        sides = []
        for table in tables:
            length, start = struct.unpack_from(f"{order}2I", data, table + 8 * i)
            if start + length > len(data):
                raise ValueError(f"message {i} lies beyond its end")
            left -= length
            if left < 0:
                raise ValueError(f"message {i} overlaps others")
            sides.append(data[start : start + length])
        if not sides[0]:  # the header, which is first because messages are sorted
            declared = re.search(rb"charset=([\w.:-]+)", sides[1])
            charset = declared[1].decode("ascii") if declared else charset
            continue
        source, target = (side.decode(charset).split("\0") for side in sides)
        source[0] = source[0].rpartition("\x04")[2]
        yield source[0], target[0]
        if len(source) > 1:
            yield source[1], target[-1]


def clean_pairs(messages: Iterable[Pair]) -> list[Pair]:
    """The pairs worth learning from, one for each source: the first one."""
    pairs: dict[str, str] = {}
    for message in messages:
        if is_sentence_pair(*message):
            source, target = map(normalise_space, message)
            pairs.setdefault(source, target)
    return list(pairs.items())


def is_sentence_pair(source: str, target: str) -> bool:
    """Whether both are plain text of one line and of a sensible length, and really differ."""
    sides = (source.strip(), target.strip())
    return (
        all(sides)
        and not any("\n" in side or has_markup(side) for side in sides)
        and normalise_space(source).casefold() != normalise_space(target).casefold()
        and count_words(source) >= 2
        and max(len(side.split()) for side in sides) <= MAX_WORDS
    )


def has_markup(text: str) -> bool:
    """Whether there are HTML tags or entities in a text."""
    return _MARKUP.search(text) is not None


def count_words(text: str) -> int:
    """The number of words with a letter; placeholders (%s, %(name)s, {name}) are none."""
    return sum(1 for word in _PLACEHOLDER.sub(" ", text).split() if _LETTER.search(word))


def normalise_space(text: str) -> str:
    """One plain space between words, none around them; no-break spaces are spaces too."""
    return " ".join(text.split())


def split_of(source: str) -> str:
    """The split of a source: 90 % train, 5 % each of the others; case and spacing do not matter."""
    digest = hashlib.sha256(normalise_space(source).casefold().encode()).digest()
    share = int.from_bytes(digest[:4], "big") % 20
    return {0: "test", 1: "validation"}.get(share, "train")


def _too_few(found: str, language: str, folders: Iterable[Path]) -> UserError:
    return UserError(
        f"There are {found} of language {language!r} under {', '.join(map(str, folders))}. "
        f"`pip install 'transformer-jax[demo]'` brings French ones."
    )
