"""What `bentoml serve` checks before it starts: keys, proxies, the address it binds, and a free port."""

import logging
import os
from pathlib import Path

import click
from bentoml.exceptions import BentoMLException

from pipeline.command import UserError
from pipeline.params import Service
from serving import access, bentoml_internals, ports, proxies, supervisor
from serving.keys import Keys

logger = logging.getLogger("bentoml.serving")


def check(settings: Service) -> None:
    """Refuse to start with wrong keys or proxies, open to other machines without keys, or on a port that is in use.

    Does nothing but where `bentoml serve` runs. Raises BentoMLException, which BentoML prints as a sentence.
    """
    context = click.get_current_context(silent=True)
    if context is None or "host" not in context.params:
        return  # a worker, a build or a test
    proxies.trusted_networks(settings)
    keys = _checked_keys()
    host, port = bentoml_internals.configured_address()
    host = context.params["host"] or host
    port = port if context.params["port"] is None else context.params["port"]
    if not keys and not access.allows_anonymous(settings) and not access.is_loopback(host):
        raise BentoMLException(
            f"bound to {host}, the service would be open to other machines without an API key: set API_KEYS or "
            "API_KEYS_FILE (`python -m serving.keys new NAME` makes a key), bind it to 127.0.0.1, or allow everyone "
            "with ALLOW_ANONYMOUS=true or `allow_anonymous: true` in section `service` of params.yaml"
        )
    if reason := ports.unusable_reason(host, port):
        raise BentoMLException(f"{reason}; choose another one with --port N or BENTOML_PORT")
    supervisor.separate_metrics()
    if not keys and not access.is_loopback(host):
        logger.warning("bound to %s without API keys: whoever reaches this machine can use the model", host)


def _checked_keys() -> Keys:
    keys = Keys()
    try:
        keys.check()
    except UserError as error:
        raise BentoMLException(str(error)) from None
    if file := os.environ.get("API_KEYS_FILE"):
        os.environ["API_KEYS_FILE"] = str(Path(file).absolute())  # workers run in another folder
    return keys
