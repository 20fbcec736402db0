"""Marian's tokenizer: pieces by two SentencePiece models, ids by vocab.json, and bad folders."""

import json
import random
import shutil

import numpy as np
import pytest
import sentencepiece

from transformer_jax.data.marian_tokenizer import MarianTokenizer, save_as_marian
from transformer_jax.data.tokenizers import SentencePieceTokenizer
from transformer_jax.errors import UserError

SOURCE_WORDS = ["red", "green", "blue", "cat", "dog", "house", "sees", "takes", "the", "small"]
TARGET_WORDS = ["rouge", "vert", "bleu", "chat", "chien", "maison", "voit", "prend", "le", "été"]
TEXTS = ["the red cat sees", "le chat rouge", "", " the  dog ", "日 cat ß", "a\tb\nc"]
CODE = ">>fra<<"


def train(words, path, mark):
    """A model with the control symbol `mark`, which it alone leaves out of a decoded text."""
    rng = random.Random(0)
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 6))) for _ in range(200)]
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=file,
            vocab_size=40,
            hard_vocab_limit=False,
            bos_id=-1,
            eos_id=0,
            unk_id=1,
            control_symbols=[mark],
            minloglevel=2,
        )


def processor(folder, side):
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / f"{side}.spm"))


def pieces_of(folder, side):
    model = processor(folder, side)
    return {model.id_to_piece(i) for i in range(model.get_piece_size())}


def shuffled(pieces, seed):
    """An id for each piece, unrelated to its number in the model; some numbers have no piece."""
    ids = random.Random(seed).sample(range(3, 3 + len(pieces) + 20), len(pieces))
    return dict(zip(sorted(pieces), ids, strict=True))


def edit(folder, name, **changes):
    path = folder / name
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(old | changes))


def rename(folder, name, names):
    """The entries of a vocabulary under other names."""
    old = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({names.get(key, key): i for key, i in old.items()}))


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    train(SOURCE_WORDS, folder / "source.spm", "<only_source>")
    train(TARGET_WORDS, folder / "target.spm", "<only_target>")
    others = pieces_of(folder, "source") | pieces_of(folder, "target")
    vocabulary = shuffled((others | {CODE}) - {"</s>", "<unk>"}, seed=0)
    special = {"</s>": 0, "<unk>": 1, "<pad>": 90}
    (folder / "vocab.json").write_text(json.dumps(vocabulary | special))
    return folder


@pytest.fixture(scope="module")
def separate_folder(tmp_path_factory, shared_folder):
    folder = tmp_path_factory.mktemp("separate")
    special = {"</s>": 0, "<unk>": 1, "<pad>": 90}
    for seed, (side, name) in enumerate([("source", "vocab"), ("target", "target_vocab")], start=1):
        shutil.copy(shared_folder / f"{side}.spm", folder)
        pieces = pieces_of(folder, side) | {CODE, "<only_source>", "<only_target>"}
        vocabulary = shuffled(pieces - {"</s>", "<unk>"}, seed) | special
        (folder / f"{name}.json").write_text(json.dumps(vocabulary))
    edit(folder, "tokenizer_config.json", separate_vocabs=True)
    return folder


@pytest.fixture(params=["shared", "separate"])
def source_folder(request):
    return request.getfixturevalue(f"{request.param}_folder")


@pytest.fixture
def folder(tmp_path, source_folder):
    """A folder of either kind that a test may change."""
    return shutil.copytree(source_folder, tmp_path / "folder")


def vocabularies(folder):
    """(of the source, of the target)"""
    source = json.loads((folder / "vocab.json").read_text())
    path = folder / "target_vocab.json"
    return source, json.loads(path.read_text()) if path.exists() else source


def by_hand(folder, side, text):
    vocabulary = vocabularies(folder)[side == "target"]
    return [vocabulary.get(p, 1) for p in processor(folder, side).encode(text, out_type=str)]


