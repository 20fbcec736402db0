"""Where the time of the ragged texts goes: our update on packed rows and on grouped batches.

Both are of the texts of `benchmarks/bert_ragged.py`: some packed rows, and batches of texts of even
length, padded to the longest. The same program takes all of them, so what differs is the layout.
The parts of the gradient are differences between programs that leave something out; each runs
forward and backward, with dropout by rbg. The optimizer is a program of its own: it is too small
beside the others to be a difference of two of them. The parts add up to the whole:

attention: scores, softmax, dropout and mix; what goes when a sum of query, key and value stands in
    its place.
projections and feed-forward: the rest of the layers, norms and dropout included; what goes with all
    layers but one, scaled to all.
embedding and head: what is left of the gradient.
optimizer: clipping, AdamW and the new parameters.
"""

import dataclasses

import jax
import optax

from benchmarks.bert_peer import Ours, terms_of
from benchmarks.bert_ragged import BATCH, every, examples_of, tokens_of
from benchmarks.bert_rows import our_batches, packed_rows
from benchmarks.timing import medians, say
from transformer_jax.models.bert import BertConfig
from transformer_jax.models.bert_pretraining import BertPretraining


def no_attention(query, key, value, **_):
    """What stands for attention where it is left out; it keeps all three projections."""
    return query + key + value


def padded_batch(examples):
    """A batch of ours with an example a row, no longer than the longest."""
    [batch] = our_batches([[x] for x in examples], len(examples))
    length = max(len(x.tokens) for x in examples)
    return {
        name: x[:, :length] if name in ("tokens", "segments", "positions") else x
        for name, x in batch.items()
    }


def first_layer(params):
    """The parameters of a model of one layer, among those of a larger one."""
    bert = params["bert"]
    layer = jax.tree.map(lambda x: x[:1], bert["encoder"]["layer"])
    return params | {"bert": bert | {"encoder": bert["encoder"] | {"layer": layer}}}


def gradient(config, params, batches, attention_fn=None):
    """A function that computes the gradient on each batch."""
    terms = terms_of(config, attention_fn)

    def loss(params, batch, key):
        total, weight = terms(params, batch, key)["mlm"]
        return total / weight

    program, key = jax.jit(jax.grad(loss)), jax.random.key(0, impl="rbg")

    def run():
        for batch in batches:
            jax.block_until_ready(program(params, batch, key))

    return run


def optimizer(ours, batches):
    """A function that makes as many updates as there are batches, of some gradient."""

    @jax.jit
    def program(grads, state, params):
        updates, state = ours.optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def run():
        for _ in batches:
            grads = params = ours.state.params
            jax.block_until_ready(program(grads, ours.state.opt_state, params))

    return run


def works_of(config, ours, params, batches):
    """The programs of which the parts are made."""
    one = dataclasses.replace(config, num_layers=1)
    return {
        "optimizer": optimizer(ours, batches),
        "gradient": gradient(config, params, batches),
        "no attention": gradient(config, params, batches, no_attention),
        "one layer": gradient(one, first_layer(params), batches, no_attention),
    }


def parts_of(seconds, layers):
    """{part: seconds} of {program: seconds}."""
    layer = (seconds["no attention"] - seconds["one layer"]) / (layers - 1)
    return {
        "attention": seconds["gradient"] - seconds["no attention"],
        "projections and feed-forward": layers * layer,
        "embedding and head": seconds["one layer"] - layer,
        "optimizer": seconds["optimizer"],
        "all": seconds["gradient"] + seconds["optimizer"],
    }


def profile(args):
    """Prints the parts in ms of 1,000 tokens that are not padding, wall and CPU."""
    config = BertConfig.base(num_layers=args.layers, pooler=False, unroll=True)
    examples, groups = examples_of(args)
    rows = every(packed_rows(examples)[0], args.every)[:BATCH]
    batches = {"packed": our_batches(rows, BATCH), "grouped": list(map(padded_batch, groups))}
    sizes = {"packed": sum(map(tokens_of, rows)), "grouped": sum(map(tokens_of, groups))}
    for layout, some in batches.items():
        shapes = ", ".join(f"{n} x {length}" for n, length in (x["tokens"].shape for x in some))
        say(f"{layout}: {shapes}; {sizes[layout]:,} tokens")
    model, tokens = BertPretraining(config), batches["packed"][0]["tokens"][:1]
    params = model.init(jax.random.key(0), tokens)["params"]
    ours = Ours(config, params)
    works = {
        (layout, name): work
        for layout, some in batches.items()
        for name, work in works_of(config, ours, params, some).items()
    }
    for name, work in works.items():
        work()
        say(f"{' '.join(name)} is compiled")
    found = medians(works, args.rounds)
    columns = []
    for kind in (0, 1):
        for layout, size in sizes.items():
            seconds = {name: x[kind] for (which, name), x in found.items() if which == layout}
            parts = parts_of(seconds, config.num_layers)
            columns.append({part: 1e6 * x / size for part, x in parts.items()})
    print("| part, ms of 1,000 tokens | packed | grouped | packed, CPU | grouped, CPU |")
    print("|---" * 5 + "|")
    for part in columns[0]:
        print(f"| {part} | " + " | ".join(f"{column[part]:,.0f}" for column in columns) + " |")
