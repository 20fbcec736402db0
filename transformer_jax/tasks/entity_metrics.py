"""Precision, recall and F1 of whole entities, by the rules of CoNLL's script (arXiv:cs/0306050).

The package `seqeval` computes the same in its default mode.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from transformer_jax.errors import UserError

Entity = tuple[str, int, int]  # its type, its first word, its last word


def entities(tags: Sequence[str]) -> set[Entity]:
    """The entities of a sentence whose words have tags in IOB1, IOB2 or IOBES.

    What no scheme allows is read leniently: a word goes on with the entity of the word before it if
    it is inside (I) or at the end (E) of one, the word before begins one (B) or is inside, and both
    have the same type. All other words but those outside (O) begin an entity. A tag without a type,
    such as B, has the type "_".

    Raises:
      UserError: a tag is of another scheme.
    """
    found = set()
    prefix_before, kind_before, first = "O", "", 0
    for place, tag in enumerate([*tags, "O"]):
        prefix, kind = _split(tag)
        if prefix in "IE" and prefix_before in "BI" and kind == kind_before:
            prefix_before = prefix
            continue
        if prefix_before != "O":
            found.add((kind_before, first, place - 1))
        prefix_before, kind_before, first = prefix, kind, place
    return found


def entity_scores(
    truth: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """How many entities were found, with their exact borders and type.

    Args:
      truth: the tags of each sentence.
      predictions: of the same sentences, as many tags.

    Returns:
      precision, recall, f1: of all entities, from 0 to 1; 0 where they are undefined.
      support: the number of true entities.
      types: {type: these four of the entities of this type}.

    Raises:
      ValueError: there are other sentences or words than in the truth.
      UserError: a tag is of none of the schemes.
    """
    lengths = [len(tags) for tags in truth]
    if [len(tags) for tags in predictions] != lengths:
        raise ValueError("the predictions are not for the sentences and words of the truth")
    true = [(i, *found) for i, tags in enumerate(truth) for found in entities(tags)]
    guessed = [(i, *found) for i, tags in enumerate(predictions) for found in entities(tags)]
    kinds = sorted({kind for _, kind, _, _ in (*true, *guessed)})
    types = {
        kind: _scores([e for e in true if e[1] == kind], [e for e in guessed if e[1] == kind])
        for kind in kinds
    }
    return {**_scores(true, guessed), "types": types}


def _scores(true: Collection[Any], guessed: Collection[Any]) -> dict[str, Any]:
    right = len(set(true) & set(guessed))
    return {
        "precision": right / len(guessed) if guessed else 0.0,
        "recall": right / len(true) if true else 0.0,
        "f1": 2 * right / (len(true) + len(guessed)) if true or guessed else 0.0,
        "support": len(true),
    }


def _split(tag: str) -> tuple[str, str]:
    """The prefix of a tag and its type."""
    prefix, dash, kind = tag.partition("-")
    if tag != "O" and (prefix not in ("B", "I", "E", "S") or (dash and not kind)):
        raise UserError(
            f"The tag {tag!r} marks no entity: tags are O, or one of B, I, E and S, a dash and a "
            f"type, as in B-PER. Choose the column of such tags."
        )
    return prefix, kind or "_"
