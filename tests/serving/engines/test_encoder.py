"""The engine of encoders: its logits are those of plain transformers, and requests do not disturb each other."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.engines.encoder import Encoded, EncoderEngine
from serving.engines.encoder_transformers import TransformersEncoder
from serving.engines.protocol import EngineError, UnavailableError
from tests.serving.tasks.encoders import CONTEXT, TEXTS, make_encoder, reference_logits, softmax

CLASSIFIER = "AutoModelForSequenceClassification"


@pytest.fixture(scope="module", params=["bert", "roberta"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp(request.param) / "model", request.param, CLASSIFIER, num_labels=5)


def make(folder: Path) -> EncoderEngine:
    return EncoderEngine(folder, lambda: TransformersEncoder(folder, CLASSIFIER))


@pytest.fixture
def engine(folder: Path) -> Iterator[EncoderEngine]:
    engine = make(folder)
    yield engine
    engine.close()


class Gate:
    """Holds the engine at its first batch, and records what it reads."""

    def __init__(self, engine: EncoderEngine) -> None:
        self.read: list[list[Encoded]] = []
        self.begun, self.open = threading.Event(), threading.Event()
        self._logits = engine._runner.logits
        engine._runner.logits = self  # type: ignore[assignment, method-assign]

    def __call__(self, texts: list[Encoded]) -> Any:
        self.read.append(list(texts))
        self.begun.set()
        assert self.open.wait(60)
        return self._logits(texts)


async def begun(gate: Gate) -> None:
    assert await asyncio.to_thread(gate.begun.wait, 60)


def test_logits_are_those_of_plain_transformers_alone_and_in_company(engine: EncoderEngine, folder: Path) -> None:
    pairs = [(one, other) for one in TEXTS[:2] for other in TEXTS[:3]]
    for texts in (TEXTS * 5, pairs):
        expected = [softmax(logits) for logits in reference_logits(folder, CLASSIFIER, texts)]

        async def read(texts: Any = texts) -> tuple[Any, Any]:
            encoded = engine.encode(texts)
            together = await engine.run(encoded)
            return together, [(await engine.run([one]))[0] for one in encoded]

        together, alone = asyncio.run(read())
        for joint, single, reference in zip(together, alone, expected, strict=True):
            np.testing.assert_allclose(softmax(joint.astype(float)), reference, rtol=0, atol=1e-6)
            np.testing.assert_allclose(softmax(joint.astype(float)), softmax(single.astype(float)), rtol=0, atol=1e-6)


def test_a_text_beyond_the_context_is_cut_as_in_training_and_its_tokens_are_counted(engine: EncoderEngine) -> None:
    assert engine.context == CONTEXT
    [encoded] = engine.encode(["rain " * 100])
    assert len(encoded.ids) == CONTEXT
    assert encoded.ids[-1] == engine.pretrained_tokenizer.sep_token_id
    assert encoded.cut + CONTEXT == len(engine.tokenizer.encode("rain " * 100).ids)


def test_the_name_of_a_special_token_is_text(engine: EncoderEngine) -> None:
    separator = engine.pretrained_tokenizer.sep_token
    [encoded] = engine.encode([f"a {separator} b"])
    assert encoded.ids.count(engine.pretrained_tokenizer.sep_token_id) == 1


def test_a_short_request_does_not_wait_for_all_texts_of_a_long_one(engine: EncoderEngine) -> None:
    gate = Gate(engine)
    [text], [late] = engine.encode(["a cat"]), engine.encode(["rain"])
    engine._runner.batch_tokens = 16 * len(text.ids)

    async def ask() -> None:
        long = asyncio.create_task(engine.run([text] * 64))
        await begun(gate)
        short = asyncio.create_task(engine.run([late]))
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(long, short)

    asyncio.run(ask())
    assert [late in batch for batch in gate.read[:2]] == [False, True]
    assert sum(map(len, gate.read)) == 65


def test_texts_of_any_length_are_read_together_up_to_the_limit(engine: EncoderEngine) -> None:
    gate = Gate(engine)
    [first, *others] = engine.encode([TEXTS[0], *TEXTS])
    engine._runner.batch_tokens = sum(len(text.ids) for text in others[:4])

    async def ask() -> None:
        asking = [asyncio.create_task(engine.run([first]))]
        await begun(gate)
        asking += [asyncio.create_task(engine.run([text])) for text in others]
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(*asking)

    asyncio.run(ask())
    assert gate.read == [[first], others[:4], others[4:]]


def test_of_a_cancelled_request_no_further_text_is_read(engine: EncoderEngine) -> None:
    gate = Gate(engine)
    [text] = engine.encode(["a cat"])
    engine._runner.batch_tokens = 16 * len(text.ids)

    async def ask() -> None:
        long = asyncio.create_task(engine.run([text] * 64))
        await begun(gate)
        long.cancel()
        await asyncio.wait([long])
        gate.open.set()
        await engine.run([text])

    asyncio.run(ask())
    assert [len(batch) for batch in gate.read] == [16, 1]
    assert engine.waiting == 0


def test_a_text_that_fails_ends_its_own_request_alone(engine: EncoderEngine) -> None:
    gate = Gate(engine)
    gate.open.set()
    [text] = engine.encode(["a cat"])
    broken = Encoded([10**6, *text.ids[1:]], text.type_ids)

    async def ask() -> list[Any]:
        return await asyncio.gather(
            engine.run([text]), engine.run([broken]), engine.run([text]), return_exceptions=True
        )

    first, failed, last = asyncio.run(ask())
    assert isinstance(failed, EngineError)
    assert "10" not in str(failed)
    np.testing.assert_array_equal(first[0], last[0])


def test_closing_ends_what_waits_and_refuses_what_comes(folder: Path) -> None:
    engine = make(folder)
    engine._runner.batch_tokens = 1
    gate = Gate(engine)
    [text] = engine.encode(["a cat"])

    async def ask() -> None:
        waiting = asyncio.create_task(engine.run([text] * 3))
        await begun(gate)
        closing = asyncio.create_task(asyncio.to_thread(engine.close))
        while not engine._closing:
            await asyncio.sleep(0)
        gate.open.set()
        await closing
        with pytest.raises(UnavailableError):
            await waiting
        with pytest.raises(UnavailableError):
            await engine.run([text])

    asyncio.run(ask())
