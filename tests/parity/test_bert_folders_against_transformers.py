"""Folders of BERT and its family: both sides read what the other writes, with equal outputs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
import transformers

from transformer_jax import load_pretrained, save_pretrained
from transformer_jax.data.wordpiece import WordPieceTokenizer
from transformer_jax.visualize.encoder import encoder_maps

B, T, CLASSES = 3, 9, 5
SIZES = {
    "bert": dict(
        vocab_size=37,
        hidden_size=12,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=20,
        max_position_embeddings=11,
    ),
    "distilbert": dict(
        vocab_size=37, dim=12, n_layers=3, n_heads=3, hidden_dim=20, max_position_embeddings=11
    ),
}
SIZES["roberta"] = SIZES["bert"] | dict(type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5)
SIZES["albert"] = SIZES["bert"] | dict(embedding_size=7)
STEMS = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert", "albert": "Albert"}
HEADS = {
    "Model": "encoder",
    "ForPreTraining": "pretraining",
    "ForMaskedLM": "masked_lm",
    "ForSequenceClassification": "classification",
    "ForTokenClassification": "tagging",
    "ForQuestionAnswering": "reading",
    "ForMultipleChoice": "choice",
}
CLASSES_OF = [
    (family, head)
    for family in STEMS
    for head in HEADS
    if head != "ForPreTraining" or family in ("bert", "albert")
]


def make(family, head, **changes):
    """A random model, far from how it would start, as in the middle of a training."""
    torch.manual_seed(0)
    labels = dict(num_labels=CLASSES) if "Classification" in head else {}
    config = getattr(transformers, f"{STEMS[family]}Config")(**SIZES[family], **labels, **changes)
    model = getattr(transformers, f"{STEMS[family]}{head}")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def batch(family, seed=0):
    """Padded rows, with two token types where there are any."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, 37, (B, T))
    real = np.arange(T) < np.array([[T], [T - 3], [2]])
    tokens[~real] = {"roberta": 1}.get(family, 0)
    types = None
    if family in ("bert", "albert"):
        types = np.where(real, np.arange(T) >= 4, 0)
    return tokens, real, types


def theirs(model, tokens, real, types):
    inputs = {"input_ids": tokens, "attention_mask": real.astype(int)}
    if types is not None:
        inputs["token_type_ids"] = types
    if "MultipleChoice" in type(model).__name__:
        # The rows in four orders, as the choices of a question.
        inputs = {name: x[chosen()] for name, x in inputs.items()}
    with torch.no_grad():
        return model(**{name: torch.tensor(x) for name, x in inputs.items()})


def chosen():
    """Which rows are the four choices of each question: [B,4]."""
    return (np.arange(B)[:, None] + np.arange(4)) % B


def ours(loaded, tokens, real, types):
    segments = real.astype(np.int32)
    inputs = {} if types is None else {"token_types": types.astype(np.int32)}
    found = loaded.model.apply({"params": loaded.params}, tokens, segments=segments, **inputs)
    if loaded.kind == "encoder" and loaded.config.pooler:
        first = jnp.zeros((B, 1), jnp.int32)
        pool = loaded.model.apply({"params": loaded.params}, found, first, method="pool")
        return found, pool[:, 0]
    return found


def pairs(kind, mine, them):
    """What is to be equal, and whether it is of each token."""
    if kind == "encoder":
        mine = mine if isinstance(mine, tuple) else (mine,)
        yield mine[0], them.last_hidden_state, True
        if them.get("pooler_output") is not None:
            yield mine[1], them.pooler_output, False
    elif kind == "pretraining":
        yield mine[0], them.prediction_logits, True
        second = them.get("seq_relationship_logits")
        yield mine[1][:, 0], second if second is not None else them.sop_logits, False
    elif kind == "masked_lm":
        yield mine[0], them.logits, True
    elif kind == "classification":
        yield mine[:, 0], them.logits, False
    elif kind == "tagging":
        yield mine, them.logits, True
    elif kind == "reading":
        yield mine[0], them.start_logits, True
        yield mine[1], them.end_logits, True
    else:
        yield np.asarray(mine)[chosen(), 0, 0], them.logits, False


