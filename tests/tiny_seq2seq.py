"""Tiny encoders with decoders of random weights, with tokenizers like those of real ones."""

import math
from collections import Counter
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from tests.conftest import LINES


def make_t5(folder: Path) -> Path:
    """Make a T5 of 40 thousand parameters with a Unigram tokenizer, whose texts end with </s>."""
    special = ["<pad>", "</s>", "<unk>"]
    words = Counter(f"▁{word}" for line in LINES for word in line.split())
    characters = sorted({"▁", *"".join(LINES), *"shorten: 0123456789 <>/"} - {" "})
    # Not trained: tokenizers' trainer chooses other pieces in each process.
    pieces = [(word, math.log(count / words.total())) for word, count in words.most_common(20) if len(word) > 2]
    vocabulary = [*((name, 0.0) for name in special), *pieces, *((character, -20.0) for character in characters)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = dict(zip(("pad_token", "eos_token", "unk_token"), special, strict=True))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
    torch.manual_seed(0)
    T5ForConditionalGeneration(T5Config(vocab_size=len(fast) + 3, **shape)).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def make_bart(folder: Path) -> Path:
    """Make a BART of 50 thousand parameters with byte pairs, whose texts stand between <s> and </s>; context 64."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(LINES * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    sizes = {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64}
    layers = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    torch.manual_seed(0)
    BartForConditionalGeneration(BartConfig(vocab_size=len(fast), **sizes, **layers)).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
