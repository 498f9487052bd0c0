"""Train the starter T5 from nothing but this folder: `python -m starter.make_t5`.

Write the texts of `starter/genres/`, train a byte-level BPE tokenizer and a T5 with random weights on them, score it on
held-out texts and print the figures for the model's card. The seed is fixed. Half of the examples are T5's span
corruption; the others restore or copy what the source says, which a T5 this small would not learn from its fine-tuning.
"""

import itertools
import math
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, processors
from torch.nn.functional import cross_entropy
from transformers import (
    Adafactor,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    get_cosine_schedule_with_warmup,
    set_seed,
)

from pipeline.command import run
from starter import pretraining
from starter.texts import FOLDER, SEED

TO = FOLDER / "t5"
TEXTS = 28_000  # each is read once, so the model cannot memorise any
CONTEXT = 256  # longer than any text here; T5's positions are relative, so it has no context of its own
SENTINELS = 32  # `<extra_id_0>` and so on: more than the spans of CONTEXT tokens
LAYERS, HEADS, WIDTH, INNER = 3, 6, 192, 576  # of encoder and decoder each: 3.6 million parameters
NOISE, SPAN = 0.15, 3.0  # share of the tokens in spans, and their mean length: as in the paper
OBJECTIVES = {"corrupt": 4, "restore": 2, "copy": 2}  # examples of each among eight
BATCH = 16  # examples a step
LEARNING_RATE = 2e-2  # relative to the size of the weights; the paper has 1e-2, for larger models
WARMUP = 100  # steps

Example = dict[str, list[int]]


