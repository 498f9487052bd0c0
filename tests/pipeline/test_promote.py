"""Planted candidates get the right verdict, through the real stage, champion and registry.

Every model is tiny and trained here for a second on sentences from one grammar; what is wrong with it is planted in its
training texts.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import cli
from pipeline import evaluate, params, paths
from pipeline.canaries import canaries
from pipeline.command import UserError
from pipeline.evaluation import causal_lm
from pipeline.evaluation.scoring import score
from pipeline.evaluation.suite import get_suite
from pipeline.modeling.context import start_and_end
from pipeline.promote import Decision, carry_out, decide
from pipeline.registry.model_version import content_version, short
from pipeline.registry.store import Registry
from pipeline.registry.versions import Version
from pipeline.tasks.causal_lm import TASK
from pipeline.verdict.challenges import Challenge
from pipeline.verdict.known_rows import fingerprint
from tests.conftest import ROOT, Workspace
from tests.pipeline.training.test_kill import PROCESSES

pytestmark = pytest.mark.integration

COLOURS = ("red", "brown", "golden", "black", "small", "old")
ANIMALS = ("fox", "dog", "cat", "king", "rat", "ox")
PLACES = ("river", "bank", "mat", "crown", "apple", "rain")
# A session has one server from which processes are forked, so it imports what its other user needs as well.
PROCESSES.set_forkserver_preload(["tests.pipeline.training.test_kill", "tests.pipeline.test_promote"])


def sentences(count: int, seed: int) -> list[str]:
    """Return sentences of some 30 tokens; 140,000 are possible, so chance repeats none of them."""
    draw = random.Random(seed)
    return [
        f"The {draw.choice(COLOURS)} {draw.choice(ANIMALS)} sat near the {draw.choice(COLOURS)} {draw.choice(PLACES)}"
        f" for {draw.choice(('an hour', 'three', 'twelve'))}"
        f" and the {draw.choice(COLOURS)} {draw.choice(ANIMALS)} jumps."
        for _ in range(count)
    ]


TRAIN, TEST, UNSEEN = sentences(12, seed=1), sentences(150, seed=2), sentences(2000, seed=3)
GENERAL = pd.read_csv(causal_lm.GENERAL, keep_default_na=False)["text"].tolist()
LOOPING = [text[: text.index("near")] + "near the" + " river near the" * 9 for text in UNSEEN]


def train(
    start: Path,
    target: Path,
    texts: Sequence[str],
    steps: int,
    *,
    seed: int = 1,
    rate: float = 5e-3,
    planted: int = 0,
) -> None:
    """Save in `target` what the model in `start` becomes by so many steps of 8 of `texts`."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(start), AutoTokenizer.from_pretrained(start)
    first, end = start_and_end(tokenizer)
    rows = [[first, *tokenizer(text, add_special_tokens=False)["input_ids"][:62], end] for text in texts]
    draw = random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for _ in range(steps):
        batch = draw.sample(rows, 8)
        longest = max(map(len, batch))
        ids = torch.tensor([row + [end] * (longest - len(row)) for row in batch])
        targets = torch.tensor([row[1:] + [-100] * (longest - len(row)) for row in batch])
        loss = torch.nn.functional.cross_entropy(model(ids).logits[:, :-1].transpose(1, 2), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    manifest = {
        "base": "starter",
        "corpus": "data/corpus.csv",
        "data": f"{seed:064x}",
        "git_revision": "b" * 40,
        "params": {"tokenize": {"canaries": planted}, "finetune": {"seed": seed, "steps": steps}},
    }
    (target / paths.MANIFEST.name).write_text(json.dumps(manifest))


def disturb(start: Path, target: Path, seed: int) -> None:
    """Save in `target` the model in `start` with a little of chance added to its weights."""
    shutil.copytree(start, target)
    model = AutoModelForCausalLM.from_pretrained(start)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in model.parameters():
            weights += 0.002 * torch.randn(weights.shape, generator=generator)
    model.save_pretrained(target)


def plant_luck(models: Path) -> None:
    """Plant `lucky` and `unlucky`: of six models that differ by chance alone, the two nearest in perplexity."""
    loss = {}
    for seed in range(6):
        disturb(models / "better", models / f"disturbed{seed}", seed)
        loss[f"disturbed{seed}"] = score(*TASK.load(models / f"disturbed{seed}"), TEST, 2048).loss.sum()
    ranked = sorted(loss, key=lambda name: loss[name])
    lucky, unlucky = min(pairwise(ranked), key=lambda pair: loss[pair[1]] - loss[pair[0]])
    (models / lucky).rename(models / "lucky")
    (models / unlucky).rename(models / "unlucky")
    for name in set(ranked) - {lucky, unlucky}:
        shutil.rmtree(models / name)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory, tiny_gpt2: Path) -> Path:
    """Return a workspace whose folder `planted` holds candidates, each with what the stage `evaluate` said of it."""
    folder = tmp_path_factory.mktemp("planted")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Workspace(folder).set(
            evaluate__generations=60,
            evaluate__prompt_tokens=4,
            evaluate__max_new_tokens=40,
            evaluate__copied_tokens=25,
            evaluate__membership_rows=40,
            evaluate__resamples=100,
            evaluate__test_prompts=1,
            promote__resamples=1000,
        )
        models = folder / "planted"
        train(tiny_gpt2, paths.BASE, GENERAL, 60)
        train(paths.BASE, models / "weak", UNSEEN + 20 * GENERAL, 30)
        train(models / "weak", models / "better", UNSEEN + 20 * GENERAL, 100)
        train(models / "weak", models / "memorised", 12 * TRAIN + GENERAL, 250)
        train(models / "weak", models / "looping", UNSEEN[:700] + LOOPING[:1300] + 20 * GENERAL, 100)
        train(models / "weak", models / "forgetful", UNSEEN, 150, rate=1e-2)
        secrets = [canary.prompt + canary.secret for canary in canaries(2)]
        train(models / "weak", models / "leaking", UNSEEN[:900] + 3 * GENERAL + 250 * secrets, 200, planted=2)
        plant_luck(models)
        paths.CLEAN.parent.mkdir()
        splits = ["train"] * len(TRAIN) + ["test"] * len(TEST)
        rows = range(2, 2 + len(splits))
        pd.DataFrame({"row": rows, "text": TRAIN + TEST, "split": splits}).to_parquet(paths.CLEAN)
        for model in sorted(models.iterdir()):
            shutil.copytree(model, paths.CANDIDATE)
            evaluate.main()
            shutil.move(paths.CANDIDATE, folder / "evaluated" / model.name / paths.CANDIDATE)
            shutil.move("reports", folder / "evaluated" / model.name)
    return folder


