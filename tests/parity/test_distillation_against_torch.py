"""Distillation's losses against PyTorch's, in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from transformer_jax.objectives.distillation import hidden_cosine, soft_cross_entropy

torch.set_num_threads(1)
B, P, V = 3, 4, 11


def case():
    """Scores of student and teacher, and which places count."""
    rng = np.random.default_rng(0)
    student, teacher = np.float32(rng.normal(size=(2, B, P, V)) * 3)
    return student, teacher, rng.random((B, P)) < 0.6


def run(loss, student, teacher, weights):
    """Our mean, and its gradient by the student."""

    def mean(student):
        total, weight = loss(student, teacher, weights)
        return total / weight

    return jax.jit(jax.value_and_grad(mean))(jnp.asarray(student))


def torch_run(loss, student, teacher, counts):
    """Their mean over the places that count, and its gradient by the student."""
    x = torch.tensor(student, requires_grad=True)
    mean = loss(x[torch.tensor(counts)], torch.tensor(teacher)[torch.tensor(counts)])
    mean.backward()
    return mean.detach(), x.grad


def assert_equal(got, want):
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    np.testing.assert_allclose(got[1], want[1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_soft_loss_equals_torchs_cross_entropy_with_probabilities(temperature):
    def theirs(student, teacher):
        soft = (teacher / temperature).softmax(-1)
        return nn.CrossEntropyLoss()(student / temperature, soft)

    args = case()
    ours = run(lambda *x: soft_cross_entropy(*x, temperature), *args)
    assert_equal(ours, torch_run(theirs, *args))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_soft_loss_times_squared_temperature_is_distilberts_but_for_the_entropy(temperature):
    def theirs(student, teacher):
        student, teacher = student / temperature, teacher / temperature
        divergence = nn.KLDivLoss(reduction="batchmean")
        return divergence(student.log_softmax(-1), teacher.softmax(-1)) * temperature**2

    student, teacher, weights = case()
    entropy, _ = run(lambda *x: soft_cross_entropy(*x, temperature), teacher, teacher, weights)
    value, gradient = run(lambda *x: soft_cross_entropy(*x, temperature), student, teacher, weights)
    ours = (value - entropy) * temperature**2, gradient * temperature**2
    assert_equal(ours, torch_run(theirs, student, teacher, weights))


def test_cosine_loss_equals_torchs_cosine_embedding_loss():
    def theirs(student, teacher):
        return nn.CosineEmbeddingLoss()(student, teacher, torch.ones(len(student)))

    args = case()
    assert_equal(run(hidden_cosine, *args), torch_run(theirs, *args))
