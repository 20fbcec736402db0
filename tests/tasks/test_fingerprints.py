"""Every task's fingerprint tells its data and its tokenizer apart, by names that may be allowed."""

import dataclasses

import jax
import pytest

from tests.tasks import test_choosing, test_classification, test_reading, test_tagging
from tests.tasks.fine_tuning import write_start
from tests.tasks.small_texts import build, write_texts
from tests.tasks.test_distillation import build_student
from tests.tasks.test_prepared_training import prepare_rows
from tests.training.test_loop import config_for
from transformer_jax.data.wordpiece import WordPieceTokenizer
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.training.differences import check_allowed, fingerprint_differences
from transformer_jax.training.loop import build_task

pytestmark = pytest.mark.usefixtures("quick_compilation")
FINE_TUNED = {
    "choosing": (test_choosing, test_choosing.write_questions),
    "classification": (test_classification, test_classification.write_texts),
    "reading": (test_reading, test_reading.write_questions),
    "tagging": (test_tagging, test_tagging.write_sentences),
}
PRETRAINED = ("masked_lm", "distillation", "prepared")


def fine_tuned(kind, folder, *, seed=0, words=("york",)):
    """The fingerprint of such a task, on data and with a tokenizer of one's choice."""
    module, write = FINE_TUNED[kind]
    folder.mkdir()
    size = min(module.MODEL.vocab_size, 64)
    texts = [*"the a saw was with and cat dog hen cow red green blue grey".split(), *words]
    tokenizer = WordPieceTokenizer.train(
        texts * 4, folder / "tokenizer.json", vocab_size=size, lowercase=True
    )
    start = write_start(folder / "start", module.MODEL, tokenizer)
    write(folder, seed=seed)
    return module.build(start, folder, folder / "run").fingerprint


def pretrained(kind, folder, *, seed=0, lowercase=True):
    """The same for a task whose tokenizer is trained on its text."""
    folder.mkdir()
    texts = write_texts(folder, seed=seed)
    if kind == "distillation":
        return build_student(texts, folder / "run", lowercase=lowercase).fingerprint
    if kind == "masked_lm":
        return build(texts, folder / "run", lowercase=lowercase).fingerprint
    rows = prepare_rows(texts, folder / "rows", size="64" if lowercase else "62")
    return build(f"prepared:{rows}", folder / "run").fingerprint


def names(old, new):
    return {line.partition(":")[0] for line in fingerprint_differences(old, new)}


@pytest.mark.parametrize("kind", FINE_TUNED)
def test_fine_tuning_knows_its_examples_and_its_tokenizer(kind, tmp_path):
    one = fine_tuned(kind, tmp_path / "one")
    assert names(one, fine_tuned(kind, tmp_path / "same")) == set()
    assert names(one, fine_tuned(kind, tmp_path / "data", seed=1)) == {"data.examples"}
    other = fine_tuned(kind, tmp_path / "tokenizer", words=("jersey", "hampshire"))
    assert "data.tokenizer" in names(one, other)
    check_allowed([*names(one, other), "data.examples"])


@pytest.mark.parametrize("kind", PRETRAINED)
def test_pretraining_knows_its_text_and_its_tokenizer(kind, tmp_path):
    one = pretrained(kind, tmp_path / "one")
    assert names(one, pretrained(kind, tmp_path / "same")) == set()
    assert names(one, pretrained(kind, tmp_path / "text", seed=1)) >= {"data.text"}
    other = pretrained(kind, tmp_path / "tokenizer", lowercase=False)
    assert "data.tokenizer" in names(one, other)
    check_allowed([*names(one, other), "data.text"])


@pytest.mark.parametrize("field", ["seed", "batch_size"])
def test_the_order_of_the_data_is_known(field, tmp_path, pairs_folder):
    """By the names of the config's fields, so that to allow one allows both."""
    config = config_for(pairs_folder)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    other = dataclasses.replace(config, train=dataclasses.replace(config.train, **{field: 4}))
    one, two = (build_task(c, tmp_path, mesh).fingerprint for c in (config, other))
    assert names(one, two) == {f"train.{field}"}
