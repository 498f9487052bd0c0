"""params.yaml is checked as a whole, before any work."""

import os
import subprocess
import sys

import pytest

from pipeline import params
from pipeline.command import UserError
from tests.conftest import ROOT, Workspace


def test_the_params_that_come_with_the_project_are_valid_and_the_recipes() -> None:
    loaded = params.load(ROOT / "params.yaml")
    assert loaded.base == "starter"
    assert (loaded.finetune.learning_rate, loaded.finetune.batch_size, loaded.finetune.epochs) == (5e-5, 2, 3)


def test_params_cannot_be_changed_after_loading() -> None:
    loaded = params.load(ROOT / "params.yaml")
    with pytest.raises(ValueError, match="frozen"):
        loaded.finetune.epochs = 4


def test_all_problems_are_reported_at_once_each_with_key_found_and_allowed(workspace: Workspace) -> None:
    workspace.set(
        base=3,
        finetune__epochs="3",
        finetune__dropout=1.5,
        finetune__lerning_rate=1e-4,
        tokenize__strategy="padd",
        validate__test_share=0.95,
        tokeniser={},
    )
    with pytest.raises(UserError) as caught:
        params.load()
    assert sorted(str(caught.value).splitlines()) == [
        "params.yaml: base: found 3, but it should be a valid string",
        "params.yaml: finetune.dropout: found 1.5, but it should be less than 1",
        "params.yaml: finetune.epochs: found '3', but it should be a valid integer",
        "params.yaml: finetune.lerning_rate: unknown key; did you mean learning_rate?",
        "params.yaml: tokeniser: unknown key; did you mean tokenize?",
        "params.yaml: tokenize.strategy: found 'padd', but it should be 'pad' or 'pack'",
        "params.yaml: validate: validation_share and test_share together must leave texts for training (below 1)",
    ]


def test_what_does_not_fit_together_in_the_service_is_told_all_at_once(workspace: Workspace) -> None:
    origins = ["https://page.example", "example.com/x", "https://page.example/"]
    workspace.set(service__default_new_tokens=600, service__max_body_bytes=100, service__allow_origins=origins)
    with pytest.raises(UserError) as caught:
        params.load()
    assert str(caught.value) == (
        "params.yaml: service: default_new_tokens must not be above max_new_tokens; "
        "max_prompt_characters must not be above max_body_bytes; "
        "allow_origins: 'example.com/x' is no origin, such as https://app.example.com, nor *; "
        "allow_origins: 'https://page.example/' is no origin, such as https://app.example.com, nor *"
    )


@pytest.mark.parametrize(
    ("settings", "problems"),
    [
        (
            {"batch_size": 5, "devices": 2},
            "batch_size: found 5, the rows of a step on all devices, which is no multiple of devices (2); set it to"
            " one, for example 6",
        ),
        (
            {"batch_size": 24, "devices": 2, "rows_at_once": 5},
            "rows_at_once: found 5, but a device has 12 rows of each step (batch_size over devices), no multiple of it;"
            " set it to 4, or to all",
        ),
        (
            {"frozen_weights": "nf4"},
            "frozen_weights: found nf4, but lora_rank is 0, so no weights are frozen; set lora_rank to 8, or"
            " frozen_weights to fp32",
        ),
        (
            {"sharding": "fsdp", "batch_size": "auto", "frozen_weights": "nf4", "lora_rank": 8},
            "sharding: found fsdp, which splits a model among devices, but devices is 1; set devices to 2 or more, or"
            " sharding to none; batch_size: found auto, but with sharding: fsdp no process holds the model that would"
            " be measured; set a number of rows (`fresh estimate` plans what they take); frozen_weights: found nf4, but"
            " sharding: fsdp splits weights of 32 bits alone; set frozen_weights to fp32, or sharding to none",
        ),
    ],
    ids=["devices", "parts", "nothing frozen", "split"],
)
def test_what_does_not_fit_together_in_training_is_told_all_at_once(
    workspace: Workspace, settings: dict[str, object], problems: str
) -> None:
    workspace.set(**{f"finetune__{key}": value for key, value in settings.items()})
    with pytest.raises(UserError) as caught:
        params.load()
    assert str(caught.value) == f"params.yaml: finetune: {problems}"


