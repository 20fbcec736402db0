"""Layer-wise decay of the rate against a loop over the layers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from transformer_jax import BertConfig
from transformer_jax.models.bert_tasks import BertClassifier
from transformer_jax.training.layer_decay import scale_by_layer
from transformer_jax.training.optimizer import OptimizerConfig, make_optimizer
from transformer_jax.training.schedules import WarmupLinear

LAYERS, DECAY = 3, 0.5


@pytest.fixture(scope="module")
def params():
    config = BertConfig(11, 8, 2, 12, LAYERS, max_positions=6, embedding_width=4)
    return BertClassifier(config).init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]


def test_each_layer_has_its_factor(params):
    ones = jax.tree.map(jnp.ones_like, params)
    found, _ = scale_by_layer(DECAY).update(ones, scale_by_layer(DECAY).init(params))
    for leaf in jax.tree.leaves(found["bert"]["encoder"]["layer"]):
        for layer in range(LAYERS):
            np.testing.assert_array_equal(leaf[layer], DECAY ** (LAYERS - 1 - layer))
    for name in ("token_embedding", "position_embedding", "type_embedding", "embedding_norm"):
        for leaf in jax.tree.leaves(found["bert"][name]):
            np.testing.assert_array_equal(leaf, DECAY**LAYERS)
    np.testing.assert_array_equal(found["bert"]["embedding_projection"]["bias"], DECAY**LAYERS)
    for above in (found["bert"]["pooler"], found["head"]):
        for leaf in jax.tree.leaves(above):
            np.testing.assert_array_equal(leaf, 1.0)


def test_the_optimizer_s_update_is_that_of_adam_with_other_rates(params):
    schedule = WarmupLinear(peak=0.1, warmup=1)
    plain, decayed = (
        make_optimizer(OptimizerConfig(schedule=schedule, weight_decay=0.1, layer_decay=d), 10)
        for d in (1.0, DECAY)
    )
    grads = jax.tree.map(lambda x: jnp.cos(jnp.arange(x.size)).reshape(x.shape), params)
    (want, _), (found, _) = (o.update(grads, o.init(params), params) for o in (plain, decayed))
    scaled, _ = scale_by_layer(DECAY).update(want, optax.EmptyState())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, scaled)


def test_what_has_no_layers_is_refused():
    with pytest.raises(ValueError, match="one encoder of stacked layers"):
        scale_by_layer(DECAY).update({"head": jnp.ones(3)}, optax.EmptyState())
    with pytest.raises(ValueError, match=r"layer_decay=0.0 must be in \(0, 1\]"):
        OptimizerConfig(layer_decay=0.0)
