"""Which words of a row are chosen: spans that do not overlap, and a quota for each text.

Everything here is about one row; `jax.vmap` makes a batch of it. A row of T tokens has at most T
words, so that arrays over words have T places too; those that no word needs have length 0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from transformer_jax.typing import Array

NEVER = jnp.iinfo(jnp.int32).max  # the rank of what does not take part


class Words(NamedTuple):
    """The words of one row that may be chosen, from left to right."""

    starts: Array  # int32 [T], the first token of each word
    lengths: Array  # int32 [T], its tokens; 0 where there is no word
    segments: Array  # int32 [T], the text that it belongs to; 0 where there is no word
    rest: Array  # int32 [T], words from this one to the end of its stretch, itself included
    of_token: Array  # int32 [T], the word of each token; of other tokens any word


def places(flags: Array, count: int, fill: int) -> Array:
    """Where the first `count` flags of a row are set, rising, then `fill`: bool [T] -> [count]."""
    rows = jnp.arange(flags.shape[0], dtype=jnp.int32)
    found = jnp.sort(jnp.where(flags, rows, NEVER))[:count]
    return jnp.where(found == NEVER, fill, found)


def find_words(maskable: Array, segments: Array, word_starts: Array) -> Words:
    """Cuts a row into words: bool [T], int [T], bool [T].

    A word also ends where its segment ends, and at a token that must not be masked. A stretch is
    what lies between two such places: a span of words does not leave it.
    """
    size = maskable.shape[0]
    before = jnp.pad(maskable, (1, 0))[:-1] & (segments == jnp.pad(segments, (1, 0))[:-1])
    starts = maskable & (word_starts | ~before)
    after = jnp.pad(maskable & before, (0, 1))[1:]  # the stretch goes on after this token
    ends = maskable & (~after | jnp.pad(starts, (0, 1))[1:])

    first, last = places(starts, size, 0), places(ends, size, -1)
    word = jnp.arange(size, dtype=jnp.int32)
    exists = last >= 0
    closes = exists & ~after[last]  # the last word of a stretch
    rest = jax.lax.cummin(jnp.where(closes, word, size), reverse=True) - word + 1
    return Words(
        starts=first,
        lengths=jnp.where(exists, last - first + 1, 0),
        segments=jnp.where(exists, segments[first], 0),
        rest=jnp.where(exists, rest, 0),
        of_token=jnp.maximum(jnp.cumsum(starts) - 1, 0).astype(jnp.int32),
    )


def spans_apart(rank: Array, counts: Array, longest: int) -> Array:
    """Lays spans one after the other, the least rank first, where none lies yet.

    Args:
      rank: int32 [T], all different: when the span that begins at each word has its turn.
      counts: int32 [T], the words of that span; 0 for no span.
      longest: no span has more words.

    Returns:
      int32 [T]: the rank of the span that lies over each word, or `NEVER`.
    """
    size = rank.shape[0]

    def least_over(values: Array) -> Array:  # over each word, among the spans that cover it
        left = jnp.pad(values, (longest - 1, 0), constant_values=NEVER)
        reach = jnp.pad(counts, (longest - 1, 0))
        found = jnp.full(size, NEVER)
        for k in range(longest):
            at = slice(longest - 1 - k, longest - 1 - k + size)
            found = jnp.minimum(found, jnp.where(reach[at] > k, left[at], NEVER))
        return found

    def least_within(values: Array) -> Array:  # under each span, among its words
        right = jnp.pad(values, (0, longest - 1), constant_values=NEVER)
        found = jnp.full(size, NEVER)
        for k in range(longest):
            found = jnp.minimum(found, jnp.where(counts > k, right[k : k + size], NEVER))
        return found

    # A span that is before all that it overlaps is laid whatever happens elsewhere, so all such
    # spans are laid at once. A few rounds settle a row, where one by one takes hundreds.
    def settle(state: tuple[Array, Array]) -> tuple[Array, Array]:
        waiting, over = state
        laid = waiting & (least_within(least_over(jnp.where(waiting, rank, NEVER))) == rank)
        over = jnp.minimum(over, least_over(jnp.where(laid, rank, NEVER)))
        return waiting & (least_within(over) == NEVER), over

    start = (counts > 0, jnp.full(size, NEVER))
    return jax.lax.while_loop(lambda state: jnp.any(state[0]), settle, start)[1]


def take_what_fits(groups: Array, order: Array, lengths: Array, room: Array) -> Array:
    """Goes through each group in order, and takes every item that still has room.

    Args:
      groups: int32 [T], the group of each item.
      order: int32 [T], its turn; of equals the left one is first.
      lengths: int32 [T], what it takes of its group's room; 0 if it is no candidate.
      room: int32 [T], the whole room of its group.

    Returns:
      bool [T]: taken.
    """
    size = groups.shape[0]
    item = jnp.arange(size, dtype=jnp.int32)
    groups, _, lengths, room, origin = jax.lax.sort(
        (groups, order, lengths, room, item), num_keys=2
    )
    first = jnp.pad(groups[1:] != groups[:-1], (1, 0), constant_values=True)
    last = jnp.pad(groups[1:] != groups[:-1], (0, 1), constant_values=True)
    first_item = jax.lax.cummax(jnp.where(first, item, 0))
    last_item = jax.lax.cummin(jnp.where(last, item, size - 1), reverse=True)

    def so_far(values: Array) -> Array:  # the sum within the group, the item itself included
        total = jnp.cumsum(values)
        return total - (total - values)[first_item]

    # Each round takes all before the first that does not fit, and drops all that never will.
    def settle(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        waiting, taken, room = state
        now = waiting & (so_far(jnp.where(waiting, lengths, 0)) <= room)
        room = room - so_far(jnp.where(now, lengths, 0))[last_item]
        return waiting & ~now & (lengths <= room), taken | now, room

    start = (lengths > 0, jnp.zeros(size, bool), room)
    taken = jax.lax.while_loop(lambda state: jnp.any(state[0]), settle, start)[1]
    return jnp.zeros(size, bool).at[origin].set(taken)
