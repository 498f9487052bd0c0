"""Train the starter model from nothing but this folder: `python -m starter.make`.

Write the texts of `starter/genres/`, train a byte-level BPE tokenizer and a GPT-2 with random weights on them, score
it on held-out texts and print the figures for the model's card. The seed is fixed.

`python -m starter.make --general` instead writes the general English on which `evaluate` measures forgetting.
"""

import csv
import random
import shutil
from pathlib import Path
from typing import Any

import torch
from tokenizers import processors
from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast, Trainer, set_seed

from pipeline import params
from pipeline.command import run
from pipeline.evaluation.perplexity import Perplexity
from pipeline.tasks.causal_lm import TASK
from pipeline.tokenize import TokenWriter
from starter import pretraining
from starter.texts import FOLDER, GENRES, SEED
from starter.writers import write

END_OF_TEXT = "<|endoftext|>"

GENERAL = FOLDER.parent / "pipeline" / "evaluation" / "general.csv"

TEXTS = 120_000  # about 13 million tokens; each text is read once, so the model cannot memorise any
GENERAL_SEED = 1843  # a different one, so that none of those texts is among the starter's
GENERAL_TEXTS = 10  # of each of GENRES; some 10,000 tokens: enough for bits per byte to a few hundredths
CONTEXT = 256  # longer than any text here
LAYERS, HEADS, WIDTH = 3, 8, 256  # 3.7 million parameters: 7.5 MB in float16, within the 8 MB that git should hold
BATCH = 16  # rows of CONTEXT tokens a step
LEARNING_RATE = 2e-3  # small models tolerate a high one; it falls to zero along a cosine
WARMUP = 100  # steps


def main() -> None:
    """Make the model and print the figures for its card."""
    parser = pretraining.maker_parser(FOLDER, TEXTS)
    parser.add_argument("--general", action="store_true", help="write the general English instead of a model")
    arguments = parser.parse_args()
    if arguments.general:
        write_general(GENERAL)
    else:
        pretraining.make_and_report(arguments, train, score)


def write_general(path: Path) -> None:
    """Write a CSV (`id`, `text`) of texts of `GENRES` that the starter was not trained on."""
    rng = random.Random(GENERAL_SEED)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "text"])
        for number in range(GENERAL_TEXTS * len(GENRES)):
            writer.writerow([number + 1, write(GENRES[number % len(GENRES)], rng)])


def learn_tokenizer(texts: list[str]) -> GPT2TokenizerFast:
    """Return a byte-level BPE tokenizer like GPT-2's, trained on `texts`."""
    tokenizer = pretraining.learn_byte_pairs(texts, [END_OF_TEXT])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return GPT2TokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        model_max_length=CONTEXT,
    )


def collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Return a batch of packed rows with `labels`: every token except paddings and start tokens."""
    batch = {column: torch.tensor([row[column] for row in rows]) for column in rows[0]}  # each (rows, CONTEXT)
    ignored = batch["position_ids"] == 0  # the start of a document, or padding
    return {**batch, "labels": batch["input_ids"].masked_fill(ignored, -100)}


def train(texts: list[str]) -> pretraining.Trained:
    """Return a GPT-2 trained on `texts`, each read once, its tokenizer and the token budget."""
    tokenizer = learn_tokenizer(texts)
    config = params.Tokenize(strategy="pack", max_length=CONTEXT, canaries=0, canary_repeats=1)
    writer = TokenWriter(TASK, tokenizer, config, {})
    pretraining.SCRATCH.mkdir(parents=True, exist_ok=True)
    rows, budget = writer.dataset(({"text": text} for text in texts), pretraining.SCRATCH)
    set_seed(SEED)
    model = GPT2LMHeadModel(model_config(tokenizer))
    arguments = pretraining.training_arguments(
        per_device_train_batch_size=BATCH, learning_rate=LEARNING_RATE, warmup_steps=WARMUP
    )
    Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate).train()
    shutil.rmtree(pretraining.SCRATCH)
    model.config.use_cache = model.generation_config.use_cache = True
    model.config.activation_function = "gelu_new"  # GPT-2's name for it
    for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        setattr(model.config, name, 0.1)  # GPT-2's own, for whoever trains it further
    return model, tokenizer, budget


def model_config(tokenizer: GPT2TokenizerFast) -> GPT2Config:
    """Return the architecture, as it is trained."""
    return GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=CONTEXT,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        resid_pdrop=0.0,  # dropout prevents memorisation, and each text is read once
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
        activation_function="gelu_pytorch_tanh",  # GPT-2's own function, but in one operation: a tenth faster here
    )


def score(folder: Path, texts: list[str]) -> dict[str, Any]:
    """Return the perplexity of the model in `folder` on `texts`."""
    model, tokenizer = TASK.load(folder)
    figures: dict[str, Any] = Perplexity().compute(data=texts, model=model, tokenizer=tokenizer)
    return figures


if __name__ == "__main__":
    run(main)
