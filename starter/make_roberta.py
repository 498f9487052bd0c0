"""Train the starter RoBERTa from nothing but this folder: `python -m starter.make_roberta`.

Write the texts of `starter/genres/`, train a byte-level BPE tokenizer and a RoBERTa with random weights to fill in
masked tokens of them, score it on held-out texts and print the figures for the model's card. The seed is fixed.
"""

import json
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
TEXTS = 60_000  # each is read once, so the model cannot memorise any
CONTEXT = 256  # longer than any text here
PAIRED = 4  # one row in so many holds two texts, as `rank` has them; so all positions up to CONTEXT are learned
LAYERS, HEADS, WIDTH = 4, 7, 224  # 3.7 million parameters; deeper and narrower than the GPT-2
MASKED = 0.3  # twice RoBERTa's share: with so few texts the loss falls faster (Wettig et al., EACL 2023, recommend 0.4)
BATCH = 16  # rows a step
LEARNING_RATE = 2e-3
WARMUP = 100  # steps


def learn_tokenizer(texts: list[str]) -> RobertaTokenizer:
    """Return a byte-level BPE tokenizer with RoBERTa's special tokens, trained on `texts`."""
    special = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    pairs = json.loads(pretraining.learn_byte_pairs(texts, special).to_str())["model"]
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
