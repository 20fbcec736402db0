"""Writing a run for `transformers`, or saying why it cannot be."""

import jax
import numpy as np
import pytest
import safetensors.numpy

from tests.cli.encoders import write_encoder
from tests.interop import test_fairseq as fairseq
from transformer_jax import load_pretrained
from transformer_jax.cli import export as export_cli
from transformer_jax.cli import train as train_cli
from transformer_jax.cli.model_folder import open_model


def test_a_run_comes_back_from_its_folder(translation_run, tmp_path, capfd):
    output = tmp_path / "marian"
    assert export_cli.main(["--model", str(translation_run), "--output", str(output)]) == 0
    assert f"written: {output}" in capfd.readouterr().out
    run, loaded = open_model(translation_run), load_pretrained(output)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, jax.device_get(run.params))
    texts = ["the cat sees", "red house"]
    assert loaded.tokenizer.encode(texts) == run.tokenizer.encode(texts)
    # One searches the same; sizes of the model that only training reads are not compared.
    assert loaded.search.beam_size == run.search.beam_size


def test_what_marian_does_not_have_is_named(translation_config, tmp_path, capfd):
    run = tmp_path / "run"
    changes = ["--model.norm-first", "--model.sinusoids", "interleaved", "--train.steps", "1"]
    options = ["--config", str(translation_config), "--workdir", str(run), *changes]
    assert train_cli.main(options) == 0
    output = tmp_path / "marian"
    assert export_cli.main(["--model", str(run), "--output", str(output)]) == 1
    err = capfd.readouterr().err
    assert "norm_first" in err and "sinusoids" in err
    assert not output.exists()


@pytest.mark.parametrize("option", [["--step", "7"], ["--model", "nowhere"]])
def test_what_is_not_there_is_named(translation_run, tmp_path, capfd, option):
    options = ["--model", str(translation_run), "--output", str(tmp_path / "out"), *option]
    assert export_cli.main(options) == 1
    err = capfd.readouterr().err
    assert err.startswith("export: ") and option[1] in err
    assert not (tmp_path / "out").exists()


def test_a_fairseq_checkpoint_becomes_a_folder_with_a_report(tmp_path, capfd):
    fairseq.write(tmp_path / "model.pt", fairseq.state())
    output = tmp_path / "roberta"
    options = ["--model", str(tmp_path / "model.pt"), "--output", str(output), "--report"]
    assert export_cli.main(options) == 0
    *report, last = capfd.readouterr().out.splitlines()
    assert last == f"written: {output}"
    loaded = load_pretrained(output)
    tensors = safetensors.numpy.load_file(output / "model.safetensors")
    assert len(report) == len(tensors) and loaded.kind == "masked_lm"
    assert all(line.startswith("ok: bert/") or "mlm_head/" in line for line in report)
    want = load_pretrained(tmp_path / "model.pt")
    jax.tree.map(np.testing.assert_array_equal, loaded.params, want.params)


def test_a_report_names_every_tensor_before_it_fails(tmp_path, capfd):
    write_encoder(tmp_path, "tagging", labels=("O", "B-x"), pooler=False)
    file = tmp_path / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    layer = "bert.encoder.layer.0"
    lost = [name for name in tensors if name.startswith("bert.encoder.layer.1.")]
    whole, missing = len(tensors), len(lost)
    for i in range(missing):
        tensors[f"odd.{i}"] = tensors.pop(lost[i])
    tensors[f"{layer}.output.dense.weight"] = np.zeros((32, 16), np.float32)
    tensors["bert.pooler.dense.bias"] = np.zeros(16, np.float32)
    safetensors.numpy.save_file(tensors, file)
    with pytest.warns(UserWarning, match="has no use for bert.pooler.dense.bias"):
        assert export_cli.main(["--model", str(tmp_path), "--report"]) == 1
    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert "and 13 more" in err
    kinds = [line.partition(":")[0] for line in lines]
    assert kinds.count("ok") == whole - missing - 1
    assert kinds.count("missing") == kinds.count("unknown") == missing == 16
    assert f"misshapen: {layer}.output.dense.weight [32, 16], not [16, 32]" in lines
    assert "left out: bert.pooler.dense.bias" in lines
    path = "bert/encoder/layer/feed_forward/up/kernel[0]"
    assert f"ok: {path} [16, 32] <- {layer}.intermediate.dense.weight [32, 16]" in lines


def test_a_report_goes_without_writing(tmp_path, capfd):
    write_encoder(tmp_path / "model", "masked_lm", pooler=False)
    assert export_cli.main(["--model", str(tmp_path / "model"), "--report"]) == 0
    tensors = safetensors.numpy.load_file(tmp_path / "model/model.safetensors")
    assert len(capfd.readouterr().out.splitlines()) == len(tensors)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    with pytest.raises(SystemExit):
        export_cli.main(["--model", str(tmp_path / "model")])
