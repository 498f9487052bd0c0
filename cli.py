"""`fresh`: every command of the project, over the functions that stages, flows and the service use too.

Each command imports what it needs when it runs, so that `fresh --help` and shell completion answer at once.
"""

import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.command import NO, UserError, echo, echo_json, run

if TYPE_CHECKING:
    from pipeline.registry.store import Registry

VERSION = "A tag, a version or the beginning of one, champion, or previous."

app = typer.Typer(
    name="fresh",
    help="Fine-tune a text model on your data, judge it, serve it, and keep it fresh.",
    epilog="Exit codes: 0 done, 1 the answer is no, 2 a mistake you can fix (one sentence says how), 3 a crash.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"max_content_width": 100},
)
registry_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(registry_app, name="registry", help="List, compare, roll back and delete versions of the model.")


def utf8(value: str) -> str:
    """Return an option that is stored as text; bytes that are not UTF-8 are refused."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise typer.BadParameter(f"found bytes that are no UTF-8 text: {value!r}; write it in UTF-8") from None
    return value


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Why = Annotated[str, typer.Option(help="The reason, for the history.", parser=utf8, metavar="WHY")]
Force = Annotated[str | None, typer.Option(help="Promote in any case; WHY is recorded.", parser=utf8, metavar="WHY")]
Version = Annotated[str, typer.Argument(help=VERSION)]


# The loop: train, look, judge, serve


@app.command()
def train(
    stage: Annotated[str | None, typer.Argument(help="Stop after this stage, such as validate.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Run the stages even if nothing changed.")] = False,
) -> None:
    """Run the stages that a change affects (`dvc repro`), then show the result."""
    from pipeline import params
    from pipeline.dvc_repo import allow_no_git

    params.load()
    allow_no_git()
    options = [*(["--force"] if force else []), *([stage] if stage else [])]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }
    done = subprocess.run([sys.executable, "-m", "dvc", "repro", *options], env=environment, check=False)  # noqa: S603
    if done.returncode:
        raise UserError("`dvc repro` did not finish; the lines above say why")
    if stage is None:
        show()


@app.command()
def show(as_json: Json = False) -> None:
    """Show the last training run in ten lines."""
    from pipeline.reporting.summary import summary
    from pipeline.reporting.text_table import table

    lines = summary()
    _print(as_json, dict(lines), table(lines))


@app.command()
def promote(
    force: Force = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Judge and write the verdict, but change nothing else.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Judge the candidate; if it is better, make it the champion. Exit code 1: it is not."""
    from pipeline import params
    from pipeline.promote import carry_out, decide, outcome
    from pipeline.registry.store import Registry
    from pipeline.verdict import rendering

    decision = decide(params.load(), Registry(), force)
    verdict = decision.verdict
    champion = None if dry_run else carry_out(decision, why=force if verdict.forced is None else None)
    text = f"{rendering.text(verdict)}\n{outcome(decision, champion, is_dry_run=dry_run)}"
    _print(as_json, rendering.as_json(verdict), text)
    if not verdict.promoted:
        raise typer.Exit(NO)


@app.command()
def serve(
    port: Annotated[int | None, typer.Option(help="Port to listen on; BentoML's default is 3000.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; by default this machine alone.")] = None,
) -> None:
    """Serve the champion, and follow promotions and rollbacks live (`bentoml serve`)."""
    options = [*(["--port", str(port)] if port else []), *(["--host", host] if host else [])]
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", "serve", *options])  # noqa: S606


@app.command()
def pack(version: Annotated[str | None, typer.Argument(help=f"{VERSION} Or candidate, or base.")] = None) -> None:
    """Build a bento of a version, by default of the champion (or of the candidate if there is none)."""
    from pipeline import params
    from serving.pack import pack as pack_version

    params.load()  # fails outside a project
    echo(pack_version(Path().absolute(), version))


# Every night


