"""Tiny random encoders with real tokenizers, and the service of a task around one of them, in process."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from serving import app, errors, tasks
from serving.served_model import ServedModel
from tests.conftest import LINES
from tests.serving.conftest import engine_settings, service_settings

CONTEXT = 32
KINDS: dict[str, Any] = {
    "bert": BertConfig, "distilbert": DistilBertConfig, "electra": ElectraConfig, "roberta": RobertaConfig,
}  # fmt: skip
TEXTS = [
    "a cat",
    "The quick brown fox jumps over the lazy dog.",
    "My neighbour bought twelve red apples, and she gave me three of them near the river",
    "rain",
    "Once upon a time there was a king who could not find his golden crown. It was warm.",
]


def _bert_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        LINES, trainers.WordPieceTrainer(vocab_size=200, special_tokens=names, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    specials = {
        "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]",
    }  # fmt: skip
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **specials)


def _roberta_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    specials: dict[str, Any] = {
        "bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "cls_token": "<s>",
        "sep_token": "</s>", "mask_token": AddedToken("<mask>", lstrip=True),
    }  # fmt: skip
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **specials)


def make_encoder(
    folder: Path, kind: str, auto_class: str, task: dict[str, Any] | None = None, *, seed: int = 0, **config: Any
) -> Path:
    """Make a random model of `kind`, a key of KINDS, with the head of `auto_class`, as a candidate of a task."""
    tokenizer = _roberta_tokenizer() if kind == "roberta" else _bert_tokenizer()
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 64, "pad_token_id": tokenizer.pad_token_id, "initializer_range": 0.3,
    }  # fmt: skip
    made = KINDS[kind](max_position_embeddings=CONTEXT + 2 * (kind == "roberta"), **sizes, **config)
    getattr(transformers, auto_class).from_config(made).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if task is not None:
        (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
        (folder / "manifest.json").write_text(json.dumps({"data": f"{seed:064}"}), encoding="utf-8")
    return folder


@torch.inference_mode()
def reference_logits(folder: Path, auto_class: str, texts: Sequence[Any]) -> list[Any]:
    """Return what plain transformers says, one text or pair after the other."""
    model = getattr(transformers, auto_class).from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    results = []
    for text in texts:
        parts = (text,) if isinstance(text, str) else text
        inputs = tokenizer(*parts, return_tensors="pt", truncation="longest_first", max_length=CONTEXT)
        results.append(model(**inputs).logits[0].double().numpy())
    return results


def softmax(logits: Any) -> Any:
    """Return probabilities."""
    shares = np.exp(logits - logits.max())
    return shares / shares.sum()


def asgi_of(task: str, root: Path, **changes: Any) -> Any:
    """Return the service of the model of the project in `root`, or of MODEL_DIR; its lifespan loads the model."""
    settings = service_settings(**{"engine": "transformers", **changes})
    served = ServedModel(root, tasks.model_kind(task, engine_settings(settings.engine)), settings)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        following = asyncio.create_task(served.run())
        await served.wait_for_first_attempt(300)
        yield
        following.cancel()
        await served.close()

    routes = app.make_app(task, served, settings)
    routes.add_api_route("/docs.json", routes.openapi, include_in_schema=False)  # as BentoML publishes it
    outer = Starlette(routes=[Mount("/", routes)], lifespan=lifespan)
    return errors.ErrorFormatMiddleware(outer)


@contextmanager
def client_of(task: str, root: Path, **changes: Any) -> Iterator[TestClient]:
    """Return a client of that service, in process."""
    inner = asgi_of(task, root, **changes)
    with TestClient(inner, "http://localhost", raise_server_exceptions=False) as client:
        yield client


def error(answer: Any, status: int) -> dict[str, Any]:
    """Return the error in an answer, which must have the one format."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert list(body["error"]) == ["message", "type", "param", "code"]
    content: dict[str, Any] = body["error"]
    return content
