"""BERT in `transformers` and ours, with equal parameters and the same optimizer."""

import jax
import numpy as np
import torch
import transformers

from tests.parity import bert_params
from transformer_jax.models.bert_pretraining import BertPretraining
from transformer_jax.objectives.losses import label_smoothed_cross_entropy
from transformer_jax.training.optimizer import OptimizerConfig, make_optimizer
from transformer_jax.training.schedules import WarmupLinear
from transformer_jax.training.step import init_state, make_train_step

RATE, BETAS, EPSILON, DECAY, CLIP = 1e-4, (0.9, 0.999), 1e-6, 0.01, 1.0
IGNORED = -100  # label of what is not predicted


def peer_model(cls, config):
    """A freshly made model of `transformers` with the sizes of one of ours."""
    torch.manual_seed(0)
    return cls(
        transformers.BertConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            intermediate_size=config.feed_forward_dim,
            max_position_embeddings=config.max_positions,
            hidden_dropout_prob=config.dropout_rate,
            attention_probs_dropout_prob=config.attention_dropout_rate,
        )
    )


def masked_lm_params(names, config):
    """BertForMaskedLM, whose encoder has no pooler."""
    layers = [
        bert_params.layer_params(
            names, f"bert.encoder.layer.{i}", config.num_heads, bert_params.BERT_LAYER
        )
        for i in range(config.num_layers)
    ]
    head = "cls.predictions"
    return {
        "bert": bert_params.embedding_params(names, "bert.")
        | {"encoder": {"layer": bert_params.stacked(layers)}},
        "mlm_head": {
            "transform": {
                "dense": names.dense(f"{head}.transform.dense"),
                "norm": names.norm(f"{head}.transform.LayerNorm"),
            },
            "bias": names.left.pop(f"{head}.bias"),
        },
    }


def same_as_ours(model, config):
    """Our parameters, equal to those of a BertForPreTraining or BertForMaskedLM."""
    mapping = bert_params.bert_pretraining_params if config.pooler else masked_lm_params
    return bert_params.ours(mapping, dict(model.named_parameters()), config)


class Peer:
    """Trains a model of `transformers` as its Trainer does: fused AdamW, clipped gradients."""

    def __init__(self, model):
        self.model = model
        named = dict(model.named_parameters())
        decays = {name: not name.endswith("bias") and "LayerNorm" not in name for name in named}
        groups = [
            {"params": [x for name, x in named.items() if decays[name] is kind], "weight_decay": w}
            for kind, w in ((True, DECAY), (False, 0.0))
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=RATE, betas=BETAS, eps=EPSILON, fused=True)

    def train(self, batches, attention, compiled=None):
        """An update on each batch of named tensors, by the model or by what was compiled of it."""
        model = self.model if compiled is None else compiled
        model.train()
        self.model.set_attn_implementation(attention)
        for batch in batches:
            self.optimizer.zero_grad()
            model(**batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
            self.optimizer.step()

    def loss(self, batch):
        """The loss without dropout."""
        self.model.eval()
        with torch.inference_mode():
            return float(self.model(**batch).loss)


def terms_of(config, attention_fn=None):
    """The objective: of masked tokens, and with a pooler of pairs."""
    model = BertPretraining(config, attention_fn=attention_fn)

    def loss_terms(params, batch, key):
        logits, pairs = model.apply(
            {"params": params},
            batch["tokens"],
            segments=batch["segments"],
            positions=batch.get("positions"),
            token_types=batch.get("token_types"),
            masked_positions=batch.get("masked_positions"),
            deterministic=key is None,
            rngs=None if key is None else {"dropout": key},
        )
        terms = {"mlm": label_smoothed_cross_entropy(logits, batch["targets"], batch["weights"])}
        if config.pooler:
            labels = batch["pair_labels"]
            terms["pair"] = label_smoothed_cross_entropy(pairs, labels, np.ones(labels.shape))
        return terms

    return loss_terms


class Ours:
    """Our model with its state; several steps may take turns on it."""

    def __init__(self, config, params):
        self.config = config
        self.optimizer = make_optimizer(
            OptimizerConfig(
                WarmupLinear(peak=RATE, warmup=1), b1=BETAS[0], b2=BETAS[1], epsilon=EPSILON,
                weight_decay=DECAY, clip_norm=CLIP,
            ),
            10**6,
        )  # fmt: skip
        self.state = init_state(jax.device_put(params), self.optimizer)

    def trainer(self, batches, bits, attention_fn=None):
        """A function that makes an update on each batch; `bits` generates those of dropout."""
        coefficients = {"mlm": 1.0} | ({"pair": 1.0} if self.config.pooler else {})
        step = make_train_step(terms_of(self.config, attention_fn), coefficients, self.optimizer)
        step = jax.jit(step, donate_argnums=0)
        key = jax.random.key(0, impl=bits)

        def train():
            for batch in batches:
                self.state, metrics = step(self.state, batch, key)
            jax.block_until_ready(self.state)
            return metrics

        return train

    def losses(self, batches, attention_fn=None):
        """Each term's mean over all batches, without dropout."""
        terms = jax.jit(
            lambda params, batch: terms_of(self.config, attention_fn)(params, batch, None)
        )
        sums = [jax.device_get(terms(self.state.params, batch)) for batch in batches]
        totals = jax.tree.map(lambda *x: np.sum(x, dtype=np.float64), *sums)
        return {name: total / weight for name, (total, weight) in totals.items()}