def assert_equal(got, want):
    for text in [*TEXTS, CODE + "cat"]:
        assert got.encode([text]) == want.encode([text])
        assert got.encode_target([text]) == want.encode_target([text])
    ids = [[i] for i in range(100)]
    assert got.decode(ids) == want.decode(ids)
    for name in ("pad_id", "eos_id", "unk_id", "bos_id", "vocab_size", "source_vocab_size"):
        assert getattr(got, name) == getattr(want, name)
    assert got.source_pieces(range(100)) == want.source_pieces(range(100))
    assert got.target_pieces(range(100)) == want.target_pieces(range(100))


def test_ids_are_those_of_the_pieces_in_the_vocabulary_of_their_side(folder):
    tokenizer = MarianTokenizer(folder)
    assert tokenizer.encode(TEXTS) == [by_hand(folder, "source", text) for text in TEXTS]
    assert tokenizer.encode_target(TEXTS) == [by_hand(folder, "target", text) for text in TEXTS]
    assert tokenizer.encode(["the red cat"]) != tokenizer.encode_target(["the red cat"])
    assert tokenizer.encode([]) == tokenizer.encode_target([]) == tokenizer.decode([]) == []


def test_pieces_are_those_of_the_ids_of_their_side(folder):
    tokenizer = MarianTokenizer(folder)
    for vocabulary, find in zip(
        vocabularies(folder), (tokenizer.source_pieces, tokenizer.target_pieces), strict=True
    ):
        assert find(np.array(list(vocabulary.values()))) == list(vocabulary)
        free = next(i for i in range(90) if i not in vocabulary.values())
        assert find([free, -1, 1000]) == ["<unk>"] * 3


def test_the_special_tokens_and_sizes_are_those_of_the_vocabulary(folder):
    tokenizer = MarianTokenizer(folder)
    assert (tokenizer.eos_id, tokenizer.unk_id, tokenizer.pad_id) == (0, 1, 90)
    assert tokenizer.bos_id == 90  # what Marian starts with
    assert MarianTokenizer(folder, bos_id=0).bos_id == 0
    assert tokenizer.vocab_size == tokenizer.source_vocab_size == 91


def test_the_two_sides_may_have_vocabularies_of_different_sizes(tmp_path, separate_folder):
    folder = shutil.copytree(separate_folder, tmp_path / "folder")
    edit(folder, "target_vocab.json", zebra=123)
    tokenizer = MarianTokenizer(folder)
    assert (tokenizer.source_vocab_size, tokenizer.vocab_size) == (91, 124)


def test_a_piece_that_the_vocabulary_lacks_is_unknown(folder):
    tokenizer = MarianTokenizer(folder)
    assert tokenizer.encode(["日"])[0][-1] == tokenizer.encode_target(["日"])[0][-1] == 1
    piece = processor(folder, "source").encode("cat", out_type=str)[0]
    vocabulary = json.loads((folder / "vocab.json").read_text())
    del vocabulary[piece]
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    assert MarianTokenizer(folder).encode(["cat"])[0][0] == 1


def test_a_language_code_is_one_token_at_the_very_start_alone(folder):
    tokenizer = MarianTokenizer(folder)
    code = vocabularies(folder)[0][CODE]
    assert tokenizer.encode([CODE]) == [[code]]
    assert tokenizer.encode([CODE + " cat"]) == [[code, *by_hand(folder, "source", " cat")]]
    assert tokenizer.encode([">>deu<<cat"]) == [[1, *by_hand(folder, "source", "cat")]]
    assert tokenizer.encode([CODE * 2])[0] == [code, *by_hand(folder, "source", CODE)]
    for text in (" " + CODE, "cat " + CODE, ">>fra", "fra<<", "<<>>"):
        assert tokenizer.encode([text]) == [by_hand(folder, "source", text)]
    assert tokenizer.encode_target([CODE])[0] == [vocabularies(folder)[1][CODE]]


def test_the_language_codes_are_known(folder):
    assert MarianTokenizer(folder).supported_language_codes == [CODE]


@pytest.mark.parametrize("text", ["</s>", "<pad>", "a</s>b", "cat <pad>", "<unk>", "<s>"])
def test_names_of_special_tokens_in_a_text_are_text(folder, text):
    tokenizer = MarianTokenizer(folder)
    for side, (ids,) in (
        ("source", tokenizer.encode([text])),
        ("target", tokenizer.encode_target([text])),
    ):
        assert not {tokenizer.eos_id, tokenizer.pad_id} & set(ids)
        assert ids == by_hand(folder, side, text) and len(ids) > 2


