"""Training and translating beside `transformers` and CTranslate2, interleaved on the same work.

Each round runs the peer and us, in turn, on the same pairs or sentences; the table has medians of
wall and CPU seconds and their ratios peer / ours, so more than 1 is faster here. Losses and outputs
are compared first. Every peer runs with the batch size (and threads) that suits it best of those
tried. Needs the extras `parity` and `bench`.

    python benchmarks/translation.py --model FOLDER --data FOLDER [--rounds 5]

--model is a Hugging Face folder of a trained Marian model, such as `python -m
transformer_jax.cli.export` writes; --data has train.tsv and test.tsv.
"""

import argparse
import functools
import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path

import ctranslate2
import ctranslate2.converters.transformers as ctranslate2_loaders
import jax
import numpy as np
import torch
from marian_peer import (
    count_tokens,
    generate,
    length_buckets,
    loss_sum,
    marian_config,
    pairs_of,
    same_in_torch,
)
from transformers import MarianMTModel

from transformer_jax import load_pretrained
from transformer_jax.data.pipeline import DataState
from transformer_jax.decoding.search_config import SearchConfig
from transformer_jax.interop.marian import PretrainedTransformer
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.tasks.translation import TranslationConfig
from transformer_jax.tasks.translation_data import TranslationData, read_split
from transformer_jax.tasks.translation_search import Translator
from transformer_jax.training.optimizer import OptimizerConfig, make_optimizer
from transformer_jax.training.schedules import WarmupLinear
from transformer_jax.training.step import init_state, make_train_step

THREADS, MAX_LENGTH, SMOOTHING, RATE = 2, 128, 0.1, 1e-4


def timed(work):
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def interleaved(name, peer, ours, rounds, unit=None):
    """Runs both in turn and prints a row of the table."""
    timings = {"peer": [], "ours": []}
    for _ in range(rounds):
        timings["peer"].append(timed(peer))
        timings["ours"].append(timed(ours))
    median = {
        who: [statistics.median(column) for column in zip(*rows, strict=True)]
        for who, rows in timings.items()
    }
    (peer_wall, peer_cpu), (wall, cpu) = median["peer"], median["ours"]
    row = f"| {name} | {peer_wall:.2f} | {wall:.2f} | **{peer_wall / wall:.2f}** | "
    row += f"{peer_cpu:.2f} | {cpu:.2f} | {peer_cpu / cpu:.2f} |"
    if unit is not None:
        row += f" {unit / peer_wall:,.0f} and {unit / wall:,.0f} tokens/s |"
    print(row, flush=True)


def fastest(candidates):
    """The candidate that took least time, each having been warmed up."""
    for work in candidates.values():
        work()
    times = {name: min(timed(work)[0] for _ in range(2)) for name, work in candidates.items()}
    best = min(times, key=times.get)
    shown = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in times.items())
    print(f"  of {shown}: {best}", file=sys.stderr)
    return best