def assert_equal_outputs(loaded, model, family):
    tokens, real, types = batch(family)
    kind = loaded.kind
    them = theirs(model, tokens, real, types)
    for mine, their, of_tokens in pairs(kind, ours(loaded, tokens, real, types), them):
        mine, their = np.asarray(mine), their.numpy()
        assert mine.shape == their.shape and np.ptp(their) > 0.01
        mask = real if of_tokens else np.ones(B, bool)
        scale = max(1.0, np.abs(their[mask]).max())
        np.testing.assert_allclose(mine[mask], their[mask], rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize(("family", "head"), CLASSES_OF)
def test_each_class_gives_equal_outputs_in_and_out(tmp_path, family, head):
    model = make(family, head)
    model.save_pretrained(tmp_path / "theirs")
    loaded = load_pretrained(tmp_path / "theirs")
    assert loaded.kind == HEADS[head]
    assert_equal_outputs(loaded, model, family)
    save_pretrained(tmp_path / "ours", loaded)
    again, info = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert (
        type(again).__name__
        == json.loads((tmp_path / "ours/config.json").read_text())["architectures"][0]
    )
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0)
    assert_equal_outputs(load_pretrained(tmp_path / "ours"), again.eval(), family)
    kept = ("hidden_act", "layer_norm_eps", "max_position_embeddings", "pad_token_id", "id2label")
    for name in kept:
        assert getattr(again.config, name, None) == getattr(model.config, name, None), name


@pytest.mark.parametrize("family", STEMS)
def test_both_naming_styles_and_all_file_formats_are_read(tmp_path, family):
    model = make(family, "ForMaskedLM")
    model.save_pretrained(tmp_path / "new")
    want = load_pretrained(tmp_path / "new")
    tensors = dict(model.state_dict())
    for style in ("new zip", "old zip", "old not zip", "bare"):
        folder = tmp_path / style
        folder.mkdir()
        (folder / "config.json").write_text((tmp_path / "new/config.json").read_text())
        renamed = dict(tensors)
        if "old" in style:
            for ending, old in ((".weight", ".gamma"), (".bias", ".beta")):
                renamed = {
                    n.removesuffix(ending) + old
                    if n.endswith(ending) and "orm." in n.replace("_norm", "orm")
                    else n: x
                    for n, x in renamed.items()
                }
            assert any(name.endswith("gamma") for name in renamed)
        if style == "bare":  # an encoder without its prefix, with the head beside it
            renamed = {n.removeprefix(f"{family}."): x for n, x in renamed.items()}
        torch.save(
            renamed,
            folder / "pytorch_model.bin",
            _use_new_zipfile_serialization="not zip" not in style,
        )
        found = load_pretrained(folder)
        assert found.kind == "masked_lm"
        jax.tree.map(np.testing.assert_array_equal, found.params, want.params)


@pytest.mark.parametrize("family", STEMS)
@pytest.mark.parametrize("head", ["ForMaskedLM", "ForSequenceClassification"])
def test_an_encoder_is_taken_without_its_head(tmp_path, family, head):
    model = make(family, head)
    model.save_pretrained(tmp_path)
    loaded = load_pretrained(tmp_path, kind="encoder")
    assert loaded.kind == "encoder"
    base = getattr(model, family)
    assert_equal_outputs(loaded, base, family)


@pytest.mark.parametrize("family", ["bert", "albert"])
def test_the_head_that_scores_tokens_is_taken_alone(tmp_path, family):
    model = make(family, "ForPreTraining")
    model.save_pretrained(tmp_path)
    loaded = load_pretrained(tmp_path, kind="masked_lm")
    tokens, real, types = batch(family)
    mine, _ = ours(loaded, tokens, real, types)
    them = theirs(model, tokens, real, types).prediction_logits.numpy()
    np.testing.assert_allclose(mine[real], them[real], atol=1e-5 * np.abs(them).max())


