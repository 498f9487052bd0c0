"""Adapters served on top of a model: found where params.yaml says, following their champions, and never half loaded."""

import asyncio
import json
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from bentoml.exceptions import BentoMLException

from bench.adapted_models import save_adapted
from pipeline.registry.model_version import content_version
from pipeline.registry.store import Registry
from pipeline.registry.versions import Version
from serving import adapter_folder, served_adapters, tasks
from serving.engines.protocol import Sampling
from serving.errors import ApiError
from serving.served_model import ServedModel
from tests.serving.conftest import DATA, PROMPT, REPOSITORY, engine_settings, service_settings, serving
from tests.serving.test_served_model import in_loop, until

GREEDY = Sampling(12, temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0, seed=0)
IDS = [0, *range(7, 20)]


class Checkout:
    """Another project on this machine, whose champions were trained with LoRA from `base`."""

    def __init__(self, root: Path, base: Path) -> None:
        self.root, self.base = root, base
        root.mkdir()
        shutil.copy(REPOSITORY / "params.yaml", root)
        self.registry = Registry(root)

    def promote(self, folder: Path) -> Version:
        champion = self.registry.champion()
        new = self.registry.add(folder, {}, {})
        self.registry.move(new, expected=champion.tag if champion else None, action="promote", why="better")
        return new

    def train(self, seed: int) -> Path:
        """Return a candidate."""
        return save_adapted(self.base, self.root / f"candidate-{seed}", seed, size=0.3)


@pytest.fixture
def base(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model that is served."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MODEL_DIR", str(model))
    return model


@pytest.fixture
def legal(tmp_path: Path, base: Path) -> Checkout:
    return Checkout(tmp_path / "legal", base)


@asynccontextmanager
async def serving_adapters(root: Path, adapters: dict[str, str], **changes: Any) -> AsyncIterator[ServedModel]:
    """Run a served model with adapters until the end of the block, once each of them was attempted."""
    settings = service_settings(follow_seconds=0.01, drain_seconds=0.3, adapters=adapters, **changes)
    served = ServedModel(root, tasks.model_kind("causal_lm", engine_settings("transformers")), settings)
    task = asyncio.create_task(served.run())
    try:
        await until(lambda: all(loaded or refused for loaded, refused in served.adapters.state.values()))
        yield served
    finally:
        task.cancel()
        await served.close()


async def text_of(served: ServedModel, name: str | None) -> list[int]:
    async with served.acquire(name) as loaded:
        return [token.id for token in await loaded.engine.submit(IDS, GREEDY).all_tokens()]


async def text_of_merged(folder: Path) -> list[int]:
    kind = tasks.model_kind("causal_lm", engine_settings("transformers"))
    engine = await asyncio.to_thread(kind.make_engine, folder)
    try:
        return [token.id for token in await engine.submit(IDS, GREEDY).all_tokens()]
    finally:
        await asyncio.to_thread(engine.close)


def refusal(served: ServedModel, name: str) -> str:
    return served.adapters.state[name][1] or ""


@in_loop
async def test_requests_get_the_text_of_the_base_or_of_the_champion_that_they_name(
    tmp_path: Path, base: Path, legal: Checkout
) -> None:
    version = legal.promote(legal.train(1))
    mail = save_adapted(base, tmp_path / "mail", 2, size=0.3)
    sources = {"legal": "legal", "mail": str(mail / "adapter"), "whole": "mail"}
    async with serving_adapters(tmp_path, sources) as served:
        assert served.names() == [content_version(base), "champion", "legal", "mail", "whole"]
        expected = {name: await text_of_merged(folder) for name, folder in (("legal", version.folder), ("mail", mail))}
        together = await asyncio.gather(*(text_of(served, name) for name in (None, "legal", "mail", "whole")))
        assert together[1:] == [expected["legal"], expected["mail"], expected["mail"]]
        assert len({tuple(text) for text in together}) == 3
        async with served.acquire("legal") as loaded:
            assert (loaded.version, loaded.data, loaded.name) == (version.version, DATA, "legal")
            scorer = await served.scorer(loaded)
            assert scorer.score(IDS)[1].logprob != (await served.scorer(served.loaded)).score(IDS)[1].logprob
        for alias in (version.version, version.version[:12]):
            assert await text_of(served, alias) == expected["legal"]
        async with served.acquire("mail") as loaded:
            assert (loaded.version, loaded.data) == (content_version(mail / "adapter"), None)