def learn_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer with T5's special tokens, trained on `texts`; unlike T5's it loses nothing."""
    sentinels = [f"<extra_id_{number}>" for number in range(SENTINELS)]
    tokenizer: Tokenizer = pretraining.learn_byte_pairs(texts, ("<pad>", "</s>", "<unk>", *sentinels))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",  # noqa: S106 - no password
        eos_token="</s>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
        additional_special_tokens=sentinels,
        model_max_length=CONTEXT,
    )


def corrupt(text: str, tokenizer: PreTrainedTokenizerBase, rng: random.Random) -> Example:
    """Return `text` with a sentinel in place of each span of noise as the source, and the spans as the target.

    Raffel et al., "Exploring the limits of transfer learning with a unified text-to-text transformer", JMLR 2020, 3.1.4
    and the random spans of its code: as many spans as pieces between them, both split at random.
    """
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][: CONTEXT - 1]
    noise = min(max(1, round(NOISE * len(ids))), len(ids) - 1)
    spans = min(max(1, round(noise / SPAN)), noise, len(ids) - noise)
    source, target, start = [], [], 0
    for number, (kept, lost) in enumerate(
        zip(_parts(len(ids) - noise, spans, rng), _parts(noise, spans, rng), strict=True)
    ):
        sentinel = tokenizer.convert_tokens_to_ids(f"<extra_id_{number}>")
        source += [*ids[start : start + kept], sentinel]
        target += [sentinel, *ids[start + kept : start + kept + lost]]
        start += kept + lost
    last = tokenizer.convert_tokens_to_ids(f"<extra_id_{spans}>")
    return _example(source, [*target, last], tokenizer)


def _parts(total: int, count: int, rng: random.Random) -> list[int]:
    """Return `count` random positive numbers with the sum `total`."""
    cuts = [0, *sorted(rng.sample(range(1, total), count - 1)), total]
    return [end - start for start, end in itertools.pairwise(cuts)]


def restore(text: str, tokenizer: PreTrainedTokenizerBase, rng: random.Random) -> Example:
    """Return some sentences of `text` as the target; the source has them as they are, shuffled, or without some words.

    The noise of Lewis et al., "BART", ACL 2020, without its masks: so a source without a sentinel asks for a text.
    """
    sentences = re.split(r"(?<=[.!?]) ", text)
    count = rng.randint(1, 6)
    first = rng.randrange(max(1, len(sentences) - count + 1))
    chosen = sentences[first : first + count]
    kind, source = rng.randrange(3), list(chosen)
    if kind == 1:
        rng.shuffle(source)
    elif kind == 2:
        source = [word for sentence in chosen for word in sentence.split(" ") if rng.random() > 0.1]
    corrupted, whole = (tokenizer(" ".join(part), add_special_tokens=False)["input_ids"] for part in (source, chosen))
    return _example(corrupted, whole, tokenizer)


def copy(_text: str, tokenizer: PreTrainedTokenizerBase, rng: random.Random) -> Example:
    """Return random tokens as source and target: what can only be copied, so that copying is learned for any text."""
    ids = [rng.randrange(SENTINELS + 3, len(tokenizer)) for _ in range(rng.randint(4, 32))]
    return _example(ids, ids, tokenizer)


def _example(source: Sequence[int], target: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Example:
    end = tokenizer.eos_token_id
    return {"input_ids": [*source[: CONTEXT - 1], end], "labels": [*target[: CONTEXT - 1], end]}


_MAKERS: dict[str, Callable[[str, PreTrainedTokenizerBase, random.Random], Example]] = {
    "corrupt": corrupt,
    "restore": restore,
    "copy": copy,
}


def examples(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """Return an example of each text, with the objectives in turn."""
    rng = random.Random(SEED)
    turns = list(Counter(OBJECTIVES).elements())
    return [_MAKERS[turns[at % len(turns)]](text, tokenizer, rng) for at, text in enumerate(texts)]


def train(texts: list[str]) -> pretraining.Trained:
    """Return a T5 trained on `texts`, its tokenizer and the token budget."""
    tokenizer = learn_tokenizer(texts)
    dataset = examples(texts, tokenizer)
    set_seed(SEED)
    model = T5ForConditionalGeneration(model_config(tokenizer))
    arguments = pretraining.training_arguments(
        per_device_train_batch_size=BATCH,
        train_sampling_strategy="group_by_length",
    )
    # T5's own: a step is a share of the weights' size. With AdamW its large embeddings, which are tied, hardly learn.
    optimizer = Adafactor(model.parameters(), lr=LEARNING_RATE, scale_parameter=True, relative_step=False)
    schedule = get_cosine_schedule_with_warmup(optimizer, WARMUP, math.ceil(len(dataset) / BATCH))
    Trainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model),
        optimizers=(optimizer, schedule),
    ).train()
    shutil.rmtree(pretraining.SCRATCH, ignore_errors=True)
    model.config.dropout_rate = 0.1  # T5's own, for whoever trains it further
    model.generation_config = GenerationConfig(
        decoder_start_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    budget = {name: sum(len(example[key]) for example in dataset) for name, key in _COLUMNS.items()}
    return model, tokenizer, budget


_COLUMNS = {"source_tokens": "input_ids", "target_tokens": "labels"}


def model_config(tokenizer: PreTrainedTokenizerBase) -> T5Config:
    """Return the architecture, as it is trained."""
    return T5Config(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        d_kv=WIDTH // HEADS,
        d_ff=INNER,
        num_layers=LAYERS,
        num_heads=HEADS,
        feed_forward_proj="relu",  # T5's first; on CPUs twice as fast as the gated ones
        dropout_rate=0.0,  # dropout prevents memorisation, and each text is read once
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )


@torch.inference_mode()
def score(folder: Path, texts: list[str]) -> dict[str, Any]:
    """Return the perplexity of span targets, whose spans the seed fixes, and the share of texts copied exactly."""
    model = AutoModelForSeq2SeqLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    rng = random.Random(SEED)
    long_enough = [text for text in texts if len(tokenizer(text)["input_ids"]) > 8]
    loss, tokens = [], []
    for text in long_enough:
        batch = {name: torch.tensor([ids]) for name, ids in corrupt(text, tokenizer, rng).items()}
        logits = model(**batch).logits[0]  # (target tokens, vocabulary)
        loss.append(float(cross_entropy(logits, batch["labels"][0], reduction="sum")))
        tokens.append(batch["labels"].numel())
    return {**pretraining.figures(loss, tokens), "copied": _copied(model, tokenizer, long_enough[:100])}


def _copied(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> float:
    """Return the share of tokens that the model, shown a text's first 32 tokens and what it should write, copies."""
    right = total = 0
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=32, return_tensors="pt")["input_ids"]  # (1, tokens)
        right += int((model(input_ids=ids, labels=ids).logits.argmax(-1) == ids).sum())
        total += ids.numel()
    return right / total


def main() -> None:
    """Make the model and print the figures for its card."""
    pretraining.run_maker(TO, TEXTS, train, score)


if __name__ == "__main__":
    run(main)