def test_a_missing_key_is_named(workspace: Workspace) -> None:
    path = workspace.folder / "params.yaml"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "weight_decay" not in line))
    with pytest.raises(UserError, match=r"^params.yaml: finetune.weight_decay: missing"):
        params.load()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("a: [", "params.yaml is not readable as YAML"),
        ("a: 1\na: 2", r"duplicate key .* \(line 2: 'a: 2', from line 1: 'a: 1'\)"),
        ("a: 1\n\tb: 2", r"found a tab character .* \(line 2: '\\tb: 2'"),
        ("a: 1\nb: 'x\nc: 2", r"found unexpected end of stream while scanning a quoted scalar \(.*line 2: \"b: 'x\"\)"),
        ("a: 1\nb: c: d", r"mapping values are not allowed in this context \(line 2: 'b: c: d'\)"),
        ("a: 1\nb: \x07", r"line 2 holds the control character '\\x07'; delete it"),
        ("a: é\nb: \x07", r"line 2 holds the control character '\\x07'; delete it"),
        ("a: é\n\0", r"line 2 holds the control character '\\x00'; delete it"),
        ("a: 1\nb: 2024-13-45", r"cannot read '2024-13-45' \(month must be in 1..12\) \(line 2: 'b: 2024-13-45'\)"),
        ("a: 1\nb: [!!int x]", r"cannot read 'x' \(.*\) \(line 2"),
        ("a: !!bool x", r"cannot read 'x' .* \(line 1"),
        ("a: 1\nb: " + "9" * 5000, r"cannot read '999+\.\.\.9+' .* \(line 2: 'b: 9+\.\.\.9+'\)"),
        ("a: 0x" + "f" * 5000, r"the number '0xf+\.\.\.f+' is beyond 9223372036854775807 \(line 1"),
        ("a: -9223372036854775809", r"the number '-9223372036854775809' is beyond"),
        ("base: " + "[" * 18 + "]" * 18, r"base: found \[+\.\.\.\]+, but it should be a valid string"),
        ("a: 1\nb: " + "{c: " * 50_000, "params.yaml, line 2: is nested more than 20 levels deep"),
        ("? " * 50_000, "params.yaml, line 1: is nested more than 20 levels deep"),
        ("a: 1\n" + "k" * 100_000 + ": c", r"could not find expected ':' .*'k+\.\.\.k+"),
        ("", "params.yaml: the whole file: found None"),
        ("- 1", "params.yaml: the whole file: found"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(workspace: Workspace, content: str, sentence: str) -> None:
    (workspace.folder / "params.yaml").write_text(content)
    with pytest.raises(UserError, match=sentence) as caught:
        params.load()
    assert max(map(len, str(caught.value).splitlines())) < 600


def test_a_pipe_is_not_waited_for(workspace: Workspace) -> None:
    (workspace.folder / "params.yaml").unlink()
    os.mkfifo(workspace.folder / "params.yaml")
    with pytest.raises(UserError, match=r"params.yaml is no regular file"):
        params.load()


def test_a_missing_file_is_named(workspace: Workspace) -> None:
    (workspace.folder / "params.yaml").unlink()
    with pytest.raises(UserError, match=r"params.yaml is not here; run the command from the repository's root"):
        params.load()


def test_the_command_prints_sentences_and_no_traceback(workspace: Workspace) -> None:
    workspace.set(finetune__epochs=0)
    command = [sys.executable, "-m", "cli", "params"]
    done = subprocess.run(command, cwd=workspace.folder, capture_output=True, text=True, env=_importable())
    assert done.returncode == 2
    assert done.stderr == "error: params.yaml: finetune.epochs: found 0, but it should be greater than or equal to 1\n"


def test_a_path_beyond_the_machines_encoding_is_a_sentence(workspace: Workspace) -> None:
    workspace.set(data__path="data/caf\u00e9.csv")
    command = [sys.executable, "-m", "cli", "params"]
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment = {**_importable(), **ascii_only}
    done = subprocess.run(command, cwd=workspace.folder, capture_output=True, text=True, env=environment)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "this machine's encoding of file names (ascii); set PYTHONUTF8=1" in done.stderr


def _importable() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_how_the_corpus_is_to_be_read_is_checked_with_the_rest(workspace: Workspace) -> None:
    workspace.set(
        data__encoding="utf8-ish",
        data__delimiter="semicolon",
        data__quote="",
        validate__rules__email__severity="off",
        validate__rules__too_short__min_characters=9000,
    )
    with pytest.raises(UserError) as caught:
        params.load()
    assert sorted(str(caught.value).splitlines()) == [
        "params.yaml: data.delimiter: found 'semicolon'; expected one character or auto",
        "params.yaml: data.encoding: found 'utf8-ish', which names no encoding; expected auto or one of Python's "
        "names, such as utf-8, utf-16, cp1252, latin-1, big5, shift_jis",
        "params.yaml: data.quote: found ''; expected one character, auto or none",
        "params.yaml: validate.rules.email.severity: found 'off', but it should be 'critical', 'warning' or 'ignore'",
    ]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("watch__inbox", ".", "watch.inbox: . is the project's folder"),
        ("watch__inbox", "..", "watch.inbox: .. is the project's folder"),
        ("watch__inbox", "data", "watch.inbox: data holds data/tales.csv"),
        ("watch__inbox", "./data//", "watch.inbox: data holds data/tales.csv"),
        ("watch__inbox", "data/tales.csv", "watch.inbox: data/tales.csv holds data/tales.csv"),
        ("watch__inbox", "link", "watch.inbox: link holds data/tales.csv"),
        ("watch__inbox", "models", "watch.inbox: models holds models/base"),
        ("watch__inbox", "data/tokens/in", "watch.inbox: data/tokens/in is in data/tokens"),
        ("watch__inbox", "reports/in", "watch.inbox: reports/in is in reports"),
        ("watch__inbox", "pipeline/intake", "watch.inbox: pipeline/intake is in pipeline"),
        ("watch__inbox", "starter", "watch.inbox: starter holds starter"),
        ("watch__inbox", "a-file", "watch.inbox: a-file is a file"),
        ("data__path", "reports/validate/quarantine.csv", "is in reports, which belongs to the pipeline"),
        ("data__path", "linked.csv", "is in reports, which belongs to the pipeline"),
        ("data__path", "data/../data/clean.parquet", "data.path: data/clean.parquet belongs to the pipeline"),
        ("data__path", "models/candidate/x.csv", "is in models/candidate"),
        ("data__path", "params.yaml", "data.path: params.yaml belongs to the pipeline"),
        ("data__path", "data/inbox/mine.csv", "watch.inbox: data/inbox holds data/inbox/mine.csv"),
        ("data__path", "a\0b", "with a control character"),
        ("data__path", "x" * 300, "found a name longer than 200 bytes"),
        ("base", "models/base", "base: models/base belongs to the pipeline"),
        ("base", "models/candidate/", "base: models/candidate belongs to the pipeline"),
        ("base", "registry/x", "base: registry/x is in registry"),
        ("retrain__notify", "slack", "retrain.notify: found 'slack'"),
        (
            "service__adapters",
            {"previous": "../legal"},
            "adapters: 'previous' cannot be a name; expected letters",
        ),
        ("service__adapters", {"a b": "../legal"}, "adapters: 'a b' cannot be a name"),
        ("service__adapters", {"a": "s3://b/c"}, "adapters.a: 's3://b/c' is no folder on this machine"),
        ("service__adapters", {"legal": 1}, "service.adapters.legal: found 1, but it should be a valid string"),
        ("service__allow_origins", ["http://["], "allow_origins: 'http://[' is no origin"),
        ("service__allow_origins", ["https://a.example:b"], "is no origin"),
    ],
)
def test_a_setting_that_names_the_pipelines_own_files_is_refused(
    workspace: Workspace, key: str, value: object, said: str
) -> None:
    for folder in ("data", "models", "starter", "reports/validate"):
        (workspace.folder / folder).mkdir(parents=True)
    (workspace.folder / "link").symlink_to("data")
    (workspace.folder / "a-file").touch()
    (workspace.folder / "reports/validate/quarantine.csv").touch()
    (workspace.folder / "linked.csv").symlink_to("reports/validate/quarantine.csv")
    workspace.set(**{key: value})
    with pytest.raises(UserError) as caught:
        params.load()
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_paths_outside_the_project_and_links_into_dvcs_cache_are_fine(
    workspace: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    cached = workspace.folder / ".dvc/cache/files/md5/ab/cdef"
    cached.parent.mkdir(parents=True)
    cached.touch()
    (workspace.folder / "data").mkdir()
    (workspace.folder / "data/mine.csv").symlink_to(cached)
    workspace.set(data__path="data/mine.csv", watch__inbox=str(elsewhere), base=f"{elsewhere}/model")
    params.load()


TALE = "Once upon a time in a distant land"


@pytest.mark.parametrize(
    ("prompts", "path", "selected"),
    [
        ({"data/tales.csv": [TALE]}, "data/tales.csv", (TALE,)),
        ({"data/tales.csv": [TALE]}, "./data/tales.csv", (TALE,)),
        ({"data/tales.csv": [TALE]}, "data/mine.csv", ()),
        ([TALE], "data/mine.csv", (TALE,)),
        (None, "data/tales.csv", ()),
    ],
)
def test_prompts_are_those_of_the_corpus(
    workspace: Workspace, prompts: object, path: str, selected: tuple[str, ...]
) -> None:
    assert params.load().evaluate.prompts[0] == TALE  # as the file comes: the sample's
    workspace.set(evaluate__prompts=prompts, data__path=path)
    assert params.load().evaluate.prompts == selected


def test_a_mistake_in_the_prompts_of_the_corpus_is_named(workspace: Workspace) -> None:
    workspace.set(evaluate__prompts={"data/tales.csv": [7]})
    with pytest.raises(UserError, match=r"evaluate\.prompts\.0: found 7"):
        params.load()
    workspace.set(evaluate__prompts=7)
    with pytest.raises(UserError, match=r"evaluate\.prompts: found 7"):
        params.load()


def test_one_file_has_one_name(workspace: Workspace) -> None:
    workspace.set(data__path="./data//x/../mine.csv", watch__inbox="incoming/", base="./starter")
    loaded = params.load()
    assert (loaded.data.path, loaded.watch.inbox, loaded.base) == ("data/mine.csv", "incoming", "starter")


@pytest.mark.parametrize(
    "branch",
    [
        *("retrain", "nightly/main", "a.b", "x@y", "é", "head", "@x", "a-", "HEADS"),
        *("a..b", ".a", "a/.b", "a.lock", "a.lock/b", "a b", "a~", "a^", "a:", "a?", "a*", "a[", "a\\b", "/a", "a/"),
        *("a//b", "a.", "@{", "a@{b", "@", "a\tb", "a\x7fb", "-a", "HEAD", "a\n"),
    ],
)
def test_a_branch_is_what_git_takes_for_one(workspace: Workspace, branch: str) -> None:
    git = subprocess.run(["git", "check-ref-format", "--branch", branch], capture_output=True, cwd=workspace.folder)
    workspace.set(retrain__branch=branch)
    if git.returncode == 0 and branch not in ("@", "HEAD"):  # which git takes for the present one's name
        assert params.load().retrain.branch == branch
    else:
        with pytest.raises(UserError, match=r"retrain\.branch: found .* which git takes for no branch"):
            params.load()
