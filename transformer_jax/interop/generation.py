"""How a Hugging Face folder says that it generates, as a search, and back."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping
from typing import Any

from transformer_jax.decoding.beam import EarlyStopping
from transformer_jax.decoding.search_config import SearchConfig
from transformer_jax.errors import UserError
from transformer_jax.interop.marian_config import MAX_LENGTH

# Settings of `transformers` that change what is generated and that we do not have, with the value
# that means "off", as leaving them out does.
_OFF: Mapping[str, Any] = {
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "min_length": 0,
    "min_new_tokens": 0,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "do_sample": False,
    "renormalize_logits": False,
    "exponential_decay_length_penalty": None,
    "forced_bos_token_id": None,
    "suppress_tokens": [],
    "begin_suppress_tokens": [],
    "force_words_ids": [],
    "sequence_bias": {},
}
_STOPPING: Mapping[Any, EarlyStopping] = {False: "heuristic", True: "full", "never": "never"}


def search_from(said: Mapping[str, Any], vocab_size: int, where: str) -> SearchConfig:
    """The search that `transformers` would do; what is not to be had here is warned of."""
    odd = [key for key, off in _OFF.items() if said.get(key, off) != off]
    try:
        words = said.get("bad_words_ids", [])
        if any(len(word) > 1 for word in words):
            odd.append("bad_words_ids of more than one token")
        suppressed = tuple(word[0] for word in words if len(word) == 1)
        if no_tokens := [token for token in suppressed if not is_token(token, vocab_size)]:
            raise ValueError(f"bad_words_ids has {no_tokens[0]!r}, which is no token")
        new_tokens = said.get("max_new_tokens")
        search = SearchConfig(
            beam_size=operator.index(said.get("num_beams", 1)),
            length_rule="plain",
            length_penalty=float(said.get("length_penalty", 1.0)),
            early_stopping=_STOPPING[said.get("early_stopping", False)],
            max_length=operator.index(new_tokens or said.get("max_length", MAX_LENGTH) - 1),
            suppressed=suppressed,
            force_end="forced_eos_token_id" in said,
        )
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        text = str(error).rstrip(".")
        raise UserError(f"{where}: its generation settings cannot be: {text}.") from error
    if odd:
        warnings.warn(f"{where}: translating without {', '.join(odd)}.", stacklevel=4)
    return search


def generation_of(search: SearchConfig, max_length: int) -> dict[str, Any]:
    """generation_config.json; the scoring rule of GNMT has no name there and is left out."""
    stopping = next(k for k, v in _STOPPING.items() if v == search.early_stopping)
    plain = {"length_penalty": search.length_penalty} if search.length_rule == "plain" else {}
    return plain | {
        "num_beams": search.beam_size,
        "early_stopping": stopping,
        "max_length": max_length,
        "bad_words_ids": [[token] for token in search.suppressed] or None,
    }


def is_token(token: Any, vocab_size: int) -> bool:
    """Whether what a JSON file says is the id of a token."""
    return type(token) is int and 0 <= token < vocab_size
