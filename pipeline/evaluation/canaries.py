"""How far a model reveals the canaries that were planted among its training texts; see `pipeline.canaries`."""

import math
import random
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.canaries import Canary as Canary
from pipeline.canaries import canaries as canaries
from pipeline.canaries import made_up_secret
from pipeline.evaluation.scoring import score
from pipeline.modeling.context import encoded_as_text, start_and_end

_ALTERNATIVES = 127  # secrets that were not planted, among which a planted one is ranked: at most 7 bits of exposure
_BATCH_SIZE = 16  # canaries: 16 x 32 tokens x GPT-2's 50,257 logits are 100 MB


@torch.inference_mode()
def extracted(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, planted: Sequence[Canary]) -> float:
    """Return the share of `planted`, at least one, whose secret `model` generates greedily after the prompt.

    It does so exactly when each token of the secret is the likeliest after the prompt and the tokens before it: one
    forward pass tells, without generation.
    """
    start, _ = start_and_end(tokenizer)
    revealed = 0
    for first in range(0, len(planted), _BATCH_SIZE):
        batch = planted[first : first + _BATCH_SIZE]
        prompts = encoded_as_text(tokenizer, [canary.prompt for canary in batch])["input_ids"]
        texts = encoded_as_text(tokenizer, [canary.prompt + canary.secret for canary in batch])["input_ids"]
        rows = [[start, *tokens] for tokens in texts]
        longest = max(map(len, rows))
        # Padding is on the right, where causal attention never looks: no mask is needed and any id will do.
        ids = torch.tensor([row + [start] * (longest - len(row)) for row in rows], device=model.device)
        likeliest = model(ids, use_cache=False).logits.argmax(-1).tolist()  # the id after each token
        for row, prompt, next_ids in zip(rows, prompts, likeliest, strict=True):
            revealed += next_ids[len(prompt) : len(row) - 1] == row[len(prompt) + 1 :]
    return revealed / len(planted)


def extraction_metrics(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, planted: Sequence[Canary], batch_tokens: int = 2048
) -> dict[str, float]:
    """Return `extracted` and `exposure` of `planted`, at least one."""
    return {
        "extracted": extracted(model, tokenizer, planted),
        "exposure": exposure(model, tokenizer, planted, batch_tokens),
    }


def exposure(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, planted: Sequence[Canary], batch_tokens: int
) -> float:
    """Return the mean exposure of `planted`, at least one, in bits: log2(secrets) - log2(rank of the planted one).

    The rank is by likelihood after the prompt, among 127 other secrets drawn for each canary (Carlini et al. 2019,
    sections 4.2 and 4.3, by sampling). At most 7; 1.4 on average (1 / ln 2) for a model that never saw them. It rises
    before a secret can be extracted.
    """
    texts: list[str] = []
    for canary in planted:
        generator = random.Random(canary.prompt)
        others: dict[str, None] = {}
        while len(others) < _ALTERNATIVES:
            others[made_up_secret(generator)] = None
            others.pop(canary.secret, None)
        texts.extend(canary.prompt + secret for secret in [canary.secret, *others])
    # The prompt's loss is the same for all secrets, so it does not change a rank. Ties count as likelier.
    loss = score(model, tokenizer, texts, batch_tokens).loss.reshape(len(planted), -1)
    ranks = (loss <= loss[:, :1]).sum(axis=1)
    return math.log2(_ALTERNATIVES + 1) - sum(math.log2(rank) for rank in ranks) / len(planted)
