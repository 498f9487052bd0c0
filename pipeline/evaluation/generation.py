"""Prompts from real texts, how these continue, and what a model generates instead."""

import hashlib
import math
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline import params
from pipeline.command import UserError
from pipeline.modeling.context import context_of, encoded_as_text, start_and_end

_TEXTS_PER_PROMPT = 100  # that are looked at for a prompt unlike the others


@dataclass(frozen=True)
class Generation:
    """What a model generated after a prompt."""

    prompt: str
    text: str  # without the prompt
    tokens: int  # generated, without the end token
    ended: bool  # whether the model generated its end token


@dataclass(frozen=True)
class Prompts:
    """Prompts from the beginnings of texts, with how the texts continue."""

    texts: list[str]  # the prompts
    continuations: list[str]  # what follows each prompt in its text, cut at the length of a generated text
    is_complete: list[bool]  # whether the continuation reaches the end of its text
    prompt_tokens: int  # of each prompt
    too_short: int  # texts of fewer than twice as many tokens: none of them is used
    real: list[str]  # what follows the same number of tokens in every text that is long enough, uncut


def select_prompts(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, count: int, prompt_tokens: int, max_tokens: int
) -> Prompts:
    """Return prompts from the beginnings of texts.

    Where not even half of `count` (or of all texts) have twice `prompt_tokens` tokens, the prompts are shorter; of
    texts of one token they are empty, and a model begins at its start token. Cuts are made in the text itself, never
    inside a character, so prompt and continuation are letter for letter how the text begins.

    Args:
        texts: Prompts are taken at even distances from those of at least twice `prompt_tokens` tokens.
        tokenizer: A fast tokenizer, by which lengths are counted.
        count: How many prompts to return; fewer where fewer texts are long enough.
        prompt_tokens: The length of a prompt.
        max_tokens: The length of a continuation at most.
    """
    encoded = encoded_as_text(tokenizer, list(texts), return_offsets_mapping=True)
    token_ends = [[end for _, end in offsets] for offsets in encoded["offset_mapping"]]  # in characters
    lengths = sorted(map(len, token_ends), reverse=True)
    half = math.ceil(min(count, len(texts)) / 2)
    prompt_tokens = min(prompt_tokens, lengths[half - 1] // 2)
    long_enough = [index for index, ends in enumerate(token_ends) if len(ends) >= 2 * prompt_tokens]
    count = min(count, len(long_enough))
    prompts, continuations, is_complete = [], [], []
    for index in (long_enough[place * len(long_enough) // count] for place in range(count)):
        text, ends = texts[index], [0, *token_ends[index]]
        cut = ends[prompt_tokens]
        is_complete.append(len(ends) <= prompt_tokens + max_tokens + 1)
        prompts.append(text[:cut])
        continuations.append(text[cut:] if is_complete[-1] else text[cut : ends[prompt_tokens + max_tokens]])
    real = [texts[index][[0, *token_ends[index]][prompt_tokens] :] for index in long_enough]
    return Prompts(prompts, continuations, is_complete, prompt_tokens, len(texts) - len(long_enough), real)


def cut_to_lengths(texts: Sequence[str], lengths: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return real texts of the lengths of generated ones, so that figures that grow with length compare.

    The shortest text that is long enough is cut to each length, the longest length first; where none is left the
    longest of the others is taken as it is. No text is taken twice, so there may be fewer than `lengths`.
    """
    encoded = encoded_as_text(tokenizer, list(texts), return_offsets_mapping=True)["offset_mapping"] if texts else []
    ends = [[end for _, end in offsets] for offsets in encoded]  # in characters, of each token
    pool = sorted(range(len(texts)), key=lambda index: (len(ends[index]), index))
    chosen = []
    for length in sorted(lengths, reverse=True):
        if not pool:
            break
        place = bisect_left(pool, length, key=lambda index: len(ends[index]))
        index = pool.pop(min(place, len(pool) - 1))
        cut = [0, *ends[index]][min(length, len(ends[index]))]
        chosen.append(texts[index][:cut])
    return chosen


def sample_prompts(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, count: int, words: int, max_tokens: int
) -> list[str]:
    """Return different beginnings of `count` texts, letter for letter; fewer where fewer texts begin differently.

    A bottom-k hash sample: a new text replaces at most one of them.

    Args:
        texts: Those that the prompts are taken from.
        tokenizer: A fast tokenizer, by which lengths are counted.
        count: How many prompts to return.
        words: The length of a prompt at most; a prompt takes at most half of its text.
        max_tokens: Likewise, since a "word" may be a whole text where a script has no spaces.
    """
    ordered = sorted(set(texts), key=lambda text: hashlib.sha256(b"sample prompt\0" + text.encode()).digest())
    prompts: dict[str, str] = {}  # by what makes two of them alike
    for text in ordered[: _TEXTS_PER_PROMPT * count]:
        prompt = _beginning(text, tokenizer, words, max_tokens)
        if prompt and len(prompts) < count:
            prompts.setdefault(" ".join(prompt.split()).casefold(), prompt)
    return list(prompts.values()) or [""][:count]  # of texts of one token: a model begins at its start token


def _beginning(text: str, tokenizer: PreTrainedTokenizerBase, words: int, max_tokens: int) -> str:
    """Return the first words of `text`, or as many of its first tokens as fit where a word is longer than that."""
    offsets = encoded_as_text(tokenizer, text, return_offsets_mapping=True)["offset_mapping"]
    tokens = min(max_tokens, len(offsets) // 2)
    end = offsets[tokens - 1][1] if tokens else 0
    word_ends = [word.end() for word in islice(re.finditer(r"\S+", text), words)]
    return text[: max((word_end for word_end in word_ends if word_end <= end), default=end)]


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    config: params.Evaluate,
    batch_size: int = 32,
) -> list[Generation]:
    """Return a sampled continuation of each of `prompts`, in their order.

    A text ends with the model's end token, after `max_new_tokens` tokens, or where the context ends. The same
    arguments give the same texts on the same kind of machine: the batches depend on them alone, and each batch has its
    own seed. Torch's random state is restored.

    Args:
        model: A causal language model.
        tokenizer: The model's.
        prompts: May be empty strings.
        config: The sampling settings and the seed.
        batch_size: Prompts per batch at most.

    Raises:
        UserError: A prompt leaves no room in the model's context.
    """
    start, end = start_and_end(tokenizer)
    encoded = [[start, *encoded_as_text(tokenizer, prompt)["input_ids"]] for prompt in prompts]
    context = context_of(model.config)
    _check_room(prompts, encoded, context)
    room = [min(config.max_new_tokens, context - len(ids)) for ids in encoded]
    generations: dict[int, Generation] = {}
    progress = tqdm(total=len(prompts), desc="generating", unit=" texts", leave=False, disable=None)
    with progress, torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        for batch in _batches([len(ids) for ids in encoded], room, batch_size):
            torch.manual_seed(config.seed + len(generations))
            sampled = _sample(model, [encoded[index] for index in batch], end, room[batch[0]], config)
            for index, ids in zip(batch, sampled, strict=True):
                tokens = ids.index(end) if end in ids else len(ids)
                text = tokenizer.decode(ids[:tokens], skip_special_tokens=True, clean_up_tokenization_spaces=False)
                generations[index] = Generation(prompts[index], text, tokens, end in ids)
            progress.update(len(batch))
    return [generations[index] for index in range(len(prompts))]


def _check_room(prompts: Sequence[str], encoded: Sequence[Sequence[int]], context: int) -> None:
    for prompt, ids in zip(prompts, encoded, strict=True):
        if len(ids) >= context:
            raise UserError(
                f"the prompt {prompt[:40]!r} has {len(ids) - 1} tokens, but the model's context is {context} tokens,"
                " with the start token and the generated text; shorten it, or lower evaluate.prompt_tokens or"
                " test_prompt_words"
            )


def _sample(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    end: int,
    max_new_tokens: int,
    config: params.Evaluate,
) -> list[list[int]]:
    """Return the ids that the model samples after each prompt of a batch, with padding after the end token."""
    longest = max(map(len, prompts))
    # Padding is on the left, where the mask hides it; transformers counts the positions from the mask.
    rows = [[end] * (longest - len(ids)) + ids for ids in prompts]
    mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]
    output = model.generate(
        torch.tensor(rows, device=model.device),  # (batch, longest)
        attention_mask=torch.tensor(mask, device=model.device),
        do_sample=True,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        max_new_tokens=max_new_tokens,
        eos_token_id=end,
        pad_token_id=end,
        use_cache=True,  # the model's own settings may switch it off
    )
    sampled: list[list[int]] = output[:, longest:].tolist()
    return sampled


def _batches(lengths: Sequence[int], room: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Yield the indices of prompts that share a batch: of the same room, similar in length.

    Prompts of the same length need no padding; one with less room in the context must not cut the others short.
    """
    order = sorted(range(len(lengths)), key=lambda index: (room[index], lengths[index]))
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) == batch_size or room[index] != room[batch[0]]):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
