"""What making a starter of any architecture shares: its command, its vocabulary and its optimizer.

A maker (`make`, `make_roberta`, `make_t5`) adds the tokenizer's frame, the architecture and the objective.
"""

import math
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from pipeline.command import arg_parser, echo_json
from pipeline.evaluation.bootstrap import bootstrap_ratios, interval
from starter import texts

SCRATCH = texts.FOLDER.parent / "models" / "starter"  # of one maker at a time
VOCABULARY = 5120  # most words of these texts become one token; a larger vocabulary would take weights from the layers

Trained = tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, int]]  # the last is the token budget
Train = Callable[[list[str]], Trained]
Score = Callable[[Path, list[str]], dict[str, Any]]


def run_maker(folder: Path, count: int, train: Train, score: Score) -> None:
    """Run a maker's command: make a model in `folder` from `count` texts, unless its options say otherwise."""
    make_and_report(maker_parser(folder, count).parse_args(), train, score)


def maker_parser(folder: Path, count: int) -> ArgumentParser:
    """Return the parser of a maker's options, with these defaults."""
    parser = arg_parser()
    parser.add_argument("--texts", type=int, default=count, help="number of training texts (%(default)s)")
    parser.add_argument("--to", type=Path, default=folder, help="folder of the model (%(default)s)")
    return parser


def make_and_report(options: Namespace, train: Train, score: Score) -> None:
    """Make a model and print the figures for its card.

    Args:
        options: `texts` and `to`.
        train: Returns the model, its tokenizer and the token budget.
        score: Returns the figures of the model in a folder on texts.
    """
    started = time.monotonic()
    written = texts.write_texts(options.texts + texts.HELD_OUT)
    training, held_out = written[texts.HELD_OUT :], written[: texts.HELD_OUT]
    model, tokenizer, budget = train(training)
    minutes = round((time.monotonic() - started) / 60)
    save(model.cpu(), tokenizer, options.to)
    scores = {"texts of these genres, held out": score(options.to, held_out)}
    scores |= {name: score(options.to, foreign) for name, foreign in texts.foreign_texts().items()}
    echo_json({"texts": len(training), **budget, "minutes": minutes, "scores": scores})


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the model in float16, which git should hold at most 8 MB of, and its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes for the owner alone


def learn_byte_pairs(written: list[str], special_tokens: Sequence[str], size: int = VOCABULARY) -> Tokenizer:
    """Return a byte-level BPE tokenizer like GPT-2's, trained on texts; special tokens have the first ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # any text can be written, in any script
        show_progress=False,
    )
    tokenizer.train_from_iterator(written, trainer)
    return tokenizer


def training_arguments(**of_the_maker: Any) -> TrainingArguments:
    """Return the hyperparameters; those of the maker come first."""
    common = {
        "output_dir": str(SCRATCH),
        "num_train_epochs": 1,
        "lr_scheduler_type": "cosine",
        "weight_decay": 0.1,  # as GPT-3 and nanoGPT have it for pre-training
        "adam_beta2": 0.95,  # likewise
        "seed": texts.SEED,
        "logging_steps": 50,
        "save_strategy": "no",
        "report_to": "none",
        "remove_unused_columns": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    return TrainingArguments(**common | of_the_maker)


def figures(loss: Sequence[float], tokens: Sequence[int]) -> dict[str, Any]:
    """Return exp(sum of losses / tokens) with its 95 % interval over texts, from the loss in nats of each text."""
    losses, counts = np.array(loss), np.array(tokens)
    low, high = interval(bootstrap_ratios(losses, counts, 1000, texts.SEED), 0.95)
    nats = losses.sum() / counts.sum()
    return {
        "nll": nats,
        "perplexity": math.exp(nats),
        "perplexity_low": math.exp(low),
        "perplexity_high": math.exp(high),
        "tokens": int(counts.sum()),
    }