def test_a_score_is_one_number_in_and_out(tmp_path):
    torch.manual_seed(0)
    config = transformers.BertConfig(**SIZES["bert"], num_labels=1)
    model = transformers.BertForSequenceClassification(config).eval()
    model.classifier.weight.data *= 100
    model.save_pretrained(tmp_path / "theirs")
    loaded = load_pretrained(tmp_path / "theirs")
    assert loaded.labels == ()
    assert_equal_outputs(loaded, model, "bert")
    save_pretrained(tmp_path / "ours", loaded)
    again = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "ours").eval()
    assert (again.config.num_labels, again.config.problem_type) == (1, "regression")
    assert_equal_outputs(loaded, again, "bert")


def test_a_gelu_by_tanh_and_other_positions_of_roberta_are_honoured(tmp_path):
    model = make("bert", "Model", hidden_act="gelu_new", layer_norm_eps=1e-3)
    model.save_pretrained(tmp_path / "bert")
    assert_equal_outputs(load_pretrained(tmp_path / "bert"), model, "bert")
    torch.manual_seed(0)
    config = transformers.RobertaConfig(**SIZES["roberta"] | dict(pad_token_id=0))
    model = transformers.RobertaModel(config).eval()
    model.save_pretrained(tmp_path / "roberta")
    tokens, real, _ = batch("bert")
    loaded = load_pretrained(tmp_path / "roberta")
    mine, _ = ours(loaded, tokens, real, None)
    them = theirs(model, tokens, real, None).last_hidden_state.numpy()
    np.testing.assert_allclose(mine[real], them[real], atol=1e-5 * np.abs(them).max())


def test_gradients_reach_all_parameters_as_there(tmp_path):
    """Of a classification's loss; relative to the norm of the whole gradient."""
    model = make("roberta", "ForSequenceClassification")
    model.save_pretrained(tmp_path)
    loaded = load_pretrained(tmp_path)
    tokens, real, _ = batch("roberta")
    labels = np.array([0, 3, 4])
    model.train(False)
    out = model(torch.tensor(tokens), torch.tensor(real.astype(int)), labels=torch.tensor(labels))
    out.loss.backward()

    def loss(params):
        logits = loaded.model.apply({"params": params}, tokens, segments=real.astype(np.int32))
        chosen = jax.nn.log_softmax(logits[:, 0])[np.arange(B), labels]
        return -chosen.mean()

    value, grads = jax.value_and_grad(loss)(loaded.params)
    np.testing.assert_allclose(value, out.loss.item(), rtol=1e-5)
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    safetensors.torch.save_file(
        {
            n: gradients.get(n, torch.zeros_like(x)).contiguous()
            for n, x in model.named_parameters()
        },
        tmp_path / "model.safetensors",
    )
    want = load_pretrained(tmp_path).params  # they are only moved, as the parameters are
    norm = np.sqrt(sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(want)))
    for mine, their in zip(jax.tree.leaves(grads), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(mine, their, atol=1e-5 * norm)


@pytest.mark.parametrize("family", STEMS)
def test_the_attention_that_is_shown_is_theirs(tmp_path, family):
    model = make(family, "Model", attn_implementation="eager")
    model.save_pretrained(tmp_path)
    tokenizer = WordPieceTokenizer.train(
        ["ab cd ef gh"] * 9, tmp_path / "tokenizer.json", vocab_size=22, lowercase=True
    )
    loaded = load_pretrained(tmp_path, kind="encoder")
    found = encoder_maps(loaded, "ab cd", "ef")
    ids = np.array([[tokenizer.cls_id, *tokenizer.encode(["ab cd"])[0].ids, tokenizer.sep_id]])
    second = np.array([[*tokenizer.encode(["ef"])[0].ids, tokenizer.sep_id]])
    tokens = np.concatenate([ids, second], axis=1)
    types = (np.arange(tokens.shape[1]) >= ids.shape[1])[None].astype(int)
    inputs = {"token_type_ids": torch.tensor(types)} if family in ("bert", "albert") else {}
    with torch.no_grad():
        them = model(torch.tensor(tokens), output_attentions=True, **inputs).attentions
    want = np.stack([layer[0].numpy() for layer in them])
    np.testing.assert_allclose(found.parts[0].weights, want, atol=1e-5)
