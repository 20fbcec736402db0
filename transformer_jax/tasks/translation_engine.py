"""The compiled part of translating: rows that search, each for a sentence, and get a new one.

A batch is over when its slowest row is, so rows that stopped early would idle for most of the time.
Here a search pauses when enough rows have stopped; these get new sentences, and it goes on. Shapes
stay the same, so there are two programs for each length of the sources: `refill` and `run`.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from transformer_jax.data.tokenizers import Tokenizer
from transformer_jax.decoding.beam import BeamSearch, BeamState
from transformer_jax.decoding.beam_cache import BeamCache
from transformer_jax.decoding.coverage import coverage_penalty
from transformer_jax.decoding.greedy import greedy_choice
from transformer_jax.decoding.one_path import PathSearch, PathState
from transformer_jax.decoding.sampling import sampled_choice
from transformer_jax.decoding.search_config import SearchConfig
from transformer_jax.layers.attention import KeyValues
from transformer_jax.models.transformer import Transformer
from transformer_jax.typing import Array, Params


class Found(NamedTuple):
    """What R rows have found: K hypotheses, best first, of at most T tokens."""

    tokens: Array  # [R,K,T] int32
    scores: Array  # [R,K] float32, -inf where there is no hypothesis
    lengths: Array  # [R,K] int32
    done: Array  # [R] bool: more steps would find nothing else
    stopped: Array  # [R] bool: done, or out of steps


class EngineState(NamedTuple):
    """R rows under way."""

    search: BeamState | PathState
    memory: tuple[KeyValues, ...]  # of S source tokens, for each layer of the decoder
    valid: Array  # [R,S] bool: where the source is real


class _Cache(NamedTuple):
    read: BeamCache
    coverage: Array  # [R,K,S] attention that each source token has got; S = 0 if no one asks

    def reorder(self, parents: Array) -> _Cache:
        coverage = jax.vmap(lambda c, p: c[p])(self.coverage, parents)
        return _Cache(self.read.reorder(parents), coverage)

    def restart(self, rows: Array) -> _Cache:
        coverage = jnp.where(rows[:, None, None], 0.0, self.coverage)
        return _Cache(self.read.restart(rows), coverage)


@dataclasses.dataclass(frozen=True, eq=False)
class Engine:
    """Searches of one model for translations of one greatest length.

    Attributes:
      model: the Transformer.
      tokenizer: its pad token in a source is padding.
      config: the search.
      max_length: the most tokens of a translation.
      steps: T, the most tokens that there is room for; see `beam_search`.
    """

    model: Transformer
    tokenizer: Tokenizer
    config: SearchConfig
    max_length: int
    steps: int

    @functools.partial(jax.jit, static_argnums=(0, 1, 2))
    def empty(self, rows: int, length: int) -> EngineState:
        """R rows for sources of `length` tokens, all of them stopped."""
        cache_of: Any = functools.partial(self.model.apply, {}, rows, method="empty_cache")
        beams, is_covering = self.config.beam_size, self._is_covering
        read = BeamCache.empty(cache_of(self.steps * beams), rows, beams, self.steps)
        cache = _Cache(read, jnp.zeros((rows, beams, length if is_covering else 0)))
        valid = jnp.zeros((rows, length), bool)
        search = self._search(valid, None)
        state = search.start(cache, rows if self.config.is_beam else rows * beams)
        if isinstance(state, BeamState):
            state = state._replace(done=~state.done)
        else:
            state = state._replace(found=state.found._replace(done=~state.found.done))
        return EngineState(state, cache_of(length), valid)

    @functools.partial(jax.jit, static_argnums=0)
    def keep(self, state: EngineState, rows: Array) -> EngineState:
        """Goes on with some rows only: int [R']."""

        def pick(leaf: Array) -> Array:
            if leaf.ndim == 0:
                return leaf
            each = len(leaf) // len(state.valid)  # a path has R * K rows
            return leaf[(rows[:, None] * each + jnp.arange(each)).reshape(-1)]

        return jax.tree.map(pick, state)

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
    def refill(
        self, params: Params, state: EngineState, sources: Array, slots: Array
    ) -> EngineState:
        """Gives sources [G,S] to the rows `slots` [G]; a slot of R or more is nobody's."""
        apply: Any = functools.partial(self.model.apply, {"params": params})
        valid = sources != self.tokenizer.pad_id
        encoded = apply(sources, segments=valid.astype(jnp.int32), method="encode")

        def put(old: Array, new: Array) -> Array:
            return old.at[slots].set(new, mode="drop")

        memory = jax.tree.map(put, state.memory, apply(encoded, method="memory"))
        rows = put(jnp.zeros(len(state.valid), bool), jnp.ones(len(slots), bool))
        search = self._restart(state.search, rows)
        return EngineState(search, memory, put(state.valid, valid))

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
    def run(
        self, params: Params, state: EngineState, enough: Array, key: Array
    ) -> tuple[EngineState, Found]:
        """Searches until `enough` rows are stopped; `key` is for sampling."""
        search = self._search(state.valid, key)
        rows, beams = len(state.valid), self.config.beam_size

        def stopped(now: Any) -> Array:
            return jnp.all(search.stopped(now).reshape(rows, -1), axis=1)

        end = jax.lax.while_loop(
            lambda now: jnp.sum(stopped(now)) < enough,
            lambda now: search.advance(functools.partial(self._step, params, state), now),
            state.search,
        )
        result = search.result(end)
        found = Found(
            result.tokens.reshape(rows, beams, -1),
            result.scores.reshape(rows, beams),
            result.lengths.reshape(rows, beams),
            jnp.all(result.done.reshape(rows, -1), axis=1),
            stopped(end),
        )
        return state._replace(search=end), found

    @property
    def _is_covering(self) -> bool:
        return self.config.coverage_penalty > 0.0 and self.config.is_beam

    def _search(self, valid: Array, key: Array | None) -> Any:
        config, tokenizer = self.config, self.tokenizer
        rule = config.rule(tokenizer.eos_id, self.max_length)
        ids = (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
        if not config.is_beam:
            choice = greedy_choice(rule)
            if config.sampling is not None and key is not None:
                choice = sampled_choice(key, config.sampling, rule)
            return PathSearch(choice, *ids, steps=self.steps)

        def bonus(cache: _Cache) -> Array:
            return coverage_penalty(cache.coverage, valid, config.coverage_penalty)

        return BeamSearch(
            config.beam_size,
            *ids,
            max_length=self.max_length,
            steps=self.steps,
            score=config.score(),
            early_stopping=config.early_stopping,
            rule=rule,
            bonus=bonus if self._is_covering else None,
            reorder=_Cache.reorder,
        )

    def _restart(self, state: Any, rows: Array) -> Any:
        """The given rows begin anew."""
        fresh = self._search(rows, None).start(state.cache.restart(rows), len(state.last))

        def pick(old: Array, new: Array) -> Array:
            if old.ndim == 0:
                return old
            mine = jnp.repeat(rows, len(old) // len(rows))  # a path has R * K rows
            return jnp.where(mine.reshape((-1,) + (1,) * (old.ndim - 1)), new, old)

        kept = jax.tree.map(pick, state._replace(cache=()), fresh._replace(cache=()))
        return kept._replace(cache=fresh.cache)

    def _step(
        self, params: Params, state: EngineState, tokens: Array, cache: _Cache, index: Array
    ) -> tuple[Array, _Cache]:
        """The step function of the search, see `transformer_jax.decoding.step`."""
        shape, read = (len(state.valid), self.config.beam_size), cache.read.reading()
        apply: Any = functools.partial(self.model.apply, {"params": params})
        (logits, entries), sown = apply(
            tokens.reshape(shape),
            state.memory,
            read.entries,
            read.place,
            positions=index.reshape(shape),
            mask=read.mask(),
            source_valid=state.valid,
            method="decode_step",
            mutable=["intermediates"] if self._is_covering else [],
        )
        coverage = cache.coverage
        if self._is_covering:
            layers = sown["intermediates"]["decoder"]["layer"]["cross_attention"]
            weights = jnp.stack(layers["attention_weights"])  # [L,R,N,K,S]
            coverage += jnp.mean(weights, axis=(0, 2))
        logits = logits.reshape(shape[0] * shape[1], -1)
        return logits, _Cache(read.have_read(entries), coverage)
