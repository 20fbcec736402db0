"""Fine-tuning on sentences beside `transformers`: accuracy over seeds, and seconds.

Runs take turns: one of ours, one of the peer's, then the rest of ours. All see the same examples
for so many epochs, with the same rate (linear, a tenth of it warm-up), decay .01 and clipping at 1;
the peer in shuffled batches of 32 that are padded to their longest, ours in packed rows. Seconds
are of all that a run does but for reading its text: start, compilation, training, and the accuracy
on the test split. Needs the extra `parity`. From the root of the repository:

    python -m benchmarks.fine_tuning --model ENCODER --data FOLDER --output DIR

ENCODER is a Hugging Face folder of a BERT; FOLDER has train.tsv, valid.tsv and test.tsv with a
header (text or sentence, and label).
"""

import argparse
import dataclasses
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, get_linear_schedule_with_warmup

from benchmarks.timing import say
from transformer_jax import load_pretrained
from transformer_jax.cli.config_file import load_config
from transformer_jax.cli.pretrained_sizes import with_sizes
from transformer_jax.data.labelled_text import label_ids, label_names, read_labelled
from transformer_jax.data.text_examples import pack_examples, text_examples
from transformer_jax.training.evaluate import evaluate
from transformer_jax.training.loop import train

THREADS, BATCH, ROWS, ROW_LENGTH, RATE = 2, 32, 8, 128, 5e-5


class Split:
    """A split as tokens and labels."""

    def __init__(self, tokenizer, folder, split, names):
        text = read_labelled(folder, split)
        self.examples = text_examples(tokenizer, text.first, text.second, max_tokens=ROW_LENGTH)
        self.labels = label_ids(text, names, folder / f"{split}.tsv")

    def batch(self, ids):
        """Tokens, padded to the longest, and which of them are real."""
        tokens = self.examples.tokens
        longest = max(len(tokens[i]) for i in ids)
        padded = torch.zeros((len(ids), longest), dtype=torch.int64)
        real = torch.zeros_like(padded)
        for place, i in enumerate(ids):
            row = torch.tensor(tokens[i])
            padded[place, : len(row)], real[place, : len(row)] = row, 1
        return padded, real


def run_peer(args, train_split, test_split, seed):
    """Accuracy and seconds of a run of `transformers`, with torch's default attention (sdpa)."""
    begin = time.perf_counter()
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=2)
    count = len(train_split.labels)
    steps = args.epochs * -(-count // BATCH)
    plain = [p for name, p in model.named_parameters() if "bias" in name or "LayerNorm" in name]
    decayed = [
        p for name, p in model.named_parameters() if not ("bias" in name or "LayerNorm" in name)
    ]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, eps=1e-6, fused=True)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    labels, order = torch.tensor(train_split.labels, dtype=torch.int64), np.random.default_rng(seed)
    model.train()
    for _ in range(args.epochs):
        shuffled = order.permutation(count)
        for start in range(0, count, BATCH):
            ids = shuffled[start : start + BATCH]
            tokens, real = train_split.batch(ids)
            loss = model(input_ids=tokens, attention_mask=real, labels=labels[ids]).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    model.eval()
    right = 0
    by_length = np.argsort(test_split.examples.tokens.lengths, kind="stable")
    with torch.inference_mode():
        for start in range(0, len(by_length), BATCH):
            ids = by_length[start : start + BATCH]
            tokens, real = test_split.batch(ids)
            found = model(input_ids=tokens, attention_mask=real).logits.argmax(-1).numpy()
            right += int((found == test_split.labels[ids]).sum())
    return right / len(by_length), time.perf_counter() - begin


def run_ours(args, steps, seed, programs):
    """Accuracy and seconds of a run here, and its compiled programs."""
    begin = time.perf_counter()
    config = load_config(Path("configs/classify.py"))
    schedule = dataclasses.replace(config.optimizer.schedule, peak=RATE, warmup=steps // 10)
    settings = dict(steps=steps, checkpoint_every=steps, seed=seed, init_from=str(args.model))
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, path=str(args.data)),
        optimizer=dataclasses.replace(config.optimizer, schedule=schedule),
        train=dataclasses.replace(config.train, **settings),
    )
    workdir = args.output / f"seed_{seed}"
    config = with_sizes(config, workdir)
    programs, _ = train(config, workdir, programs=programs)
    metrics = evaluate(config, workdir).metrics
    return metrics["accuracy"], time.perf_counter() - begin, programs


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--peers", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    tokenizer = load_pretrained(args.model, kind="encoder").tokenizer
    names = label_names(read_labelled(args.data, "train"))
    train_split, test_split = (
        Split(tokenizer, args.data, split, names) for split in ("train", "test")
    )
    shape = {"row_length": ROW_LENGTH, "row_examples": ROW_LENGTH // 8}
    rows = pack_examples(train_split.examples, **shape, seed=0, epoch=0)
    steps = args.epochs * -(-len(rows) // ROWS)
    say(f"{len(train_split.labels)} examples in {len(rows)} rows; {steps} updates here")

    ours, peers, programs = [], [], None
    for seed in range(args.seeds):
        accuracy, seconds, programs = run_ours(args, steps, seed, programs)
        ours.append((accuracy, seconds))
        say(f"ours, seed {seed}: accuracy {accuracy:.4f}, {seconds:.0f} s")
        if seed < args.peers:
            peers.append(run_peer(args, train_split, test_split, seed))
            say(f"transformers, seed {seed}: accuracy {peers[-1][0]:.4f}, {peers[-1][1]:.0f} s")
    print("| | accuracy, median (least to most) | seconds, median | of the peer's |")
    print("|---|---|---|---|")
    theirs = statistics.median(seconds for _, seconds in peers)
    for name, runs in (("transformers", peers), ("transformer_jax", ours)):
        accuracies, seconds = zip(*runs, strict=True)
        middle = statistics.median(seconds)
        spread = f"{min(accuracies):.4f} to {max(accuracies):.4f}"
        print(
            f"| {name}, {len(runs)} seeds | {statistics.median(accuracies):.4f} ({spread}) | "
            f"{middle:.0f} | {middle / theirs:.2f} |"
        )


if __name__ == "__main__":
    main()
