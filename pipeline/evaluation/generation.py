"""Openings of real texts, how these go on, and what a model writes there instead."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline import params
from pipeline.command import UserError
from pipeline.modeling.context import context_of, encoded_as_text, start_and_end


@dataclass(frozen=True)
class Generated:
    """What a model wrote after a prompt."""

    prompt: str
    text: str  # without the prompt
    tokens: int  # written, without the end token
    ended: bool  # the model wrote its end token


@dataclass(frozen=True)
class Openings:
    """Where models start to write, and how the texts there really go on."""

    prompts: list[str]
    real: list[str]  # what follows each prompt in its text, cut where a model's text would be
    whole: list[bool]  # whether that is the text to its end
    prompt_tokens: int  # of each prompt
    too_short: int  # texts that have fewer than twice as many tokens, of which none is taken


def openings(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, count: int, prompt_tokens: int, most_tokens: int
) -> Openings:
    """Return the first `prompt_tokens` tokens of `count` texts, and how each goes on for `most_tokens` tokens at most.

    The texts are taken at even distances from those of at least twice `prompt_tokens` tokens, all of them where there
    are fewer than `count`. Where not even half of `count` (or of all texts) are as long, the prompts are shorter; of
    texts of one token they are empty, and a model begins at its start token. Cuts are made in the text itself, never
    inside a character, so a prompt and what follows are letter for letter how it begins.
    """
    encoded = encoded_as_text(tokenizer, list(texts), return_offsets_mapping=True)
    ends = [[end for _, end in offsets] for offsets in encoded["offset_mapping"]]  # of each token, in characters
    lengths = sorted(map(len, ends), reverse=True)
    half = math.ceil(min(count, len(texts)) / 2)
    prompt_tokens = min(prompt_tokens, lengths[half - 1] // 2)
    long_enough = [at for at, its_ends in enumerate(ends) if len(its_ends) >= 2 * prompt_tokens]
    count = min(count, len(long_enough))
    prompts, behind, whole = [], [], []
    for at in (long_enough[place * len(long_enough) // count] for place in range(count)):
        text, its_ends = texts[at], [0, *ends[at]]
        cut = its_ends[prompt_tokens]
        whole.append(len(its_ends) <= prompt_tokens + most_tokens + 1)
        prompts.append(text[:cut])
        behind.append(text[cut:] if whole[-1] else text[cut : its_ends[prompt_tokens + most_tokens]])
    return Openings(prompts, behind, whole, prompt_tokens, len(texts) - len(long_enough))


def first_words(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, count: int, words: int, most_tokens: int
) -> list[str]:
    """Return the first `words` words of `count` texts, taken at even distances through `texts`.

    None has more than `most_tokens` tokens: where a script has no spaces, a "word" may be a whole text.
    """
    count = min(count, len(texts))
    prompts = [" ".join(texts[at * len(texts) // count].split()[:words]) for at in range(count)]
    if not prompts:
        return []
    encoded = encoded_as_text(tokenizer, prompts, return_offsets_mapping=True)
    return [
        prompt if len(offsets) <= most_tokens else prompt[: offsets[most_tokens - 1][1]]
        for prompt, offsets in zip(prompts, encoded["offset_mapping"], strict=True)
    ]


def write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    wanted: params.Evaluate,
    batch: int = 32,
) -> list[Generated]:
    """Return what `model` writes after each of `prompts`, in their order, drawn as `wanted` says.

    A text ends with the model's end token, after `max_new_tokens` tokens, or where the context ends. The same
    arguments give the same texts on the same kind of machine: which prompts share a batch hangs on them alone, and
    each batch starts from a seed of its own. Torch's random state is left as it was. Raises UserError where a prompt
    leaves no room in the model's context.
    """
    start, end = start_and_end(tokenizer)
    ids = [[start, *encoded_as_text(tokenizer, prompt)["input_ids"]] for prompt in prompts]
    context = context_of(model.config)
    for prompt, its_ids in zip(prompts, ids, strict=True):
        if len(its_ids) >= context:
            raise UserError(
                f"the prompt {prompt[:40]!r} has {len(its_ids) - 1} tokens, but the model reads {context} with the "
                "start token and what it writes; shorten it, or lower evaluate.prompt_tokens or test_prompt_words"
            )
    room = [min(wanted.max_new_tokens, context - len(its_ids)) for its_ids in ids]
    written: dict[int, Generated] = {}
    progress = tqdm(total=len(prompts), desc="writing", unit=" texts", leave=False, disable=None)
    with progress, torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        for together in _batches([len(its_ids) for its_ids in ids], room, batch):
            torch.manual_seed(wanted.seed + len(written))
            longest = max(len(ids[at]) for at in together)
            # Padded in front, where the mask hides it; transformers counts the positions from the mask.
            rows = [[end] * (longest - len(ids[at])) + ids[at] for at in together]
            mask = [[0] * (longest - len(ids[at])) + [1] * len(ids[at]) for at in together]
            output = model.generate(
                torch.tensor(rows, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                do_sample=True,
                temperature=wanted.temperature,
                top_p=wanted.top_p,
                top_k=wanted.top_k,
                max_new_tokens=room[together[0]],
                eos_token_id=end,
                pad_token_id=end,
                use_cache=True,  # whatever the model's own settings say: training saves them without
            )
            for at, new in zip(together, output[:, longest:].tolist(), strict=True):
                tokens = new.index(end) if end in new else len(new)
                text = tokenizer.decode(new[:tokens], skip_special_tokens=True, clean_up_tokenization_spaces=False)
                written[at] = Generated(prompts[at], text, tokens, end in new)
            progress.update(len(together))
    return [written[at] for at in range(len(prompts))]


def _batches(lengths: Sequence[int], room: Sequence[int], batch: int) -> Iterator[list[int]]:
    """Yield the places of prompts that are written together: at most `batch`, of one room, alike in length.

    Those of one length need no padding; those that the context leaves less room than others must not cut these short.
    """
    order = sorted(range(len(lengths)), key=lambda at: (room[at], lengths[at]))
    together: list[int] = []
    for at in order:
        if together and (len(together) == batch or room[at] != room[together[0]]):
            yield together
            together = []
        together.append(at)
    if together:
        yield together
