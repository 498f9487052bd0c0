"""One way of scoring, in a process of its own: `python -m bench.scorers VARIANT MODEL TEXTS`.

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
from bench.trainers import STARTER, base
from pipeline.command import arg_parser, echo, run
from pipeline.evaluation.perplexity import score
from pipeline.training import speed

MEAN, SPREAD, LONGEST = 105, 0.35, 250  # tokens a text; log-normal, less spread than banking77's questions (0.45)
BATCH = 16  # texts, the default of evaluate's perplexity
BATCH_TOKENS = 2048  # as in params.yaml
CHECKED = 4  # texts, against float64
SEED = 42

Scorer = Callable[[PreTrainedModel, PreTrainedTokenizerBase, list[str]], float]


def main() -> None:
    """Score as the arguments say and print what came of it."""
    parser = arg_parser()
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("model")
    parser.add_argument("texts", type=int)
    given = parser.parse_args()
    variant, model_name, count = given.variant, given.model, given.texts
    if variant.startswith("ours"):
        speed.preload_allocator()  # as the stage does, and what follows
        speed.keep_freed_memory()
    scorer = VARIANTS[variant]
    tokenizer = AutoTokenizer.from_pretrained(STARTER, local_files_only=True, trust_remote_code=False)
    tokenizer.pad_token = tokenizer.eos_token
    made = texts(tokenizer, count)
    model = base(model_name).eval()
    scorer(model, tokenizer, made[:2])  # the first products of a process take longer
    begun = time.perf_counter()
    scorer(model, tokenizer, made)
    seconds = time.perf_counter() - begun
    tokens = sum(map(len, tokenizer(made)["input_ids"]))
    exact = one_at_a_time(model, tokenizer, made[:CHECKED])
    error = abs(math.exp(scorer(model, tokenizer, made[:CHECKED]) - exact) - 1)
    echo("\n" + json.dumps({"tokens": tokens / seconds, "error": error}))


def texts(tokenizer: PreTrainedTokenizerBase, count: int) -> list[str]:
    """Return `count` stretches of the sample corpus, of lengths that spread as those of people's texts do."""
    with (harness.ROOT / "data" / "tales.csv").open(encoding="utf-8", newline="") as file:
        tales = " ".join(row["text"] for row in csv.DictReader(file))
    ids = tokenizer(tales, verbose=False)["input_ids"]
    drawn = np.random.default_rng(SEED).lognormal(math.log(MEAN) - SPREAD**2 / 2, SPREAD, count)
    ends = np.minimum(drawn, LONGEST).astype(int).cumsum()
    if ends[-1] > len(ids):
        raise ValueError(f"the sample corpus holds {len(ids)} tokens, not {ends[-1]}")
    return [tokenizer.decode(ids[begin:end]) for begin, end in zip([0, *ends[:-1]], ends, strict=True)]


@torch.inference_mode()
def one_at_a_time(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, some: list[str]) -> float:
    """Return the mean loss a token, in nats, by transformers' own code in float64."""
    exact = type(model)(model.config).double().eval()
    exact.load_state_dict(model.state_dict())
    loss, tokens = 0.0, 0
    for text in some:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text)["input_ids"]]])
        logits = exact(ids, use_cache=False).logits[0, :-1]
        loss += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        tokens += ids.shape[1] - 1
    return loss / tokens


def padded(length: int | None = None, by_length: bool = False) -> Scorer:
    """Return the way of evaluate's perplexity metric: batches of 16 texts, padded on the right, with a mask.

    Its idea written again, for `evaluate.load("perplexity")` needs the hub and breaks with transformers 5. The mean
    over texts that it ends in is one over tokens here. Padding is up to the longest of a batch, or to `length`; the
    texts come as given, or `by_length`.
    """

    @torch.inference_mode()
    def scorer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, some: list[str]) -> float:
        rows = [tokenizer.bos_token + text for text in some]
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


def ours(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, some: list[str]) -> float:
    """Score as the stage does; return the mean loss a token, in nats."""
    scored = score(model, tokenizer, some, BATCH_TOKENS)
    return float(scored.loss.sum() / scored.tokens.sum())


VARIANTS: dict[str, Scorer] = {
    "stock evaluate": padded(),
    "padded to 256": padded(256),
    "length-sorted": padded(by_length=True),
    "ours": ours,
}


if __name__ == "__main__":
    run(main)
