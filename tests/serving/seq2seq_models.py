"""Tiny encoders with decoders, trained for a second, so that their greedy texts are decided and differ."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from tests.conftest import LINES

PREFIX = "shorten: "
LIMITS = {"max_source_tokens": 64, "max_target_tokens": 24}
SHORT = [" ".join(line.split()[:5]) + "." for line in LINES]  # what the models learn to write for LINES


def make_t5(folder: Path, **more: object) -> Path:
    """Make a T5 with a Unigram tokenizer whose texts end with </s>."""
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    # Not trained: the trainer's order of tokens differs from run to run.
    words = sorted({f"\u2581{word.strip(',.:')}" for line in (*LINES, PREFIX) for word in line.split()})
    letters = sorted({letter for line in (*LINES, PREFIX, "\u2581") for letter in line if letter != " "})
    scored = [(name, 0.0) for name in names.values()] + [(word, -5.0) for word in words]
    tokenizer = Tokenizer(models.Unigram([*scored, *((letter, -12.0) for letter in letters)], unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
    config = T5Config(**{"vocab_size": len(fast) + 3, "decoder_start_token_id": 0, **shape, **more})
    return _train(folder, T5ForConditionalGeneration, config, fast)


def make_bart(folder: Path, **more: object) -> Path:
    """Make a BART with a byte-level BPE tokenizer whose texts stand between <s> and </s>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*LINES, PREFIX] * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    size = {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "dropout": 0.0}
    layers = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    ends = {"forced_eos_token_id": None, "max_position_embeddings": 64}
    config = BartConfig(**{"vocab_size": len(fast), **size, **layers, **ends, **more})
    return _train(folder, BartForConditionalGeneration, config, fast)


def _train(
    folder: Path, kind: type[PreTrainedModel], config: T5Config | BartConfig, tokenizer: PreTrainedTokenizerFast
) -> Path:
    torch.manual_seed(0)
    model = kind(config).train()
    batch = tokenizer([PREFIX + line for line in LINES], padding=True, return_tensors="pt")
    labels = tokenizer(SHORT, padding=True, return_tensors="pt").input_ids
    labels[labels == tokenizer.pad_token_id] = -100
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels).loss.backward()
        optimizer.step()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "task.json").write_text(json.dumps({"task": "seq2seq", "prefix": PREFIX, **LIMITS}), encoding="utf-8")
    return folder
