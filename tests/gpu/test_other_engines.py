"""The engines of encoders, and of encoders with decoders, on a GPU: batches, near to float32 on a CPU."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from serving.engines import encoder_selection, seq2seq_selection
from serving.engines.seq2seq import read_folder
from tests.conftest import LINES
from tests.serving.conftest import engine_settings
from tests.serving.engines.test_encoder_int8 import CLASSIFIER, some_texts
from tests.serving.engines.test_seq2seq import GREEDY, SOURCES, generated, write
from tests.serving.seq2seq_models import make_bart, make_t5
from tests.serving.tasks.encoders import make_encoder

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_an_encoder_reads_texts_of_any_length_in_bfloat16(tmp_path: Path, kind: str) -> None:
    folder = make_encoder(tmp_path / kind, kind, CLASSIFIER, num_labels=5)
    texts = some_texts(40)
    engine = encoder_selection.make(folder, CLASSIFIER, engine_settings("auto"))
    assert engine.name == "transformers"
    found = np.stack(asyncio.run(engine.run(texts)))
    engine.close()
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = torch.cat([model(input_ids=torch.tensor([text.ids])).logits for text in texts]).numpy()
    assert np.abs(found - expected).mean() < 0.05 * expected.std()


@pytest.mark.parametrize("make_model", [make_t5, make_bart])
def test_targets_are_written_in_batches_as_generate_writes_them_alone(
    tmp_path: Path, make_model: Callable[[Path], Path]
) -> None:
    folder = make_model(tmp_path / "model")
    engine = seq2seq_selection.make(folder, engine_settings("auto"))
    assert engine.name == "batched"
    start = list(read_folder(folder).start_tokens)
    texts = [start + ids for ids in write(engine, SOURCES, GREEDY)]
    engine.close()
    # It has learned them, so the likeliest token is far ahead of the next one in any precision.
    assert texts[: len(LINES)] == generated(folder, LINES)
