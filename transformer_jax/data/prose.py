"""English prose from the documentation of Python and of the packages that are installed.

Docstrings, comments and manuals lie on every machine that can train. They make a small corpus for
pretraining that needs no download of its own; the code they come from is parsed and never run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from transformer_jax.data.catalogs import installed_folders
from transformer_jax.data.prose_text import prose, python_texts
from transformer_jax.errors import UserError

_SUFFIXES = (".py", ".rst", ".md", ".txt")
_SKIPPED_FOLDERS = {"__pycache__", "site-packages", "dist-packages", "licenses"}
_SKIPPED_FILES = ("license", "licence", "copying", "notice", "authors")


@dataclasses.dataclass(eq=False)
class ProseConfig(tfds.core.BuilderConfig):
    """Which files: made by `find`, whose name changes when the files change.

    Attributes:
      folders: where they were looked for.
      files: their paths below these folders with / between the names, and where they are; sorted.
    """

    folders: tuple[Path, ...] = ()
    files: tuple[tuple[str, Path], ...] = ()

    @classmethod
    def find(cls, folder: str = "") -> ProseConfig:
        """The files of a folder, or of Python and the installed packages if it is "".

        Raises:
          UserError: no such folder, no file in it, or one that cannot be read.
        """
        roots = [Path(folder).expanduser()] if folder else python_folders()
        if folder and not roots[0].is_dir():
            raise UserError(f"The folder of prose {roots[0]} does not exist.")
        files = sorted((p.relative_to(root).as_posix(), p) for root in roots for p in find(root))
        if not files:
            raise _too_little("no modules or pages of documentation", roots)
        digest = hashlib.sha256()
        for name, path in files:  # hashes, so that no byte can pass from one file to the next
            for part in (name.encode("utf-8", "surrogateescape"), _read(path)):
                digest.update(hashlib.sha256(part).digest())
        name = f"en-{digest.hexdigest()[:12]}"
        return cls(name=name, folders=tuple(roots), files=tuple(files))


class InstalledProse(tfds.core.GeneratorBasedBuilder):
    """Records {"text": the paragraphs of a module, one a line}, split by top-level module."""

    VERSION = tfds.core.Version("1.0.0")  # raise it when the same files give other paragraphs
    BUILDER_CONFIGS: list[ProseConfig] = []

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description="English prose from the documentation of installed Python modules.",
            features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        config = self.builder_config
        splits: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
        for name, paragraphs in harvest(config.files):
            splits[split_of(name)].append("\n".join(paragraphs))
        if not all(splits.values()):
            count = sum(map(len, splits.values()))
            raise _too_little(f"only {count} modules with prose", config.folders)
        return {name: self._generate_examples(texts) for name, texts in splits.items()}

    def _generate_examples(self, texts: list[str]) -> Iterator[tuple[int, dict]]:
        for key, text in enumerate(texts):
            yield key, {"text": text}


def prepare(config: ProseConfig, data_dir: str) -> InstalledProse:
    """The builder, its prose read and written unless data_dir has it already.

    Raises:
      UserError: a file that cannot be read, or too little prose.
    """
    tfds.disable_progress_bar()
    builder = InstalledProse(config=config, data_dir=data_dir)
    try:
        builder.download_and_prepare(file_format="array_record")
    except OSError:  # another process may have been first, with the same files
        builder = InstalledProse(config=config, data_dir=data_dir)
        if not builder.is_prepared():
            raise
    return builder


def python_folders() -> list[Path]:
    """The folders of the standard library and of the installed packages."""
    library = Path(sysconfig.get_path("stdlib")).resolve()
    return list(dict.fromkeys([library, *installed_folders()]))


def find(root: Path) -> list[Path]:
    """The modules and pages of documentation anywhere below a folder, no licenses, sorted."""
    found = []
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if name not in _SKIPPED_FOLDERS]
        found += [
            Path(folder, name)
            for name in files
            if name.endswith(_SUFFIXES) and not name.lower().startswith(_SKIPPED_FILES)
        ]
    return sorted(found)


def harvest(files: Iterable[tuple[str, Path]]) -> Iterator[tuple[str, list[str]]]:
    """The name and the paragraphs of each file that has prose; none comes twice, even elsewhere.

    Paragraphs that differ in nothing but case, spaces and punctuation count as the same.

    Raises:
      UserError: a file cannot be read.
    """
    seen: set[bytes] = set()
    for name, path in files:
        paragraphs = []
        for paragraph in (p for text in _texts(path) for p in prose(text)):
            letters = "".join(filter(str.isalnum, paragraph.casefold()))
            digest = hashlib.sha256(letters.encode()).digest()[:16]
            if digest not in seen:
                seen.add(digest)
                paragraphs.append(paragraph)
        if paragraphs:
            yield name, paragraphs


def split_of(name: str) -> str:
    """The split of a file: 85 % train, 10 % test, 5 % validation; a package is all in one."""
    package = name.partition("/")[0].partition(".")[0].partition("-")[0]
    share = int.from_bytes(hashlib.sha256(package.encode("utf-8", "replace")).digest()[:4], "big")
    return {0: "test", 1: "test", 8: "validation"}.get(share % 20, "train")


def _texts(path: Path) -> Iterator[str]:
    source = _read(path)
    if path.suffix == ".py":
        yield from python_texts(source)
        return
    with contextlib.suppress(UnicodeDecodeError):  # of another language, or no text at all
        yield source.decode("utf-8-sig").replace("\r\n", "\n")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}. Reinstall the package that it belongs to, "
            f"or remove the file."
        ) from error


def _too_little(found: str, folders: Iterable[Path]) -> UserError:
    return UserError(
        f"There are {found} under {', '.join(map(str, folders))}. Name a folder with more of it, "
        f"or other data."
    )
