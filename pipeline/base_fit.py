"""Whether the base knows the language and the length of the corpus: found in `tokenize`, before hours of training.

A base that knows nothing of the language learns fluent-looking nonsense, and "better than the base" is then easy. The
signs are measured on a sample of training rows: how the tokenizer splits the texts, how much `max_length` cuts off, and
the base's bits per byte beside two references: on plain English, and those of guessing by the frequency of each byte.
"""

import csv
import hashlib
import heapq
import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from pipeline import paths
from pipeline.modeling.context import context_of, encoded_as_text
from pipeline.modeling.loading import load_tokenizer
from pipeline.modeling.loss_model import LossModel
from pipeline.tasks.protocol import Task

_GENERAL = Path(__file__).parent / "evaluation" / "general.csv"
_TOKENIZED = 1000  # training rows through the tokenizer
_SCORED = 64  # of them, read by the base: with the general texts about 20 seconds of GPT-2 on two cores
_GENERAL_SCORED = 16  # general texts read by the base: a figure to compare with, which no bound depends on
_BYTES = 256  # of a scored text at most
_MAX_FRAGMENTS = 0.1  # share of the tokens that are parts of a character
_MAX_TRUNCATED = 0.05  # share of the tokens that max_length cuts off
_AROUND = 2  # tokens, before and after a text
_STEP = 8  # lengths that are advised are multiples of it, as GPUs prefer


@dataclass(frozen=True)
class BaseFit:
    """The figures, rounded so that they are equal on every machine of a kind."""

    rows: int  # of the sample
    tokens_per_character: float
    fragments: float  # share of the tokens that are parts of a character, or unknown
    truncated: float  # share of the tokens that max_length cuts off
    length: int  # the max_length that would cut off at most 5 % of the tokens
    bits_per_byte: float | None  # of the base on the corpus; None: it has no loss on texts
    general_bits_per_byte: float | None  # likewise on plain English
    frequency_bits_per_byte: float  # of guessing each byte of the corpus by its frequency


def measure(texts: Iterable[str], task: Task, truncated: float) -> BaseFit | None:
    """Return how the base in `paths.BASE` fits `texts`; None where there is no text.

    Args:
        texts: The training rows, which are read once.
        task: Makes the documents and loads the base.
        truncated: The share of all rows' tokens that `tokenize.max_length` cuts off.
    """
    sample = sample_of(texts)
    if not sample:
        return None
    tokenizer = load_tokenizer(paths.BASE)
    ids = encoded_as_text(tokenizer, sample)["input_ids"]
    corpus_bits, general_bits = _bits_of_base(sample[:_SCORED], task) if task.reads_texts else (None, None)
    scored = "".join(_first_bytes(text, _BYTES) for text in sample[:_SCORED])
    return BaseFit(
        rows=len(sample),
        tokens_per_character=round(sum(map(len, ids)) / sum(map(len, sample)), 3),
        fragments=round(_fragments(ids, tokenizer), 3),
        truncated=round(truncated, 3),
        length=length_for([len(text) + _AROUND for text in ids]),
        bits_per_byte=corpus_bits,
        general_bits_per_byte=general_bits,
        frequency_bits_per_byte=round(_entropy(scored.encode()), 2),
    )


def _bits_of_base(texts: Sequence[str], task: Task) -> tuple[float, float]:
    """Return the base's bits per byte on the beginnings of `texts`, and on those of general texts."""
    with _GENERAL.open(encoding="utf-8", newline="") as file:
        general = [row["text"] for row in csv.DictReader(file)][:_GENERAL_SCORED]
    model, tokenizer = task.load(paths.BASE)
    # A text has at most as many tokens as bytes, and with the start token they must fit into the context.
    longest = min(_BYTES, context_of(model.config) - 2)
    loss_model = task.loss_model(model, {}).eval()
    bits = [
        _bits_per_byte([_first_bytes(text, longest) for text in some], task, loss_model, tokenizer)
        for some in (texts, general)
    ]
    return round(bits[0], 2), round(bits[1], 2)


