"""Evaluates a run: `python eval.py --workdir DIR [--split test]`.

With --model in place of --workdir, a model that was fine-tuned elsewhere is evaluated:
`python eval.py --model FOLDER --config configs/classify.py --data.path DATA`, where FOLDER is one
of Hugging Face, and flags of train.py may follow.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformer_jax.cli.config_file import change_config, load_config
from transformer_jax.cli.evaluate_pretrained import evaluate_pretrained
from transformer_jax.cli.run_config import read_run_config
from transformer_jax.errors import UserError
from transformer_jax.files import write_whole
from transformer_jax.interop.folders import make_folder
from transformer_jax.tasks.task import Evaluation
from transformer_jax.training.config import ExperimentConfig
from transformer_jax.training.curves import draw_loss
from transformer_jax.training.evaluate import evaluate
from transformer_jax.training.metrics import to_line
from transformer_jax.training.seeds import seed_folders, spread, spread_table


def main(argv: Sequence[str] | None = None) -> int:
    """Restores, evaluates, prints; the last line on stdout is one JSON object.

    Returns:
      0; 1 after an error of the user's.
    """
    parser = _parser()
    args, overrides = parser.parse_known_args(argv)
    if overrides and args.model is None:
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    if args.labels is not None and args.model is None:
        parser.error("--labels is of --model; a run has its own")
    folders = [] if args.workdir is None else seed_folders(args.workdir)
    if folders and args.predictions is not None:
        parser.error("--predictions is of one run: name the folder of a seed")
    try:
        if args.model is not None:
            _evaluate_model(args, overrides)
            return 0
        found = [_evaluate(folder, args) for folder in folders or [args.workdir]]
    except UserError as error:
        print(f"eval.py: {error}", file=sys.stderr)
        return 1
    if folders:
        print(spread_table(spread(found)))
        print(to_line(spread(found)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="eval.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--workdir", type=Path, help="folder of the run, or of runs with several seeds"
    )
    which.add_argument("--model", type=Path, help="a Hugging Face folder of a fine-tuned model")
    parser.add_argument("--split", default="test", help="train, valid or test")
    parser.add_argument(
        "--step", default="latest", help="of a run: a step, latest, or best: by validation loss"
    )
    parser.add_argument(
        "--average",
        type=int,
        help="of a run: newest checkpoints to average; default: as the config says",
    )
    parser.add_argument(
        "--config", type=Path, help="a config file, of a run one whose classes are your own"
    )
    parser.add_argument("--data.path", dest="data_path", help="where the data is now")
    parser.add_argument(
        "--threshold",
        type=float,
        help="of answers: how far above the best text's score that of none must be (0)",
    )
    parser.add_argument(
        "--predictions", type=Path, help="of answers: folder for the files of Google's run_squad.py"
    )
    parser.add_argument(
        "--labels", help="of --model: what the data calls its classes, in their order: a,b,c"
    )
    return parser


def _evaluate_model(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Evaluates a model that is no run, and prints what is found."""
    if args.config is None:
        raise UserError("--model needs the task: name a config of it, --config configs/NAME.py.")
    if args.step != "latest" or args.average is not None:
        raise UserError("--step and --average are of runs, and --model names none.")
    flags = [*overrides]
    if args.data_path is not None:
        flags += ["--data.path", args.data_path]
    config = change_config(load_config(args.config), flags, "eval.py", __doc__ or "")
    labels = None if args.labels is None else args.labels.split(",")
    config = _with_threshold(config, args.threshold)
    found = evaluate_pretrained(args.model, config, args.split, labels)
    print(found.report, end="\n\n")
    _write_predictions(args.predictions, found)
    print(to_line({"split": args.split} | dict(found.metrics)))


def _evaluate(workdir: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Evaluates one run, and prints and writes what is found."""
    config = _with_threshold(read_run_config(workdir, args.config), args.threshold)
    found = evaluate(
        config,
        workdir,
        split=args.split,
        step=args.step,
        average=args.average,
        data_path=args.data_path,
    )
    print(found.report, end="\n\n")
    _write_predictions(args.predictions, found)
    line, name = to_line(found.metrics), f"eval_{args.split}{_of_other(config, args.data_path)}"
    try:
        (workdir / f"{name}.txt").write_text(found.report + "\n", encoding="utf-8")
        (workdir / f"{name}.json").write_text(line + "\n", encoding="utf-8")
        curve = draw_loss(workdir)
        print(f"loss curve: {curve}" if curve else "no metrics.jsonl, so no loss curve")
    except OSError as error:  # another's run, read-only: the result is printed all the same
        print(f"eval.py: {workdir} was not written: {error.strerror}.", file=sys.stderr)
    print(line)
    return dict(found.metrics)


def _with_threshold(config: ExperimentConfig, threshold: float | None) -> ExperimentConfig:
    if threshold is None:
        return config
    if not hasattr(config.task, "threshold"):
        raise UserError("--threshold is of finding answers, as configs/answer.py.")
    return dataclasses.replace(config, task=dataclasses.replace(config.task, threshold=threshold))


def _write_predictions(folder: Path | None, found: Evaluation) -> None:
    if folder is None:
        return
    if not found.files:
        raise UserError("--predictions is of finding answers, as configs/answer.py.")
    make_folder(folder)
    for name, content in found.files.items():
        text = json.dumps(content, ensure_ascii=False, indent=2)
        write_whole(folder / name, (text + "\n").encode())
    print(f"written: {', '.join(str(folder / name) for name in found.files)}")


def _of_other(config: ExperimentConfig, data_path: str | None) -> str:
    """What tells the files of another data set from those of the run's own, which they lie beside.

    The second validation set of MNLI is a task of its own, for example.
    """
    own = getattr(config.data, "glue_name", None)
    if data_path is None or own is None:
        return ""
    other = dataclasses.replace(config.data, path=data_path).glue_name
    return "" if other in (own, None) else f"_{other}"
