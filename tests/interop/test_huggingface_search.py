"""How a Marian folder says that it translates: what is read, what is warned of, what cannot be."""

import dataclasses
import json
import warnings

import pytest

from tests.interop.marian_folder import CONFIG, SEARCH, drop, edit, generation, message_of
from transformer_jax.decoding.sampling import Sampling
from transformer_jax.decoding.search_config import SearchConfig
from transformer_jax.interop.huggingface import load_pretrained, save_pretrained

ODD = dict(
    no_repeat_ngram_size=3,
    encoder_no_repeat_ngram_size=2,
    repetition_penalty=1.2,
    encoder_repetition_penalty=1.1,
    min_length=4,
    min_new_tokens=3,
    num_beam_groups=2,
    diversity_penalty=0.5,
    do_sample=True,
    renormalize_logits=True,
    exponential_decay_length_penalty=[5, 1.1],
    forced_bos_token_id=4,
    suppress_tokens=[4],
    begin_suppress_tokens=[4],
    force_words_ids=[[4]],
    sequence_bias=[[[4], -1.0]],
)
OFF = dict(no_repeat_ngram_size=0, repetition_penalty=1.0, do_sample=False, suppress_tokens=[])


@pytest.mark.parametrize("key", ODD)
def test_a_search_that_we_do_not_have_is_warned_of(folder, key):
    generation(folder, **{key: ODD[key]})
    with pytest.warns(UserWarning, match=rf"generation_config\.json: .* without {key}\.") as caught:
        assert load_pretrained(folder).search == SEARCH
    assert [warning.filename for warning in caught] == [__file__]


def test_all_that_we_do_not_have_is_warned_of_at_once(folder):
    generation(folder, **ODD, bad_words_ids=[[4], [4, 5], [6]])
    words = "bad_words_ids of more than one token"
    with pytest.warns(UserWarning, match=", ".join([*ODD, words])) as caught:
        search = load_pretrained(folder).search
    assert len(caught) == 1
    assert search == dataclasses.replace(SEARCH, suppressed=(4, 6))


def test_what_is_off_is_not_warned_of(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_pretrained(folder)
        generation(folder, **OFF)
        load_pretrained(folder)
        generation(folder, **dict.fromkeys(ODD))
        assert load_pretrained(folder).search == SEARCH


def test_a_file_of_generation_settings_stands_alone(folder):
    """As in transformers: those of config.json count only without it."""
    edit(folder, num_beams=7, no_repeat_ngram_size=3, bad_words_ids=[[9]], max_length=30)
    assert load_pretrained(folder).search == SEARCH
    drop(folder, "generation_config.json", "num_beams", "bad_words_ids")
    want = dataclasses.replace(SEARCH, beam_size=1, suppressed=())
    assert load_pretrained(folder).search == want
    (folder / "generation_config.json").unlink()
    with pytest.warns(UserWarning, match=r"/config\.json: .*no_repeat_ngram_size"):
        found = load_pretrained(folder).search
    assert found == SearchConfig(
        beam_size=7, length_rule="plain", length_penalty=1.0, early_stopping="heuristic",
        max_length=29, suppressed=(9,), force_end=True,
    )  # fmt: skip


def test_a_setting_that_is_null_is_left_out(folder):
    keys = "num_beams length_penalty early_stopping max_length bad_words_ids forced_eos_token_id"
    generation(folder, **dict.fromkeys(keys.split()))
    want = SearchConfig(
        beam_size=1, length_rule="plain", length_penalty=1.0, early_stopping="heuristic",
        max_length=511,
    )  # fmt: skip
    assert load_pretrained(folder).search == want
    drop(folder, "generation_config.json", *keys.split())
    assert load_pretrained(folder).search == want


def test_new_tokens_do_not_count_the_start(folder):
    generation(folder, max_new_tokens=9)
    assert load_pretrained(folder).search.max_length == 9


@pytest.mark.parametrize(
    "changes",
    [
        dict(num_beams="4"),
        dict(num_beams=2.5),
        dict(num_beams=0),
        dict(length_penalty="x"),
        dict(length_penalty=[1.0]),
        dict(max_length="x"),
        dict(max_length=20.5),
        dict(max_length=1),
        dict(max_new_tokens=[3]),
        dict(early_stopping="sometimes"),
        dict(early_stopping={"a": 1}),
        dict(bad_words_ids=5),
        dict(bad_words_ids=[5]),
        dict(bad_words_ids=[["a"]]),
        dict(bad_words_ids=[[-1]]),
        dict(bad_words_ids=[[CONFIG.vocab_size]]),
        dict(bad_words_ids=[[1.0]]),
    ],
    ids=str,
)
def test_generation_settings_that_cannot_be_are_named(folder, changes):
    generation(folder, **changes)
    message_of(folder, r"generation_config\.json: its generation settings cannot be: .*[^.]\.$")


def test_positions_are_as_many_as_the_longest_translation(tmp_path, own):
    search = dataclasses.replace(SEARCH, max_length=700)
    save_pretrained(tmp_path, dataclasses.replace(own, search=search))
    assert json.loads((tmp_path / "config.json").read_text())["max_position_embeddings"] == 701
    assert load_pretrained(tmp_path).search == search


@pytest.mark.parametrize("stopping", ["heuristic", "full", "never"])
def test_each_search_comes_back(tmp_path, own, stopping):
    search = SearchConfig(
        beam_size=1, length_rule="plain", length_penalty=0.0, early_stopping=stopping, max_length=3
    )
    save_pretrained(tmp_path, dataclasses.replace(own, search=search))
    assert load_pretrained(tmp_path).search == search


def test_a_search_without_a_longest_translation_gets_opus_mts(tmp_path, own):
    save_pretrained(tmp_path, dataclasses.replace(own, search=SearchConfig()))
    found = load_pretrained(tmp_path).search
    assert found == SearchConfig(length_rule="plain", length_penalty=1.0, max_length=511)


def test_a_search_that_has_no_name_there_is_warned_of(tmp_path, own):
    search = dataclasses.replace(SEARCH, sampling=Sampling(), coverage_penalty=0.2)
    with pytest.warns(UserWarning, match="without sampling and coverage_penalty") as caught:
        save_pretrained(tmp_path, dataclasses.replace(own, search=search))
    assert [warning.filename for warning in caught] == [__file__]
    assert load_pretrained(tmp_path).search == SEARCH
