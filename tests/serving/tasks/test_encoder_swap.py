"""A new champion of each task of encoders is swapped in while clients ask, without a failed request."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.registry.store import Registry
from tests.serving.conftest import REPOSITORY
from tests.serving.tasks.encoders import TEXTS, client_of, make_encoder

CLASSIFIER = "AutoModelForSequenceClassification"
TASKS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "classify": (CLASSIFIER, {"num_labels": 3}, "/classify", {"text": TEXTS}),
    "rank": (CLASSIFIER, {"num_labels": 1}, "/rerank", {"query": "a cat", "documents": TEXTS}),
    "masked_lm": ("AutoModelForMaskedLM", {}, "/fill-mask", {"inputs": "A small <mask>"}),
}


@pytest.mark.parametrize("task", TASKS)
def test_a_new_champion_is_swapped_in_without_a_failed_request_and_one_of_another_task_is_refused(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto_class, config, path, body = TASKS[task]
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MODEL_DIR", raising=False)
    root = tmp_path / "project"
    root.mkdir()
    shutil.copy(REPOSITORY / "params.yaml", root)
    registry = Registry(root)

    def make(name: str, seed: int, of: str) -> Any:
        return registry.add(
            make_encoder(tmp_path / name, "roberta", auto_class, {"task": of}, seed=seed, **config), {}, {}
        )

    first, second, other = make("1", 1, task), make("2", 2, task), make("3", 3, "seq2seq")
    registry.move(first, expected=None, action="promote", why="the first")
    seen: list[tuple[int, str]] = []

    with client_of(task, root, follow_seconds=0.05) as client, ThreadPoolExecutor(4) as pool:

        def about() -> Any:
            return client.get("/", headers={"Accept": "application/json"}).json()

        def ask_until(version: str) -> None:
            while not seen or seen[-1][1] != version:
                answer = client.post(path, json=body)
                seen.append((answer.status_code, answer.headers["X-Model-Version"]))

        asking = [pool.submit(ask_until, second.version) for _ in range(4)]
        while len(seen) < 8:
            assert not any(one.done() for one in asking)
        registry.move(second, expected=first.tag, action="promote", why="better")
        for one in asking:
            one.result()
        assert about()["swaps"] == 1
        registry.move(other, expected=second.tag, action="promote", why="a mistake")
        while about()["refused"] is None:
            assert client.post(path, json=body).status_code == 200
        assert "holds a model of the task seq2seq" in about()["refused"]["reason"]
        assert client.post(path, json=body).headers["X-Model-Version"] == second.version
    assert {status for status, _ in seen} == {200}
    assert {version for _, version in seen} == {first.version, second.version}
