"""The history and the pointer: what they record, and how they survive damage."""

import json
import os
import re
from pathlib import Path

import pytest

from pipeline.command import UserError
from pipeline.registry.history import Entry
from pipeline.registry.store import Registry
from tests.pipeline.registry.models import NAME, add, champion_label, promote


def lines() -> list[dict[str, object]]:
    return [json.loads(line) for line in Path("registry/history.jsonl").read_text(encoding="utf-8").splitlines()]


def test_an_empty_registry_has_no_champion(registry: Registry) -> None:
    assert registry.champion() is None
    assert (registry.history(), registry.versions(), registry.prune()) == ([], [], [])


def test_the_history_records_who_when_from_to_why_and_figures(registry: Registry) -> None:
    old, new = promote(registry, "old"), add(registry, "new")
    entry = registry.move(
        new,
        expected=old.tag,
        action="force",
        why="a  fair\nreason",
        who="jane",
        figures={"perplexity": 9, "gate": None},
    )
    registry.refuse("0" * 12, "worse", {"perplexity": 12.5})
    assert lines()[1:] == [
        {
            "serial": 2,
            "at": entry.at,
            "who": "jane",
            "action": "force",
            "from": old.tag,
            "to": new.tag,
            "why": "a fair reason",
            "figures": {"perplexity": 9.0, "gate": None},
        },
        {**lines()[2], "serial": 3, "action": "refuse", "from": new.tag, "to": f"{NAME}:{'0' * 12}", "why": "worse"},
    ]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", entry.at)
    assert [each.as_json() for each in registry.history()] == lines()
    assert json.loads(Path("registry/champion.json").read_text(encoding="utf-8")) == lines()[1]
    assert registry.since(new.tag) == entry.at


def test_a_move_from_an_outdated_champion_is_refused(registry: Registry) -> None:
    first, second, third = promote(registry, "1"), promote(registry, "2"), add(registry, "3")
    with pytest.raises(
        UserError, match=f"the champion changed from {first.tag} to {second.tag} while .*; run it again"
    ):
        registry.move(third, expected=first.tag, action="promote", why="better")
    with pytest.raises(UserError, match=f"changed from none to {second.tag}"):
        registry.move(third, expected=None, action="promote", why="first")
    assert registry.champion() == second
    assert len(registry.history()) == 2


def test_a_reason_is_required(registry: Registry) -> None:
    new = add(registry, "new")
    with pytest.raises(UserError, match="a force needs a reason"):
        registry.move(new, expected=None, action="force", why="  ")
    assert registry.champion() is None


@pytest.mark.parametrize("cut", [1, 40, -1])
def test_a_torn_last_line_is_kept_aside_and_written_again(
    registry: Registry, cut: int, capsys: pytest.CaptureFixture[str]
) -> None:
    promote(registry, "old")
    promote(registry, "new")
    history = Path("registry/history.jsonl")
    whole = history.read_bytes()
    start = whole.index(b"\n") + 1
    torn = whole[: start + cut] if cut > 0 else whole[:-2]
    history.write_bytes(torn)
    assert [entry.why for entry in registry.history()] == ["old", "new"]  # the pointer holds its own entry
    assert "its last line is cut off" in capsys.readouterr().err
    registry.refuse("0" * 12, "worse", {})
    assert [line["why"] for line in lines()] == ["old", "new", "worse"]
    assert Path("registry/history.torn").read_bytes() == torn[start:] + b"\n"
    assert "kept in registry/history.torn" in capsys.readouterr().err


def test_a_link_at_the_history_path_is_not_truncated(registry: Registry) -> None:
    promote(registry, "old")
    precious, history = Path("precious"), Path("registry/history.jsonl")
    precious.write_bytes(history.read_bytes() + b"mine, without an end of line")
    history.unlink()
    history.symlink_to(precious.resolve())
    with pytest.raises(UserError, match=r"history.jsonl: is a link, through which nothing is written"):
        registry.refuse("0" * 12, "worse", {})
    assert precious.read_bytes().endswith(b"mine, without an end of line")