def _documents(task: Task, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    made = task.documents([{"text": text} for text in texts], tokenizer, sys.maxsize, {})
    return [document.columns["input_ids"] for document in made]


def sample_of(texts: Iterable[str]) -> list[str]:
    """Return a bottom-k hash sample of the texts that are not empty, in the order of their hashes."""

    def key(text: str) -> bytes:
        return hashlib.sha256(b"base fit\0" + text.encode()).digest()

    return heapq.nsmallest(_TOKENIZED, filter(str.strip, texts), key=key)


def _first_bytes(text: str, longest: int) -> str:
    return text.encode()[:longest].decode(errors="ignore")


def _fragments(documents: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> float:
    """Return the share of the tokens that no text can be read from: parts of a character, or the unknown token.

    A token of a byte-level vocabulary that is not whole characters decodes to U+FFFD.
    """
    counts = Counter(token for document in documents for token in document)
    unknown = {tokenizer.unk_token_id} - {tokenizer.eos_token_id}  # GPT-2 has one token for both, and needs no unknown
    lost = sum(n for token, n in counts.items() if token in unknown or "\ufffd" in tokenizer.decode([token]))
    return lost / max(1, counts.total())


def length_for(lengths: Sequence[int]) -> int:
    """Return the smallest max_length, in steps, that cuts off at most 5 % of the tokens of these documents."""
    ordered = np.sort(lengths)
    candidates = np.arange(_STEP, ordered[-1] + _STEP, _STEP)
    shorter = np.searchsorted(ordered, candidates)
    kept = np.append(0, ordered.cumsum())[shorter] + candidates * (len(ordered) - shorter)
    return int(candidates[np.argmax(kept >= (1 - _MAX_TRUNCATED) * ordered.sum())])


@torch.inference_mode()
def _bits_per_byte(texts: Sequence[str], task: Task, model: LossModel, tokenizer: PreTrainedTokenizerBase) -> float:
    """Return the model's bits per byte on texts within its context; their end tokens are not counted."""
    nats = 0.0
    for document in _documents(task, texts, tokenizer):
        ids = document[:-1]
        if len(ids) > 1:
            batch = model.collate([{"input_ids": ids, "attention_mask": [1] * len(ids)}])
            output = model(**{name: tensor.to(model.device) for name, tensor in batch.items()})
            nats += float(output["scores"][0, 0])
    return nats / math.log(2) / max(1, sum(len(text.encode()) for text in texts))


def _entropy(content: bytes) -> float:
    """Return the entropy of the bytes' frequencies (Shannon 1948), in bits per byte."""
    return -sum(n / len(content) * math.log2(n / len(content)) for n in Counter(content).values())


def warnings(fit: BaseFit, base: str, max_length: int, context: int, *, packs: bool = True) -> dict[str, str]:
    """Return what speaks against training the base on this corpus, by what it is about: language or length.

    Args:
        fit: The figures.
        base: As in params.yaml.
        max_length: `tokenize.max_length`.
        context: The base's.
        packs: Whether the task's texts can be packed.
    """
    found = {"language": _language_warning(fit, base), "length": _length_warning(fit, max_length, context, packs)}
    return {about: sentence for about, sentence in found.items() if sentence}


def _language_warning(fit: BaseFit, base: str) -> str:
    signs = []
    if fit.fragments > _MAX_FRAGMENTS:
        signs.append(
            f"{_percent(fit.fragments)} of the tokens are parts of a character (at most {_percent(_MAX_FRAGMENTS)} are "
            f"expected), {fit.tokens_per_character:.2f} tokens a character"
        )
    if fit.bits_per_byte is not None and fit.bits_per_byte > fit.frequency_bits_per_byte:
        signs.append(
            f"it needs {fit.bits_per_byte:.2f} bits per byte, where guessing each byte by its frequency needs "
            f"{fit.frequency_bits_per_byte:.2f} (on plain English it needs {fit.general_bits_per_byte:.2f})"
        )
    if not signs:
        return ""
    return (
        f"warning: the base {base} does not know texts like this corpus: {'; '.join(signs)}. After training it may "
        "write nonsense and still be better than the base; set base in params.yaml to a model that knows such texts: a "
        "model of the hub with its commit (org/model@commit), or a folder with a model in it"
    )


def _length_warning(fit: BaseFit, max_length: int, context: int, packs: bool) -> str:
    if fit.truncated <= _MAX_TRUNCATED:
        return ""
    fixes = []
    if max_length < min(fit.length, context):
        reach = f"which cuts off at most {_percent(_MAX_TRUNCATED)}" if fit.length <= context else "the base's context"
        fixes.append(f"it to {min(fit.length, context)}, {reach}")
    if packs:
        fixes.append("tokenize.strategy to pack, which continues a long text in another row")
    fix = f"set {', or '.join(fixes)}" if fixes else "shorten the texts, or take a base with a larger context"
    return f"{_cut_off('tokenize.max_length', max_length, fit.truncated)}; {fix}"


def target_warning(key: str, limit: int, kept: int, truncated: int) -> str:
    """Return what speaks against the length of targets, which the key of params.yaml sets; "" where nothing does.

    Args:
        key: Of params.yaml.
        limit: Its value.
        kept: Tokens within the limit.
        truncated: Tokens beyond it.
    """
    share = truncated / max(1, kept + truncated)
    return f"{_cut_off(key, limit, share)}; raise it" if share > _MAX_TRUNCATED else ""


def _cut_off(key: str, limit: int, share: float) -> str:
    return (
        f"warning: {key} ({limit}) cuts off {_percent(share)} of the tokens of the corpus (at most "
        f"{_percent(_MAX_TRUNCATED)} are expected), so the model never sees how these texts go on"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %".replace(".0 %", " %")
