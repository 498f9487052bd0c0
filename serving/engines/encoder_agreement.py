"""Whether an engine that rounds agrees with the reference on an encoder, by bounds for decisions and for log loss."""

import gc
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedConfig

from serving.engines.agreement import ENGLISH, PROMPTS, Agreement, summary
from serving.engines.encoder import Encoded, Logits, load_tokenizer

MAX_DRIFT = 0.005  # nats a decision, half a percent of the label perplexity where the reference is calibrated
_LABELS = 32  # whose names are read as texts: they resemble the training data

_Shares = npt.NDArray[np.float64]


class ComparableEncoder(Protocol):
    """An engine while it is compared with the reference, before it serves."""

    config: PreTrainedConfig
    positions: int

    def logits(self, texts: Sequence[Encoded]) -> list[Logits]:
        """See `EncoderRunner.logits`."""


def compare(folder: Path, model_version: str, name: str, engine: ComparableEncoder, auto_class: str) -> Agreement:
    """Compare an engine with the reference on the model in `folder`; frees the reference's memory.

    The texts are plain sentences, alone and in pairs, and the names of labels. Every share of every label counts, as
    much as the reference believes in it: so the drift is the mean Kullback-Leibler divergence.
    """
    from serving.engines.encoder_transformers import TransformersEncoder

    texts = _texts(folder, engine.config, engine.positions, auto_class)
    reference = TransformersEncoder(folder, auto_class)
    expected = _log_shares(reference.logits(texts), engine.config)  # (decisions, choices)
    del reference
    gc.collect()
    found = _log_shares(engine.logits(texts), engine.config)
    believed = np.exp(expected)
    chosen = found.argmax(axis=1, keepdims=True)
    gaps = expected.max(axis=1) - np.take_along_axis(expected, chosen, axis=1)[:, 0]
    entropies, cross_entropies = (np.where(believed > 0, believed * of, 0).sum(axis=1) for of in (expected, found))
    return summary(name, model_version, gaps.tolist(), cross_entropies.tolist(), entropies.tolist(), MAX_DRIFT)


def _texts(folder: Path, config: PreTrainedConfig, positions: int, auto_class: str) -> list[Encoded]:
    tokenizer: Any = load_tokenizer(folder)
    labels = [str(label).replace("_", " ") for label in list(config.id2label.values())[:_LABELS]]
    sentences = (*PROMPTS, *ENGLISH, " ".join(ENGLISH), *labels)
    parts = [(sentence,) for sentence in sentences] + list(pairwise((*ENGLISH, *labels)))
    texts = []
    for one in parts:
        read = tokenizer(*one, truncation="longest_first", max_length=min(positions, tokenizer.model_max_length))
        ids: list[int] = list(read["input_ids"])
        masks: tuple[int, ...] = ()
        if auto_class == "AutoModelForMaskedLM":
            masks = tuple(range(1, len(ids) - 1, 7))
            ids = [tokenizer.mask_token_id if at in masks else token for at, token in enumerate(ids)]
        texts.append(Encoded(ids, list(read.get("token_type_ids", [0] * len(ids))), masks))
    return texts


def _log_shares(logits: Sequence[Logits], config: PreTrainedConfig) -> _Shares:
    """Return the logarithms of the model's shares, (decisions, choices); an output without others is a yes or no."""
    scores = np.concatenate([np.atleast_2d(one).astype(np.float64) for one in logits])
    if scores.shape[1] == 1 or config.problem_type == "multi_label_classification":
        scores = np.stack([scores.ravel(), np.zeros(scores.size)], axis=1)
    shifted = scores - scores.max(axis=1, keepdims=True)
    shares: _Shares = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shares
