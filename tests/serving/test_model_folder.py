import json
import shutil
from pathlib import Path

import pytest
from bentoml.exceptions import BentoMLException

from pipeline.registry.model_version import short
from pipeline.registry.store import Registry
from pipeline.registry.versions import Version
from serving import model_folder
from serving.model_folder import CandidateWithheld, ModelFolder
from serving.model_verdict import NOT_JUDGED, ModelVerdict
from tests.serving.conftest import DATA, REPOSITORY, write_verdict


def any_task(_: Path) -> str:
    return ""


@pytest.fixture(autouse=True)
def no_model_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MODEL_DIR", raising=False)
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))


def found(root: Path, *, serve_candidate: bool = True) -> ModelFolder:
    return model_folder.find(root, any_task, serve_candidate=serve_candidate)


def put(model: Path, root: Path) -> Path:
    return Path(shutil.copytree(model, root / "models" / "candidate"))


def test_without_anything_else_it_is_the_candidate(tmp_path: Path, model: Path) -> None:
    folder = found(tmp_path) if put(model, tmp_path) else None
    why = "the candidate of the last `dvc repro`"
    assert folder == ModelFolder(tmp_path / "models/candidate", why, follows=True, verdict=NOT_JUDGED)


def test_a_candidate_without_a_verdict_is_withheld_with_one_sentence_that_says_what_to_do(
    tmp_path: Path, model: Path
) -> None:
    put(model, tmp_path)
    with pytest.raises(
        CandidateWithheld, match=r"has no verdict yet; .*`fresh promote`.*serve_candidate: true"
    ) as caught:
        found(tmp_path, serve_candidate=False)
    assert "\n" not in str(caught.value)


def test_a_refused_candidate_is_withheld_with_the_first_reasons_and_the_ways_out(tmp_path: Path, model: Path) -> None:
    write_verdict(tmp_path, model_folder.version(put(model, tmp_path)), promoted=False)
    with pytest.raises(CandidateWithheld) as caught:
        found(tmp_path, serve_candidate=False)
    assert "(It loops: 25 % of its texts. It copies; see reports/promote/report.html)" in str(caught.value)
    assert all(way in str(caught.value) for way in ("`fresh promote`", '--force "WHY"', "serve_candidate: true"))
    assert found(tmp_path).verdict.outcome == "refused"


@pytest.mark.parametrize(("forced", "outcome"), [(None, "promoted"), ("we need it", "forced")])
def test_a_candidate_that_the_verdict_let_pass_is_served(
    tmp_path: Path, model: Path, forced: str | None, outcome: str
) -> None:
    write_verdict(tmp_path, model_folder.version(put(model, tmp_path)), promoted=forced is None, forced=forced)
    verdict = found(tmp_path, serve_candidate=False).verdict
    assert (verdict.outcome, verdict.reasons[0]) == (outcome, forced or "Better than the base.")


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"promoted": 1}'])
def test_a_verdict_that_cannot_be_read_judges_nothing(tmp_path: Path, model: Path, content: str) -> None:
    put(model, tmp_path)
    write_verdict(tmp_path, "0" * 40, promoted=True)  # of another candidate
    assert found(tmp_path).verdict == NOT_JUDGED
    (tmp_path / "reports" / "promote" / "verdict.json").write_text(content, encoding="utf-8")
    assert found(tmp_path).verdict == NOT_JUDGED


def test_a_champion_keeps_the_verdict_by_which_it_became_one(tmp_path: Path, model: Path) -> None:
    first = promote(model, tmp_path)
    (put(model, tmp_path) / "manifest.json").write_text("{}", encoding="utf-8")
    registry = Registry(tmp_path)
    second = registry.add(tmp_path / "models" / "candidate", {}, {})
    why = "Promoted by force: we need it (What spoke against it: It loops.)"
    registry.move(second, expected=first.tag, action="force", why=why)
    verdict = found(tmp_path).verdict
    assert (verdict.outcome, verdict.reasons) == ("forced", ("we need it (What spoke against it: It loops.)",))
    registry.rollback(None, "rude")
    assert (found(tmp_path).verdict.outcome, found(tmp_path).verdict.reasons) == ("promoted", ("the first",))


