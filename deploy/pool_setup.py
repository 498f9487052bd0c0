"""Set up a Prefect server elsewhere as `fresh up` does here: the work pool, the deployments, and then the monitor.

Run it in the folder in which runs work:
`python -m deploy.pool_setup --type kubernetes --template deploy/kubernetes/pool.json`.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from flows.runtime import notify, work_pool
from flows.runtime.monitor import Monitor
from pipeline import params
from pipeline.command import UserError, arg_parser, echo, run


def deploy(retrain_variables: dict[str, str]) -> None:
    """Make the deployments in prefect.yaml.

    Args:
        retrain_variables: Job variables of the deployment `retrain`.

    Raises:
        UserError: A deployment could not be made.
    """
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy"]
    _run([*command, "--all"])
    if retrain_variables:
        options = [part for name, value in retrain_variables.items() for part in ("--job-variable", f"{name}={value}")]
        _run([*command, "--name", "retrain", *options])


def _run(command: list[str]) -> None:
    if subprocess.run(command, check=False).returncode:  # noqa: S603 - our own commands
        raise UserError("the deployments in prefect.yaml could not be made; see above")


def main() -> None:
    """Make the pool and the deployments; then watch for crashed runs, a changed corpus and dropped files."""
    from prefect.client.orchestration import get_client

    parser = arg_parser()
    parser.add_argument("--type", default="process", choices=["process", "docker", "kubernetes"])
    parser.add_argument("--template", type=Path, help="the pool's base job template")
    parser.add_argument("--retrain", type=json.loads, help="JSON: job variables of the deployment retrain")
    parser.add_argument("--once", action="store_true", help="end when the deployments are made")
    arguments = parser.parse_args()
    with get_client(sync_client=True) as client:
        work_pool.wait_for_server(client, lambda: None)
        work_pool.make_pool(client, arguments.type, arguments.template)
        deploy(arguments.retrain or {})
        notify.crash_notice_automation(params.load().retrain.notify, work_pool.FLOWS, echo)
        if arguments.once:
            return
        echo("deployed; watching for crashed runs, a changed corpus and dropped files")
        monitor = Monitor(client, echo)
        while True:
            monitor.poll()
            time.sleep(1)


if __name__ == "__main__":
    run(main)
