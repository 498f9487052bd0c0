"""The verdict of `bench.soak`: wrong, stale and lost answers, growth of memory, and the rows of its figures."""

import math
import statistics
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench import harness
from bench.harness import FRESH
from bench.soak_traffic import NO_ANSWER, RETRY_STATUSES, Answer, Expected, SoakLog, TextRequest

NEAR_TIE = 0.25  # nats between the reference's first two choices: an engine that rounds may take either
MAX_LAG = 10.0  # seconds after which no answer may come from a version that is no longer the champion
MAX_GROWTH = 0.05  # of memory


@torch.inference_mode()
def check_against_reference(folder: Path, texts: Mapping[TextRequest, str]) -> None:
    """Raise RuntimeError unless the greedy texts are those of transformers in float32, except after near ties."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True
    ).eval()
    for request, text in texts.items():
        if request.seed is not None:
            continue
        prompt = [model.config.bos_token_id, *tokenizer.encode(request.prompt, add_special_tokens=False)]
        ids: list[int] = []
        while len(ids) < request.tokens:
            logits, likeliest = torch.topk(model(torch.tensor([prompt + ids])).logits[0, -1], 2)
            if logits[0] - logits[1] < NEAR_TIE or likeliest[0] == model.config.eos_token_id:
                break  # after a near tie either is right
            ids.append(int(likeliest[0]))
        reference = tokenizer.decode(ids)
        if not text.startswith(reference):
            raise RuntimeError(
                f"{folder}: wrong greedy text after {request.prompt!r}: {text!r}; transformers begins {reference!r}"
            )


def complaints(log: SoakLog, expected: Expected, check_memory: bool) -> list[str]:
    """Return everything that is not as it should be, each as a sentence."""
    sentences = []
    complete = [answer for answer in log.answers if answer.is_complete]
    for answer in complete:
        if is_wrong(answer, expected):
            sentences.append(f"wrong answer: {answer}")
        elif log.champions.lag(answer) > MAX_LAG:
            sentences.append(f"its version was no longer champion: {answer}")
    sentences += [f"lost: {answer}" for answer in lost(log) if not lost_with_worker(log, answer)]
    sentences += [
        f"a bad request was answered with {answer.status}, not {answer.expected_status}"
        for answer in log.answers
        if answer.kind == "bad" and answer.status not in (answer.expected_status, *RETRY_STATUSES, NO_ANSWER)
    ]
    if not log.truncated_version_refused:
        sentences.append("the version that does not load was not refused")
    if log.killed == math.inf:
        sentences.append("no worker was killed")
    if len({version for version, _, _ in log.champions.periods} & {answer.version for answer in complete}) < 2:
        sentences.append("the champion never changed")
    if check_memory and growth(log) > MAX_GROWTH:
        sentences.append(f"memory grew by {growth(log):.1%}")
    return sentences


def is_wrong(answer: Answer, expected: Expected) -> bool:
    """Return whether the text is not what its version writes when it has nothing else to do."""
    return answer.request is None or answer.text != expected.get(answer.version, {}).get(answer.request)


def lost(log: SoakLog) -> list[Answer]:
    """Return the requests, bad ones too, that got no proper answer; clients that vanish wait for none."""
    return [
        answer
        for answer in log.answers
        if answer.kind != "vanishes"
        and (answer.status == NO_ANSWER or answer.problem or (answer.request and answer.status != 200))
    ]


def lost_with_worker(log: SoakLog, answer: Answer) -> bool:
    """Return whether a request was with the killed worker: under way when it died, and ended by that."""
    return answer.started <= log.killed <= answer.ended < log.killed + 1


def growth(log: SoakLog) -> float:
    """Return the share by which memory grew from before the kill until the end, medians of a quarter each."""
    first, last = log.memory[0][0], log.memory[-1][0]
    quarter = (last - first) / 4
    early = [size for at, size, _ in log.memory if first + quarter <= at < min(first + 2 * quarter, log.killed)]
    late = [size for at, size, _ in log.memory if at >= last - quarter]
    return statistics.median(late) / statistics.median(early) - 1 if early and late else math.nan


def rows_of(log: SoakLog, expected: Expected) -> list[harness.Row]:
    """Return the figures."""
    complete = [answer for answer in log.answers if answer.is_complete]
    seconds = [answer.ended - answer.started for answer in complete]
    sizes = [size / 1e6 for _, size, _ in log.memory]
    with_worker = [lost_with_worker(log, answer) for answer in lost(log)]

    def row(metric: str, figure: float, unit: str, values: list[float] | None = None) -> harness.Row:
        low, high = (min(values), max(values)) if values else (figure, figure)
        return harness.Row(FRESH, metric, round(figure, 3), unit, round(low, 3), round(high, 3), "", None)

    return [
        row("requests", len(log.answers), ""),
        row("texts answered", len(complete), ""),
        row("wrong answers", sum(is_wrong(answer, expected) for answer in complete), ""),
        row("lost with the killed worker", sum(with_worker), ""),
        row("lost otherwise", len(with_worker) - sum(with_worker), ""),
        row("retries", sum(answer.retries for answer in log.answers), ""),
        row("swaps", len(log.champions.periods) - 1, ""),
        row("time of an answer", statistics.median(seconds), "s", seconds),
        row("longest lag of a version", max(map(log.champions.lag, complete)), "s"),
        row("memory", statistics.median(sizes), "MB", sizes),
        row("growth of memory", 100 * growth(log), "%"),
    ]