def test_a_bento_names_the_verdict_that_was_packed(tmp_path: Path, model: Path) -> None:
    packed = put(model, tmp_path / "src")
    (tmp_path / "bento.yaml").touch()
    assert found(tmp_path / "src").verdict == NOT_JUDGED
    recorded = {"summary": "Promoted: Better than the base.", "forced": None, "at": "2026-01-02T03:04:05+00:00"}
    record = {"record": {"metadata": {"verdict": recorded, "prompts": ["My card", ""]}}}
    (packed / "version.json").write_text(json.dumps(record), encoding="utf-8")  # of a version of the registry
    folder = found(tmp_path / "src")
    assert folder.verdict == ModelVerdict("promoted", ("Better than the base.",), recorded["at"])
    assert folder.prompts == ("My card",)
    (packed / "version.json").unlink()
    write_verdict(tmp_path / "src", model_folder.version(packed), promoted=False)  # of a candidate
    assert found(tmp_path / "src", serve_candidate=False).verdict.outcome == "refused"


def promote(model: Path, root: Path) -> Version:
    root.mkdir(exist_ok=True)
    shutil.copy(REPOSITORY / "params.yaml", root)
    new = Registry(root).add(model, {}, {})
    Registry(root).move(new, expected=None, action="promote", why="the first")
    return new


def test_the_champion_comes_before_the_candidate(tmp_path: Path, model: Path) -> None:
    (put(model, tmp_path) / "manifest.json").write_text("{}", encoding="utf-8")
    new = promote(model, tmp_path)
    since = Registry(tmp_path).history()[0].at
    folder = found(tmp_path)
    why, verdict = f"the champion {short(new.tag)} since {since}", ModelVerdict("promoted", ("the first",), since)
    assert folder == ModelFolder(new.folder, why, new.version, follows=True, verdict=verdict)
    assert model_folder.version(folder.path) == new.version == model_folder.version(model)


def test_a_damaged_champion_is_an_error_and_never_replaced_by_the_candidate(tmp_path: Path, model: Path) -> None:
    put(model, tmp_path)
    new = promote(model, tmp_path)
    (new.folder / "config.json").unlink()
    with pytest.raises(
        BentoMLException, match=rf"no model to serve: {new.tag} is damaged: .*config\.json is missing; "
    ):
        found(tmp_path)
    (tmp_path / "registry" / "champion.json").write_text("{", encoding="utf-8")
    with pytest.raises(BentoMLException, match=r"no model to serve: .*champion\.json: is damaged"):
        found(tmp_path)


def test_the_model_in_a_bento_comes_before_the_champion(tmp_path: Path, model: Path) -> None:
    put(model, tmp_path / "src")
    promote(model, tmp_path / "src")
    (tmp_path / "bento.yaml").touch()
    assert found(tmp_path / "src").why == "packed in this bento"
    assert not found(tmp_path / "src").follows


def test_in_a_bento_it_is_the_packed_model(tmp_path: Path, model: Path) -> None:
    put(model, tmp_path / "src")
    (tmp_path / "bento.yaml").touch()
    assert found(tmp_path / "src").why == "packed in this bento"


def test_model_dir_comes_first_and_needs_no_manifest(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(model, tmp_path)
    hub = Path(shutil.copytree(model, tmp_path / "hub", ignore=shutil.ignore_patterns("manifest.json")))
    monkeypatch.setenv("MODEL_DIR", str(hub))
    folder = found(tmp_path)
    assert folder.path == hub
    assert not folder.follows
    assert "MODEL_DIR" in folder.why
    assert model_folder.data_hash(folder.path) is None


def test_a_missing_candidate_is_one_sentence_that_names_the_fix(tmp_path: Path) -> None:
    with pytest.raises(BentoMLException, match=r"no model to serve: .*models/candidate .*`dvc repro`") as caught:
        found(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "manifest.json"])