def test_no_text_becomes_a_control_token_where_the_model_lacks_its_letters(tmp_path):
    """What a model lacks becomes one piece as it stands; this one lacks all of "</s>"."""
    texts = [" ".join(random.Random(i).choices(["日本", "東京", "大阪"], k=4)) for i in range(50)]
    own = SentencePieceTokenizer.train(texts, tmp_path / "own.model", vocab_size=12)
    save_as_marian(own, tmp_path)
    loaded = MarianTokenizer(tmp_path, bos_id=own.bos_id)
    names = ("</s>", "<pad>", "<s>", "<unk>")
    lines = [f"{before}{name}" for name in names for before in ("", "日 ")]
    ids = own.encode(lines)
    assert all(row[-1] == own.unk_id for row in ids)
    assert loaded.encode(lines) == loaded.encode_target(lines) == ids


def test_no_text_becomes_a_token_that_the_vocabulary_alone_has(tmp_path, shared_folder):
    """Marian's models know no padding; vocab.json does."""
    folder = shutil.copytree(shared_folder, tmp_path / "folder")
    train(["日本", "東京", "大阪"], folder / "source.spm", "<only_source>")
    assert processor(folder, "source").encode("<pad>", out_type=str)[-1] == "<pad>"
    assert MarianTokenizer(folder).encode(["<pad>"])[0][-1] == 1


def test_a_language_code_may_be_a_control_symbol_of_the_model(tmp_path, shared_folder):
    folder = shutil.copytree(shared_folder, tmp_path / "folder")
    train(SOURCE_WORDS, folder / "source.spm", CODE)
    tokenizer = MarianTokenizer(folder)
    assert tokenizer.encode([CODE + "cat"])[0][0] == vocabularies(folder)[0][CODE]


def test_what_is_decoded_is_what_was_encoded(folder):
    tokenizer = MarianTokenizer(folder)
    texts = ["le chat voit le chien", "été vert", ""]
    assert tokenizer.decode(tokenizer.encode_target(texts)) == texts


def test_decoding_stops_at_the_first_end(folder):
    tokenizer = MarianTokenizer(folder)
    (ids,) = tokenizer.encode_target(["chat"])
    assert tokenizer.decode([[*ids, 0, *ids, 0], [0, *ids]]) == ["chat", ""]


def test_special_tokens_and_ids_without_a_piece_have_no_text(folder):
    tokenizer = MarianTokenizer(folder, bos_id=vocabularies(folder)[1]["<only_source>"])
    (ids,) = tokenizer.encode_target(["chat"])
    free = [i for i in range(90) if i not in vocabularies(folder)[1].values()]
    others = [90, 1, tokenizer.bos_id, free[0], -1, 10**6]
    assert tokenizer.decode(np.array([[*others, *ids, *others]])) == ["chat"]


def test_pieces_are_put_together_by_the_model_that_transformers_takes(folder, source_folder):
    """By the source's where there is one vocabulary, by the target's where there are two."""
    vocabulary = vocabularies(folder)[1]
    silent, shown = "<only_source>", "<only_target>"
    if source_folder.name.startswith("separate"):
        silent, shown = shown, silent
    marks = [[vocabulary[silent]], [vocabulary[shown]]]
    assert MarianTokenizer(folder).decode(marks) == ["", shown]


def test_a_folder_can_want_its_texts_cleaned_up(folder):
    for name in {"vocab.json", "target_vocab.json"} & {path.name for path in folder.iterdir()}:
        edit(folder, name, **{"▁!": 200, "▁n't": 201, "▁'": 202})
    (word,) = MarianTokenizer(folder).encode_target(["chat"])
    ids = [[*word, 200, 201, 202, *word]]
    assert MarianTokenizer(folder).decode(ids) == ["chat ! n't ' chat"]
    edit(folder, "tokenizer_config.json", clean_up_tokenization_spaces=True)
    tokenizer = MarianTokenizer(folder)
    assert tokenizer.decode(ids) == ["chat!n't'chat"]
    tokenizer.save(folder)
    assert MarianTokenizer(folder).decode(ids) == ["chat!n't'chat"]


