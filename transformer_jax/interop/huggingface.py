"""Hugging Face folders: a model with its parameters, tokenizer and search, in and out."""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from transformer_jax.data.marian_tokenizer import MarianTokenizer, save_as_marian
from transformer_jax.data.tokenizers import SentencePieceTokenizer, Tokenizer
from transformer_jax.decoding.search_config import SearchConfig
from transformer_jax.errors import UserError
from transformer_jax.files import write_whole
from transformer_jax.interop.generation import generation_of, is_token, search_from
from transformer_jax.interop.marian_config import MAX_LENGTH, MODEL_TYPE, config_from, settings_of
from transformer_jax.interop.marian_weights import params_from, tensors_of
from transformer_jax.interop.torch_files import read_torch_file
from transformer_jax.models.transformer import Transformer, TransformerConfig
from transformer_jax.typing import Params

WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model with all that it takes to use it.

    Attributes:
      config: the sizes.
      model: `Transformer(config)`.
      params: its parameters, float32.
      tokenizer: text to ids and back.
      search: how its folder says that it translates.
    """

    config: TransformerConfig
    model: Transformer
    params: Params
    tokenizer: Tokenizer
    search: SearchConfig = SearchConfig()


def is_pretrained(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is one of Hugging Face's: its config.json names a model_type."""
    path = Path(folder) / "config.json"
    return path.exists() and "model_type" in _read_json(path)


def load_pretrained(folder: str | os.PathLike[str]) -> Pretrained:
    """Reads a Hugging Face folder of a MarianMTModel (opus-mt); no code in it is run.

    The weights are in model.safetensors or in pytorch_model.bin of either format; they become
    float32.

    Raises:
      UserError: a file is missing or damaged, the model is not Marian's, or tensors are missing,
        unknown or misshapen; all of them are named.
    """
    folder = Path(folder)
    settings = _read_json(folder / "config.json")
    where = str(folder / "config.json")
    if settings.get("model_type") != MODEL_TYPE:
        raise UserError(
            f"{where}: model_type is {settings.get('model_type')!r}; {MODEL_TYPE!r} can be read."
        )
    config = config_from(settings, where)
    model = Transformer(config)
    path, tensors = _read_weights(folder)
    params = params_from(tensors, _shapes(model), config, str(path))
    generation = folder / "generation_config.json"
    # Where it is, `transformers` takes what is in config.json of a search for nothing.
    said = _read_json(generation) if generation.exists() else settings
    said = {key: value for key, value in said.items() if value is not None}
    start = said.get("decoder_start_token_id", settings.get("decoder_start_token_id"))
    tokenizer = MarianTokenizer(folder, bos_id=start)
    _check_tokens(tokenizer, config, (settings, said), folder)
    search = search_from(said, config.vocab_size, str(generation) if generation.exists() else where)
    return Pretrained(config, model, jax.tree.map(jnp.asarray, params), tokenizer, search)


def save_pretrained(folder: str | os.PathLike[str], pretrained: Pretrained) -> None:
    """Writes a folder that `transformers` loads as a MarianMTModel and a MarianTokenizer.

    Of the search, GNMT's scoring rule, sampling and a coverage penalty are left out; the latter two
    with a warning.

    Raises:
      UserError: the model is not what Marian is (what differs is named), or the folder cannot be
        written.
    """
    folder, config, tokenizer = Path(folder), pretrained.config, pretrained.tokenizer
    settings = settings_of(config)
    if not isinstance(tokenizer, MarianTokenizer | SentencePieceTokenizer):
        raise UserError(f"A {type(tokenizer).__name__} cannot be written to a Marian folder.")
    tokens = {
        "pad_token_id": tokenizer.pad_id,
        "eos_token_id": tokenizer.eos_id,
        "bos_token_id": None,
        "decoder_start_token_id": tokenizer.bos_id,
    }
    search = pretrained.search
    if lost := [key for key in ("sampling", "coverage_penalty") if getattr(search, key)]:
        warnings.warn(f"{folder}: written without {' and '.join(lost)}.", stacklevel=2)
    max_length = (search.max_length or MAX_LENGTH - 1) + 1
    positions = {"max_position_embeddings": max(MAX_LENGTH, max_length)}
    forced = {"forced_eos_token_id": tokenizer.eos_id if search.force_end else None}
    generation = tokens | forced | generation_of(search, max_length)
    tensors = tensors_of(pretrained.params, config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {error.strerror}.") from error
    if isinstance(tokenizer, MarianTokenizer):
        tokenizer.save(folder)
    else:
        save_as_marian(tokenizer, folder)
    write_whole(folder / "generation_config.json", _json(generation))
    write_whole(folder / WEIGHTS[0], safetensors.numpy.save(tensors, {"format": "pt"}))
    write_whole(folder / "config.json", _json(settings | tokens | forced | positions))


def _shapes(model: Transformer) -> Params:
    tokens = jnp.zeros((1, 1), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), tokens, tokens)["params"]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}. A Hugging Face folder has a config.json."
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}.") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no JSON object.")
    return data


def _read_weights(folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
    paths = [folder / name for name in WEIGHTS]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        raise UserError(f"{folder} has no weights: neither {' nor '.join(WEIGHTS)}.")
    if path.suffix == ".bin":
        return path, read_torch_file(path)
    try:
        return path, safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        # AttributeError: a dtype that numpy does not have
        raise UserError(f"{path} is damaged, or of an unknown dtype: {error}.") from error


def _check_tokens(
    tokenizer: MarianTokenizer,
    config: TransformerConfig,
    files: tuple[Mapping[str, Any], ...],
    folder: Path,
) -> None:
    """The tokenizer and the settings in config.json and generation_config.json are of one model."""
    for name, count, size in (
        ("source", tokenizer.source_vocab_size, config.source_vocab_size or config.vocab_size),
        ("target", tokenizer.vocab_size, config.vocab_size),
    ):
        if count > size:
            raise UserError(
                f"{folder}: the {name} vocabulary has ids up to {count - 1}, the model only {size} "
                f"embeddings. The tokenizer is of another model."
            )
    ids = dict(pad=tokenizer.pad_id, eos=tokenizer.eos_id, forced_eos=tokenizer.eos_id)
    for key, here in ids.items():
        for there in (settings.get(f"{key}_token_id") for settings in files):
            if there not in (None, here):
                raise UserError(
                    f"{folder}: {key}_token_id is {there} in its settings, {here} in the "
                    f"vocabulary."
                )
    if not is_token(tokenizer.bos_id, config.vocab_size):
        raise UserError(f"{folder}: decoder_start_token_id {tokenizer.bos_id} is no token.")


def _json(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, indent=2, sort_keys=True) + "\n").encode()