def test_a_candidate_that_lacks_a_file_is_refused(tmp_path: Path, model: Path, name: str) -> None:
    (put(model, tmp_path) / name).unlink()
    with pytest.raises(BentoMLException, match=f"lacks {name}"):
        found(tmp_path)
    if name == "manifest.json":  # which a base lacks, that may be packed
        model_folder.check_packed(tmp_path, any_task)
        return
    with pytest.raises(BentoMLException, match=f"lacks {name}"):
        model_folder.check_packed(tmp_path, any_task)


def test_model_dir_is_never_silently_replaced(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(model, tmp_path)
    monkeypatch.setenv("MODEL_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(BentoMLException, match=r"nowhere .*MODEL_DIR.* does not exist"):
        found(tmp_path)


def test_links_are_served_but_not_packed(tmp_path: Path, model: Path) -> None:
    weights = put(model, tmp_path) / "model.safetensors"
    weights.rename(tmp_path / "cached")
    weights.symlink_to(tmp_path / "cached")
    assert found(tmp_path).path == weights.parent
    with pytest.raises(BentoMLException, match=r"model\.safetensors: links would dangle"):
        model_folder.check_packed(tmp_path, any_task)


def test_the_version_is_that_of_the_content(tmp_path: Path, model: Path) -> None:
    copy = put(model, tmp_path)
    (copy / ".DS_Store").touch()
    version = model_folder.version(model)
    assert len(version) == 40
    assert model_folder.version(copy) == version
    (copy / "manifest.json").write_text(json.dumps({"data": "other"}), encoding="utf-8")
    assert model_folder.version(copy) != version


def test_the_data_hash_is_the_manifests(model: Path) -> None:
    assert model_folder.data_hash(model) == DATA


def test_the_other_models_are_those_that_are_there_and_wanted(tmp_path: Path, model: Path) -> None:
    assert model_folder.comparison_models(tmp_path, ["base", "previous"], any_task) == {}
    base = Path(shutil.copytree(model, tmp_path / "models" / "base"))
    first = promote(model, tmp_path)
    assert [*model_folder.comparison_models(tmp_path, ["base", "previous"], any_task)] == ["base"]
    (base / "manifest.json").unlink()  # a base that was fetched has none
    (put(model, tmp_path) / "manifest.json").write_text("{}", encoding="utf-8")
    second = Registry(tmp_path).add(tmp_path / "models" / "candidate", {}, {})
    Registry(tmp_path).move(second, expected=first.tag, action="promote", why="the second")
    result = model_folder.comparison_models(tmp_path, ["base", "previous"], any_task)
    assert (result["base"].path, result["previous"].path) == (base, first.folder)
    assert result["previous"].version == first.version
    assert [*model_folder.comparison_models(tmp_path, ["previous"], any_task)] == ["previous"]


def test_a_damaged_pointer_or_version_still_gives_what_is_known(tmp_path: Path, model: Path) -> None:
    assert model_folder.pointer_target(tmp_path) == (None, None)
    new = promote(model, tmp_path)
    (new.folder / "model.safetensors").write_bytes(b"torn")
    assert model_folder.pointer_target(tmp_path) == (new.version, new.folder)
    (new.folder / "version.json").unlink()
    assert model_folder.pointer_target(tmp_path) == (new.version, None)
    (tmp_path / "registry" / "champion.json").write_text("{", encoding="utf-8")
    assert model_folder.pointer_target(tmp_path) == (None, None)


def test_a_mark_tells_files_that_were_replaced_or_written_to(tmp_path: Path) -> None:
    assert model_folder.stat_fingerprint(tmp_path / "nothing") == ()
    file = tmp_path / "one"
    file.write_text("1", encoding="utf-8")
    marks = [model_folder.stat_fingerprint(file), model_folder.stat_fingerprint(tmp_path)]
    assert [model_folder.stat_fingerprint(file), model_folder.stat_fingerprint(tmp_path)] == marks
    (tmp_path / "two").write_text("1", encoding="utf-8")
    (tmp_path / "two").replace(file)
    assert model_folder.stat_fingerprint(file) != marks[0]
    assert model_folder.stat_fingerprint(tmp_path) != marks[1]
