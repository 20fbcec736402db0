"""Trains the same model here and in `transformers` and compares validation loss and BLEU.

Both start from the same parameters and see the same pairs in the same updates, with Adam, the same
learning rates, clipping and label smoothing; what differs are the dropout's random bits and the
program. A packed batch here is the same pairs, padded in two length buckets, there. Needs the extra
`parity`.

    python benchmarks/translation_quality.py --data FOLDER --output DIR [--seeds 3] [--steps 2000]
"""

import argparse
import dataclasses
import itertools
import json
import time
from pathlib import Path

import jax
import numpy as np
import sacrebleu
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
from sacrebleu.significance import PairedTest

from transformer_jax import load_pretrained, save_pretrained
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

SMOOTHING, CLIP = 0.1, 1.0
SCHEDULE = WarmupLinear(peak=2e-3, warmup=300)
SIZES = dict(vocab_size=4000, width=128, num_heads=4, feed_forward_dim=512)
SEARCH = SearchConfig(
    length_rule="plain", length_penalty=1.0, early_stopping="heuristic", max_length=127
)


def make_task(args, seed, workdir):
    workdir.mkdir(parents=True, exist_ok=True)
    return TranslationConfig(label_smoothing=SMOOTHING).build(
        model=marian_config(**SIZES, dropout_rate=0.1),
        data=TranslationData(path=str(args.data), row_length=144),
        batch_size=args.rows,
        seed=seed,
        workdir=workdir,
        mesh=make_mesh(MeshConfig()),
    )


def batches(task, steps):
    stream = task.train_batches(DataState(), 0, 1)
    return (batch for batch, _ in itertools.islice(stream, steps))


def train_ours(task, params, args, seed):
    optimizer = make_optimizer(OptimizerConfig(SCHEDULE, clip_norm=CLIP), args.steps)
    step = jax.jit(make_train_step(task.loss_terms, task.coefficients, optimizer), donate_argnums=0)
    state = init_state(jax.tree.map(np.array, params), optimizer)
    for number, batch in enumerate(batches(task, args.steps), 1):
        state, metrics = step(state, batch, jax.random.key(seed))
        report("ours", number, metrics["loss"], args)
    return state.params


def train_peer(task, model, args):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0, betas=(0.9, 0.98), eps=1e-9)
    rate = SCHEDULE.build(args.steps)
    model.train()
    for number, batch in enumerate(batches(task, args.steps)):
        pairs = pairs_of(batch)
        weight = sum(len(target) for _, _, target in pairs)
        optimizer.zero_grad()
        total = 0.0
        for part in length_buckets(pairs, 1 + args.rows * 144 // 2):
            loss = loss_sum(model, part, SMOOTHING) / weight
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        for group in optimizer.param_groups:
            group["lr"] = float(rate(number))
        optimizer.step()
        report("peer", number + 1, total, args)


def report(name, number, loss, args):
    if number == 1 or number % 100 == 0 or number == args.steps:
        print(f"{name} step {number} loss {float(loss):.4f}", flush=True)


def validation_pairs(task):
    return [pair for batch in task.eval_batches("valid", 0, 1) for pair in pairs_of(batch)]


def peer_nll(model, pairs):
    """Nats a target token, without smoothing."""
    model.eval()
    with torch.inference_mode():
        total = sum(float(loss_sum(model, part, 0.0)) for part in length_buckets(pairs, 4000))
    return total / sum(len(target) for _, _, target in pairs)


def our_nll(task, params):
    terms = jax.jit(lambda params, batch: task.loss_terms(params, batch, None)["nll"])
    sums = [terms(params, batch) for batch in task.eval_batches("valid", 0, 1)]
    return float(sum(total for total, _ in sums) / sum(weight for _, weight in sums))


def run_seed(args, seed, test):
    folder = args.output / str(seed)
    done = folder / "result.json"
    if done.exists():
        return json.loads(done.read_text())
    task = make_task(args, seed, folder)
    params = jax.device_get(jax.jit(task.init_params)(jax.random.key(seed)))
    start = PretrainedTransformer(task.model.config, task.model, params, task.tokenizer, SEARCH)
    torch.manual_seed(seed)
    model = same_in_torch(start)
    result, pairs = {"seed": seed}, validation_pairs(task)
    result["tokens"] = sum(count_tokens(pairs_of(batch)) for batch in batches(task, args.steps))
    np.testing.assert_allclose(peer_nll(model, pairs), our_nll(task, params), rtol=1e-5)

    clock = time.perf_counter()
    params = train_ours(task, params, args, seed)
    result["ours_seconds"] = time.perf_counter() - clock
    clock = time.perf_counter()
    train_peer(task, model, args)
    result["peer_seconds"] = time.perf_counter() - clock

    save_pretrained(folder / "ours", dataclasses.replace(start, params=params))
    ours = load_pretrained(folder / "ours")
    model.eval().save_pretrained(folder / "peer")
    result["ours_nll"], result["peer_nll"] = our_nll(task, params), peer_nll(model, pairs)
    translate = Translator(ours.model, ours.params, ours.tokenizer, search=SEARCH)
    sources = translate.encode([source for source, _ in test])
    result["ours"] = [best.text for best, *_ in translate(sources)]
    options = dict(num_beams=4, length_penalty=1.0, early_stopping=False, max_length=128)
    options["forced_eos_token_id"] = None
    result["peer"] = task.tokenizer.decode(generate(model, sources, 32, **options))
    done.write_text(json.dumps(result))
    return result


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(2)
    test = read_split(TranslationData(path=str(args.data)), "test")
    references = [[target for _, target in test]]
    for seed in range(args.seeds):
        result = run_seed(args, seed, test)
        nll, peer = result["ours_nll"], result["peer_nll"]
        print(
            f"seed {seed}: {result['tokens']:,} tokens; validation nats a token: ours {nll:.4f}, "
            f"peer {peer:.4f}, ours/peer {nll / peer:.4f}; training s: ours "
            f"{result['ours_seconds']:.0f}, peer {result['peer_seconds']:.0f}"
        )
        systems = [(name, result[name]) for name in ("peer", "ours")]
        _, scores = PairedTest(
            systems, {"BLEU": sacrebleu.BLEU(references=references)}, references,
            test_type="bs", n_samples=1000,
        )()  # fmt: skip
        for name, score in zip(scores["System"], scores["BLEU"], strict=True):
            print(
                f"  {name}: BLEU {score.score:.2f}, bootstrap mean {score.mean:.2f} ± "
                f"{score.ci:.2f}" + ("" if score.p_value is None else f", p {score.p_value:.3f}"),
                flush=True,
            )


if __name__ == "__main__":
    main()
