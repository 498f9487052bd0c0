"""Token-weighted perplexity and bits per byte, as an `evaluate.Measurement` that works offline.

`python -m pipeline.evaluation.perplexity MODEL FILE` prints them for a model's folder and a file, read as one text.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import evaluate
import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.command import UserError, arg_parser, echo_json, run
from pipeline.evaluation.bootstrap import bootstrap_ratios, interval
from pipeline.evaluation.scores import Scores
from pipeline.evaluation.scoring import score
from pipeline.modeling.nats import MAX_NATS
from pipeline.tasks.causal_lm import TASK


def metrics(scores: Scores, resamples: int, confidence: float, seed: int) -> dict[str, float | int]:
    """Return perplexity with its interval, bits per byte and tokens.

    Perplexity is exp(sum of losses / tokens) over all tokens of all texts (Jelinek et al. 1977), not a mean over
    texts. The interval is the percentile bootstrap (Efron 1979) over texts, which vary independently. Bits per byte is
    the same loss in bits over the bytes of the text, comparable between tokenizers. Raises UserError where there is no
    token, and where perplexity exceeds the largest float.
    """
    loss, tokens = scores.loss.sum(), scores.tokens.sum()
    if not tokens:
        raise UserError(
            f"the {len(scores.tokens)} texts to score hold no token, expected at least one; "
            "provide more rows, or set a larger validate.test_share in params.yaml"
        )
    nats = loss / tokens
    low, high = interval(bootstrap_ratios(scores.loss, scores.tokens, resamples, seed), confidence)
    if max(nats, high) > MAX_NATS:
        raise UserError(
            f"the model's loss is {nats:.0f} nats per token (interval {low:.0f} to {high:.0f}), where a uniform guess "
            "has about 11: its weights are damaged or training diverged; train it again with a lower "
            "finetune.learning_rate, or take another base"
        )
    return {
        "perplexity": math.exp(nats),
        "perplexity_low": math.exp(low),
        "perplexity_high": math.exp(high),
        "bits_per_byte": float(loss / math.log(2) / scores.bytes.sum()),
        "tokens": int(tokens),
    }


def group_metrics(
    scores: Scores, groups: Sequence[str], resamples: int, confidence: float, seed: int
) -> dict[str, dict[str, float | int]]:
    """Return the metrics of each group of texts and its number of `rows`; `groups` names each text's group.

    Raises ValueError unless each text has a group, and UserError for a group without a token.
    """
    if len(groups) != len(scores.tokens):
        raise ValueError(f"{len(groups)} groups for {len(scores.tokens)} texts")
    names = np.array(groups, dtype=object)
    result = {}
    for name in sorted(set(groups)):
        members = Scores(*(field[names == name] for field in scores))
        result[name] = {"rows": len(members.tokens), **metrics(members, resamples, confidence, seed)}
    return result


class Perplexity(evaluate.Measurement):
    """How well a causal language model predicts texts; lower is better.

    `Perplexity().compute(data=texts, model=model, tokenizer=tokenizer)` takes a loaded model, so nothing is fetched.
    `evaluate`'s own perplexity is the mean over texts, which one odd short text can dominate. With `groups`, a name per
    text, the result has the metrics of each under "groups"; with `with_scores`, the `Scores` under "scores".
    """

    def _info(self) -> evaluate.MeasurementInfo:
        return evaluate.MeasurementInfo(
            module_type="measurement",
            description="Token-weighted perplexity with a bootstrap interval, and bits per byte.",
            citation="",
            inputs_description="data: the texts. model, tokenizer: a causal language model of transformers.",
            features=datasets.Features({"data": datasets.Value("string")}),
            reference_urls=["https://huggingface.co/docs/transformers/perplexity"],
        )

    def _compute(  # noqa: PLR0913 - evaluate.EvaluationModule passes its figures' settings as arguments
        self,
        data: list[str],
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_tokens: int = 2048,
        stride: float = 0.5,
        resamples: int = 1000,
        confidence: float = 0.95,
        seed: int = 42,
        groups: Sequence[str] | None = None,
        with_scores: bool = False,
    ) -> dict[str, Any]:
        scores = score(model, tokenizer, data, batch_tokens, stride)
        result: dict[str, Any] = metrics(scores, resamples, confidence, seed)
        if groups is not None:
            result["groups"] = group_metrics(scores, groups, resamples, confidence, seed)
        if with_scores:
            result["scores"] = scores
        return result


def main() -> None:
    """Print the figures of one model on one text, as JSON."""
    parser = arg_parser()
    parser.add_argument("model", type=Path, help="a folder with a model in it, such as models/base")
    parser.add_argument("file", type=Path, help="plain text in UTF-8, read as one text")
    parser.add_argument("--stride", type=float, default=0.5, help="of windows, a share of the context (%(default)s)")
    arguments = parser.parse_args()
    if not 0 < arguments.stride <= 1:
        raise UserError(f"--stride: found {arguments.stride}, expected a share above 0, at most 1")
    if not (arguments.model / "config.json").is_file():
        raise UserError(f"{arguments.model} holds no config.json, so it is not a model's folder; name one that is")
    try:
        text = arguments.file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{arguments.file} cannot be read as text in UTF-8 ({error}); name another file") from None
    model, tokenizer = TASK.load(arguments.model)
    scores = score(model, tokenizer, [text], batch_tokens=2048, stride=arguments.stride)
    result = metrics(scores, 1, 0.5, 0)  # one text cannot be resampled, so there is no interval
    shown = {name: result[name] for name in ("perplexity", "bits_per_byte", "tokens")}
    words = len(text.split())
    if words and scores.loss.sum() / words <= MAX_NATS:  # in a script without spaces a "word" may be a page
        shown["perplexity_of_words"] = math.exp(scores.loss.sum() / words)
    echo_json({**shown, "words": words})


if __name__ == "__main__":
    run(main)