@pytest.mark.parametrize("as_object", [False, True], ids=["text", "object"])
@pytest.mark.parametrize("file", ["special_tokens_map.json", "tokenizer_config.json"])
def test_special_tokens_may_have_other_names(folder, file, as_object):
    names = dict(eos_token="[end]", unk_token="[unk]", pad_token="[pad]")
    for name in {"vocab.json", "target_vocab.json"} & {path.name for path in folder.iterdir()}:
        rename(folder, name, {"</s>": "[end]", "<unk>": "[unk]", "<pad>": "[pad]"})
    with pytest.raises(UserError, match="no eos_token '</s>'"):
        MarianTokenizer(folder)
    said = {k: {"content": v, "lstrip": False} if as_object else v for k, v in names.items()}
    edit(folder, file, **said)
    tokenizer = MarianTokenizer(folder)
    assert (tokenizer.eos_id, tokenizer.unk_id, tokenizer.pad_id) == (0, 1, 90)
    assert tokenizer.source_pieces([0, 1, 90, 1000]) == ["[end]", "[unk]", "[pad]", "[unk]"]
    tokenizer.save(folder)
    assert_equal(MarianTokenizer(folder), tokenizer)


def test_the_older_file_of_special_tokens_counts_only_without_the_newer_setting(folder):
    """As in transformers: added_tokens_decoder, which newer versions write, stands for it."""
    edit(folder, "special_tokens_map.json", eos_token="<unk>")
    edit(folder, "tokenizer_config.json", eos_token="</s>")
    assert MarianTokenizer(folder).eos_id == 1
    edit(folder, "tokenizer_config.json", added_tokens_decoder={"0": {"content": "</s>"}})
    assert MarianTokenizer(folder).eos_id == 0


def test_tokens_that_were_added_to_the_vocabulary_are_refused(folder):
    edit(folder, "added_tokens.json", **{"</s>": 0, "<name>": 91})
    with pytest.raises(UserError, match="added to the vocabulary.*: '<name>'"):
        MarianTokenizer(folder)
    added = {str(i): {"content": f"<{i}>"} for i in range(200, 209)}
    edit(folder, "tokenizer_config.json", added_tokens_decoder=added)
    with pytest.raises(UserError, match=r": '<200>', '<201>', .*'<204>', \.\.\.\.$"):
        MarianTokenizer(folder)
    edit(folder, "tokenizer_config.json", added_tokens_decoder=["<name>"])
    with pytest.raises(UserError, match="<name>"):
        MarianTokenizer(folder)


@pytest.mark.parametrize(
    "setting",
    [
        {"extra_special_tokens": ["<name>"]},
        {"additional_special_tokens": [{"content": "<name>"}]},
        {"extra_special_tokens": {"name_token": "<name>"}},
        {"bos_token": "<name>"},
        {"bos_token": {"content": "<name>"}},
    ],
    ids=str,
)
@pytest.mark.parametrize("file", ["special_tokens_map.json", "tokenizer_config.json"])
def test_more_special_tokens_are_refused_wherever_they_stand(folder, file, setting):
    edit(folder, file, **setting)
    with pytest.raises(UserError, match="added to the vocabulary.*: '<name>'"):
        MarianTokenizer(folder)


def test_settings_that_add_no_tokens_are_no_matter(folder):
    before = MarianTokenizer(folder)
    empty = dict(bos_token=None, extra_special_tokens=[], sp_model_kwargs={}, add_bos_token=False)
    token = {"__type": "AddedToken", "content": "</s>"}
    edit(folder, "tokenizer_config.json", **empty, cls_token=token, source_lang="eng")
    assert_equal(MarianTokenizer(folder), before)


def test_sampling_of_pieces_is_refused(folder):
    edit(folder, "tokenizer_config.json", sp_model_kwargs={"enable_sampling": True})
    with pytest.raises(UserError, match="sp_model_kwargs"):
        MarianTokenizer(folder)


