"""Score texts in one of the compared ways, in a process of its own: `python -m bench.scorers VARIANT MODEL TEXTS`.

The last line is JSON: `tokens` (useful ones, not padding, a second of scoring, without loading), `error` (of the
perplexity, relative to a loop in float64 that reads one text at a time, on a few of the texts).
"""

import csv
import json
import math
import time
from collections.abc import Callable

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from bench import harness
from bench.harness import FRESH
from bench.train_models import STARTER, load_model
from pipeline.command import arg_parser, echo, run
from pipeline.evaluation.scoring import score
from pipeline.modeling import cpu
from pipeline.workspace import restart_with

MEAN, SPREAD, LONGEST = 105, 0.35, 250  # tokens a text; log-normal, less spread than banking77's questions (0.45)
BATCH = 16  # texts, the default of evaluate's perplexity
BATCH_TOKENS = 2048  # as in params.yaml
CHECKED = 4  # texts, against float64
SEED = 42

Scorer = Callable[[PreTrainedModel, PreTrainedTokenizerBase, list[str]], float]


def main() -> None:
    """Score and print the figures."""
    parser = arg_parser()
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("model")
    parser.add_argument("texts", type=int)
    arguments = parser.parse_args()
    if arguments.variant == FRESH:  # as the stage does
        restart_with(cpu.allocator_environment())
        cpu.keep_freed_memory()
    scorer = VARIANTS[arguments.variant]
    tokenizer = AutoTokenizer.from_pretrained(STARTER, local_files_only=True, trust_remote_code=False)
    tokenizer.pad_token = tokenizer.eos_token
    texts = draw_texts(tokenizer, arguments.texts)
    model = load_model(arguments.model).eval()
    scorer(model, tokenizer, texts[:2])  # the first products of a process take longer
    started = time.perf_counter()
    scorer(model, tokenizer, texts)
    seconds = time.perf_counter() - started
    tokens = sum(map(len, tokenizer(texts)["input_ids"]))
    exact = one_at_a_time(model, tokenizer, texts[:CHECKED])
    error = abs(math.exp(scorer(model, tokenizer, texts[:CHECKED]) - exact) - 1)
    echo("\n" + json.dumps({"tokens": tokens / seconds, "error": error}))


def draw_texts(tokenizer: PreTrainedTokenizerBase, count: int) -> list[str]:
    """Return `count` pieces of the sample corpus, whose lengths vary like those of people's texts."""
    with (harness.ROOT / "data" / "tales.csv").open(encoding="utf-8", newline="") as file:
        tales = " ".join(row["text"] for row in csv.DictReader(file))
    ids = tokenizer(tales, verbose=False)["input_ids"]
    lengths = np.random.default_rng(SEED).lognormal(math.log(MEAN) - SPREAD**2 / 2, SPREAD, count)
    ends = np.minimum(lengths, LONGEST).astype(int).cumsum()
    if ends[-1] > len(ids):
        raise ValueError(f"the sample corpus holds {len(ids)} tokens, not {ends[-1]}")
    return [tokenizer.decode(ids[begin:end]) for begin, end in zip([0, *ends[:-1]], ends, strict=True)]


@torch.inference_mode()
def one_at_a_time(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> float:
    """Return the mean loss a token, in nats, computed by transformers in float64."""
    exact = type(model)(model.config).double().eval()
    exact.load_state_dict(model.state_dict())
    loss, tokens = 0.0, 0
    for text in texts:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text)["input_ids"]]])
        logits = exact(ids, use_cache=False).logits[0, :-1]
        loss += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        tokens += ids.shape[1] - 1
    return loss / tokens


def padded(length: int | None = None, by_length: bool = False) -> Scorer:
    """Return the method of evaluate's perplexity metric: batches of 16 texts, padded on the right, with a mask.

    It is written again because `evaluate.load("perplexity")` needs the hub and breaks with transformers 5; the mean is
    over tokens, not over texts. Padding is up to the longest text of a batch, or to `length`; texts are in the given
    order, or sorted `by_length`.
    """

    @torch.inference_mode()
    def scorer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> float:
        rows = [tokenizer.bos_token + text for text in texts]
        if by_length:
            rows.sort(key=lambda row: len(tokenizer(row)["input_ids"]))
        encoded = tokenizer(rows, padding="max_length" if length else True, max_length=length, return_tensors="pt")
        loss, tokens = 0.0, 0.0
        for first in range(0, len(rows), BATCH):
            ids, mask = (encoded[name][first : first + BATCH] for name in ("input_ids", "attention_mask"))
            if length is None:  # evaluate pads batches, not the whole
                longest = int(mask.sum(1).max())
                ids, mask = ids[:, :longest], mask[:, :longest]
            logits = model(ids, attention_mask=mask).logits[:, :-1].contiguous()
            nats = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:].contiguous(), reduction="none")
            loss += float((nats * mask[:, 1:]).sum())
            tokens += float(mask[:, 1:].sum())
        return loss / tokens

    return scorer


def fresh(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> float:
    """Score like the stage `evaluate`; return the mean loss a token, in nats."""
    scored = score(model, tokenizer, texts, BATCH_TOKENS)
    return float(scored.loss.sum() / scored.tokens.sum())


VARIANTS: dict[str, Scorer] = {
    "stock evaluate": padded(),
    "padded to 256": padded(256),
    "length-sorted": padded(by_length=True),
    FRESH: fresh,
}


if __name__ == "__main__":
    run(main)