@in_loop
async def test_a_promotion_is_swapped_in_while_requests_on_the_old_adapter_end_on_it(
    tmp_path: Path, legal: Checkout
) -> None:
    first = legal.promote(legal.train(1))
    async with serving_adapters(tmp_path, {"legal": "legal"}) as served, served.acquire("legal") as old:
        expected = await text_of(served, "legal")
        second = legal.promote(legal.train(2))
        await until(lambda: version_of(served, "legal") == second.version)
        assert [token.id for token in await old.engine.submit(IDS, GREEDY).all_tokens()] == expected
        assert old.version == first.version
        assert await text_of(served, "legal") == await text_of_merged(second.folder)


@in_loop
async def test_a_champion_that_is_no_adapter_is_refused_and_the_old_one_stays(tmp_path: Path, legal: Checkout) -> None:
    first = legal.promote(legal.train(1))
    whole = legal.train(2)
    shutil.rmtree(whole / "adapter")
    async with serving_adapters(tmp_path, {"legal": "legal"}) as served:
        legal.promote(whole)
        await until(lambda: refusal(served, "legal"))
        assert "of which all weights were trained; set finetune.lora_rank to 8 there" in refusal(served, "legal")
        assert version_of(served, "legal") == first.version
        assert await text_of(served, "legal") == await text_of_merged(first.folder)
        third = legal.promote(legal.train(3))
        await until(lambda: version_of(served, "legal") == third.version)
        assert not refusal(served, "legal")


@in_loop
async def test_an_adapter_that_is_not_there_yet_answers_503_until_its_first_champion(
    tmp_path: Path, legal: Checkout
) -> None:
    async with serving_adapters(tmp_path, {"legal": "legal"}) as served:
        assert refusal(served, "legal").endswith("has no champion yet; promote one there with `fresh promote`")
        with pytest.raises(ApiError, match=r"^the adapter legal is not served: .* has no champion yet") as caught:
            await text_of(served, "legal")
        assert (caught.value.status, caught.value.code, caught.value.param) == (503, "model_failed", "model")
        with pytest.raises(ApiError) as caught:
            await text_of(served, "other")
        assert caught.value.status == 404
        legal.promote(legal.train(1))
        await until(lambda: version_of(served, "legal"))
        assert await text_of(served, "legal")