@app.command()
def up(
    port: Annotated[int | None, typer.Option(help="Port of Prefect's server and UI.")] = None,
    service_port: Annotated[int, typer.Option(help="Port of the service.")] = 3000,
    service: Annotated[bool, typer.Option(help="Serve the model.")] = True,
    password: Annotated[bool, typer.Option(help="Ask for a password in Prefect's UI.")] = True,
) -> None:
    """Start Prefect, a worker and the service; Ctrl-C stops them all."""
    from flows.local_stack import run_stack

    run_stack(port, service_port if service else None, has_password=password)


@app.command()
def why(as_json: Json = False) -> None:
    """Say whether a retraining would run now, and why. Exit code 1: it would not."""
    from flows.triggers import find_reason

    reason = find_reason()
    _print(as_json, asdict(reason), reason.sentence)
    if not reason.run:
        raise typer.Exit(NO)


# Data and settings


@app.command()
def check(as_json: Json = False) -> None:
    """Check params.yaml and the format of the corpus; nothing is written."""
    from pipeline import fit_warnings, params
    from pipeline.intake.columns import check_columns
    from pipeline.intake.sniff import sniff_format
    from pipeline.reporting.text_table import table
    from serving import adapter_folder

    config = params.load()
    corpus = sniff_format(Path(config.data.path), config.data, config.validate_)
    check_columns(corpus, config.validate_)
    content = {
        "corpus": str(corpus.path),
        "format": corpus.format,
        "compression": corpus.compression,
        "encoding": corpus.encoding,
        "delimiter": corpus.delimiter,
        "columns": list(corpus.columns),
        "notes": [*corpus.fixes, *corpus.notes],
        "base": config.base,
        "adapters": adapter_folder.problems(Path().absolute(), config.service.adapters),
        **fit_warnings.read(config),
    }
    shown = {name: ", ".join(value) if isinstance(value, list) else value for name, value in content.items()}
    _print(as_json, content, table([(name, str(value)) for name, value in shown.items() if value]))


@app.command()
def estimate(
    base: Annotated[Path | None, typer.Option(help="A model's folder or config.json, in place of models/base.")] = None,
    gpu: Annotated[float | None, typer.Option(help="Plan for a GPU with so many GB, in place of this machine.")] = None,
    as_json: Json = False,
) -> None:
    """Plan the memory of training from the base's config alone. Exit code 1: params.yaml's settings do not fit."""
    from pipeline import params, paths
    from pipeline.reporting.text_table import table
    from pipeline.training import plan

    config = params.load()
    model = plan.read_config(base or paths.BASE)
    machine = plan.Machine.this() if gpu is None else plan.Machine(int(gpu * 1e9), is_gpu=True)
    rows = plan.Rows.of(config)
    plans = [
        plan.plan(model, setting, rows, machine) for setting in plan.alternatives(plan.Setting.of(config.finetune))
    ]
    content = {"verdict": plan.verdict(plans, machine), "settings": [plan.as_json(one, machine) for one in plans]}
    text = [
        f"GB of a process, in {rows}; the first line is params.yaml's",
        table(plan.table(plans, machine)),
        f"{content['verdict']}.",
    ]
    _print(as_json, content, "\n".join(text))
    if plans[0].total > machine.memory:
        raise typer.Exit(NO)


