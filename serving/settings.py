"""Defaults and bounds of the HTTP service: section `service` of the params.yaml that lies beside service.py."""

from pathlib import Path

from bentoml.exceptions import BentoMLException

from pipeline import params, paths
from pipeline.command import UserError

ROOT = Path(__file__).absolute().parent.parent  # of the checkout, or of the bento's copy of it

try:
    LIMITS = params.load(ROOT / paths.PARAMS).service
except UserError as error:
    raise BentoMLException(str(error)) from None  # the one kind that `bentoml` prints without a traceback
