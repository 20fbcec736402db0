"""TensorFlow datasets that are prepared as array_record: found, opened, and quiet."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformer_jax.errors import UserError

_NAME = re.compile(r"\w+(/[\w.+-]+)?(:[\d.*]+)?", re.ASCII)
TFDS_SPLITS = {"train": "train", "valid": "validation", "test": "test"}  # by our names


def open_builder(name: str, kind: str, data_dir: str | None) -> Any:
    """The builder of a dataset that is prepared as array_record.

    Args:
      name: NAME, NAME/CONFIG or NAME/CONFIG:VERSION.
      kind: the package of TFDS that registers it, such as "text" or "translate".
      data_dir: where TFDS keeps prepared data; None: its own default.

    Raises:
      UserError: there is no such dataset, or it is not prepared: with the command that does it.
    """
    if not _NAME.fullmatch(name):  # TFDS would load code of others for NAMESPACE:NAME
        raise UserError(
            f"TFDS knows no dataset tfds:{name}: a name is NAME, NAME/CONFIG or "
            f"NAME/CONFIG:VERSION."
        )
    with quiet():
        import tensorflow_datasets as tfds

        module = _register(name, kind)
        try:
            builder = tfds.builder(name, data_dir=data_dir)
        except (ValueError, RuntimeError, AssertionError) as error:  # unknown name, config, version
            # What follows is a list of all that there is.
            reason = str(error).strip().partition("\n")[0].partition(" Here are ")[0]
            raise UserError(
                f"TFDS knows no dataset tfds:{name} ({reason}) A dataset of your own "
                f"must be prepared in {data_dir or 'the data_dir of TFDS'} as array_record."
            ) from error
        formats = {f.value for f in builder.info.available_file_formats()}
        ready = builder.is_prepared()
    if not ready or "array_record" not in formats:
        data = f", data_dir={data_dir!r}" if data_dir else ""
        have = f"only as {', '.join(sorted(formats))}" if ready else "not at all"
        raise UserError(
            f"tfds:{name} must be prepared as array_record, and is {have} in {builder.data_dir}. "
            f'Prepare it once:\n  python -c "import tensorflow_datasets as tfds{module}; '
            f"tfds.builder('{name}'{data}, file_format='array_record').download_and_prepare()\""
        )
    return builder


def _register(name: str, kind: str) -> str:
    """Registers a dataset of TFDS; returns what a statement must import for it.

    Without TensorFlow TFDS stops at the first dataset that needs it, and registers none after it.
    """
    stem = name.partition("/")[0].partition(":")[0].removesuffix("_translate")
    module = f"tensorflow_datasets.{kind}.{stem}"
    try:
        importlib.import_module(module)
    except ImportError:  # of another kind, or one that is prepared elsewhere
        return ""
    return f", {module}"


def cache_dir() -> str:
    """Where the datasets are kept that are made of what is on this machine."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return str(Path(base) / "transformer_jax")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps what TFDS says about its work off the console; errors still rise.

    Standard error stays: a log handler that is made meanwhile would hold on to a substitute.
    """
    import absl.logging

    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl.logging.set_verbosity(verbosity)