@in_loop
async def test_with_another_served_model_adapters_of_the_one_before_are_refused(
    tmp_path: Path, base: Path, legal: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MODEL_DIR")
    legal.promote(legal.train(1))
    hub = Checkout(tmp_path / "hub", base)
    hub.promote(base)
    async with serving_adapters(hub.root, {"legal": "../legal"}) as served:
        assert version_of(served, "legal")
        other = hub.train(5)
        shutil.rmtree(other / "adapter")
        hub.promote(other)
        await until(lambda: served.swaps and refusal(served, "legal"))
        assert "it was trained from another model than the one in " in refusal(served, "legal")
        with pytest.raises(ApiError, match="is not served: "):
            await text_of(served, "legal")
        hub.registry.rollback(None, "back")
        await until(lambda: version_of(served, "legal"))
        assert await text_of(served, "legal")


@in_loop
async def test_a_refused_adapter_is_tried_again_after_a_while(
    tmp_path: Path, legal: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_adapters, "_RETRY_SECONDS", 0.05)
    legal.promote(legal.train(1))
    find, failures = adapter_folder.find, iter([OSError("the disk is away")])

    def find_later(*arguments: Any) -> Any:
        for failure in failures:
            raise failure
        return find(*arguments)

    monkeypatch.setattr(adapter_folder, "find", find_later)
    async with serving_adapters(tmp_path, {"legal": "legal"}) as served:
        await until(lambda: version_of(served, "legal"))
        assert not refusal(served, "legal")


@in_loop
async def test_other_tasks_refuse_adapters(tmp_path: Path, base: Path, legal: Checkout) -> None:
    legal.promote(legal.train(1))
    kind = replace(tasks.model_kind("causal_lm", engine_settings("transformers")), adapt=None)
    served = ServedModel(tmp_path, kind, service_settings(follow_seconds=0.01, adapters={"legal": "legal"}))
    task = asyncio.create_task(served.run())
    await until(lambda: refusal(served, "legal"))
    assert refusal(served, "legal") == "models of this task take no adapters; leave service.adapters empty"
    task.cancel()
    await served.close()


@in_loop
async def test_a_place_that_cannot_be_read_is_a_reason_and_the_other_adapters_are_served(
    tmp_path: Path, legal: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = legal.promote(legal.train(1)).version
    find = adapter_folder.find

    def find_or_fail(root: Path, name: str, source: str) -> Any:
        if name == "full":
            raise MemoryError  # whose text is empty
        return find(root, name, source)

    monkeypatch.setattr(adapter_folder, "find", find_or_fail)
    sources = {"long": "x" * 300, "full": "legal", "legal": "legal"}
    async with serving_adapters(tmp_path, sources) as served:
        assert "File name too long" in refusal(served, "long")
        assert refusal(served, "full") == "MemoryError"
        assert version_of(served, "legal") == version
        for name in ("long", "full"):
            with pytest.raises(ApiError, match="is not served: "):
                await asyncio.wait_for(text_of(served, name), 60)


@in_loop
async def test_a_request_that_waits_for_an_adapter_ends_with_the_service(
    tmp_path: Path, legal: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    legal.promote(legal.train(1))
    find, go_on = adapter_folder.find, threading.Event()

    def find_later(*arguments: Any) -> Any:
        go_on.wait(300)
        return find(*arguments)

    monkeypatch.setattr(adapter_folder, "find", find_later)
    settings = service_settings(follow_seconds=0.01, drain_seconds=0.3, adapters={"legal": "legal"})
    served = ServedModel(tmp_path, tasks.model_kind("causal_lm", engine_settings("transformers")), settings)
    following = asyncio.create_task(served.run())
    await until(lambda: served.loaded)
    waiting = asyncio.create_task(text_of(served, "legal"))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    following.cancel()
    await served.close()
    with pytest.raises(ApiError) as caught:
        await asyncio.wait_for(waiting, 60)
    assert (caught.value.status, caught.value.code) == (503, "stopping")
    go_on.set()


@in_loop
async def test_an_adapter_whose_files_were_replaced_does_not_score_for_the_one_that_is_served(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_adapted(base, tmp_path / "one", 1) / "adapter"
    async with serving_adapters(tmp_path, {"mail": str(folder)}) as served:
        monkeypatch.setattr(served.adapters, "_is_due", not_due)
        file = folder / "adapter_model.safetensors"
        shutil.copyfile(save_adapted(base, tmp_path / "two", 2) / "adapter" / file.name, file)
        async with served.acquire("mail") as loaded:
            with pytest.raises(ApiError, match="were deleted or changed: it generates but cannot score"):
                await served.scorer(loaded)


async def not_due(*_: object) -> bool:
    return False


@in_loop
async def test_adapters_go_on_with_what_is_known_of_their_base(
    tmp_path: Path, base: Path, legal: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MODEL_DIR")
    legal.promote(legal.train(1))
    hub = Checkout(tmp_path / "hub", base)
    shutil.copytree(base, hub.root / "models" / "candidate")
    async with serving_adapters(hub.root, {"legal": "../legal"}, serve_candidate=True) as served:
        hub.promote(base)  # the same version, in another folder
        shutil.rmtree(hub.root / "models" / "candidate")
        await until(lambda: served.folder and served.folder.why.startswith("the champion "))
        async with served.acquire("legal") as loaded:
            assert loaded.base
            assert loaded.base() is served.loaded
            assert (await served.scorer(loaded)).score(IDS)[1].logprob


def version_of(served: ServedModel, name: str) -> str | None:
    loaded, _ = served.adapters.state[name]
    return loaded.version if loaded else None


# Where adapters are


def test_what_is_no_adapter_is_a_sentence_that_says_what_is_expected(tmp_path: Path, base: Path) -> None:
    for name in ("missing", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        expected = rf"{name} is neither a checkout nor a folder with adapter_config.json or adapter/adapter_config.json"
        with pytest.raises(BentoMLException, match=expected):
            adapter_folder.find(tmp_path, "legal", name)


def test_in_a_bento_it_is_the_packed_adapter(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bento = tmp_path / "src"
    bento.mkdir()
    (tmp_path / "bento.yaml").touch()
    with pytest.raises(BentoMLException, match="it belongs to the model that is packed in this bento; unset MODEL_DIR"):
        adapter_folder.find(bento, "legal", "../legal")
    monkeypatch.delenv("MODEL_DIR")
    with pytest.raises(BentoMLException, match="it is not in this bento; build it again with `fresh pack`"):
        adapter_folder.find(bento, "legal", "../legal")
    folder = bento / "models" / "adapters" / "legal" / ("0" * 40)
    shutil.copytree(save_adapted(base, tmp_path / "model", 1) / "adapter", folder)
    found = adapter_folder.find(bento, "legal", "../legal")
    assert (found.adapter, found.version, found.merged) == (folder, "0" * 40, None)


# A real server


@pytest.mark.integration
def test_a_server_lists_adapters_and_answers_by_openais_protocol_with_the_one_that_is_named(
    checkout: Path, model: Path, legal: Checkout
) -> None:
    version = legal.promote(legal.train(1)).version
    set_adapters(checkout, {"legal": str(legal.root), "mail": "nowhere"})
    with serving("service:ModelService", cwd=checkout, MODEL_DIR=str(model)) as server:
        wait_for(lambda: httpx.get(server.url).json()["adapters"]["mail"]["refused"])
        about = httpx.get(server.url).json()
        assert about["models"][-1:] == ["legal"]
        assert (about["adapters"]["legal"]["model"], about["adapters"]["legal"]["data"]) == (version, DATA)
        assert about["adapters"]["legal"]["why"].startswith("the champion ")
        assert "nowhere is neither a checkout nor a folder with " in about["adapters"]["mail"]["refused"]
        assert [one["id"] for one in httpx.get(f"{server.url}/v1/models").json()["data"]][-1:] == ["legal"]
        body = {"prompt": PROMPT, "max_tokens": 8, "temperature": 0, "logprobs": 0, "echo": True}
        answers = {}
        for name in ("legal", "champion"):
            answer = httpx.post(f"{server.url}/v1/completions", json={**body, "model": name}, timeout=300)
            assert answer.status_code == 200, answer.text
            answers[name] = answer.json()
        assert answers["legal"]["choices"][0]["logprobs"] != answers["champion"]["choices"][0]["logprobs"]
        assert server.post(prompt=PROMPT, model="legal", max_new_tokens=4).json()["model"] == version
        assert server.post(prompt=PROMPT, model="mail").status_code == 503
        metrics = httpx.get(f"{server.url}/metrics").text
        assert f'gpt2_adapter_info{{name="legal",version="{version}"}} 1.0' in metrics
        assert 'gpt2_adapter_refused{name="mail"} 1.0' in metrics


def set_adapters(folder: Path, adapters: dict[str, str]) -> None:
    params = folder / "params.yaml"
    content = params.read_text(encoding="utf-8")
    assert content.count("  adapters: {} ") == 1
    params.write_text(content.replace("  adapters: {} ", f"  adapters: {json.dumps(adapters)} "), encoding="utf-8")


def wait_for(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)
