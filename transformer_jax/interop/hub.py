"""Models of the Hugging Face hub by name: `hf:google-bert/bert-base-uncased`."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from transformer_jax.errors import UserError

SCHEME = "hf:"
# Configs, tokenizers and weights; the older .bin only where there are no safetensors.
_FILES = ("*.json", "*.txt", "*.model", "*.spm", "model.safetensors")
_OLDER = (*_FILES, "pytorch_model.bin")


def local_folder(folder: str | os.PathLike[str]) -> Path:
    """The folder itself; of `hf:NAME` or `hf:NAME@REVISION`, where its files are on this machine.

    They are downloaded when they are first asked for, and kept by huggingface_hub.

    Raises:
      UserError: huggingface_hub (the extra `hub`) is missing, or cannot get the model.
    """
    name = os.fspath(folder)
    return _download(name) if name.startswith(SCHEME) else Path(name)


@functools.cache  # a process asks for a model once, and has one revision of it
def _download(name: str) -> Path:
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError as error:
        raise UserError(f"{name} needs an extra: pip install 'transformer-jax[hub]'.") from error
    repository, _, revision = name.removeprefix(SCHEME).partition("@")
    try:
        for patterns in (_FILES, _OLDER):
            found = Path(
                huggingface_hub.snapshot_download(
                    repository, revision=revision or None, allow_patterns=list(patterns)
                )
            )
            if (found / "model.safetensors").exists():
                break
    # OSError: there is no network, and nothing was kept from before
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{name} cannot be had from the hub: {reason}") from error
    return found