def test_what_is_saved_is_loaded_again(tmp_path, source_folder):
    tokenizer = MarianTokenizer(source_folder, bos_id=5)
    (tmp_path / "new").mkdir()
    tokenizer.save(tmp_path / "new")
    loaded = MarianTokenizer(tmp_path / "new", bos_id=5)
    assert_equal(loaded, tokenizer)
    assert loaded.fingerprint == tokenizer.fingerprint
    left = {path.name for path in (tmp_path / "new").iterdir()}
    wanted = {"source.spm", "target.spm", "vocab.json", "tokenizer_config.json"}
    assert left == wanted | (
        {"target_vocab.json"} if len({*source_folder.glob("*vocab.json")}) == 2 else set()
    )


def test_saving_over_another_tokenizer_leaves_nothing_of_it(folder, shared_folder):
    edit(folder, "special_tokens_map.json", eos_token="<unk>")
    edit(folder, "tokenizer_config.json", separate_vocabs=True)
    edit(folder, "added_tokens.json", **{"<name>": 91})
    tokenizer = MarianTokenizer(shared_folder)
    tokenizer.save(folder)
    assert_equal(MarianTokenizer(folder), tokenizer)


def test_saving_where_nothing_can_be_written_is_an_error(tmp_path, shared_folder):
    with pytest.raises(UserError, match="cannot be written"):
        MarianTokenizer(shared_folder).save(tmp_path / "absent")


def test_a_tokenizer_of_ours_is_equal_as_a_marian_folder(tmp_path):
    texts = [" ".join(random.Random(i).choices(SOURCE_WORDS, k=4)) for i in range(200)]
    own = SentencePieceTokenizer.train(texts, tmp_path / "own.model", vocab_size=30)
    save_as_marian(own, tmp_path)
    loaded = MarianTokenizer(tmp_path, bos_id=3)
    ids = own.encode([*texts[:20], "", "日", "  the  cat "])
    assert loaded.encode([*texts[:20], "", "日", "  the  cat "]) == ids
    assert loaded.encode_target(texts[:20]) == own.encode_target(texts[:20])
    for name in ("pad_id", "eos_id", "unk_id", "bos_id", "vocab_size"):
        assert getattr(loaded, name) == getattr(own, name)
    assert loaded.source_vocab_size == own.vocab_size
    assert loaded.source_pieces(range(30)) == own.source_pieces(range(30))
    padded = [[3, *row, 1, 5, 0] for row in own.encode(texts[:20])]
    assert loaded.decode(padded) == own.decode(padded) == texts[:20]


def test_the_fingerprint_changes_with_each_file_and_not_with_their_layout(folder):
    def fingerprint(**options):
        return MarianTokenizer(folder, **options).fingerprint

    found = [first := fingerprint(), fingerprint(bos_id=7)]
    for path in folder.glob("*vocab.json"):
        old = path.read_text()
        path.write_text(json.dumps(json.loads(old), indent=3))
        assert fingerprint() == first
        edit(folder, path.name, zebra=300)
        found.append(fingerprint())
        path.write_text(old)
    for side, other in (("source", "target"), ("target", "source")):
        old = (folder / f"{side}.spm").read_bytes()
        shutil.copy(folder / f"{other}.spm", folder / f"{side}.spm")
        found.append(fingerprint())
        (folder / f"{side}.spm").write_bytes(old)
    edit(folder, "tokenizer_config.json", model_max_length=7)  # which is not ours to keep
    assert fingerprint() == first
    edit(folder, "tokenizer_config.json", clean_up_tokenization_spaces=True)
    found.append(fingerprint())
    edit(folder, "special_tokens_map.json", pad_token="</s>")
    found.append(fingerprint())
    assert len(set(found)) == len(found) >= 7


@pytest.mark.parametrize("name", ["source.spm", "target.spm", "vocab.json", "target_vocab.json"])
def test_a_missing_file_is_named(tmp_path, separate_folder, name):
    folder = shutil.copytree(separate_folder, tmp_path / "folder")
    (folder / name).unlink()
    with pytest.raises(UserError, match=rf"/{name} cannot be read: No such file"):
        MarianTokenizer(folder)


