"""Parameters of BERT's family in `transformers` as ours: {name: tensor} -> a tree of numpy.

Gradients under the same names become our gradients, since every parameter is only moved.
"""

import numpy as np


class Names:
    """Tensors under their names, each of which is to be taken once."""

    def __init__(self, tensors):
        self.left = {name: x.detach().numpy().copy() for name, x in tensors.items()}

    def embedding(self, name):
        return {"embedding": self.left.pop(f"{name}.weight")}

    def dense(self, name):
        return {"kernel": self.left.pop(f"{name}.weight").T, "bias": self.left.pop(f"{name}.bias")}

    def norm(self, name):
        return {"scale": self.left.pop(f"{name}.weight"), "bias": self.left.pop(f"{name}.bias")}


def layer_params(names, prefix, heads, parts):
    """One layer; `parts` are their names of the eight parts that ours has."""
    query, key, value, out, attention_norm, up, down, norm = (f"{prefix}.{part}" for part in parts)

    def heads_apart(name):
        p = names.dense(name)
        width = len(p["kernel"])
        return {
            "kernel": p["kernel"].reshape(width, heads, -1),
            "bias": p["bias"].reshape(heads, -1),
        }

    p = names.dense(out)
    return {
        "self_attention": {
            "query": heads_apart(query),
            "key": heads_apart(key),
            "value": heads_apart(value),
            "out": {
                "kernel": p["kernel"].reshape(heads, -1, len(p["kernel"])),
                "bias": p["bias"],
            },
        },
        "self_attention_norm": names.norm(attention_norm),
        "feed_forward": {"up": names.dense(up), "down": names.dense(down)},
        "feed_forward_norm": names.norm(norm),
    }


def stacked(layers):
    first = layers[0]
    if isinstance(first, dict):
        return {name: stacked([layer[name] for layer in layers]) for name in first}
    return np.stack(layers)


BERT_LAYER = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)
ALBERT_LAYER = (
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.dense",
    "attention.LayerNorm",
    "ffn",
    "ffn_output",
    "full_layer_layer_norm",
)
DISTILBERT_LAYER = (
    "attention.q_lin",
    "attention.k_lin",
    "attention.v_lin",
    "attention.out_lin",
    "sa_layer_norm",
    "ffn.lin1",
    "ffn.lin2",
    "output_layer_norm",
)


def embedding_params(names, prefix, *, token_types=True):
    params = {
        "token_embedding": names.embedding(f"{prefix}embeddings.word_embeddings"),
        "position_embedding": names.embedding(f"{prefix}embeddings.position_embeddings"),
        "embedding_norm": names.norm(f"{prefix}embeddings.LayerNorm"),
    }
    if token_types:
        params["type_embedding"] = names.embedding(f"{prefix}embeddings.token_type_embeddings")
    return params


def bert_params(names, config, prefix=""):
    """BertModel and RobertaModel."""
    layers = [
        layer_params(names, f"{prefix}encoder.layer.{i}", config.num_heads, BERT_LAYER)
        for i in range(config.num_layers)
    ]
    return embedding_params(names, prefix) | {
        "encoder": {"layer": stacked(layers)},
        "pooler": names.dense(f"{prefix}pooler.dense"),
    }


def albert_params(names, config, prefix=""):
    """AlbertModel."""
    one = f"{prefix}encoder.albert_layer_groups.0.albert_layers.0"
    return embedding_params(names, prefix) | {
        "embedding_projection": names.dense(f"{prefix}encoder.embedding_hidden_mapping_in"),
        "encoder": {"shared_layer": layer_params(names, one, config.num_heads, ALBERT_LAYER)},
        "pooler": names.dense(f"{prefix}pooler"),
    }


def distilbert_params(names, config, prefix=""):
    """DistilBertModel."""
    layers = [
        layer_params(names, f"{prefix}transformer.layer.{i}", config.num_heads, DISTILBERT_LAYER)
        for i in range(config.num_layers)
    ]
    return embedding_params(names, prefix, token_types=False) | {
        "encoder": {"layer": stacked(layers)}
    }


def bert_pretraining_params(names, config):
    """BertForPreTraining."""
    predictions = "cls.predictions"
    return {
        "bert": bert_params(names, config, "bert."),
        "mlm_head": {
            "transform": {
                "dense": names.dense(f"{predictions}.transform.dense"),
                "norm": names.norm(f"{predictions}.transform.LayerNorm"),
            },
            "bias": names.left.pop(f"{predictions}.bias"),
        },
        "pair_head": {"dense": names.dense("cls.seq_relationship")},
    }


def albert_pretraining_params(names, config):
    """AlbertForPreTraining."""
    return {
        "bert": albert_params(names, config, "albert."),
        "mlm_head": {
            "transform": {
                "dense": names.dense("predictions.dense"),
                "norm": names.norm("predictions.LayerNorm"),
            },
            "bias": names.left.pop("predictions.bias"),
        },
        "pair_head": {"dense": names.dense("sop_classifier.classifier")},
    }


def ours(mapping, tensors, config):
    """Maps all tensors, of which none may be left over."""
    names = Names(tensors)
    params = mapping(names, config)
    assert not names.left, f"not mapped: {sorted(names.left)}"
    return params
