"""The soak notices what goes wrong, and a short one of the real service ends with nothing to complain of."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from bench import harness, soak
from bench.soak import LONG, SHORT, Answer, Reigns, Soak, Text, complaints, growth

ASKED = Text("Once upon a time", SHORT, None)
EXPECTED = {"a": {ASKED: "text of a"}, "b": {ASKED: "text of b"}}


def answer(version: str, begun: float, ended: float, **other: object) -> Answer:
    found = Answer("native", begun, ended, 200, version=version, text=f"text of {version}", asked=ASKED)
    return Answer(**{**vars(found), **other})  # type: ignore[arg-type]


@pytest.fixture
def fine() -> Soak:
    """A soak of 100 s in which a reigned until 50, then b, and a worker was killed at 60."""
    reigns = Reigns()
    reigns.begin("a", 0, 0)
    reigns.begin("b", 50, 50.5)
    answers = [answer("a", 1, 2), answer("a", 52, 53), answer("b", 52, 53), answer("b", 90, 91)]
    memory = [(float(at), 500, 3) for at in range(101)]
    return Soak(answers, reigns, memory, killed=60, bad_version="c", bad_version_refused=True)


def judged(found: Soak) -> list[str]:
    return complaints(found, EXPECTED, memory_counts=True)


def test_where_all_is_well_there_is_nothing_to_complain_of(fine: Soak) -> None:
    assert judged(fine) == []


def test_a_wrong_text_is_noticed_and_so_is_the_right_one_of_another_version(fine: Soak) -> None:
    fine.answers.append(answer("b", 70, 71, text="text of b!"))
    fine.answers.append(answer("b", 70, 71, text="text of a"))
    fine.answers.append(answer("never", 70, 71))
    assert [complaint.partition(":")[0] for complaint in judged(fine)] == ["wrong answer"] * 3


def test_a_version_that_answers_long_after_its_reign_or_before_it_is_noticed(fine: Soak) -> None:
    fine.answers.append(answer("a", 50.5 + soak.LAG + 0.1, 99))
    fine.answers.append(answer("b", 48, 49.9))
    assert [complaint.partition(":")[0] for complaint in judged(fine)] == ["its version was no longer champion"] * 2
    assert fine.reigns.lag(answer("a", 53.5, 54)) == 3
    assert fine.reigns.lag(answer("b", 49, 50.2)) == 0  # it became champion while the request ran


def test_a_lost_request_counts_unless_it_was_with_the_killed_worker(fine: Soak) -> None:
    fine.answers.append(answer("", 59, 60.1, status=0, problem="ServerDisconnectedError"))
    assert judged(fine) == []
    fine.answers.append(answer("", 61, 62, status=0, problem="ServerDisconnectedError"))
    fine.answers.append(answer("b", 61, 62, problem="the stream broke off"))
    fine.answers.append(answer("", 61, 62, status=503))
    assert [complaint.partition(":")[0] for complaint in judged(fine)] == ["lost"] * 3


def test_a_client_that_went_away_has_lost_nothing(fine: Soak) -> None:
    fine.answers.append(Answer("vanishes", 10, 11))
    assert judged(fine) == []


def test_a_bad_request_must_get_its_own_answer(fine: Soak) -> None:
    fine.answers.append(Answer("bad", 10, 11, 400, expected_status=400))
    assert judged(fine) == []
    fine.answers.append(Answer("bad", 10, 11, 500, expected_status=400))
    assert judged(fine) == ["a bad request was answered with 500, not 400"]


def test_what_did_not_happen_is_noticed(fine: Soak) -> None:
    fine.killed, fine.bad_version_refused = math.inf, False
    fine.answers = fine.answers[:1]
    assert judged(fine) == [
        "the version that does not load was not refused",
        "no worker was killed",
        "the champion never changed",
    ]


def test_memory_that_grows_is_noticed(fine: Soak) -> None:
    fine.memory = [(at, 500 + int(at), 3) for at, _, _ in fine.memory]
    assert growth(fine) == pytest.approx((500 + 87.5) / (500 + 37) - 1, rel=0.01)
    assert judged(fine) == ["memory grew by 9.4%"]
    assert complaints(fine, EXPECTED, memory_counts=False) == []


@pytest.mark.integration
def test_answers_are_held_to_transformers(tmp_path: Path) -> None:
    starter = harness.ROOT / "starter"
    with pytest.raises(RuntimeError, match="by transformers it begins"):
        soak.hold_to_the_reference(starter, {Text("Once upon a time", LONG, None): "xyzzy"})
    soak.hold_to_the_reference(starter, {Text("Once upon a time", LONG, 7): "xyzzy"})  # drawn texts are not greedy


@pytest.mark.slow
def test_a_quick_soak_of_the_real_service_ends_with_nothing_to_complain_of() -> None:
    command = [sys.executable, "-m", "bench.soak", "--quick"]
    done = subprocess.run(command, cwd=harness.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    figures = {row["metric"]: row["figure"] for row in result["rows"]}
    assert result["name"] == "soak"
    assert (figures["wrong answers"], figures["lost beyond"]) == (0, 0)
    assert figures["swaps"] >= 3
    assert "nothing to complain of" in done.stdout