@pytest.mark.parametrize("name", ["source.spm", "target.spm"])
def test_a_damaged_model_is_named(folder, name):
    whole = (folder / name).read_bytes()
    for damaged in (b"", b"no model", whole[: len(whole) // 2]):
        (folder / name).write_bytes(damaged)
        with pytest.raises(UserError, match=rf"/{name} is no SentencePiece model"):
            MarianTokenizer(folder)


@pytest.mark.parametrize(
    "name", ["vocab.json", "target_vocab.json", "tokenizer_config.json", "special_tokens_map.json"]
)
@pytest.mark.parametrize(
    "data,message",
    [
        (b"", "is damaged"),
        (b'{"a": 1', "is damaged"),
        (b'{"\xff": 1}', "is damaged"),
        (b"[" * 100_000, "is damaged"),
        (b"1" * 5000, "is damaged"),
        (b"[1, 2]", "holds no JSON object"),
        (b"null", "holds no JSON object"),
    ],
    ids=["empty", "truncated", "no_utf8", "deep", "long_number", "list", "null"],
)
def test_a_damaged_file_of_json_is_named(tmp_path, separate_folder, name, data, message):
    folder = shutil.copytree(separate_folder, tmp_path / "folder")
    (folder / name).write_bytes(data)
    with pytest.raises(UserError, match=rf"/{name} {message}"):
        MarianTokenizer(folder)


@pytest.mark.parametrize("bad", [-1, True, 2.0, "2", None, [2], 90], ids=repr)
@pytest.mark.parametrize("name", ["vocab.json", "target_vocab.json"])
def test_each_piece_has_an_id_of_its_own(tmp_path, separate_folder, name, bad):
    """90 is the padding's."""
    folder = shutil.copytree(separate_folder, tmp_path / "folder")
    edit(folder, name, zebra=bad)
    with pytest.raises(UserError, match=rf"/{name} must give each piece an id of its own"):
        MarianTokenizer(folder)


@pytest.mark.parametrize(
    "key,token", [("eos", "</s>"), ("unk", "<unk>"), ("pad", "<pad>")], ids=["eos", "unk", "pad"]
)
def test_a_missing_special_token_is_named(folder, key, token):
    rename(folder, "vocab.json", {token: "zebra"})
    with pytest.raises(UserError, match=f"no {key}_token '{token}'"):
        MarianTokenizer(folder)


def test_paddings_of_two_vocabularies_have_no_text(tmp_path, separate_folder):
    folder = shutil.copytree(separate_folder, tmp_path / "folder")
    edit(folder, "target_vocab.json", **{"<pad>": 150})
    tokenizer = MarianTokenizer(folder)
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.vocab_size) == (90, 90, 151)
    (ids,) = tokenizer.encode_target(["cat"])
    assert tokenizer.decode([[90, *ids, 150]]) == tokenizer.decode([ids])
    (again := tmp_path / "again").mkdir()
    tokenizer.save(again)
    assert MarianTokenizer(again).fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("token", ["</s>", "<unk>"])
def test_special_tokens_have_the_same_ids_on_both_sides(tmp_path, separate_folder, token):
    folder = shutil.copytree(separate_folder, tmp_path / "folder")
    edit(folder, "target_vocab.json", **{token: 150})
    with pytest.raises(UserError, match=f"'{token}', or one with two ids"):
        MarianTokenizer(folder)


def test_a_vocabulary_of_nothing_is_an_error(folder):
    (folder / "vocab.json").write_text("{}")
    with pytest.raises(UserError, match="eos_token"):
        MarianTokenizer(folder)


def test_pieces_may_be_any_text_that_json_has(folder):
    edit(folder, "vocab.json", **{"\ud800": 200, "": 201, '"\\': 202})
    tokenizer = MarianTokenizer(folder)
    tokenizer.save(folder)
    assert MarianTokenizer(folder).source_pieces([200, 201, 202]) == ["\ud800", "", '"\\']
