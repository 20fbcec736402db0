"""The tokenizer in the folder of a BERT, RoBERTa, DistilBERT or ALBERT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformer_jax.data.byte_bpe import ByteBpeTokenizer
from transformer_jax.data.encoder_tokenizer import EncoderTokenizer
from transformer_jax.data.sentencepiece_encoder import SentencePieceEncoder
from transformer_jax.data.subword_tokenizers import load_tokenizer
from transformer_jax.data.tokenizer_json import setting
from transformer_jax.data.unigram import UnigramTokenizer
from transformer_jax.data.wordpiece import WordPieceTokenizer
from transformer_jax.errors import UserError
from transformer_jax.interop.folders import read_json, write_json

_CLASSES = {
    "bert": "BertTokenizer",
    "roberta": "RobertaTokenizer",
    "distilbert": "DistilBertTokenizer",
    "albert": "AlbertTokenizer",
}
_GENERIC = "PreTrainedTokenizerFast"  # it does what a tokenizer.json says, and knows no more
# What is done to a text where a tokenizer_config.json does not say it; None is up to the others.
_DEFAULTS: dict[str, bool | None] = {
    "do_lower_case": True,
    "strip_accents": None,
    "tokenize_chinese_chars": True,
    "keep_accents": False,
    "add_prefix_space": None,
}
_MAX_WORD = 100  # characters; BertTokenizer takes a longer word for unknown


def load_bert_tokenizer(folder: Path) -> EncoderTokenizer | None:
    """The tokenizer of a folder, from the first of its files that is there; None if there is none.

    Raises:
      UserError: it is damaged, or of a kind that cannot be read.
    """
    if (path := folder / "tokenizer.json").is_file():
        return load_tokenizer(path)
    settings = folder / "tokenizer_config.json"
    said = _said(settings)
    if (path := folder / "vocab.txt").is_file():
        return WordPieceTokenizer.from_vocab(
            path,
            lowercase=said["do_lower_case"],
            strip_accents=said["strip_accents"],
            chinese_words=said["tokenize_chinese_chars"],
        )
    if (path := folder / "vocab.json").is_file():
        spaced = said["add_prefix_space"] or False
        return ByteBpeTokenizer.from_vocab(path, folder / "merges.txt", add_prefix_space=spaced)
    if (path := folder / "spiece.model").is_file():
        if said["add_prefix_space"] is False:
            raise UserError(f"{settings}: ALBERT cannot have add_prefix_space=False.")
        return UnigramTokenizer.from_sentencepiece(
            path, lowercase=said["do_lower_case"], keep_accents=said["keep_accents"]
        )
    return None


def _said(path: Path) -> dict[str, Any]:
    """What a tokenizer_config.json says is done to a text, or what is done where it says nothing.

    Raises:
      UserError: it is damaged, or says what cannot be.
    """
    file = read_json(path) if path.is_file() else {}
    said = {key: file.get(key, default) for key, default in _DEFAULTS.items()}
    for key, value in said.items():
        if type(value) is not bool and value is not _DEFAULTS[key]:
            raise UserError(f"{path}: {key}={value!r:.40} cannot be.")
    return said


def save_bert_tokenizer(
    folder: Path, tokenizer: EncoderTokenizer, family: str, *, token_types: bool, max_tokens: int
) -> None:
    """Writes what `transformers` makes its tokenizer of: tokenizer.json and tokenizer_config.json.

    The family's class builds what is done to a text anew, from settings. Where that would not be
    what the file says, the class is the one that takes the file as it is.

    Args:
      folder: the model's.
      tokenizer: any kind.
      family: of the model.
      token_types: whether the model tells the texts of a pair apart by them.
      max_tokens: the most that it reads.

    Raises:
      UserError: the folder cannot be written.
    """
    path = folder / "tokenizer.json"
    tokenizer.save(path)
    if isinstance(tokenizer, SentencePieceEncoder):
        UnigramTokenizer.as_trained(path).save(path)
    file = read_json(path)
    settings = _settings(file, family, token_types)
    if settings is None:
        settings = dict[str, Any](tokenizer_class=_GENERIC, **_special_tokens(tokenizer))
        write_json(path, file | {"post_processor": _frame(tokenizer)})
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    settings["model_input_names"] = [n for n in inputs if token_types or n != inputs[1]]
    settings["model_max_length"] = max_tokens
    write_json(folder / "tokenizer_config.json", settings)


def _settings(file: Mapping[str, Any], family: str, token_types: bool) -> dict[str, Any] | None:
    """With what the family's class does as the file says; None if it cannot."""
    kind, found = setting(file, "model", "type"), None
    if family in ("bert", "distilbert") and kind == "WordPiece":
        found = _of_words(file)
    elif family == "roberta" and kind == "BPE" and not token_types:
        found = _of_bytes(file)
    elif family == "albert" and kind == "Unigram":
        found = _of_pieces(file)
    return None if found is None else {"tokenizer_class": _CLASSES[family]} | found