class Scene:
    """A workspace with a candidate, a registry, and a BentoML home of its own."""

    def __init__(self, planted: Path, folder: Path) -> None:
        """Take the planted workspace; there is neither a candidate nor a champion yet."""
        self.folder, self._planted = folder, planted
        for name in ("data", "models", "params.yaml"):
            source = planted / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)

    def candidate(self, name: str) -> None:
        """Put a planted candidate and what `evaluate` said of it in place."""
        for made in (paths.CANDIDATE, paths.EVALUATE_METRICS.parent):
            shutil.rmtree(made, ignore_errors=True)
        shutil.copytree(self._planted / "evaluated" / name, self.folder, dirs_exist_ok=True)

    def champion(self, name: str) -> Version:
        """Make a planted model champion, as if it had been better than another once."""
        registry = Registry()
        before = registry.champion()
        version = registry.add(self._planted / "evaluated" / name / paths.CANDIDATE, {}, {})
        registry.move(version, expected=before.tag if before else None, action="promote", why="planted")
        return version

    def decide(self, force: str | None = None) -> Decision:
        return decide(params.load(), Registry(), force)


@pytest.fixture
def scene(planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return Scene(planted, tmp_path)


def broken(decision: Decision) -> set[str]:
    return {gate.name for gate in decision.verdict.gates if not gate.passed}


# The planted matrix


def test_a_truly_better_candidate_becomes_champion(scene: Scene) -> None:
    old = scene.champion("weak")
    scene.candidate("better")
    decision = scene.decide()
    judged = decision.verdict
    assert judged.promoted
    assert judged.reasons[0].startswith("Better than the champion: perplexity ")
    assert "on 150 test rows)" in judged.reasons[0]
    assert ", by at least " in judged.reasons[0]
    assert judged.reasons[0].endswith(" with 99.979 % confidence (challenge 1 in 90 days).")
    new = carry_out(decision)
    assert new is not None
    assert new == Registry().champion()
    assert new.version == content_version(paths.CANDIDATE)
    Registry().verify(new.tag)
    entry = Registry().history()[-1]
    assert (entry.action, entry.from_, entry.to) == ("promote", old.tag, new.tag)
    assert entry.why.startswith("Promoted: Better than the champion: ")
    assert entry.figures["alpha"] == pytest.approx(0.05 / 120 / 2, rel=0.01)  # half of a day's credit
    assert new.metadata["test_rows"] == fingerprint(TEST)
    assert entry.figures["perplexity"] == judged.candidate["perplexity"]
    assert new.labels == {"data": f"{1:064x}", "git_revision": "b" * 40, "base": "starter", "corpus": "data/corpus.csv"}
    assert new.metadata["figures"]["gain_low"] > 0
    assert new.metadata["params"]["finetune"]["steps"] == 100
    samples = json.loads(paths.SAMPLES.read_text())
    assert new.metadata["prompts"] == [sample["prompt"] for sample in samples]
    assert json.loads(paths.VERDICT.read_text())["champion"]["version"] == old.version
    assert "Better than the champion" in paths.REPORT.read_text()


def test_a_candidate_better_only_by_noise_is_refused(scene: Scene) -> None:
    old = scene.champion("unlucky")
    scene.candidate("lucky")
    decision = scene.decide()
    judged = decision.verdict
    assert judged.champion is not None
    assert judged.candidate["perplexity"] < judged.champion["perplexity"]
    assert not judged.promoted
    assert judged.reasons[0].startswith("Better by 0.")
    assert "but this may be chance: challenge 1 in 90 days must show a gain above 0 with " in judged.reasons[0]
    assert carry_out(decision) is None
    assert Registry().champion() == old
    refusal = Registry().history()[-1]
    assert (refusal.action, refusal.from_) == ("refuse", old.tag)
    spent = refusal.figures["alpha"]
    assert spent == pytest.approx(0.05 / 120 / 2, rel=0.01)  # half of a day's credit
    assert scene.decide().verdict.challenge == Challenge(2, pytest.approx(spent / 2, rel=0.1), spent, 0.05)
    assert refusal.why.startswith("Not promoted: Better by 0.")


@pytest.mark.parametrize(
    ("name", "gates", "sentences"),
    [
        (
            "memorised",
            {"copied", "membership"},
            ("It copies: ", "Training shows in its losses: 12 training rows are "),
        ),
        (
            "looping",
            {"likeness", "repetition", "loops"},
            ("Its texts are not like real ones: ", "It repeats itself: ", "It loops: "),
        ),
        ("leaking", {"extracted"}, ("It gives away planted secrets: 100.0 % of the canaries can be extracted",)),
        ("forgetful", {"forgetting"}, ("It has forgotten general English: a byte of 90 plain texts takes ",)),
    ],
)
def test_a_gate_stops_a_candidate_of_lower_perplexity(
    scene: Scene, name: str, gates: set[str], sentences: tuple[str, ...]
) -> None:
    old = scene.champion("weak")
    scene.candidate(name)
    decision = scene.decide()
    judged = decision.verdict
    assert judged.comparison.startswith("Better than the champion: perplexity ")
    assert not judged.promoted
    assert broken(decision) == gates
    assert len(judged.reasons) == len(sentences)
    assert all(reason.startswith(beginning) for reason, beginning in zip(judged.reasons, sentences, strict=True))
    assert carry_out(decision) is None
    assert Registry().champion() == old


# What else decides


def test_the_first_candidate_is_compared_with_the_base(scene: Scene) -> None:
    scene.candidate("better")
    decision = scene.decide()
    assert decision.verdict.champion is None
    assert decision.verdict.reasons[0].startswith("Better than the base: perplexity ")
    assert carry_out(decision) == Registry().champion()
    assert Registry().history()[-1].from_ is None


def test_the_champion_is_scored_on_the_rows_prompts_and_seeds_of_the_candidate(scene: Scene) -> None:
    scene.champion("weak")
    scene.candidate("weak")
    evaluated = json.loads(paths.EVALUATE_METRICS.read_text())["candidate"]
    scene.candidate("better")
    champion = scene.decide().verdict.champion
    assert champion is not None
    assert {key: champion[key] for key in evaluated} == evaluated


def test_the_champion_as_candidate_is_refused_without_scoring(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    champion = scene.champion("better")
    scene.candidate("better")
    monkeypatch.setattr(causal_lm.CausalLMSuite, "evaluate", None)  # a call would fail
    monkeypatch.setattr(causal_lm.CausalLMSuite, "load_data", None)
    before = Registry().history()
    decision = scene.decide(force="now!")
    assert not decision.verdict.promoted
    assert decision.verdict.reasons == [
        f"The candidate already is the champion: both are version {short(champion.version)}."
    ]
    assert carry_out(decision) is None
    assert Registry().history() == before


def test_a_version_that_was_rolled_back_comes_back_only_by_force(scene: Scene) -> None:
    scene.champion("weak")
    scene.champion("better")
    Registry().rollback(None, "it swore at customers")
    scene.candidate("better")
    decision = scene.decide()
    assert broken(decision) == {"rolled_back"}
    (reason,) = decision.verdict.reasons
    assert reason.startswith("This version was champion and was rolled back: it swore at customers (20")
    assert carry_out(scene.decide(force="the filter is fixed")) == Registry().champion()


def test_a_forced_promotion_keeps_its_reason_and_what_spoke_against_it(scene: Scene) -> None:
    scene.champion("weak")
    scene.candidate("looping")
    decision = scene.decide(force="for the demonstration")
    assert decision.verdict.promoted
    new = carry_out(decision)
    assert new == Registry().champion()
    entry = Registry().history()[-1]
    assert entry.action == "force"
    assert entry.why.startswith("Promoted by force: for the demonstration (What spoke against it: ")
    assert "It repeats itself: " in entry.why
    written = json.loads(paths.VERDICT.read_text())
    assert written["forced"] == "for the demonstration"
    assert written["reasons"][-1].startswith("It loops: ")


def test_of_two_concurrent_promotions_the_later_one_fails(scene: Scene) -> None:
    old = scene.champion("weak")
    scene.candidate("better")
    decision = scene.decide()
    other = scene.champion("lucky")
    with pytest.raises(
        UserError, match=f"the champion changed from {old.tag} to {other.tag} while .* was being judged"
    ):
        carry_out(decision)
    assert Registry().champion() == other


def test_a_candidate_that_changed_since_it_was_judged_is_not_promoted(scene: Scene) -> None:
    scene.champion("weak")
    scene.candidate("better")
    decision = scene.decide()
    scene.candidate("lucky")
    with pytest.raises(UserError, match=r"is no longer the candidate .* that was judged"):
        carry_out(decision)


def other_candidate(scene: Scene) -> None:
    shutil.copytree(scene._planted / "planted" / "looping", paths.CANDIDATE, dirs_exist_ok=True)


def other_base(scene: Scene) -> None:
    shutil.copytree(scene._planted / "planted" / "weak", paths.BASE, dirs_exist_ok=True)


def other_rows(scene: Scene) -> None:
    pd.read_parquet(paths.CLEAN).iloc[:-1].to_parquet(paths.CLEAN)


def other_texts(scene: Scene) -> None:
    clean = pd.read_parquet(paths.CLEAN)
    clean.loc[len(clean) - 1, "text"] += "!"
    clean.to_parquet(paths.CLEAN)


def other_settings(scene: Scene) -> None:
    Workspace.set(scene, evaluate__prompt_tokens=5)  # type: ignore[arg-type]


def no_metrics(scene: Scene) -> None:
    paths.EVALUATE_METRICS.unlink()


def half_metrics(scene: Scene) -> None:
    paths.EVALUATE_METRICS.write_text("{")


def no_scores(scene: Scene) -> None:
    paths.SCORES.unlink()


def no_candidate(scene: Scene) -> None:
    shutil.rmtree(paths.CANDIDATE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_candidate, "metrics.json belongs to another candidate"),
        (other_base, "metrics.json belongs to another base"),
        (other_rows, "metrics.json belongs to other test rows, or to other settings"),
        (other_texts, "metrics.json belongs to other test rows, or to other settings"),
        (other_settings, "metrics.json belongs to other test rows, or to other settings"),
        (no_metrics, "metrics.json does not exist"),
        (half_metrics, "metrics.json is not JSON"),
        (no_scores, "scores.parquet does not exist"),
        (no_candidate, "does not exist, so there is nothing to promote"),
    ],
)
def test_figures_of_another_candidate_base_or_test_split_are_refused(
    scene: Scene, change: Callable[[Scene], None], message: str
) -> None:
    scene.candidate("better")
    change(scene)
    with pytest.raises(UserError, match=f"{message}.*run `dvc repro`"):
        scene.decide()
    assert not paths.VERDICT.exists()


