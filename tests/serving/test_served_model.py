"""The served model follows the champion: with the registry itself, and engines that are only counted."""

import asyncio
import functools
import gc
import json
import re
import shutil
import sys
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer

from pipeline.registry.store import Registry
from pipeline.registry.versions import Version
from serving import model_folder, model_loader, served_model
from serving.engines.protocol import EngineError, Sampling, Stream, Token
from serving.errors import ApiError
from serving.model_loader import LoadedModel, ModelKind
from serving.served_model import ServedModel
from serving.tasks import causal_lm, unsuitable_reason
from tests.serving.conftest import REPOSITORY, service_settings, write_verdict

QUICK = service_settings(serve_candidate=True, follow_seconds=0.01, drain_seconds=0.3, beside_minutes=60)
PLAIN = Sampling(max_new_tokens=8, temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0, seed=1)


def in_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        asyncio.run(test(**fixtures))  # type: ignore[arg-type]

    return run


class FakeEngine:
    """Writes the token 7 as often as is asked for. A file `broken` in the folder says what is wrong with it."""

    name = "fake"
    context = 64
    start = end = 0
    waiting = running = 0
    alive: "list[FakeEngine]"  # in the order of their making
    made: int

    def __init__(self, folder: Path) -> None:
        note = folder / "broken"
        self.fault = note.read_text(encoding="utf-8") if note.exists() else ""
        if self.fault == "load":
            raise RuntimeError("the weights are torn\nand more that nobody reads")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.streams: list[Stream] = []
        FakeEngine.alive.append(self)
        FakeEngine.made += 1

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> Stream:
        stream = Stream()
        self.streams.append(stream)
        if self.fault == "hang":
            return stream
        logprob = float("nan") if self.fault == "nan" else -1.0
        if self.fault != "silent":
            for _ in range(sampling.max_new_tokens):
                stream.push(Token(7, logprob))
        stream.end("length", EngineError("no memory") if self.fault == "error" else None)
        return stream

    def close(self) -> None:
        FakeEngine.alive.remove(self)


KIND = ModelKind(functools.partial(unsuitable_reason, "causal_lm"), FakeEngine, causal_lm.TASK.smoke_test)


@pytest.fixture(autouse=True)
def no_engines() -> None:
    FakeEngine.alive, FakeEngine.made = [], 0


class Project:
    """A project with a registry; its models differ in a file."""

    def __init__(self, root: Path, model: Path) -> None:
        self.root = root
        self.model = model
        self.registry = Registry(root)
        shutil.copy(REPOSITORY / "params.yaml", root)

    def candidate(self, name: str, fault: str = "") -> Path:
        folder = self.root / "models" / "candidate"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.model, folder)
        (folder / "manifest.json").write_text(json.dumps({"data": name}), encoding="utf-8")
        if fault:
            (folder / "broken").write_text(fault, encoding="utf-8")
        return folder

    def promote(self, name: str, fault: str = "") -> Version:
        champion = self.registry.champion()
        new = self.registry.add(self.candidate(name, fault), {}, {})
        self.registry.move(new, expected=champion.tag if champion else None, action="promote", why=name)
        return new

    def base(self) -> None:
        shutil.copytree(self.model, self.root / "models" / "base")


