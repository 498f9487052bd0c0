"""The soak notices everything that goes wrong, and a short one of the real service ends without complaints."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from bench import harness
from bench.soak_traffic import LONG, SHORT, Answer, ChampionHistory, SoakLog, TextRequest
from bench.soak_verdict import MAX_LAG, check_against_reference, complaints, growth

REQUEST = TextRequest("Once upon a time", SHORT, None)
EXPECTED = {"a": {REQUEST: "text of a"}, "b": {REQUEST: "text of b"}}


def answer(version: str, started: float, ended: float, **other: object) -> Answer:
    fields = {"status": 200, "version": version, "text": f"text of {version}", "request": REQUEST, **other}
    return Answer("native", started, ended, **fields)  # type: ignore[arg-type]


@pytest.fixture
def log() -> SoakLog:
    """A soak of 100 s in which a was champion until 50, then b, and a worker was killed at 60."""
    champions = ChampionHistory()
    champions.record("a", 0, 0)
    champions.record("b", 50, 50.5)
    answers = [answer("a", 1, 2), answer("a", 52, 53), answer("b", 52, 53), answer("b", 90, 91)]
    memory = [(float(at), 500, 3) for at in range(101)]
    return SoakLog(answers, champions, memory, killed=60, truncated_version="c", truncated_version_refused=True)


def judged(log: SoakLog) -> list[str]:
    return complaints(log, EXPECTED, check_memory=True)


def test_there_are_no_complaints_if_all_is_well(log: SoakLog) -> None:
    assert judged(log) == []


def test_a_wrong_text_and_the_text_of_another_version_are_noticed(log: SoakLog) -> None:
    log.answers.append(answer("b", 70, 71, text="text of b!"))
    log.answers.append(answer("b", 70, 71, text="text of a"))
    log.answers.append(answer("never", 70, 71))
    assert [complaint.partition(":")[0] for complaint in judged(log)] == ["wrong answer"] * 3


def test_answers_of_a_version_long_after_or_before_it_was_champion_are_noticed(log: SoakLog) -> None:
    log.answers.append(answer("a", 50.5 + MAX_LAG + 0.1, 99))
    log.answers.append(answer("b", 48, 49.9))
    assert [complaint.partition(":")[0] for complaint in judged(log)] == ["its version was no longer champion"] * 2
    assert log.champions.lag(answer("a", 53.5, 54)) == 3
    assert log.champions.lag(answer("b", 49, 50.2)) == 0  # it became champion while the request ran


def test_a_lost_request_counts_unless_it_was_with_the_killed_worker(log: SoakLog) -> None:
    log.answers.append(answer("", 59, 60.1, status=0, problem="ServerDisconnectedError"))
    assert judged(log) == []
    log.answers.append(answer("", 61, 62, status=0, problem="ServerDisconnectedError"))
    log.answers.append(answer("b", 61, 62, problem="the stream broke off"))
    log.answers.append(answer("", 61, 62, status=503))
    assert [complaint.partition(":")[0] for complaint in judged(log)] == ["lost"] * 3


def test_a_client_that_vanishes_loses_nothing(log: SoakLog) -> None:
    log.answers.append(Answer("vanishes", 10, 11))
    assert judged(log) == []


def test_a_bad_request_must_get_its_own_answer(log: SoakLog) -> None:
    log.answers.append(Answer("bad", 10, 11, 400, expected_status=400))
    assert judged(log) == []
    log.answers.append(Answer("bad", 10, 11, 500, expected_status=400))
    assert judged(log) == ["a bad request was answered with 500, not 400"]


def test_disturbances_that_did_not_happen_are_noticed(log: SoakLog) -> None:
    log.killed, log.truncated_version_refused = math.inf, False
    log.answers = log.answers[:1]
    assert judged(log) == [
        "the version that does not load was not refused",
        "no worker was killed",
        "the champion never changed",
    ]


def test_growth_of_memory_is_noticed(log: SoakLog) -> None:
    log.memory = [(at, 500 + int(at), 3) for at, _, _ in log.memory]
    assert growth(log) == pytest.approx((500 + 87.5) / (500 + 37) - 1, rel=0.01)
    assert judged(log) == ["memory grew by 9.4%"]
    assert complaints(log, EXPECTED, check_memory=False) == []


@pytest.mark.integration
def test_greedy_texts_are_checked_against_transformers(tmp_path: Path) -> None:
    starter = harness.ROOT / "starter"
    with pytest.raises(RuntimeError, match="transformers begins"):
        check_against_reference(starter, {TextRequest("Once upon a time", LONG, None): "xyzzy"})
    check_against_reference(starter, {TextRequest("Once upon a time", LONG, 7): "xyzzy"})  # sampled, so not checked


@pytest.mark.slow
def test_a_quick_soak_of_the_real_service_ends_without_complaints() -> None:
    command = [sys.executable, "-m", "bench.soak", "--quick"]
    done = subprocess.run(command, cwd=harness.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    figures = {row["metric"]: row["figure"] for row in result["rows"]}
    assert result["name"] == "soak"
    assert (figures["wrong answers"], figures["lost otherwise"]) == (0, 0)
    assert figures["swaps"] >= 3
    assert "nothing to complain of" in done.stdout