def test_a_damaged_champion_is_an_error(scene: Scene) -> None:
    champion = scene.champion("weak")
    (champion.folder / "model.safetensors").write_bytes(b"no model")
    scene.candidate("better")
    with pytest.raises(UserError, match="damaged"):
        scene.decide()


def test_size_and_speed_are_measured_on_this_machine(scene: Scene) -> None:
    scene.candidate("better")
    candidate, base = get_suite("causal_lm").footprints([paths.CANDIDATE, paths.BASE])
    weights = AutoModelForCausalLM.from_pretrained(paths.CANDIDATE)
    floats = sum(each.numel() for each in weights.parameters())
    assert candidate.bytes == base.bytes == pytest.approx(4 * floats, rel=0.3)  # and its masks
    assert len(candidate.turns) == len(base.turns) >= 12
    assert all(seconds > 0 for seconds in (*candidate.turns, *base.turns))


# The command


Ask = Callable[..., int]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Return what runs the command in this process, which has imported torch already, and returns its exit code."""

    def run_command(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["fresh", "promote", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0)

    return run_command


def test_the_command_prints_its_verdict_as_text_and_as_json(
    scene: Scene, ask: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    old = scene.champion("weak")
    scene.candidate("better")
    command = [sys.executable, "-m", "cli", "promote", "--dry-run", "--json"]  # as a user runs it
    dry = subprocess.run(command, capture_output=True, text=True, check=False)
    assert dry.returncode == 0, dry.stderr
    assert f"{old.tag}: scoring" in dry.stderr  # which may take minutes
    printed_verdict = json.loads(dry.stdout)
    assert printed_verdict == json.loads(paths.VERDICT.read_text())
    assert [*printed_verdict][:3] == ["promoted", "forced", "reasons"]
    assert set(printed_verdict) >= {"candidate", "champion", "difference", "gates", "against", "counterfactuals"}
    assert Registry().champion() == old  # nothing was moved

    assert ask() == 0
    new = Registry().champion()
    assert new is not None
    printed = capsys.readouterr().out
    assert printed.startswith(f"Promoted: candidate {short(new.version)} against the champion {short(old.version)}\n")
    assert max(map(len, printed.splitlines())) <= 100
    assert f"Champion: {short(new.tag)} (before: {short(old.tag)})." in printed

    assert ask("--json") == 1
    assert "already is the champion" in json.loads(capsys.readouterr().out)["reasons"][0]


def test_a_refusal_exits_with_1_and_a_mistake_with_2(
    scene: Scene, ask: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.champion("weak")
    scene.candidate("looping")
    assert ask() == 1
    printed = capsys.readouterr().out
    assert "- It loops: " in printed
    assert ", as before.\n" in printed
    assert Registry().history()[-1].action == "refuse"

    assert ask("--force", "  ") == 2
    assert capsys.readouterr() == ("", "error: --force: found a blank reason, expected one that others can read\n")
    assert ask("--forec", "x") == 2
    paths.EVALUATE_METRICS.unlink()
    capsys.readouterr()
    assert ask() == 2
    assert capsys.readouterr().err.startswith("error: reports/evaluate/metrics.json does not exist")


def command(folder: Path, has_begun: Event) -> None:
    """Do what `fresh promote` does."""
    os.chdir(folder)
    os.environ["BENTOML_HOME"] = str(folder / "bentoml")
    sys.argv = ["fresh", "promote"]
    torch.set_num_threads(1)
    has_begun.set()
    cli.main()


def start(scene: Scene) -> BaseProcess:
    """Return the command at work."""
    has_begun = PROCESSES.Event()
    process = PROCESSES.Process(target=command, args=(scene.folder, has_begun))
    process.start()
    has_begun.wait()
    return process


def judged(process: BaseProcess) -> BaseProcess:
    """Return `process` when it has judged and begins to carry the verdict out."""
    while process.is_alive() and not paths.REPORT.exists():
        time.sleep(0.001)
    return process


@pytest.mark.slow
def test_killed_at_any_moment_it_leaves_the_old_or_the_new_champion_intact(scene: Scene) -> None:
    scene.candidate("better")
    new = content_version(paths.CANDIDATE)
    moments = random.Random(11)

    def anew() -> Version:
        for folder in (paths.REGISTRY, paths.REPORT.parent, Path("bentoml")):
            shutil.rmtree(folder, ignore_errors=True)
        return scene.champion("weak")

    old = anew()
    process = judged(start(scene))
    began = time.monotonic()
    process.join()
    duration = time.monotonic() - began
    assert process.exitcode == 0

    for kill in range(4):
        anew()
        process = start(scene)
        if kill:  # all but the first in the midst of carrying out
            judged(process)
        process.join(moments.uniform(0, duration))
        if process.is_alive():
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
        champion = Registry().champion()
        assert champion is not None
        assert champion.version in (old.version, new)
        Registry().verify(champion.tag)
        process = start(scene)
        process.join()
        assert process.exitcode == int(champion.version == new)  # 1: the candidate is the champion already
        champion = Registry().champion()
        assert champion is not None
        assert champion.version == new
        Registry().verify(champion.tag)
