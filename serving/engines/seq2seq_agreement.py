"""Whether an engine that rounds agrees with the reference on an encoder with a decoder, by the same bounds."""

import gc
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Protocol

from tokenizers import Tokenizer

from serving.engines.agreement import ENGLISH, PROMPTS, SAMPLE_TOKENS, Agreement, summary
from serving.engines.seq2seq import SourceFormat


class ComparableSeq2Seq(Protocol):
    """An engine while it is compared with the reference, before it serves."""

    end: int
    prompt_format: SourceFormat

    def write(self, prompts: Sequence[Sequence[int]], count: int, temperature: float) -> list[list[int]]:
        """Return up to `count` tokens for each source, sampled at fixed seeds; includes the end token."""

    def score_targets(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Return the log-probability of each target's tokens and of an end token after them, given its source."""


def compare(folder: Path, model_version: str, name: str, engine: ComparableSeq2Seq) -> Agreement:
    """Compare an engine with the reference on the model in `folder`; frees the reference's memory.

    The sources are plain sentences. The targets are the engine's own, greedy and sampled: they resemble the training
    data, in whatever language that is.
    """
    from serving.engines.seq2seq_transformers import Seq2SeqScorer

    reference = Seq2SeqScorer(folder)
    rules = engine.prompt_format
    sources = [rules.shortened(rules.encode(text)) for text in (*PROMPTS, *ENGLISH, " ".join(ENGLISH))]
    count = min(SAMPLE_TOKENS, rules.room(sources[0]))
    gaps: list[float] = []
    greedy = engine.write(sources, count, 0.0)
    for source, written in zip(sources, greedy, strict=True):
        for token in reference.score(source, written, 1):
            assert token.logprob is not None
            gaps.append(token.top[0][1] - token.logprob)
    sampled = engine.write(sources, count, 1.0)
    texts = [*zip(sources, greedy, strict=True), *zip(sources, sampled, strict=True)]
    pairs = [(source, known) for source, target in texts if (known := _known(target, rules.tokenizer))]
    scores = engine.score_targets([(source, _without_end(target, engine.end)) for source, target in pairs])
    logprobs = [one for (_, target), row in zip(pairs, scores, strict=True) for one in row[: len(target)]]
    expected = [one.logprob for pair in pairs for one in reference.score(*pair) if one.logprob is not None]
    del reference
    gc.collect()
    return summary(name, model_version, gaps, logprobs, expected)


def _without_end(target: Sequence[int], end: int) -> list[int]:
    return list(target[:-1] if target[-1] == end else target)


def _known(target: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """Return the tokens up to the first without a name: vocabularies are often padded with such."""
    return list(takewhile(lambda token: tokenizer.id_to_token(token) is not None, target))