@pytest.fixture
def project(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.delenv("MODEL_DIR", raising=False)
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    root = tmp_path / "project"
    root.mkdir()
    return Project(root, model)


@asynccontextmanager
async def following(project: Project, **limits: Any) -> AsyncIterator[ServedModel]:
    """Run a served model, once it has tried to load, until the end of the block."""
    served = ServedModel(project.root, KIND, QUICK.model_copy(update=limits))
    task = asyncio.create_task(served.run())
    try:
        await until(lambda: served.status != "loading")
        yield served
    finally:
        task.cancel()
        await served.close()
    assert not FakeEngine.alive  # whatever happened, every engine was closed


async def until(holds: Callable[[], object], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def looks(count: int = 10) -> None:
    """Let it look at the pointer a few times more."""
    await asyncio.sleep(count * QUICK.follow_seconds)


def version(served: ServedModel) -> str:
    assert served.loaded
    return served.loaded.version


@in_loop
async def test_serves_the_candidate_until_there_is_a_champion(project: Project) -> None:
    first = model_folder.version(project.candidate("first"))
    async with following(project) as served:
        assert (served.status, version(served), served.swaps) == ("up", first, 0)
        champion = project.promote("second")
        await until(lambda: served.swaps)
        assert version(served) == champion.version
        assert served.folder
        assert served.folder.why.startswith("the champion ")
        await until(lambda: len(FakeEngine.alive) == 1)


@in_loop
async def test_a_candidate_without_a_verdict_waits_for_the_first_champion_and_says_what_to_do(project: Project) -> None:
    project.candidate("first")
    async with following(project, serve_candidate=False) as served:
        assert (served.status, served.loaded, served.refusal, FakeEngine.made) == ("waiting", None, None, 0)
        with pytest.raises(ApiError, match=r"no verdict yet; promote it with `fresh promote`, or set") as caught:
            async with served.acquire():
                pass
        assert (caught.value.status, caught.value.code) == (503, "no_champion")
        write_verdict(project.root, model_folder.version(project.root / "models" / "candidate"), promoted=False)
        await until(lambda: served.waiting_for and "refused the candidate" in served.waiting_for)
        champion = project.promote("second")
        await until(lambda: served.loaded)
        assert (served.status, version(served), served.waiting_for) == ("up", champion.version, None)


@in_loop
async def test_a_verdict_that_allows_it_lets_a_waiting_service_serve_the_candidate(project: Project) -> None:
    first = model_folder.version(project.candidate("first"))
    async with following(project, serve_candidate=False) as served:
        write_verdict(project.root, first, promoted=True)
        await until(lambda: served.loaded)
        assert (served.status, version(served)) == ("up", first)
        assert served.folder
        assert served.folder.verdict.outcome == "promoted"


@in_loop
async def test_a_candidate_that_is_made_again_while_the_service_waits_is_no_failure(project: Project) -> None:
    project.candidate("first")
    async with following(project, serve_candidate=False) as served:
        shutil.rmtree(project.root / "models" / "candidate")
        await until(lambda: served.waiting_for and "make one with `dvc repro`" in served.waiting_for)
        assert (served.status, served.refusal) == ("waiting", None)
        project.candidate("second")
        await until(lambda: served.waiting_for and "has no verdict yet" in served.waiting_for)


@in_loop
async def test_a_later_verdict_on_the_served_candidate_is_reported(project: Project) -> None:
    first = model_folder.version(project.candidate("first"))
    async with following(project) as served:
        assert served.folder
        assert served.folder.verdict.outcome == "not judged"
        write_verdict(project.root, first, promoted=False)
        await until(lambda: served.folder and served.folder.verdict.outcome == "refused")
        assert (served.status, version(served)) == ("up", first)


@in_loop
async def test_the_served_candidate_once_promoted_is_not_loaded_again(project: Project) -> None:
    project.candidate("first")
    async with following(project) as served:
        project.promote("first")
        await until(lambda: served.folder and served.folder.why.startswith("the champion "))
        assert (served.swaps, FakeEngine.made) == (0, 1)
        assert served.loaded
        assert served.loaded.folder == served.folder


@in_loop
async def test_a_newer_candidate_is_reported_and_waits_for_its_promotion(project: Project) -> None:
    first = model_folder.version(project.candidate("first"))
    async with following(project) as served:
        assert served.folder
        assert served.folder.why == "the candidate of the last `dvc repro`"
        project.candidate("second")
        await until(lambda: served.folder and "`fresh promote`" in served.folder.why)
        assert (version(served), served.refusal) == (first, None)
        project.candidate("first")  # the same bytes again
        await until(lambda: served.folder and served.folder.why == "the candidate of the last `dvc repro`")


@in_loop
async def test_a_candidate_in_the_making_is_no_news(project: Project) -> None:
    project.candidate("first")
    async with following(project) as served:
        shutil.rmtree(project.root / "models" / "candidate")
        await looks()
        assert served.folder
        assert (served.status, served.refusal, served.folder.why) == (
            "up",
            None,
            "the candidate of the last `dvc repro`",
        )


@in_loop
async def test_promotions_and_rollbacks_are_both_followed(project: Project) -> None:
    first = project.promote("first")
    async with following(project) as served:
        second = project.promote("second")
        await until(lambda: version(served) == second.version)
        project.registry.rollback(None, "rude")
        await until(lambda: version(served) == first.version)
        assert (served.swaps, served.refusal) == (2, None)
        await until(lambda: len(FakeEngine.alive) == 1)


@in_loop
async def test_a_request_keeps_the_model_it_began_with_and_the_last_one_frees_it(project: Project) -> None:
    first = project.promote("first")
    async with following(project) as served:
        gone = weakref.ref(FakeEngine.alive[0])
        async with served.acquire() as one, served.acquire() as other:
            assert one is other
            project.promote("second")
            await until(lambda: served.swaps)
            async with served.acquire() as new:
                assert new.version != one.version == first.version
            await looks()
            assert gone() in FakeEngine.alive
            del one, other
        await until(lambda: gone() is None)


@in_loop
async def test_moves_in_a_row_do_not_fill_the_memory_with_old_models(project: Project) -> None:
    project.promote("0")
    async with following(project) as served, AsyncExitStack() as leases:
        for number in range(1, 5):
            champion = project.promote(str(number))
            await looks()
            await leases.enter_async_context(served.acquire())
            assert len(FakeEngine.alive) <= 4  # the served one, two that were, and the next
        await leases.aclose()
        await until(lambda: version(served) == champion.version and len(FakeEngine.alive) == 1)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("load", r"did not load: the weights are torn$"),
        ("nan", r"^its smoke test gave a log-probability of nan"),
        ("silent", r"^its smoke test ended at once .* generates nothing$"),
        ("error", r"^its smoke test failed: no memory$"),
        ("hang", r"^its smoke test took more than 0.1 s$"),
    ],
)
@in_loop
async def test_a_version_that_fails_is_refused_in_one_sentence_and_the_old_one_stays(
    project: Project, fault: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_loader, "SMOKE_TEST_SECONDS", 0.1)
    first = project.promote("first")
    async with following(project) as served:
        bad = project.promote("bad", fault)
        await until(lambda: served.refusal)
        assert served.refusal
        assert served.refusal.version == bad.version
        assert re.search(reason, served.refusal.reason)
        assert (version(served), served.swaps, served.status) == (first.version, 0, "up")
        assert len(FakeEngine.alive) == 1
        made = FakeEngine.made
        await looks()
        assert FakeEngine.made == made  # it is not tried again and again
        third = project.promote("third")
        await until(lambda: version(served) == third.version)
        assert served.refusal is None


