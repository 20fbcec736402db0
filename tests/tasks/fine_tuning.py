"""What the tests of fine-tuning start from."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from transformer_jax import Bert, save_pretrained
from transformer_jax.cli import train
from transformer_jax.interop.bert import PretrainedBert

CONFIGS = Path(train.__file__).parents[2] / "configs"


def write_start(folder, config, tokenizer):
    """A folder as of Hugging Face, with an encoder that has learnt nothing."""
    params = Bert(config).init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    save_pretrained(folder, PretrainedBert(config, "encoder", params, tokenizer))
    return folder


def flags(name, folder, start, workdir, rows, *more):
    """The command line of a run that learns a small task quickly."""
    shape = [part for key, x in rows.items() for part in (f"--data.{key}", str(x))]
    speed = "--optimizer.schedule.peak 5e-3 --optimizer.schedule.warmup 10 --train.batch_size 8"
    where = ["--train.init_from", str(start), "--workdir", str(workdir), "--data.path", str(folder)]
    return ["--config", str(CONFIGS / f"{name}.py"), *shape, *speed.split(), *where, *more]


def scrambled(params, seed=1):
    """Parameters of which every answer depends on every token."""
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(seed)
    noise = [rng.normal(size=leaf.shape, scale=0.3).astype(np.float32) for leaf in leaves]
    return jax.tree.unflatten(tree, [a + b for a, b in zip(leaves, noise, strict=True)])


def balanced(model, params, tokenizer, texts):
    """The parameters of a tagger with a bias by which no tag is the best one of all tokens."""
    logits = []
    for encoded in tokenizer.encode(texts):
        ids = np.array([[tokenizer.cls_id, *encoded.ids, tokenizer.sep_id]])
        logits.append(model.apply({"params": params}, ids)[0, 1:-1])
    mean = jnp.concatenate(logits).mean(0)
    dense = params["head"]["dense"] | {"bias": params["head"]["dense"]["bias"] - mean}
    return params | {"head": params["head"] | {"dense": dense}}