@app.command("params")
def print_params(
    section: Annotated[
        str | None, typer.Argument(help="A section or key, such as finetune or finetune.epochs.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the settings of params.yaml, checked."""
    from pipeline import params
    from pipeline.registry.rendering import flatten
    from pipeline.reporting.text_table import table

    values = flatten(params.load().model_dump(mode="json", by_alias=True))
    chosen = {key: value for key, value in values.items() if section is None or f"{key}.".startswith(f"{section}.")}
    if not chosen:
        raise UserError(f"params.yaml has no section or key {section!r}; `fresh params` lists all")
    _print(as_json, chosen, table([(key, str(value)) for key, value in chosen.items()]))


@app.command()
def diff(
    old: Annotated[str, typer.Argument(help="A clean Parquet file, a git revision, a model folder or a version.")],
    new: Annotated[str, typer.Argument(help="Likewise.")] = "data/clean.parquet",
    page: Annotated[Path | None, typer.Option(metavar="FILE", help="Write an HTML page, too.")] = None,
    as_json: Json = False,
) -> None:
    """Show what changed between two versions of the data."""
    from pipeline import params, paths
    from pipeline.data_diff import compare, render
    from pipeline.data_diff.resolve import clean_data_file

    region = params.load().validate_.rules.phone.region if paths.PARAMS.is_file() else "none"
    with clean_data_file(old) as before, clean_data_file(new) as after:
        result = compare.diff(before, after, names=(old, new), region=region)
    if page:
        try:
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(render.page(result), encoding="utf-8")
        except OSError as error:
            raise UserError(f"--page {page}: cannot be written ({error.strerror}); name another file") from None
    _print(as_json, result.as_json(), render.table(result))


# Versions


@registry_app.command("list")
def list_versions(as_json: Json = False) -> None:
    """List the versions, and which of them is the champion."""
    from pipeline.registry import rendering

    _print(as_json, *rendering.versions(_registry()))


@registry_app.command("show")
def show_version(version: Version = "champion", as_json: Json = False) -> None:
    """Show everything recorded about a version."""
    from pipeline.registry import rendering

    _print(as_json, *rendering.version(_registry(), version))


@registry_app.command("diff")
def diff_versions(a: Version, b: Version, as_json: Json = False) -> None:
    """Show what differs between two versions: settings, figures, labels, files, data."""
    from pipeline.registry import rendering

    _print(as_json, *rendering.difference(_registry(), a, b))


@registry_app.command()
def history(as_json: Json = False) -> None:
    """Show every promotion, refusal, rollback and deletion: who, when, from, to, why."""
    from pipeline.registry import rendering

    _print(as_json, *rendering.history(_registry()))


@registry_app.command()
def rollback(
    why: Why, version: Annotated[str | None, typer.Argument(help=VERSION)] = None, as_json: Json = False
) -> None:
    """Make an earlier version the champion again, by default the one before."""
    from pipeline.registry import rendering

    _print(as_json, *rendering.rollback(_registry(), version, why))


@registry_app.command()
def verify(version: Version = "champion", as_json: Json = False) -> None:
    """Read every byte of a version and compare it with what was added."""
    from pipeline.registry import rendering

    _print(as_json, *rendering.verify(_registry(), version))


@registry_app.command()
def delete(version: Version, as_json: Json = False) -> None:
    """Delete a version."""
    from pipeline.registry import rendering

    _print(as_json, *rendering.delete(_registry(), version))


@registry_app.command()
def prune(as_json: Json = False) -> None:
    """Delete the versions that are not among the last champions (registry.keep in params.yaml)."""
    from pipeline.registry import rendering

    _print(as_json, *rendering.prune(_registry()))


@registry_app.command()
def forget(folder: Annotated[Path, typer.Argument(help="Where the project was.")], as_json: Json = False) -> None:
    """Release the versions of a project whose folder is gone for good."""
    from pipeline.registry import rendering

    _print(as_json, *rendering.forget(_registry(), folder))


def _registry() -> "Registry":
    from pipeline import params
    from pipeline.registry.store import Registry

    params.load()  # fails outside a project
    return Registry()


def _print(as_json: bool, content: object, text: str) -> None:
    if as_json:
        echo_json(content)
    else:
        echo(text)


def main() -> None:
    """Run the command line."""
    run(_run_app)


def _run_app() -> None:
    try:
        app()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if (Path(__file__).parent / package).exists():
            raise  # a module of the project is missing: a bug, so show the traceback
        raise UserError(
            f"the package {package} is not installed in {sys.prefix}, the environment that `fresh` runs in; "
            "run `make .venv/installed` in the project's folder, then `source .venv/bin/activate`"
        ) from None


if __name__ == "__main__":
    main()
