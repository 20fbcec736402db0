"""Shows what a model looked at while it translated, or read: one HTML page, without a network.

`python -m transformer_jax.cli.attention --model DIR --output page.html "A sentence."`
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from transformer_jax.cli.model_folder import TranslationModel, open_any
from transformer_jax.errors import UserError
from transformer_jax.models.transformer import Transformer
from transformer_jax.visualize.encoder import encoder_maps
from transformer_jax.visualize.maps import AttentionMaps
from transformer_jax.visualize.page import write_html
from transformer_jax.visualize.picture import write_png
from transformer_jax.visualize.translation import translation_maps


def main(argv: Sequence[str] | None = None) -> int:
    """Translates a sentence, or takes its translation, or reads it, and writes the page.

    Returns:
      0; 1 after an error of the user's.
    """
    args = _parser().parse_args(argv)
    try:
        maps = _maps(args)
        write_html(maps, args.output)
        written = [args.output]
        if args.png:
            write_png(
                maps,
                args.png,
                part=args.part or maps.parts[0].name,
                layer=args.layer,
                head=args.head,
            )
            written.append(args.png)
        if args.arrays:
            maps.save_arrays(args.arrays)
            written.append(args.arrays)
    except UserError as error:
        print(f"attention: {error}", file=sys.stderr)
        return 1
    print(maps.title)
    print("written:", *written)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="attention", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("sentence", help="what to translate, or to read")
    add("second", nargs="?", help="of an encoder: the second text of a pair")
    add("--model", type=Path, required=True, help="a run of train.py, or a Hugging Face folder")
    add("--output", type=Path, required=True, help="the page to write")
    add("--translation", help="a translation to look at; default: what the model finds")
    add("--step", help="of a run: a step, latest (default), or best")
    add("--arrays", type=Path, help="also all weights, as an .npz file")
    add("--png", type=Path, help="also one map, as a picture:")
    add("--part", help="  of encoder; of a translation of cross (default), encoder or decoder")
    add("--layer", type=int, default=-1, help="  of this layer, from 0 (the last)")
    add("--head", type=int, help="  of this head, from 0 (the mean of all)")
    return parser


def _maps(args: argparse.Namespace) -> AttentionMaps:
    found = open_any(args.model, step=args.step)
    if isinstance(found, TranslationModel):
        if args.second is not None:
            raise UserError("A second text is for encoders; name a translation by --translation.")
        return _of_translation(found, args.sentence, args.translation)
    if args.translation is not None:
        raise UserError(f"--translation is for translations, and {args.model} is of an encoder.")
    return encoder_maps(found.with_kind("encoder", str(args.model)), args.sentence, args.second)


def _of_translation(
    opened: TranslationModel, sentence: str, translation: str | None
) -> AttentionMaps:
    translate = opened.translator(opened.search)
    (source,) = translate.encode([sentence])
    if len(source) < 2:
        raise UserError("The sentence is empty; there is nothing to look at.")
    if translation is None:
        best = translate([source])[0][0]
        target, text = list(best.ids), best.text
    else:
        (target,) = opened.tokenizer.encode_target([translation])
        target, text = [*target, opened.tokenizer.eos_id], translation
    # One row: a model that lays its rows out over devices could not split it.
    model, params = Transformer(opened.model.config), jax.device_get(opened.params)
    title = f"{sentence} → {text}"
    return translation_maps(model, params, opened.tokenizer, source, target, title=title)


if __name__ == "__main__":
    sys.exit(main())
