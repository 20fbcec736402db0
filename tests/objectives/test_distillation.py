"""Distillation: what is left where student and teacher agree, and which layers the student gets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.layers.blocks import EncoderLayer
from transformer_jax.layers.stacks import Encoder
from transformer_jax.objectives.distillation import (
    every_second_layer,
    hidden_cosine,
    soft_cross_entropy,
)

B, P, V = 2, 3, 7


def case(seed=0):
    """Scores of student and teacher, and weights."""
    rng = np.random.default_rng(seed)
    student, teacher = jnp.float32(rng.normal(size=(2, B, P, V)) * 3)
    return student, teacher, jnp.float32(rng.random((B, P)))


def entropy(logits, weights, temperature):
    z = np.asarray(logits, np.float64) / temperature
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    return (-(p * np.log(p)).sum(-1) * np.asarray(weights, np.float64)).sum()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_student_that_agrees_is_left_with_the_teachers_entropy(temperature):
    _, teacher, weights = case()
    run = jax.jit(jax.value_and_grad(soft_cross_entropy, has_aux=True), static_argnums=3)
    (total, weight), gradient = run(teacher, teacher, weights, temperature)
    np.testing.assert_allclose(total, entropy(teacher, weights, temperature), rtol=1e-6)
    np.testing.assert_allclose(weight, np.float64(weights).sum(), rtol=1e-6)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)


def test_a_student_that_differs_has_a_greater_loss_and_a_gradient():
    student, teacher, weights = case()
    run = jax.value_and_grad(soft_cross_entropy, has_aux=True)
    (total, _), gradient = run(student, teacher, weights, 2.0)
    assert total > entropy(teacher, weights, 2.0) + 0.1
    assert np.abs(gradient).max() > 0.01


def test_states_that_agree_have_no_cosine_loss_and_no_gradient():
    _, teacher, weights = case()
    run = jax.jit(jax.value_and_grad(hidden_cosine, has_aux=True))
    for student in (teacher, 3.0 * teacher):  # the direction counts, the length does not
        (total, weight), gradient = run(student, teacher, weights)
        np.testing.assert_allclose(total, 0.0, atol=1e-6)
        np.testing.assert_allclose(weight, np.float64(weights).sum(), rtol=1e-6)
        np.testing.assert_allclose(gradient, 0.0, atol=1e-6)
    np.testing.assert_allclose(
        hidden_cosine(-teacher, teacher, weights)[0], 2 * weights.sum(), rtol=1e-5
    )


@pytest.mark.parametrize("loss", [lambda *x: soft_cross_entropy(*x, 2.0), hidden_cosine])
def test_teacher_and_what_weighs_nothing_get_no_gradient(loss):
    student, teacher, weights = case()
    weights = weights.at[0, 1].set(0.0)
    by_student, by_teacher = jax.grad(lambda *x: loss(*x, weights)[0], (0, 1))(student, teacher)
    assert not by_teacher.any()
    assert not by_student[0, 1].any() and by_student[0, 0].any()


def test_states_of_length_zero_have_a_finite_gradient():
    _, teacher, weights = case()
    zeros = jnp.zeros_like(teacher)
    for pair in ((zeros, teacher), (teacher, zeros), (zeros, zeros)):
        gradient = jax.grad(lambda *x: hidden_cosine(*x, weights)[0])(*pair)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature"):
        soft_cross_entropy(*case(), temperature)


@pytest.mark.parametrize("layers", [4, 5])
def test_student_gets_every_second_layer_and_all_else(layers):
    x = jnp.ones((1, 2, 4))

    def make(count):
        return Encoder(EncoderLayer(4, 2, 6, norm_first=True, parent=None), count)

    teacher = make(layers).init(jax.random.key(0), x)["params"]
    got = every_second_layer(teacher)
    half = (layers + 1) // 2
    shapes = jax.eval_shape(make(half).init, jax.random.key(0), x)["params"]
    assert jax.tree.map(jnp.shape, got) == jax.tree.map(jnp.shape, shapes)
    kernel, of_teacher = (tree["layer"]["feed_forward"]["up"]["kernel"] for tree in (got, teacher))
    for i in range(half):
        np.testing.assert_array_equal(kernel[i], of_teacher[2 * i])
    np.testing.assert_array_equal(got["norm"]["scale"], teacher["norm"]["scale"])


def test_a_shared_layer_stays_whole():
    params = {"encoder": {"shared_layer": {"kernel": jnp.ones((4, 6))}}}
    assert every_second_layer(params)["encoder"]["shared_layer"]["kernel"].shape == (4, 6)
