"""Questions whose answers stand in a text: SQuAD (arXiv:1606.05250) and 2.0 (arXiv:1806.03822)."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np

from transformer_jax.data.encoder_tokenizer import EncoderTokenizer
from transformer_jax.errors import UserError
from transformer_jax.parsing import parse_json, read_regular

SPECIAL_TOKENS = 3  # of an example: [CLS] question [SEP] context [SEP]

# What BERT divides a text at: white space that is no control character, and Chinese characters.
_WORD = re.compile("[^\t\n\r \xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")
_CHINESE = re.compile(
    "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002b73f"
    "\U0002b740-\U0002b81f\U0002b920-\U0002ceaf\U0002f800-\U0002fa1f]"
)


@dataclasses.dataclass(frozen=True)
class Question:
    """A question about a text.

    Attributes:
      id: of no other question.
      question: what is asked.
      context: the text.
      answers: of several people, each with the character where it begins in the context.
      impossible: whether the context does not tell the answer; then there are none.
    """

    id: str
    question: str
    context: str
    answers: tuple[tuple[str, int], ...]
    impossible: bool


def read_squad(file: Path) -> list[Question]:
    """The questions of a JSON file of SQuAD 1.1 or 2.0, in its order.

    Raises:
      UserError: the file is missing or no such JSON; in which paragraph or question what is
        missing; an answer does not stand where it says; two questions have the same id.
    """
    questions: list[Question] = []
    places: dict[str, str] = {}
    root = _load(file)
    for a, article in enumerate(_field(root, "data", list, str(file)), 1):
        inside = f"{file}, article {a}"
        for p, paragraph in enumerate(_field(article, "paragraphs", list, inside), 1):
            where = f"{inside}, paragraph {p}"
            context = _field(paragraph, "context", str, where)
            for q, record in enumerate(_field(paragraph, "qas", list, where), 1):
                question = _question(record, context, f"{where}, question {q}")
                if question.id in places:
                    raise UserError(
                        f"{where}, question {q}: the id {question.id!r} is also that of "
                        f"{places[question.id]}. Give each question an id of its own."
                    )
                places[question.id] = f"article {a}, paragraph {p}, question {q}"
                questions.append(question)
    if not questions:
        raise UserError(f"{file} has no questions. Take a file of SQuAD, such as dev-v2.0.json.")
    return questions


@dataclasses.dataclass(frozen=True, eq=False)
class Window:
    """A question and n tokens of its context, which are an example of a model.

    Attributes:
      question_ids: int32 [Q].
      context_ids: int32 [n].
      spans: int64 [n,2], the characters begin..end-1 of the context that each token is of; the
        pieces of a part of a word all have the whole part.
      has_max_context: bool [n], whether no other window shows more around the token.
      answer: the first and the last token of the question's first answer, counted in context_ids;
        None if there is no answer, or not all of it is in this window.
    """

    question_ids: np.ndarray
    context_ids: np.ndarray
    spans: np.ndarray
    has_max_context: np.ndarray
    answer: tuple[int, int] | None


def windows(
    tokenizer: EncoderTokenizer,
    question: Question,
    *,
    max_tokens: int,
    stride: int,
    max_question_tokens: int = 64,
) -> list[Window]:
    """Cuts a long context into windows that overlap, as Google's run_squad.py does for BERT.

    The context is encoded in parts, so that the characters of each token are known: words, each
    punctuation mark, each Chinese character. WordPiece divides a text there anyway: its tokens are
    those of the whole text, but for punctuation newer than Unicode 8. A part is encoded with one
    space before it if it follows white space. So the tokens of byte-level BPE are those of the
    whole text where GPT-2 divides it too; it keeps "..." and "'s" together, and these become
    several tokens here. SentencePiece takes each part for a word.

    Args:
      tokenizer: of the model.
      question: with its context.
      max_tokens: of an example, with its special tokens.
      stride: from the beginning of a window to that of the next one, in tokens.
      max_question_tokens: a longer question is cut.

    Returns:
      One window or more; a context without tokens gives one that is empty.

    Raises:
      ValueError: there is no room for a context, or the stride is not positive.
    """
    if max_tokens <= max_question_tokens + SPECIAL_TOKENS or stride < 1:
        raise ValueError(
            f"max_tokens={max_tokens} leaves no room for a context beside {max_question_tokens} "
            f"tokens of a question and {SPECIAL_TOKENS} special ones, or stride={stride} is not "
            f"positive"
        )
    parts = _parts(question.context)
    ends = [0, *(end for _, end in parts)]
    texts = [
        f" {question.context[begin:end]}" if begin > before else question.context[begin:end]
        for before, (begin, end) in zip(ends, parts, strict=False)
    ]
    asked, *pieces = tokenizer.encode([question.question.strip(), *texts])
    question_ids = asked.ids[:max_question_tokens]
    ids = np.concatenate([np.zeros(0, np.int32), *(piece.ids for piece in pieces)])
    counts = [len(piece.ids) for piece in pieces]
    spans = np.repeat(np.array(parts, np.int64).reshape(-1, 2), counts, axis=0)
    places = _places(len(ids), max_tokens - len(question_ids) - SPECIAL_TOKENS, stride)
    best = _best_windows(places, len(ids))
    answer = _answer_tokens(question, spans)
    return [
        Window(
            question_ids=question_ids,
            context_ids=ids[start:end],
            spans=spans[start:end],
            has_max_context=best[start:end] == i,
            answer=(answer[0] - start, answer[1] - start)
            if answer and start <= answer[0] and answer[1] < end
            else None,
        )
        for i, (start, end) in enumerate(places)
    ]


def _parts(text: str) -> list[tuple[int, int]]:
    """Where the parts of a text that can be encoded for themselves begin and end."""
    parts = []
    for word in _WORD.finditer(text):
        begin, end = word.span()
        if word[0].isascii() and word[0].isalnum():  # as most words are
            parts.append((begin, end))
            continue
        for place in range(begin, end):
            if _stands_alone(text[place]):
                parts += [(begin, place), (place, place + 1)]
                begin = place + 1
        parts.append((begin, end))
    return [(begin, end) for begin, end in parts if begin < end]


@functools.cache
def _stands_alone(character: str) -> bool:
    """Whether BERT takes a character for a word; $, + and ^ are punctuation to it, € is not."""
    if character.isascii():
        return character.isprintable() and not character.isalnum()
    kind = unicodedata.category(character)
    return kind.startswith("P") or bool(_CHINESE.match(character))


def _places(count: int, room: int, stride: int) -> list[tuple[int, int]]:
    """The first token of each window, and the one behind its last."""
    starts = [0]
    while starts[-1] + room < count:
        starts.append(starts[-1] + min(room, stride))  # a wide stride leaves nothing out
    return [(start, min(start + room, count)) for start in starts]


def _best_windows(places: list[tuple[int, int]], count: int) -> np.ndarray:
    """The window that shows most around each token: int64 [count].

    What counts is the shorter of both sides, plus a hundredth of the window's length; among equals
    the first is taken.
    """
    token = np.arange(count)
    starts, ends = np.array(places)[:, :, None].swapaxes(0, 1)
    around = np.minimum(token - starts, ends - 1 - token)
    score = np.where(around >= 0, around + 0.01 * (ends - starts), -np.inf)
    return score.argmax(axis=0)


def _answer_tokens(question: Question, spans: np.ndarray) -> tuple[int, int] | None:
    """The first and the last token that has a character of the first answer."""
    if not question.answers:
        return None
    text, begin = question.answers[0]
    first = int(np.searchsorted(spans[:, 1], begin, side="right"))
    last = int(np.searchsorted(spans[:, 0], begin + len(text), side="left")) - 1
    return (first, last) if first <= last else None


def _question(record: Any, context: str, where: str) -> Question:
    name = _field(record, "id", str, where)
    where = f"{where} ({name})"
    impossible = "is_impossible" in record and _field(record, "is_impossible", bool, where)
    answers = []
    for answer in _field(record, "answers", list, where):
        text = _field(answer, "text", str, where)
        start = _field(answer, "answer_start", int, where)
        if not text or start < 0 or not context.startswith(text, start):
            there = context[max(start, 0) : max(start, 0) + len(text)]
            raise UserError(
                f"{where}: the answer {text!r} does not stand at character {start} of the context, "
                f"which has {len(context)} and there {there!r}. Correct answer_start."
            )
        answers.append((text, start))
    if impossible == bool(answers):
        raise UserError(
            f"{where} has {len(answers)} answers, and is_impossible is {impossible}. A question "
            f"has answers, or it is impossible."
        )
    question = _field(record, "question", str, where)
    return Question(name, question, context, tuple(answers), impossible)


def _load(file: Path) -> Any:
    try:
        return parse_json(read_regular(file))
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}. Name a JSON file of SQuAD.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 ({error}). Save the file as UTF-8.") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{file}:{error.lineno} is no JSON ({error.msg}). Take the file as SQuAD gives it."
        ) from error
    except ValueError as error:
        raise UserError(f"{file} is no file of SQuAD: {error}.") from error


def _field(record: Any, key: str, kind: type, where: str) -> Any:
    """What a JSON object says of a key."""
    found = record.get(key) if isinstance(record, dict) else None
    if type(found) is not kind:  # True is no number
        raise UserError(
            f"{where} has no {key!r} that is a {kind.__name__}. Take the file as SQuAD gives it."
        )
    return found
