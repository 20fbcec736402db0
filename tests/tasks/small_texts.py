"""A small corpus of generated sentences, and tasks on it whose models are tiny."""

import random

import jax

from transformer_jax.models.bert import BertConfig
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.tasks.bert_data import BertData
from transformer_jax.tasks.masked_lm import MaskedLmConfig

WORDS = (
    "the a red green blue small old quick cat dog house tree river stone sees likes finds brings "
    "and or near under today always"
).split()

# Weights so large that what leaks from one example into another shows.
MODEL = BertConfig(
    vocab_size=64,
    width=16,
    num_heads=2,
    feed_forward_dim=32,
    num_layers=1,
    max_positions=24,
    dropout_rate=0.0,
    attention_dropout_rate=0.0,
    init_std=0.3,
)
PLAIN, REST = MaskedLmConfig(), MeshConfig()
ROWS = dict(row_length=48, example_length=24)


def write_texts(folder, seed=0, splits=(("train", 16), ("valid", 6), ("test", 6))):
    """Writes so many documents of each split; they differ with the seed."""
    draw = random.Random(seed)
    for split, count in splits:
        documents = []
        for _ in range(count):
            lengths = [draw.randint(3, 9) for _ in range(draw.randint(2, 5))]
            documents.append("\n".join(" ".join(draw.choices(WORDS, k=n)) + "." for n in lengths))
        (folder / f"{split}.txt").write_text("\n\n".join(documents) + "\n", encoding="utf-8")
    return folder


def build(
    folder,
    workdir,
    task=PLAIN,
    *,
    model=MODEL,
    mesh=REST,
    devices=1,
    batch_size=8,
    seed=3,
    **data,
):
    """The task of a fresh run."""
    workdir.mkdir(exist_ok=True)
    return task.build(
        model=model,
        data=BertData(path=str(folder), **(ROWS | data)),
        batch_size=batch_size,
        seed=seed,
        workdir=workdir,
        mesh=make_mesh(mesh, jax.devices()[:devices]),
    )
