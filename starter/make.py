"""Train the starter model from nothing but this folder: `python -m starter.make`.

Write the texts of `starter/genres/`, train a byte-level BPE tokenizer and a GPT-2 with random weights on them, score
it on held-out texts and print the figures for the model's card. The seed is fixed.

`python -m starter.make --general` instead writes the general English on which `evaluate` measures forgetting.
"""

import csv
import random
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast, Trainer, TrainingArguments, set_seed

from pipeline import params
from pipeline.command import arg_parser, echo_json, run
from pipeline.evaluation.perplexity import Perplexity
from pipeline.tasks.causal_lm import TASK
from pipeline.tokenize import TokenWriter
from starter.writers import write

FOLDER = Path(__file__).parent
GENRES = ("dialogue", "diary", "explain", "guides", "letters", "news", "places", "service", "stories")
# Two texts in five are free sentences. The sentences of the genres above recur: without the sketches, the model
# memorised them and learned little else. With one in two, it predicted other texts better, but wrote worse English.
FREE = "sketches"
END_OF_TEXT = "<|endoftext|>"

GENERAL = FOLDER.parent / "pipeline" / "evaluation" / "general.csv"

SEED = 42
TEXTS = 120_000  # about 13 million tokens; each text is read once, so the model cannot memorise any
HELD_OUT = 400  # further texts, for the card's perplexity
GENERAL_SEED = 1843  # a different one, so that none of those texts is among the starter's
GENERAL_TEXTS = 10  # of each of GENRES; some 10,000 tokens: enough for bits per byte to a few hundredths
VOCABULARY = 5120  # most words of these texts become one token; a larger vocabulary would take weights from the layers
CONTEXT = 256  # longer than any text here
LAYERS, HEADS, WIDTH = 3, 8, 256  # 3.7 million parameters: 7.5 MB in float16, within the 8 MB that git should hold
BATCH = 16  # rows of CONTEXT tokens a step
LEARNING_RATE = 2e-3  # small models tolerate a high one; it falls to zero along a cosine
WARMUP = 100  # steps


def main() -> None:
    """Make the model and print the figures for its card."""
    parser = arg_parser()
    parser.add_argument("--texts", type=int, default=TEXTS, help="number of training texts (%(default)s)")
    parser.add_argument("--to", type=Path, default=FOLDER, help="folder of the model (%(default)s)")
    parser.add_argument("--general", action="store_true", help="write the general English instead of a model")
    arguments = parser.parse_args()
    if arguments.general:
        write_general(GENERAL)
        return
    started = time.monotonic()
    texts = write_texts(arguments.texts + HELD_OUT)
    training, held_out = texts[HELD_OUT:], texts[:HELD_OUT]
    tokenizer = learn_tokenizer(training)
    model, budget = train(training, tokenizer)
    minutes = (time.monotonic() - started) / 60
    arguments.to.mkdir(parents=True, exist_ok=True)
    model.to(torch.float16).save_pretrained(arguments.to)
    tokenizer.save_pretrained(arguments.to)
    (arguments.to / "model.safetensors").chmod(0o644)  # safetensors writes for the owner alone
    scores = {"texts of these genres, held out": score(arguments.to, held_out)}
    scores |= {name: score(arguments.to, texts) for name, texts in foreign_texts().items()}
    echo_json({"texts": len(training), **budget, "minutes": round(minutes), "scores": scores})


def write_texts(count: int) -> list[str]:
    """Return `count` different texts, shuffled: three in five of `GENRES` in equal parts, two in five free."""
    genres = [*GENRES, *[FREE] * (len(GENRES) * 2 // 3)]
    rng = random.Random(SEED)
    texts: dict[str, None] = {}
    while len(texts) < count:
        texts[write(genres[len(texts) % len(genres)], rng)] = None
    shuffled = list(texts)
    rng.shuffle(shuffled)
    return shuffled


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
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # any text can be written, in any script
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
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


def train(texts: list[str], tokenizer: GPT2TokenizerFast) -> tuple[GPT2LMHeadModel, dict[str, int]]:
    """Return a GPT-2 trained on `texts`, each read once, and the token budget."""
    scratch = FOLDER.parent / "models" / "starter"
    config = params.Tokenize(strategy="pack", max_length=CONTEXT, canaries=0, canary_repeats=1)
    rows, budget = TokenWriter(TASK, tokenizer, config, {}).dataset(({"text": text} for text in texts), scratch)
    set_seed(SEED)
    model = GPT2LMHeadModel(model_config(tokenizer))
    arguments = training_arguments(scratch)
    Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate).train()
    shutil.rmtree(scratch)
    model.config.use_cache = model.generation_config.use_cache = True
    model.config.activation_function = "gelu_new"  # GPT-2's name for it
    for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        setattr(model.config, name, 0.1)  # GPT-2's own, for whoever trains it further
    return model.cpu(), budget


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


def training_arguments(scratch: Path) -> TrainingArguments:
    """Return the hyperparameters."""
    return TrainingArguments(
        output_dir=str(scratch),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="cosine",
        warmup_steps=WARMUP,
        weight_decay=0.1,  # as GPT-3 and nanoGPT have it for pre-training
        adam_beta2=0.95,  # likewise
        seed=SEED,
        logging_steps=50,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def foreign_texts() -> dict[str, list[str]]:
    """Return texts of other sources to score, where present: speeches of plays, and questions of bank customers."""
    import pandas as pd

    data = FOLDER.parent.parent / "shared" / "data"
    texts: dict[str, list[str]] = {}
    plays = data / "tinyshakespeare" / "input.txt"
    if plays.is_file():
        texts["tinyshakespeare, its last 10 %"] = plays.read_text(encoding="utf-8")[-111_540:].strip().split("\n\n")
    bank = data / "banking77-customer-support" / "test.csv"
    if bank.is_file():
        texts["banking77, its test file"] = pd.read_csv(bank)["text"].tolist()
    return texts


def score(folder: Path, texts: list[str]) -> dict[str, Any]:
    """Return the perplexity of the model in `folder` on `texts`."""
    model, tokenizer = TASK.load(folder)
    figures: dict[str, Any] = Perplexity().compute(data=texts, model=model, tokenizer=tokenizer)
    return figures


if __name__ == "__main__":
    run(main)
