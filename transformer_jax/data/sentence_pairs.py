"""BERT's examples as references into a tokenised corpus: NSP pairs, SOP pairs, full sentences.

Each epoch is a pure function of (documents, seed, epoch), the same on every host. An example names
its segments by where they stand in the corpus, so that an epoch costs some 40 bytes an example.
"""

import array
import dataclasses
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from transformer_jax.data.pipeline import Ragged
from transformer_jax.data.stand_ins import stand_ins
from transformer_jax.errors import UserError

SHORT_SHARE = 0.1  # of the pairs aim at a random length (arXiv:1810.04805, appendix A.2)

_TOP = 1 << 64  # raw bits lie below
_STREAM = 0x5E9  # keeps these bits apart from those of packing


@dataclasses.dataclass(frozen=True, eq=False)
class Documents:
    """A tokenised corpus: document i is the paragraphs borders[i]:borders[i + 1].

    Attributes:
      paragraphs: their tokens, one after another.
      word_starts: bool [tokens], where a token begins a word.
      borders: int64 [documents + 1], from 0, never falling.
    """

    paragraphs: Ragged
    word_starts: np.ndarray
    borders: np.ndarray

    @classmethod
    def from_lists(cls, documents: Iterable[Sequence[tuple[ArrayLike, ArrayLike]]]) -> "Documents":
        """Holds documents of (tokens, word starts) paragraphs, 5 bytes a token.

        Raises:
          ValueError: a paragraph has other word starts than tokens.
        """
        tokens, starts = bytearray(), bytearray()
        offsets, borders = array.array("q", [0]), array.array("q", [0])
        for document in documents:
            for ids, begins in document:
                ids, begins = np.asarray(ids, np.int32), np.asarray(begins, bool)
                if len(ids) != len(begins):
                    raise ValueError(f"{len(ids)} tokens have {len(begins)} word starts")
                tokens += ids.tobytes()
                starts += begins.tobytes()
                offsets.append(len(starts))
            borders.append(len(offsets) - 1)
        paragraphs = Ragged(np.frombuffer(tokens, np.int32), np.array(offsets, np.int64))
        return cls(paragraphs, np.frombuffer(starts, bool), np.array(borders, np.int64))

    @property
    def token_borders(self) -> np.ndarray:
        """Document i is the tokens token_borders[i]:token_borders[i + 1]; int64 [documents + 1]."""
        return self.paragraphs.offsets[self.borders]


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Example i is [CLS], then each of its segments offsets[i]:offsets[i + 1], each with a [SEP].

    Attributes:
      starts: int64 [segments], the first token of each in the corpus.
      sizes: int32 [segments], its tokens, 1 or more.
      offsets: int64 [n + 1], from 0.
      labels: int32 [n] of pairs, and None of examples that are no pairs.
    """

    starts: np.ndarray
    sizes: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """The tokens of each example, [CLS] and each [SEP] included: int64 [n]."""
        total = np.concatenate([[0], np.cumsum(self.sizes, dtype=np.int64)])
        return np.diff(total[self.offsets]) + np.diff(self.offsets) + 1


def nsp_pairs(documents: Documents, *, max_tokens: int, seed: int, epoch: int) -> Examples:
    """Pairs for next-sentence prediction (arXiv:1810.04805, section 3.1 and appendix A.2).

    A chunk of whole paragraphs of a document is cut between two of them into A and B. Of half the
    pairs B stays: label 0. Of the others the text of B goes back, to begin the next chunk, and the
    B of a chunk of another document takes its place: label 1. So each token stands once in an A or
    a true B. A chunk of one paragraph is cut near its middle.

    What replaces a B is of its size or the nearest that there is, and begins inside a paragraph if
    it does: neither sizes nor borders tell the label. Two exceptions are few in a large corpus:
    where no such B fits, a random paragraph stands for it; and a chunk of one token, which has no
    B, always has label 1.

    Args:
      documents: the corpus.
      max_tokens: of an example, [CLS] and both [SEP] included; a tenth of the pairs aims at a
        random length instead. A paragraph that is longer is cut between words.
      seed: of the run, 0 or more; with `epoch` the only source of randomness.
      epoch: 0 or more.

    Raises:
      UserError: fewer than two documents have text.
    """
    with_text = int((np.diff(documents.token_borders) > 0).sum())
    if with_text < 2:
        raise UserError(
            f"Next-sentence prediction takes its random sentences from another document, and "
            f"{with_text} of {len(documents.borders) - 1} documents have text. Put blank lines "
            f"between documents, or train on sentence order or full sentences."
        )
    random = _philox(seed, epoch)
    chunks = _chunks(documents, _room(max_tokens, 3), _raw(random), put_back=True)
    document, start, size, cut, limit, _, label = chunks.T
    b_start, b_size = start + cut, size - cut
    stand_in = np.where(
        label == 1, stand_ins(chunks[:, :6], random.random_raw(len(chunks))), np.arange(len(chunks))
    )
    b_start, b_size = b_start[stand_in], b_size[stand_in]
    none = np.flatnonzero(stand_in < 0)
    b_start[none], b_size[none] = _random_paragraphs(
        documents, document[none], (limit - cut)[none], random
    )
    return _pairs(start, cut, b_start, b_size, label)


def sop_pairs(documents: Documents, *, max_tokens: int, seed: int, epoch: int) -> Examples:
    """Pairs for sentence-order prediction (arXiv:1909.11942, section 3.1).

    Two consecutive segments of a document, chosen as those of `nsp_pairs`: in their order, label 0;
    of half the pairs swapped, label 1. Each token stands in one pair, but for a single token that
    is all that is left of a document and cannot be a pair; it is left out.

    A chunk that is filled from its first paragraph on ends with the short ones that still fit. So
    half of the documents are cut into chunks from their end: the sizes do not tell the order.

    Args:
      documents: the corpus.
      max_tokens: of an example; as for `nsp_pairs`.
      seed: of the run; as for `nsp_pairs`.
      epoch: 0 or more.

    Raises:
      UserError: no document has two tokens.
    """
    raw = _raw(_philox(seed, epoch))
    chunks = _chunks(documents, _room(max_tokens, 3), raw, put_back=False)
    _, start, size, cut, _, _, label = chunks[chunks[:, 2] > 1].T
    if not len(start):
        raise UserError("No document has two tokens, which a pair needs. Use other data.")
    swapped = label == 1
    first = np.where(swapped, start + cut, start), np.where(swapped, size - cut, cut)
    second = np.where(swapped, start, start + cut), np.where(swapped, cut, size - cut)
    return _pairs(*first, *second, label)


def full_sentences(documents: Documents, *, max_tokens: int, seed: int, epoch: int) -> Examples:
    """Whole paragraphs up to max_tokens, across documents (arXiv:1907.11692, section 4.2).

    The documents follow one another in an order that is random in each epoch. An example has a
    segment of each document that it touches, so that a [SEP] stands between them. Each token stands
    in one example; a paragraph that fits none begins one and is cut between words.

    Args:
      documents: the corpus.
      max_tokens: of an example, [CLS] and each [SEP] included.
      seed: of the run, 0 or more; with `epoch` the only source of randomness.
      epoch: 0 or more.

    Raises:
      UserError: no document has text.
    """
    most = _room(max_tokens, 2)
    bits = np.asarray(_philox(seed, epoch).random_raw(len(documents.borders) - 1), np.uint64)
    starts, sizes, offsets = array.array("q"), array.array("i"), array.array("q", [0])
    room = most  # left in the open example
    for document in np.argsort(bits, kind="stable").tolist():
        ends = _paragraph_ends(documents, document)
        at = ends[0]
        while at < ends[-1]:
            end = ends[bisect_right(ends, at + room) - 1] if room > 0 else at
            if end <= at and room < most:  # nothing more fits
                offsets.append(len(starts))
                room = most
                continue
            if end <= at:
                end = _cut(documents.word_starts, at, at + room)
            starts.append(at)
            sizes.append(end - at)
            room -= end - at + 1  # the next segment needs a [SEP] more
            at = end
            if at < ends[-1]:  # a segment holds all of a document that fits
                offsets.append(len(starts))
                room = most
    if len(starts) > offsets[-1]:
        offsets.append(len(starts))
    if not starts:
        raise UserError("No document has text. Use other data.")
    return Examples(np.array(starts), np.array(sizes), np.array(offsets), labels=None)


def _chunks(documents: Documents, most: int, raw: Iterator[int], *, put_back: bool) -> np.ndarray:
    """Chunks of one document each, to be cut into A and B: int64 [n, 7].

    The columns: document; start and size in tokens; the size of A, below the whole size unless
    that is 1; the tokens that the pair aims at; whether the chunk is of one paragraph; label.
    With `put_back` the next chunk begins with the B of a chunk whose label is 1; without it, half
    of the documents are read from their end.
    """
    found, total = array.array("q"), len(documents.word_starts)
    backward = np.append(True, documents.word_starts[::-1])  # place p of it is total - p
    for document in range(len(documents.borders) - 1):
        ends, word_starts = _paragraph_ends(documents, document), documents.word_starts
        turned = not put_back and bool(next(raw) >> 63)
        if turned:
            ends, word_starts = [total - end for end in reversed(ends)], backward
        at = ends[0]
        while at < ends[-1]:
            short = next(raw) < int(SHORT_SHARE * _TOP)
            limit = 2 + next(raw) % (most - 1) if short else most
            first = bisect_right(ends, at)  # where the first paragraph ends
            last = bisect_right(ends, at + limit) - 1
            inner, label = next(raw), next(raw) >> 63
            alone = last <= first
            if not alone:
                end, middle = ends[last], ends[first + inner % (last - first)]
            elif ends[first] - at == 1 and first + 1 < len(ends):  # cannot be cut; the next can
                alone, middle = False, ends[first]
                end = _cut(word_starts, middle, at + limit)
            else:  # two tokens or more, unless the document has but one
                end = ends[first] if last == first else _cut(word_starts, at + 1, at + limit)
                middle = _middle(word_starts, at, end, later=bool(inner >> 63))
                if end - at == 1 and put_back:
                    label = 1  # nothing can continue
            start, cut = (total - end, end - middle) if turned else (at, middle - at)
            found.extend((document, start, end - at, cut, limit, alone, label))
            at = middle if label and put_back else end
    return np.array(found, np.int64).reshape(-1, 7)


def _random_paragraphs(documents, document, room, random):
    """Random paragraphs of all documents but document [m], cut to at most room [m] tokens."""
    offsets, text = documents.paragraphs.offsets, np.flatnonzero(documents.paragraphs.lengths)
    borders = np.searchsorted(text, documents.borders)  # in paragraphs with text
    here, behind = borders[document], borders[document + 1]
    raw = np.asarray(random.random_raw(len(document)), np.uint64)
    chosen = (raw % (len(text) - (behind - here)).astype(np.uint64)).astype(np.int64)
    chosen += np.where(chosen >= here, behind - here, 0)
    start, end = offsets[text[chosen]], offsets[text[chosen] + 1]
    cut = end > start + room
    end[cut] = _cuts(documents.word_starts, start[cut], (start + room)[cut])
    return start, end - start


def _cut(word_starts: np.ndarray, start: int, end: int) -> int:
    """The last place after start, up to end, where a word begins; the end if none does."""
    for place in range(end, start, -1):
        if place < len(word_starts) and word_starts[place]:
            return place
    return end


def _middle(word_starts: np.ndarray, start: int, end: int, *, later: bool) -> int:
    """Where a word begins nearest to the middle, on the side that is asked for if one does there.

    If none begins inside, the middle itself.
    """
    half = max(start + 1, (start + end + later) // 2)
    down, up = range(min(half, end - 1), start, -1), range(half, end)
    sides = (up, down) if later else (down, up)
    return next((place for side in sides for place in side if word_starts[place]), half)


def _cuts(word_starts: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """`_cut` of each: int64 [m]."""
    pairs = zip(start.tolist(), end.tolist(), strict=True)
    return np.array([_cut(word_starts, *pair) for pair in pairs], np.int64)


def _paragraph_ends(documents: Documents, document: int) -> list[int]:
    """Where a document starts and where each of its paragraphs with text ends; rising."""
    first, last = documents.borders[document], documents.borders[document + 1]
    return list(dict.fromkeys(documents.paragraphs.offsets[first : last + 1].tolist()))


def _pairs(a_start, a_size, b_start, b_size, label) -> Examples:
    return Examples(
        starts=np.stack([a_start, b_start], axis=1).reshape(-1),
        sizes=np.stack([a_size, b_size], axis=1).reshape(-1).astype(np.int32),
        offsets=np.arange(len(label) + 1, dtype=np.int64) * 2,
        labels=label.astype(np.int32),
    )


def _room(max_tokens: int, special: int) -> int:
    """The tokens of text in an example."""
    if max_tokens < special + 2:
        raise ValueError(f"max_tokens is {max_tokens}, but an example needs {special + 2} or more")
    return max_tokens - special


def _philox(seed: int, epoch: int) -> np.random.Philox:
    return np.random.Philox(np.random.SeedSequence([seed, epoch, _STREAM]))


def _raw(random: np.random.Philox) -> Iterator[int]:
    """Its raw 64 bits, one by one; numpy may change what Generator draws from them."""
    while True:
        yield from np.asarray(random.random_raw(4096), np.uint64).tolist()
