"""What `make up` does beside its processes, for a server elsewhere: the pool, the deployments, the rounds.

`python -m deploy.pool_setup --type kubernetes --template deploy/kubernetes/pool.json` in the folder where runs work.
"""

import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from flows.runtime import notify, settings
from flows.runtime.monitor import Monitor
from pipeline import params
from pipeline.command import UserError, arg_parser, echo, run

_START = 120.0  # seconds that the server may take


def prepare(kind: str, template: Path | None, retrain: dict[str, str]) -> None:
    """Make the pool that prefect.yaml names, of this kind, and deploy all; `retrain` are its job variables.

    Raises UserError where the pool is of another kind, or the deployments cannot be made.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    job = ProcessWorker.get_default_base_job_template()
    if template is not None:
        job = json.loads(template.read_text(encoding="utf-8"))
    with get_client(sync_client=True) as client:
        with suppress(ObjectAlreadyExists):  # of an earlier start; a person may have changed it
            client.create_work_pool(WorkPoolCreate(name=settings.POOL, type=kind, base_job_template=job))
        there = client.read_work_pool(settings.POOL).type
    if there != kind:
        raise UserError(
            f"found the work pool {settings.POOL} of type {there}, expected {kind}; delete it, or say {there}"
        )
    deploy = [sys.executable, "-m", "prefect", "--no-prompt", "deploy"]
    variables = [option for name, value in retrain.items() for option in ("--job-variable", f"{name}={value}")]
    for command in [[*deploy, "--all"], *([[*deploy, "--name", "retrain", *variables]] if variables else [])]:
        if subprocess.run(command, check=False).returncode:  # noqa: S603 - our own commands
            raise UserError("the deployments of prefect.yaml could not be made; see above")


def main() -> None:
    """Make the pool and the deployments, then look after crashed runs, the corpus and the inbox, until stopped."""
    from prefect.client.orchestration import get_client

    parser = arg_parser()
    parser.add_argument("--type", default="process", choices=["process", "docker", "kubernetes"])
    parser.add_argument("--template", type=Path, help="the pool's base job template")
    parser.add_argument("--retrain", type=json.loads, help="JSON: job variables of the deployment retrain")
    parser.add_argument("--once", action="store_true", help="end when the deployments are made")
    given = parser.parse_args()
    with get_client(sync_client=True) as client:
        deadline = time.monotonic() + _START
        while (problem := client.api_healthcheck()) is not None:
            if time.monotonic() > deadline:
                raise UserError(f"Prefect's server did not answer within {_START:g} seconds: {problem!r}")
            time.sleep(0.5)
        prepare(given.type, given.template, given.retrain or {})
        notify.crash_notice_automation(params.load().retrain.notify, ["retrain", "watch", "rollback"], echo)
        if given.once:
            return
        echo("deployed; looking after runs, the corpus and the inbox")
        rounds = Monitor(client, echo)
        while True:
            rounds.go()
            time.sleep(1)


if __name__ == "__main__":
    run(main)
