"""EleutherAI's lm-evaluation-harness, unchanged, measures over HTTP what `evaluate` measures."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import lm_eval
import pytest
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.evaluation import perplexity, scoring
from tests.conftest import LINES
from tests.serving.conftest import CONTEXT, REPOSITORY, Server, serving

pytestmark = pytest.mark.integration

TEXTS = [*LINES, "x", "Ärger, 12 € naïve 🙂", "two\nlines, and  two spaces "]
TASK = """
task: corpus
dataset_path: json
dataset_kwargs: {data_files: {test: TEXTS}, cache_dir: CACHE}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
metadata: {version: 1}
"""


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with serving(str(REPOSITORY), cwd=folder, MODEL_DIR=str(model), ENGINES_DIR=str(folder)) as server:
        yield server


@pytest.mark.parametrize("how", ["", "batch_size=4", "num_concurrent=4", "tokenized_requests=False"])
def test_local_completions_reproduces_our_perplexity(server: Server, model: Path, tmp_path: Path, how: str) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    task = TASK.replace("TEXTS", str(texts)).replace("CACHE", str(tmp_path / "cache"))
    (tmp_path / "corpus.yaml").write_text(task, encoding="utf-8")
    shared = f"model=champion,base_url={server.url}/v1/completions,tokenizer={model},tokenizer_backend=huggingface"

    measured = lm_eval.simple_evaluate(
        model="local-completions",
        model_args=f"{shared},max_length={CONTEXT},max_retries=1,{how}",
        tasks=["corpus"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
    )

    own = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    scored = scoring.score(*own, TEXTS, batch_tokens=256)
    corpus = perplexity.metrics(scored, resamples=1, confidence=0.5, seed=0)
    words = sum(len(re.split(r"\s+", text)) for text in TEXTS)  # as lm-eval counts them
    result = measured["results"]["corpus"]
    assert result["bits_per_byte,none"] == pytest.approx(corpus["bits_per_byte"], rel=1e-5)
    assert result["byte_perplexity,none"] == pytest.approx(2 ** corpus["bits_per_byte"], rel=1e-5)
    assert result["word_perplexity,none"] == pytest.approx(math.exp(scored.loss.sum() / words), rel=1e-4)
