"""The loader of prepared rows, in tokens a second and a CPU-second, beside reads of single records.

Each round reads rows of the same random order in turn: by `pipeline.batches`, all records that a
batch has of a shard in one read; by the same, with a read for each record; and records alone, not
made into a batch, one by one, with the reader's defaults (it reads ahead) and without reading
ahead. All files are in the memory of the system, as after an epoch. The table has medians of the
rounds.

    python benchmarks/loader.py [--prepared FOLDER] [--batch-size 256] [--batches 200] [--rounds 5]

Without --prepared a text is made up, of words whose frequencies fall as in a language, and prepared
with a WordPiece tokenizer in rows of --row-length tokens.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from transformer_jax.cli import prepare
from transformer_jax.data.pipeline import batches
from transformer_jax.data.prepared_rows import PreparedRows

NO_READING_AHEAD = "readahead_buffer_size:0,max_parallelism:0"


def timed(work):
    """Wall and CPU seconds, and what the work returns."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def made_up(folder, megabytes):
    """A text of so many megabytes: paragraphs of Zipf-distributed words, some to a document."""
    random = np.random.Generator(np.random.Philox(0))
    letters = np.array(list("etaoinshrdlucmfwypvbgkq"))
    words = np.array(["".join(random.choice(letters, random.integers(2, 9))) for _ in range(20000)])
    folder.mkdir()
    with (folder / "text.txt").open("w", encoding="utf-8") as file:
        while file.tell() < megabytes * 1e6:
            chosen = words[random.zipf(1.3, 3000) % len(words)]
            cuts = np.sort(random.integers(0, len(chosen), 100))
            lines = [" ".join(part) for part in np.split(chosen, cuts) if len(part)]
            file.write("\n".join(lines) + "\n\n")


class SingleReads(PreparedRows):
    """Prepared rows with a read for each record."""

    def _read(self, shard, numbers):
        return [
            super(SingleReads, self)._read(shard, one)[0] for one in np.split(numbers, len(numbers))
        ]


def read_batches(rows, plan, args):
    """The tokens of some batches, the first of them not counted in the time of the others."""
    stream = batches(lambda epoch: plan, rows.build, batch_size=args.batch_size)
    try:
        return sum(
            np.count_nonzero(batch["segments"])
            for batch, _ in itertools.islice(stream, args.batches)
        )
    finally:
        stream.close()


def records_alone(folder, rows, plan, count, options):
    """The words of some records, which are the tokens of their text and little else."""
    shards = rows.settings["splits"]["train"]["shards"]
    ends = np.cumsum([shard["rows"] for shard in shards])
    readers = [ArrayRecordReader(str(folder / shard["name"]), options) for shard in shards]
    words = 0
    for number in plan.order[:count].tolist():
        shard = int(np.searchsorted(ends, number, side="right"))
        readers[shard].seek(number - int(ends[shard] - shards[shard]["rows"]))
        words += len(readers[shard].read()) // 4
    return words


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prepared", type=Path)
    parser.add_argument("--row-length", type=int, default=128)
    parser.add_argument("--megabytes", type=float, default=16)
    parser.add_argument("--shard-bytes", type=int, default=4 << 20)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.prepared or Path(temporary) / "rows"
        if args.prepared is None:
            made_up(Path(temporary) / "text", args.megabytes)
            options = f"--path {temporary}/text --output {folder} --tokenizer wordpiece"
            options += f" --vocab-size 8000 --row-length {args.row_length} --splits train"
            if prepare.main([*options.split(), "--shard-bytes", str(args.shard_bytes)]):
                sys.exit(1)
        measure(folder, args)


def measure(folder, args):
    rows, single = PreparedRows(folder, "train"), SingleReads(folder, "train")
    plan = rows.plan(0, seed=0)
    count = len(rows.settings["splits"]["train"]["shards"])
    print(f"  {rows.summary} in {count} shards, {rows.filled(plan):.1%} filled", file=sys.stderr)
    args.batches = min(args.batches, len(plan) // args.batch_size)
    some = max(1, args.batches * args.batch_size // 100)
    works = {
        "batches, a read for each shard": lambda: read_batches(rows, plan, args),
        "batches, a read for each record": lambda: read_batches(single, plan, args),
        "records alone, reading ahead": lambda: records_alone(folder, rows, plan, some, ""),
        "records alone": lambda: records_alone(folder, rows, plan, 50 * some, NO_READING_AHEAD),
    }
    for work in works.values():
        work()
    timings = {name: [] for name in works}
    for _ in range(args.rounds):
        for name, work in works.items():
            wall, cpu, tokens = timed(work)
            timings[name].append((tokens / wall, tokens / cpu))
    print("| work | tokens/s | tokens/CPU-s |")
    print("|---|---|---|")
    for name, rates in timings.items():
        wall, cpu = (statistics.median(column) for column in zip(*rates, strict=True))
        print(f"| {name} | {wall:,.0f} | {cpu:,.0f} |")


if __name__ == "__main__":
    main()
