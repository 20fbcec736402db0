"""Writing files so that no reader ever sees half of one."""

from __future__ import annotations

import os
from pathlib import Path

from transformer_jax.errors import UserError


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file at once: a reader, or a run that is killed, sees the old one or the new one.

    Raises:
      UserError: it cannot be written.
    """
    path = Path(path)
    try:
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_bytes(data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        raise UserError(
            f"{path} cannot be written: {error}. Name a file in an existing folder."
        ) from error
