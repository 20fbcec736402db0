"""Checkpoints of Google's BERT and ALBERT, as TensorFlow writes them."""

import json

import numpy as np
import pytest

from tests.interop.test_tensorflow_checkpoint import CONFIGS, FAMILIES, variables
from transformer_jax.errors import UserError
from transformer_jax.interop.tensorflow_checkpoint import (
    read_tensorflow_checkpoint,
    settings_from,
    tensors_from,
)


@pytest.fixture
def save(tmp_path):
    """Writes variables as Google's code does, by a Saver of a graph."""
    import tensorflow as tf  # here, as each worker of the tests imports each file

    def saves(family, values, prefix="model.ckpt-best"):
        (tmp_path / f"{family}_config.json").write_text(json.dumps(CONFIGS[family]))
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            for name, value in values.items():
                tf.compat.v1.get_variable(name, initializer=value, use_resource=False)
            session.run(tf.compat.v1.global_variables_initializer())
            saver = tf.compat.v1.train.Saver()
            saver.save(session, str(tmp_path / prefix))
        return tmp_path

    return saves


@FAMILIES
def test_a_file_of_tensorflow_has_the_variables_that_were_saved(save, family):
    v = variables(family)
    kept = {f"{name}/adam_m": x + 1 for name, x in v.items()} | {"global_step": np.int64(7)}
    folder = save(family, v | kept)
    expected = tensors_from(v, family, "checkpoint")
    for path in (folder, folder / "model.ckpt-best"):
        settings, tensors = read_tensorflow_checkpoint(path)
        assert settings == settings_from(CONFIGS[family], family, "config")
        assert tensors.keys() == expected.keys()
        for name, value in expected.items():
            assert tensors[name].dtype == np.float32
            np.testing.assert_array_equal(tensors[name], value, err_msg=name)


def test_a_damaged_checkpoint_of_tensorflow_is_a_user_error(save):
    folder = save("bert", variables("bert"))
    index, data = sorted(folder.glob("model.ckpt-best.[id]*"))[::-1]
    whole = data.read_bytes()
    data.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"model\.ckpt-best cannot be read"):
        read_tensorflow_checkpoint(folder)
    data.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])  # its checksum is wrong
    with pytest.raises(UserError, match=r"model\.ckpt-best cannot be read"):
        read_tensorflow_checkpoint(folder)
    data.unlink()
    with pytest.raises(UserError, match=r"model\.ckpt-best cannot be read"):
        read_tensorflow_checkpoint(folder)
    data.write_bytes(whole)
    index.write_bytes(index.read_bytes()[:50])
    with pytest.raises(UserError, match=r"model\.ckpt-best cannot be read"):
        read_tensorflow_checkpoint(folder)
