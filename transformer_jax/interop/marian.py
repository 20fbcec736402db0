"""Folders of a MarianMTModel: the model with its parameters, tokenizer and search, in and out."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from transformer_jax.data.marian_tokenizer import MarianTokenizer, save_as_marian
from transformer_jax.data.tokenizers import SentencePieceTokenizer, Tokenizer
from transformer_jax.decoding.search_config import SearchConfig
from transformer_jax.errors import UserError
from transformer_jax.interop.folders import (
    make_folder,
    read_json,
    read_weights,
    write_json,
    write_weights,
)
from transformer_jax.interop.generation import generation_of, is_token, search_from
from transformer_jax.interop.marian_config import MAX_LENGTH, config_from, settings_of
from transformer_jax.interop.marian_weights import params_from, tensors_of
from transformer_jax.interop.tensors import check_sizes
from transformer_jax.models.transformer import Transformer, TransformerConfig
from transformer_jax.typing import Params


@dataclasses.dataclass(frozen=True)
class PretrainedTransformer:
    """An encoder-decoder with all that it takes to use it.

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


def load_marian(folder: Path, settings: Mapping[str, Any]) -> PretrainedTransformer:
    """Reads the folder of a MarianMTModel (opus-mt) whose config.json has these settings.

    Raises:
      UserError: a file is missing or damaged, or tensors are missing, unknown or misshapen; all of
        them are named.
    """
    where = str(folder / "config.json")
    config = config_from(settings, where)
    model = Transformer(config)
    path, tensors = read_weights(folder)
    layers = max(config.encoder_layers, config.decoder_layers)
    check_sizes(layers, config.width, tensors, where)
    params = params_from(tensors, _shapes(model), config, str(path))
    generation = folder / "generation_config.json"
    # Where it is, `transformers` takes what is in config.json of a search for nothing.
    said = read_json(generation) if generation.exists() else settings
    said = {key: value for key, value in said.items() if value is not None}
    start = said.get("decoder_start_token_id", settings.get("decoder_start_token_id"))
    tokenizer = MarianTokenizer(folder, bos_id=start)
    _check_tokens(tokenizer, config, (settings, said), folder)
    search = search_from(said, config.vocab_size, str(generation) if generation.exists() else where)
    return PretrainedTransformer(
        config, model, jax.tree.map(jnp.asarray, params), tokenizer, search
    )


def save_marian(folder: Path, pretrained: PretrainedTransformer) -> None:
    """Writes a folder that `transformers` loads as a MarianMTModel and a MarianTokenizer.

    Of the search, GNMT's scoring rule, sampling and a coverage penalty are left out; the latter two
    with a warning.

    Raises:
      UserError: the model is not what Marian is (what differs is named), or the folder cannot be
        written.
    """
    config, tokenizer = pretrained.config, pretrained.tokenizer
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
        warnings.warn(f"{folder}: written without {' and '.join(lost)}.", stacklevel=3)
    max_length = (search.max_length or MAX_LENGTH - 1) + 1
    positions = {"max_position_embeddings": max(MAX_LENGTH, max_length)}
    forced = {"forced_eos_token_id": tokenizer.eos_id if search.force_end else None}
    generation = tokens | forced | generation_of(search, max_length)
    tensors = tensors_of(pretrained.params, config)
    make_folder(folder)
    if isinstance(tokenizer, MarianTokenizer):
        tokenizer.save(folder)
    else:
        save_as_marian(tokenizer, folder)
    write_json(folder / "generation_config.json", generation)
    write_weights(folder, tensors)
    write_json(folder / "config.json", settings | tokens | forced | positions)


def _shapes(model: Transformer) -> Params:
    tokens = jnp.zeros((1, 1), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), tokens, tokens)["params"]


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