@in_loop
async def test_a_rollback_from_a_refused_version_loads_nothing(project: Project) -> None:
    project.promote("first")
    async with following(project) as served:
        project.promote("bad", "nan")
        await until(lambda: served.refusal)
        made = FakeEngine.made
        project.registry.rollback(None, "refused")
        await until(lambda: served.refusal is None)
        assert (FakeEngine.made, served.swaps) == (made, 0)


@in_loop
async def test_a_damaged_version_is_refused_and_served_when_its_files_are_repaired(project: Project) -> None:
    first = project.promote("first")
    async with following(project, follow_seconds=1000) as served:
        second = project.promote("second")
        weights = second.folder / "model.safetensors"
        whole = weights.read_bytes()
        weights.write_bytes(whole[:-1])
        await served.check_champion()
        assert served.refusal
        assert served.refusal.version == second.version
        assert re.search(r"model\.safetensors has [\d,]+ bytes, but [\d,]+ were added", served.refusal.reason)
        assert version(served) == first.version
        weights.write_bytes(whole)
        await served.check_champion()
        assert (version(served), served.refusal) == (second.version, None)


@in_loop
async def test_every_byte_of_large_weights_is_checked(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    first = project.promote("first")
    async with following(project, follow_seconds=1000) as served:
        weights = project.promote("second").folder / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
        # The registry checks only the size of larger files.
        monkeypatch.setattr("pipeline.registry.versions.QUICK_HASH_BYTES", 0)
        await served.check_champion()
        assert served.refusal
        assert served.refusal.reason.endswith("a file was changed")
        assert version(served) == first.version


@in_loop
async def test_a_refused_version_is_tried_again_at_growing_intervals(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_model, "FIRST_RETRY_SECONDS", 0.1)
    tries: list[float] = []
    refuse = ServedModel._refuse

    async def noted(self: ServedModel, version: str | None, reason: str) -> None:
        tries.append(time.monotonic())
        await refuse(self, version, reason)

    monkeypatch.setattr(ServedModel, "_refuse", noted)
    project.promote("first")
    async with following(project) as served:
        project.promote("bad", "nan")  # it might have been the memory
        await until(lambda: len(tries) >= 3)
        assert served.refusal
        assert tries[1] - tries[0] >= 0.1
        assert tries[2] - tries[1] >= 0.2


@in_loop
async def test_a_lost_pointer_is_reported_and_the_model_stays(project: Project) -> None:
    first = project.promote("first")
    async with following(project) as served:
        (project.root / "registry" / "champion.json").unlink()
        await until(lambda: served.refusal)
        assert served.refusal
        assert (served.refusal.version, version(served)) == (None, first.version)
        shutil.rmtree(project.root / "registry")
        await looks()
        assert version(served) == first.version
        assert served.swaps == 0


@in_loop
async def test_a_service_that_starts_with_a_bad_champion_serves_the_previous_one_and_says_so(project: Project) -> None:
    first = project.promote("first")
    bad = project.promote("bad", "load")
    async with following(project) as served:
        assert (version(served), served.status) == (first.version, "up")
        assert served.refusal
        assert served.refusal.version == bad.version
        assert served.folder
        assert served.folder.why.endswith("as the champion was refused")
        third = project.promote("third")
        await until(lambda: version(served) == third.version)
        assert served.refusal is None


@in_loop
async def test_a_service_that_could_load_nothing_serves_the_next_champion(project: Project) -> None:
    project.candidate("first", "load")
    async with following(project) as served:
        assert served.status == "failed"
        with pytest.raises(ApiError, match="could not be loaded") as caught:
            async with served.acquire():
                pass
        assert (caught.value.status, caught.value.code) == (503, "model_failed")
        champion = project.promote("second")
        await until(lambda: served.status == "up")
        assert version(served) == champion.version


@in_loop
async def test_model_dir_is_never_replaced(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_DIR", str(project.model))
    async with following(project) as served:
        project.promote("first")
        await looks()
        assert (version(served), served.swaps) == (model_folder.version(project.model), 0)


@in_loop
async def test_while_the_first_model_loads_requests_are_503_with_retry_after(project: Project) -> None:
    served = ServedModel(project.root, KIND, QUICK)
    with pytest.raises(ApiError) as caught:
        async with served.acquire():
            pass
    assert (caught.value.status, caught.value.code, caught.value.headers) == (
        503,
        "model_loading",
        {"Retry-After": "1"},
    )
    assert served.names() == []


@in_loop
async def test_a_worker_can_wait_for_its_model_before_it_listens(project: Project) -> None:
    project.promote("first")
    served = ServedModel(project.root, KIND, QUICK)
    await served.wait_for_first_attempt(0.01)  # nobody loads: it does not wait for ever
    assert served.status == "loading"
    task = asyncio.create_task(served.run())
    await served.wait_for_first_attempt(300)
    assert served.status == "up"
    task.cancel()
    await served.close()


# Other models


@in_loop
async def test_base_and_previous_are_loaded_on_request_and_freed_when_idle(project: Project) -> None:
    first, second = project.promote("first"), project.promote("second")
    project.base()
    async with following(project, beside_minutes=0.1 / 60) as served:
        assert served.names() == [second.version, "champion", "base", "previous"]
        assert FakeEngine.made == 1
        async with served.acquire("previous") as previous, served.acquire("base") as base:
            assert (previous.version, previous.name) == (first.version, "previous")
            assert (base.version, base.name) == (model_folder.version(project.root / "models" / "base"), "base")
            async with served.acquire(first.version) as same, served.acquire("champion") as champion:
                assert same is previous
                assert champion is served.loaded
            await asyncio.sleep(0.2)  # longer than it stays when idle
            assert len(FakeEngine.alive) == 3
        await until(lambda: len(FakeEngine.alive) == 1)


@in_loop
async def test_concurrent_requests_for_a_model_load_it_once(project: Project) -> None:
    project.promote("first")
    project.base()

    async def ask(served: ServedModel) -> LoadedModel:
        async with served.acquire("base") as loaded:
            return loaded

    async with following(project) as served:
        assert len({await task for task in [asyncio.create_task(ask(served)) for _ in range(8)]}) == 1
        assert FakeEngine.made == 2


@in_loop
async def test_a_request_cancelled_while_a_model_loads_does_not_stop_it_for_others(project: Project) -> None:
    project.promote("first")
    project.base()
    async with following(project) as served:
        impatient = asyncio.create_task(served.acquire("base").__aenter__())
        await asyncio.sleep(0)
        patient = served.acquire("base")
        waiting = asyncio.create_task(patient.__aenter__())
        await asyncio.sleep(0)
        impatient.cancel()
        assert (await waiting).name == "base"
        await patient.__aexit__(None, None, None)


@in_loop
async def test_after_a_promotion_previous_is_another_model(project: Project) -> None:
    first, second = project.promote("first"), project.promote("second")
    async with following(project) as served:
        async with served.acquire("previous") as previous:
            assert previous.version == first.version
        project.promote("third")
        await until(lambda: served.swaps and len(FakeEngine.alive) == 1)
        async with served.acquire("previous") as previous:
            assert previous.version == second.version


@in_loop
async def test_a_model_that_does_not_load_is_503_and_not_tried_at_each_request(project: Project) -> None:
    project.promote("first")
    project.base()
    (project.root / "models" / "base" / "broken").write_text("nan", encoding="utf-8")
    async with following(project) as served:
        for _ in range(3):
            with pytest.raises(ApiError) as caught:
                async with served.acquire("base"):
                    pass
            assert (caught.value.status, caught.value.code, caught.value.param) == (503, "model_failed", "model")
        assert (FakeEngine.made, len(FakeEngine.alive)) == (2, 1)


@in_loop
async def test_an_unknown_name_is_404_and_not_repeated(project: Project) -> None:
    project.promote("first")
    async with following(project, beside=()) as served:
        for name in ("base", "previous", "private", "", "0" * 12):
            with pytest.raises(ApiError) as caught:
                async with served.acquire(name):
                    pass
            assert (caught.value.status, caught.value.code) == (404, "model_not_found")
            assert "private" not in caught.value.message


# Stopping


@in_loop
async def test_closing_waits_for_the_requests_that_run(project: Project) -> None:
    project.promote("first")
    async with following(project, drain_seconds=5) as served:
        async with served.acquire():
            closing = asyncio.create_task(served.close())
            await asyncio.sleep(0.05)
            assert FakeEngine.alive
            with pytest.raises(ApiError) as caught:
                async with served.acquire():
                    pass
            assert (caught.value.status, caught.value.code) == (503, "stopping")
        await asyncio.wait_for(closing, 300)
        assert not FakeEngine.alive


@in_loop
async def test_a_request_that_runs_for_longer_than_the_bound_is_cut_off(project: Project) -> None:
    project.promote("first")
    async with following(project, drain_seconds=0.2) as served:
        began = time.monotonic()
        async with served.acquire():
            await served.close()
            assert not FakeEngine.alive
        assert time.monotonic() - began >= 0.2


# Scoring


@in_loop
async def test_the_scorer_of_a_model_is_made_once_and_freed_with_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Scorer:
        def __init__(self, folder: Path, adapter: object) -> None:
            assert adapter is None
            self.folder = folder
            made.append(weakref.ref(self))

    made: list[weakref.ref[Scorer]] = []
    monkeypatch.setitem(sys.modules, "serving.engines.scoring", SimpleNamespace(Scorer=Scorer))
    first = project.promote("first")
    async with following(project) as served:
        async with served.acquire() as loaded:
            one, other = await asyncio.gather(served.scorer(loaded), served.scorer(loaded))
            assert one is other
            assert (one.folder, len(made)) == (first.folder, 1)
            del one, other, loaded
        project.promote("second")
        await until(lambda: made[0]() is None)


@in_loop
async def test_a_candidate_that_has_changed_does_not_score_for_the_one_that_is_served(project: Project) -> None:
    project.candidate("first")
    async with following(project) as served, served.acquire() as loaded:
        project.candidate("second")
        with pytest.raises(ApiError, match="deleted or changed: it generates but cannot score") as caught:
            await served.scorer(loaded)
        assert caught.value.status == 503


def test_trim_heap_leaves_loaded_objects_out_of_later_collections() -> None:
    class Model:
        def __init__(self) -> None:
            self.cycle = self

    loaded = Model()
    gone = weakref.ref(loaded)
    model_loader.trim_heap()
    try:
        del loaded
        gc.collect()
        assert gone() is not None  # not visited
        model_loader.trim_heap()
        assert gone() is None
        made_since = weakref.ref(Model())
        gc.collect()
        assert made_since() is None  # the garbage of requests
    finally:
        gc.unfreeze()