def _of_words(file: Mapping[str, Any]) -> dict[str, Any] | None:
    said = {key: setting(file, "normalizer", key) for key in ("lowercase", "strip_accents")}
    chinese = setting(file, "normalizer", "handle_chinese_chars")
    if not setting(file, "normalizer", "clean_text"):
        return None
    if setting(file, "model", "max_input_chars_per_word") != _MAX_WORD:
        return None
    return {
        "do_lower_case": said["lowercase"],
        "strip_accents": said["strip_accents"],
        "tokenize_chinese_chars": chinese,
    }


def _of_bytes(file: Mapping[str, Any]) -> dict[str, Any] | None:
    if setting(file, "model", "ignore_merges"):
        return None
    return {"add_prefix_space": bool(setting(file, "pre_tokenizer", "add_prefix_space"))}


def _of_pieces(file: Mapping[str, Any]) -> dict[str, Any] | None:
    words = setting(file, "pre_tokenizer", "pretokenizers") or []
    steps = setting(file, "normalizer", "normalizers") or []
    kinds = [step["type"] for step in steps]
    lowercase, bare = "Lowercase" in kinds, "StripAccents" in kinds
    expected = ["Replace"] * 2 + ["NFKD", "StripAccents"] * bare + ["Lowercase"] * lowercase
    # What may come last makes one space of many, which a word does not have.
    rest = kinds[len(expected) :]
    if (
        [step["type"] for step in words] != ["WhitespaceSplit", "Metaspace"]
        or words[1].get("prepend_scheme") != "always"
        or kinds[: len(expected)] != expected
        or [step.get("content") for step in steps[:2]] != ['"', '"']
        or rest not in ([], ["Precompiled"], ["Replace"], ["Precompiled", "Replace"])
    ):
        return None
    return {"do_lower_case": lowercase, "keep_accents": not bare}


def _special_tokens(tokenizer: EncoderTokenizer) -> dict[str, str]:
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    pieces = tokenizer.pieces(tokenizer.special_ids)
    found = dict(zip(names, pieces, strict=True))
    return found | {"bos_token": found["cls_token"], "eos_token": found["sep_token"]}


def _frame(tokenizer: EncoderTokenizer) -> dict[str, Any]:
    """CLS and SEP around a text and between two, as `text_examples` has them."""
    cls, sep = tokenizer.pieces([tokenizer.cls_id, tokenizer.sep_id])

    def special(name: str, side: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": side}}

    first = [special(cls, 0), {"Sequence": {"id": "A", "type_id": 0}}, special(sep, 0)]
    between = [special(sep, 1)] * tokenizer.separates_twice
    second = [{"Sequence": {"id": "B", "type_id": 1}}, special(sep, 1)]
    ids = {cls: tokenizer.cls_id, sep: tokenizer.sep_id}
    return {
        "type": "TemplateProcessing",
        "single": first,
        "pair": [*first, *between, *second],
        "special_tokens": {n: {"id": n, "ids": [i], "tokens": [n]} for n, i in ids.items()},
    }