def training(args):
    """Updates on the pairs of some packed batches; the peer has them in length buckets."""
    with tempfile.TemporaryDirectory() as folder:
        task = TranslationConfig(label_smoothing=SMOOTHING).build(
            model=marian_config(dropout_rate=0.1),
            data=TranslationData(path=str(args.data), row_length=144),
            batch_size=8,
            seed=0,
            workdir=Path(folder),
            mesh=make_mesh(MeshConfig()),
        )
        stream = task.train_batches(DataState(), 0, 1)
        batches = [batch for batch, _ in itertools.islice(stream, 16)]
    params = jax.device_get(jax.jit(task.init_params)(jax.random.key(0)))
    model = same_in_torch(
        PretrainedTransformer(task.model.config, task.model, params, task.tokenizer)
    )
    pairs = [pair for batch in batches for pair in pairs_of(batch)]
    targets = sum(len(target) for _, _, target in pairs)

    model.eval()
    buckets = length_buckets(pairs, 3000)
    with torch.inference_mode():
        theirs = sum(float(loss_sum(model, part, SMOOTHING)) for part in buckets) / targets
    ours = sum(float(task.loss_terms(params, batch, None)["cross_entropy"][0]) for batch in batches)
    np.testing.assert_allclose(ours / targets, theirs, rtol=1e-5)
    print(f"  equal losses: {ours / targets:.5f} and {theirs:.5f}", file=sys.stderr)

    optimizer = make_optimizer(
        OptimizerConfig(WarmupLinear(peak=RATE, warmup=1), clip_norm=1.0), 10**6
    )
    step = jax.jit(make_train_step(task.loss_terms, task.coefficients, optimizer), donate_argnums=0)
    state = init_state(params, optimizer)

    def train_ours():
        nonlocal state
        for batch in batches:
            state, metrics = step(state, batch, jax.random.key(0))
        jax.block_until_ready(metrics)

    model.train()
    adam = torch.optim.Adam(model.parameters(), lr=RATE, betas=(0.9, 0.98), eps=1e-9)

    def train_peer(buckets):
        for part in buckets:
            adam.zero_grad()
            (loss_sum(model, part, SMOOTHING) / sum(len(t) for _, _, t in part)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            adam.step()

    sizes = {
        f"{size} tokens a side": functools.partial(train_peer, length_buckets(pairs, size))
        for size in (1500, 3000, 6000)
    }
    best = sizes[fastest(sizes)]
    train_ours()
    name = f"training, {len(pairs)} pairs, `transformers`"
    interleaved(name, best, train_ours, args.rounds, count_tokens(pairs))


def translator(loaded, beams):
    # What generate does with early_stopping=False and length_penalty=1, its defaults.
    search = SearchConfig(
        beam_size=beams,
        length_rule="plain",
        length_penalty=1.0,
        early_stopping="heuristic",
        max_length=MAX_LENGTH - 1,
    )
    return Translator(loaded.model, loaded.params, loaded.tokenizer, search=search)


def best_ids(translate, sources):
    return [best.ids for best, *_ in translate(sources)]


def say_equal(name, ours, theirs):
    equal = sum(a == b for a, b in zip(ours, theirs, strict=True))
    print(f"  {name}: {equal} of {len(ours)} outputs are equal", file=sys.stderr)
    return equal


def translating(args, loaded, sources):
    """Greedy and beam search beside `generate` and CTranslate2."""
    model = MarianMTModel.from_pretrained(args.model).eval()
    for beams in (1, 4):
        translate = translator(loaded, beams)
        options = dict(num_beams=beams, max_length=MAX_LENGTH)
        if beams > 1:
            options |= dict(length_penalty=1.0, early_stopping=False)
        works = {
            f"batches of {size}": (lambda s=size, o=options: generate(model, sources, s, **o))
            for size in (16, 32, 64)
        }
        best = works[fastest(works)]
        name = "greedy" if beams == 1 else f"beam {beams}"
        equal = say_equal(f"{name}, transformers", best_ids(translate, sources), best())
        if equal < 0.98 * len(sources):
            sys.exit("The outputs differ; what follows would not be the same work.")
        interleaved(f"{name}, `transformers`", best, lambda t=translate: t(sources), args.rounds)
        with_ctranslate2(args, loaded, sources, name, beams, translate)


@ctranslate2_loaders.register_loader("MarianConfig")
class MarianWithStart(ctranslate2_loaders.MarianMTLoader):
    """CTranslate2's own loader takes the last token for padding, and its embedding for zero."""

    def _remove_pad_weights(self, spec):
        pass

    def set_config(self, config, model, tokenizer):
        super().set_config(config, model, tokenizer)
        start = model.config.decoder_start_token_id
        config.decoder_start_token = tokenizer.convert_ids_to_tokens(start)

    def set_decoder(self, spec, decoder):
        super().set_decoder(spec, decoder)
        spec.start_from_zero_embedding = False


def with_ctranslate2(args, loaded, sources, name, beams, translate):
    tokenizer = loaded.tokenizer
    pieces = [tokenizer.source_pieces(source) for source in sources]
    works = {}
    with tempfile.TemporaryDirectory() as folder:
        converter = ctranslate2.converters.TransformersConverter(str(args.model))
        converter.convert(folder, force=True)
        for inter, intra in ((1, THREADS), (THREADS, 1)):
            there = ctranslate2.Translator(
                folder, compute_type="float32", inter_threads=inter, intra_threads=intra
            )
            for size in (16, 32):
                works[f"{inter} x {intra} threads, batches of {size}"] = lambda t=there, s=size: (
                    t.translate_batch(
                        pieces, beam_size=beams, max_batch_size=s, length_penalty=1.0,
                        max_decoding_length=MAX_LENGTH - 1,
                    )
                )  # fmt: skip
        best = works[fastest(works)]
        theirs = [tuple(result.hypotheses[0]) for result in best()]
        ours = [
            tuple(tokenizer.target_pieces([i for i in ids if i != tokenizer.eos_id]))
            for ids in best_ids(translate, sources)
        ]
        say_equal(f"{name}, CTranslate2", ours, theirs)
        interleaved(
            f"{name}, CTranslate2 {ctranslate2.__version__} float32",
            best,
            lambda: translate(sources),
            args.rounds,
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sentences", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    loaded = load_pretrained(args.model)
    test = read_split(TranslationData(path=str(args.data)), "test")
    chosen = np.random.default_rng(0).permutation(len(test))[: args.sentences]
    eos = loaded.tokenizer.eos_id
    sources = [[*ids, eos] for ids in loaded.tokenizer.encode([test[i][0] for i in chosen])]
    lengths = sorted(map(len, sources))
    print(f"  {len(sources)} sentences of {lengths[0]} to {lengths[-1]} tokens", file=sys.stderr)
    print("| work, peer | peer, s | ours, s | peer / ours | peer, CPU s | ours, CPU s | ratio |")
    print("|---|---|---|---|---|---|---|")
    training(args)
    translating(args, loaded, sources)


if __name__ == "__main__":
    main()