def test_a_last_line_without_its_line_end_is_completed(registry: Registry) -> None:
    promote(registry, "old")
    history = Path("registry/history.jsonl")
    whole = history.read_bytes()
    history.write_bytes(whole[:-1])
    registry.refuse("0" * 12, "worse", {})
    assert history.read_bytes().startswith(whole)
    assert not Path("registry/history.torn").exists()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda line: line[:30], "line 1 is damaged"),
        (lambda line: line[:0], "line 1 is damaged"),
        (lambda line: line.replace(b'"promote"', b'"praise"'), "line 1 is damaged .action: Input should be"),
        (lambda line: line.replace(b'"serial":1', b'"serial":7'), "line 2 has the serial 2 after 7"),
    ],
)
def test_a_damaged_line_is_reported_by_number(registry: Registry, damage: object, sentence: str) -> None:
    promote(registry, "old")
    promote(registry, "new")
    history = Path("registry/history.jsonl")
    first, rest = history.read_bytes().split(b"\n", 1)
    assert callable(damage)
    history.write_bytes(damage(first) + b"\n" + rest)
    for act in (registry.champion, registry.history, lambda: registry.rollback(None, "why")):
        with pytest.raises(UserError, match=rf"registry/history\.jsonl: {sentence}.*take the line out"):
            act()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is damaged .Invalid JSON"),
        ("{", "is damaged .Invalid JSON"),
        ("[]", "is damaged .Input should be"),
        ('{"tag": "x"}', "is damaged .serial: "),
        (None, "is missing, though"),
        (
            "put back",
            "names .* of entry 1, but by the history the champion is .* in entry 2; it was edited or put back",
        ),
        ("unknown", r"names text-generator:0{12} of entry 2, but by the history"),
        ("elsewhere", r"is damaged .it is of a promote to '\.\./\.\./secret:0{12}', but should name a version"),
    ],
)
def test_a_damaged_pointer_is_refused_with_the_command_that_fixes_it(
    registry: Registry, content: str | None, sentence: str
) -> None:
    promote(registry, "old")
    pointer = Path("registry/champion.json")
    before = pointer.read_text(encoding="utf-8")
    new = promote(registry, "new")
    now = pointer.read_text(encoding="utf-8")
    texts = {
        "put back": before,
        "unknown": now.replace(new.version, "0" * 12),
        "elsewhere": now.replace(new.tag, "../../secret:000000000000"),
    }
    if content is None:
        pointer.unlink()
    else:
        pointer.write_text(texts.get(content, content), encoding="utf-8")
    back = f'the last good version is {new.tag}: `fresh registry rollback {new.version} --why "..."`'
    with pytest.raises(UserError, match=rf"registry/champion\.json: {sentence}") as caught:
        registry.champion()
    assert str(caught.value).endswith(back)
    with pytest.raises(UserError, match=sentence):
        registry.move(new, expected=None, action="promote", why="better")
    with pytest.raises(UserError, match="nothing is deleted before that is fixed"):
        registry.prune()
    registry.rollback(new.version, "the pointer was damaged")
    assert registry.champion() == new
    assert [entry.why for entry in registry.history()] == ["old", "new", "the pointer was damaged"]


def test_rollback_with_a_damaged_pointer_goes_to_the_last_champion_of_the_history(registry: Registry) -> None:
    promote(registry, "old")
    promote(registry, "new")
    Path("registry/champion.json").write_text("{", encoding="utf-8")
    registry.rollback(None, "mended")
    assert champion_label(registry) == "new"
    registry.rollback(None, "complaints")
    assert champion_label(registry) == "old"


def test_entries_have_the_keys_of_the_contract() -> None:
    entry = Entry(
        1, "2026-01-01T00:00:00+00:00", "jane@ship", "promote", None, f"{NAME}:{'0' * 12}", "first", {"p": 9.4}
    )
    assert list(entry.as_json()) == ["serial", "at", "who", "action", "from", "to", "why", "figures"]


def test_a_pipe_in_place_of_the_pointer_is_damage(registry: Registry) -> None:
    promote(registry, "old")
    pointer = Path("registry/champion.json")
    pointer.unlink()
    os.mkfifo(pointer)
    with pytest.raises(UserError, match=r"champion\.json: is damaged \(registry/champion\.json is no regular file\)"):
        registry.champion()
    registry.rollback(None, "the pointer was a pipe")
    assert champion_label(registry) == "old"


def test_a_pipe_in_place_of_the_history_is_reported(registry: Registry) -> None:
    Path("registry").mkdir(exist_ok=True)
    os.mkfifo("registry/history.jsonl")
    for act in (registry.champion, lambda: registry.refuse("0" * 40, "worse", {})):
        with pytest.raises(UserError, match=r"history\.jsonl is no regular file; move it away"):
            act()
