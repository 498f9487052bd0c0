"""Train the starter RoBERTa from nothing but this folder: `python -m starter.make_roberta`.

Write the texts of `starter/genres/`, train a byte-level BPE tokenizer and a RoBERTa to fill in masked tokens of them,
score it on held-out texts and print the figures for the model's card. The seed is fixed. The weights are random at
first, but for the first layer's queries and keys: see `look_at_neighbours`.
"""

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaTokenizer,
    Trainer,
    set_seed,
)

from pipeline.command import run
from starter import pretraining
from starter.texts import FOLDER, SEED

TO = FOLDER / "roberta"
TEXTS = 40_000  # each is read once, so the model cannot memorise any
CONTEXT = 256  # longer than any text here
VOCABULARY = 4864  # less than the other starters': the head of a masked model has weights of its own
PAIRED = 4  # one row in so many holds two texts, as `rank` has them; so all positions up to CONTEXT are learned
LAYERS, HEADS, WIDTH = 3, 8, 256  # 3.8 million parameters
DISTANCES = (-1, 1, -2, 2, -3, 3, -4, 4)  # of the token that each head of the first layer looks at first
MASKED = 0.3  # twice RoBERTa's share: with so few texts the loss falls faster (Wettig et al., EACL 2023, recommend 0.4)
BATCH = 16  # rows a step
LEARNING_RATE = 2e-3
WARMUP = 100  # steps


def learn_tokenizer(texts: list[str]) -> RobertaTokenizer:
    """Return a byte-level BPE tokenizer with RoBERTa's special tokens, trained on `texts`."""
    special = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    pairs = json.loads(pretraining.learn_byte_pairs(texts, special, VOCABULARY).to_str())["model"]
    merges = [tuple(merge) for merge in pairs["merges"]]
    mask = AddedToken("<mask>", lstrip=True, special=True)  # it stands for the space before a word, too
    return RobertaTokenizer(vocab=pairs["vocab"], merges=merges, mask_token=mask, model_max_length=CONTEXT)


def rows(texts: list[str], tokenizer: RobertaTokenizer) -> list[dict[str, list[int]]]:
    """Return the token ids of each text between `<s>` and `</s>`; one row in `PAIRED` has a second text behind."""
    rng = random.Random(SEED)
    remaining, firsts, seconds = iter(texts), [], []
    for text in remaining:
        firsts.append(text)
        seconds.append(next(remaining, "") if rng.randrange(PAIRED) == 0 else None)
    encoded: list[tuple[int, list[int]]] = []
    for pair in (False, True):
        chosen = [at for at, second in enumerate(seconds) if (second is not None) == pair]
        second = [seconds[at] for at in chosen] if pair else None
        ids = tokenizer([firsts[at] for at in chosen], second, truncation=True)["input_ids"] if chosen else []
        encoded += zip(chosen, ids, strict=True)
    return [{"input_ids": ids} for _, ids in sorted(encoded)]


class MaskedTrainer(Trainer):
    """Predicts masked tokens, and computes the logits of these alone, which are a third of the work."""

    def compute_loss(
        self, model: RobertaForMaskedLM, inputs: dict[str, torch.Tensor], *_: object, **__: object
    ) -> torch.Tensor:
        """Return the mean loss of the masked tokens."""
        labels = inputs["labels"]  # (rows, tokens)
        hidden = model.roberta(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
        is_masked = labels != -100
        return cross_entropy(model.lm_head(hidden[is_masked]), labels[is_masked])


def train(texts: list[str]) -> pretraining.Trained:
    """Return a RoBERTa trained on `texts`, its tokenizer and the token budget."""
    tokenizer = learn_tokenizer(texts)
    dataset = rows(texts, tokenizer)
    set_seed(SEED)
    model = RobertaForMaskedLM(model_config(tokenizer))
    look_at_neighbours(model)
    arguments = pretraining.training_arguments(
        per_device_train_batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        warmup_steps=WARMUP,
        train_sampling_strategy="group_by_length",
    )
    collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED, seed=SEED)
    MaskedTrainer(model=model, args=arguments, train_dataset=dataset, data_collator=collate).train()
    shutil.rmtree(pretraining.SCRATCH, ignore_errors=True)
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        setattr(model.config, name, 0.1)  # RoBERTa's own, for whoever trains it further
    return model, tokenizer, {"rows": len(dataset), "tokens": sum(len(row["input_ids"]) for row in dataset)}


