"""The translation task: its batches over hosts, its search, its scores."""

import dataclasses

import jax
import numpy as np
import pytest

from transformer_jax.data.pipeline import DataState
from transformer_jax.data.tokenizers import SentencePieceTokenizer
from transformer_jax.errors import UserError
from transformer_jax.models.transformer import TransformerConfig
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.tasks.translation import TranslationConfig, TranslationData
from transformer_jax.tasks.translation_eval import score_translations

MODEL = TransformerConfig(
    vocab_size=32, width=16, num_heads=2, feed_forward_dim=16, encoder_layers=1, decoder_layers=1
)


def build(folder, workdir, devices=1, batch_size=8, model=MODEL):
    workdir.mkdir(exist_ok=True)
    return TranslationConfig().build(
        model=model,
        data=TranslationData(path=str(folder), row_length=32),
        batch_size=batch_size,
        seed=3,
        workdir=workdir,
        mesh=make_mesh(MeshConfig(), jax.devices()[:devices]),
    )


@pytest.fixture(scope="module")
def task(tmp_path_factory, pairs_folder):
    return build(pairs_folder, tmp_path_factory.mktemp("run"))


def one_epoch(task, hosts):
    """The global batches of the first epoch, put together from what each host reads."""
    parts = [task.train_batches(DataState(), host, hosts) for host in range(hosts)]
    batches = []
    while True:
        read = [next(part) for part in parts]
        states = {state for _, state in read}
        assert len(states) == 1
        batches.append({k: np.concatenate([b[k] for b, _ in read]) for k in read[0][0]})
        if states.pop().epoch > 0:
            return batches


def sentences_of(task, batches):
    found = []
    for batch in batches:
        for tokens, segments in zip(batch["source"], batch["source_segments"], strict=True):
            for segment in range(1, segments.max(initial=0) + 1):
                found += task.tokenizer.decode([tokens[segments == segment].tolist()])
    return sorted(found)


def test_epoch_holds_each_pair_once_whatever_the_number_of_hosts(task, pairs_folder):
    lines = (pairs_folder / "train.tsv").read_text().splitlines()
    want = sorted(line.split("\t")[0] for line in lines)
    one = one_epoch(task, 1)
    assert sentences_of(task, one) == want
    for hosts in (2, 4):
        for a, b in zip(one_epoch(task, hosts), one, strict=True):
            jax.tree.map(np.testing.assert_array_equal, a, b)


def test_tokens_of_padding_are_not_counted(task):
    batch = one_epoch(task, 1)[0]
    assert task.count_tokens(batch) == (batch["source"] > 0).sum() + (batch["targets"] > 0).sum()


def test_perfect_translations_score_100():
    pairs = [(f"source {i}", f"the cat sees house number {i}") for i in range(12)]
    found = score_translations(pairs, [target for _, target in pairs])
    assert found.metrics["bleu"] == found.metrics["chrf"] == 100.0
    assert "nrefs:1|case:mixed" in found.report
    assert found.report.count("translation  ") == 10


def test_tokenizer_of_another_size_is_refused(tmp_path, pairs_folder):
    texts = (pairs_folder / "train.tsv").read_text().split("\n")
    SentencePieceTokenizer.train(texts, tmp_path / "tokenizer.model", vocab_size=36)
    (tmp_path / "config.json").write_text("{}")  # a run's folder: its tokenizer is kept
    with pytest.raises(UserError, match="has 36 tokens, the model 32"):
        build(pairs_folder, tmp_path)


def test_fingerprint_tells_data_and_rows_apart(task, tmp_path, pairs_folder):
    same = build(pairs_folder, tmp_path / "same")
    assert same.fingerprint == task.fingerprint
    other = build(pairs_folder, tmp_path / "other", batch_size=16)
    assert other.fingerprint != task.fingerprint


@pytest.mark.parametrize(
    "changes,message",
    [(dict(label_smoothing=1.0), "label_smoothing=1.0"), (dict(beam_size=0), "beam_size=0")],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TranslationConfig(), **changes)
