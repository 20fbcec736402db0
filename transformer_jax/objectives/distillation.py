"""A student learns from a teacher: its soft predictions, its hidden states, its layers."""

from typing import Any

import jax
import jax.numpy as jnp

from transformer_jax.typing import Array, Params

_TINY = 1e-12  # keeps the direction of a state of length 0 finite


def soft_cross_entropy(
    student_logits: Array, teacher_logits: Array, weights: Array, temperature: float
) -> tuple[Array, Array]:
    """Cross-entropy of the student's predictions under the teacher's, in nats.

    Both are softmax(logits / temperature) (arXiv:1910.01108, section 2). The teacher gets no
    gradient. Up to the teacher's entropy, a constant, it is the Kullback-Leibler divergence,
    which DistilBERT's code has in its place (transformers, distiller.py).

    No factor temperature^2 is applied. That code multiplies by it, as arXiv:1503.02531, section 2,
    advises: the gradient falls with 1 / temperature^2. It belongs into the term's coefficient.

    Args:
      student_logits, teacher_logits: [B,P,V].
      weights: [B,P], the weight of each prediction; 0 for what is none.
      temperature: positive; 1 leaves the predictions as they are.

    Returns:
      The weighted sum of the losses and the sum of the weights, float32 [], [].
    """
    if temperature <= 0:
        raise ValueError(f"temperature={temperature} must be positive.")
    weights = weights.astype(jnp.float32)
    teacher = jax.lax.stop_gradient(teacher_logits.astype(jnp.float32))
    wanted = jax.nn.softmax(teacher / temperature)
    found = jax.nn.log_softmax(student_logits.astype(jnp.float32) / temperature)
    return -jnp.sum(jnp.sum(wanted * found, axis=-1) * weights), jnp.sum(weights)


def hidden_cosine(
    student_hidden: Array, teacher_hidden: Array, weights: Array
) -> tuple[Array, Array]:
    """1 - cosine of the angle between their hidden states (arXiv:1910.01108, section 2).

    The teacher gets no gradient, and a state of length 0 none that is not finite.

    Args:
      student_hidden, teacher_hidden: [B,T,D].
      weights: [B,T], the weight of each token; 0 for padding.

    Returns:
      The weighted sum of the losses and the sum of the weights, float32 [], [].
    """
    weights = weights.astype(jnp.float32)
    student = student_hidden.astype(jnp.float32)
    teacher = jax.lax.stop_gradient(teacher_hidden.astype(jnp.float32))

    def product(x: Array, y: Array) -> Array:
        return jnp.sum(x * y, axis=-1)

    squares = (product(student, student) + _TINY) * (product(teacher, teacher) + _TINY)
    cosine = product(student, teacher) / jnp.sqrt(squares)
    return jnp.sum((1.0 - cosine) * weights), jnp.sum(weights)


def every_second_layer(params: Params) -> Params:
    """A student's first parameters: layers 0, 2, 4, ... of each of the teacher's stacks.

    Section 3 of arXiv:1910.01108 takes one layer out of two; the script that made the published
    DistilBERT (transformers, extract_distilbert.py) took layers 0, 2, 4, 7, 9 and 11 of 12.

    Args:
      params: the teacher's; what is under a key "layer" is stacked [L,...].

    Returns:
      The same tree with stacks [(L+1)//2,...]. What else the student lacks, such as token types
      and a pooler, is the caller's to leave out.
    """

    def pick(path: Any, leaf: Array) -> Array:
        return leaf[::2] if jax.tree_util.DictKey("layer") in path else leaf

    return jax.tree_util.tree_map_with_path(pick, params)