def model_config(tokenizer: RobertaTokenizer) -> RobertaConfig:
    """Return the architecture, as it is trained."""
    return RobertaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=CONTEXT + tokenizer.pad_token_id + 1,  # RoBERTa's positions start behind the padding's
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        hidden_dropout_prob=0.0,  # dropout prevents memorisation, and each text is read once
        attention_probs_dropout_prob=0.0,
    )


@torch.no_grad()
def look_at_neighbours(model: RobertaForMaskedLM) -> None:
    """Change the initial weights in place so that each head of the first layer reads the token at one distance.

    Some dimensions of the embeddings hold positions alone: a sine and a cosine for each of a head's frequencies. A head
    whose queries are turned by a distance looks there, as sum_f cos(f * (i + distance - j)) is largest at j = i +
    distance. To learn this from random weights takes longer than all the rest: for hundreds of steps the loss stays at
    that of single words.
    """
    embeddings, attention = model.roberta.embeddings, model.roberta.encoder.layer[0].attention
    size = attention.self.attention_head_size
    frequencies = torch.linspace(0.1, 1.0, size // 2) * math.pi  # (size / 2,), radians a position
    angles = torch.arange(model.config.max_position_embeddings)[:, None] * frequencies  # (positions, size / 2)
    positions, words = embeddings.position_embeddings.weight, embeddings.word_embeddings.weight
    positions.zero_()[:, :size] = torch.cat([angles.sin(), angles.cos()], 1) * 0.15
    words.normal_(std=0.05)[:, :size] = 0
    embeddings.token_type_embeddings.weight.zero_()
    attention.self.query.weight.zero_()
    attention.self.key.weight.zero_()
    sharpness = 0.7  # the token at the distance gets nearly all of the attention
    for head, distance in enumerate(DISTANCES[: model.config.num_attention_heads]):
        rows = slice(head * size, (head + 1) * size)
        sine, cosine = ((frequencies * distance).sin().diag(), (frequencies * distance).cos().diag())
        turn = torch.cat([torch.cat([cosine, sine], 1), torch.cat([-sine, cosine], 1)])
        attention.self.query.weight[rows, :size] = turn * sharpness
        attention.self.key.weight[rows, :size] = torch.eye(size) * sharpness
    for linear in (attention.self.value, attention.output.dense):
        linear.weight.mul_(3)  # what is read counts as much as the word at the place itself


@torch.inference_mode()
def score(folder: Path, texts: list[str]) -> dict[str, Any]:
    """Return the perplexity of masked tokens, 15 % of all by a fixed seed, and the share of them guessed right."""
    model = AutoModelForMaskedLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    rng = random.Random(SEED)
    loss, tokens, right = [], [], 0
    for text in texts:
        ids = torch.tensor(tokenizer(text, truncation=True)["input_ids"])  # (tokens,)
        inner = range(1, len(ids) - 1)
        if not inner:
            continue
        masked = sorted(rng.sample(inner, max(1, round(0.15 * len(inner)))))
        hidden = ids.clone()
        hidden[masked] = tokenizer.mask_token_id
        logits = model(hidden[None]).logits[0, masked]  # (masked, vocabulary)
        loss.append(float(cross_entropy(logits, ids[masked], reduction="sum")))
        tokens.append(len(masked))
        right += int((logits.argmax(-1) == ids[masked]).sum())
    return {**pretraining.figures(loss, tokens), "accuracy": right / sum(tokens)}


def main() -> None:
    """Make the model and print the figures for its card."""
    pretraining.run_maker(TO, TEXTS, train, score)


if __name__ == "__main__":
    run(main)
