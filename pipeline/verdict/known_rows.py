"""Which test rows a model was chosen on: a fingerprint of them, kept with the version, and the search for it later.

A corpus grows at its end and a text never changes its split, so the old test rows come first, in their order.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any


def fingerprint(texts: Sequence[str]) -> dict[str, int | str]:
    """Return what `known_rows` needs to find these test rows again."""
    return {"rows": len(texts), "sha256": hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()}


def known_rows(texts: Sequence[str], chosen_on: Mapping[str, Any] | None) -> int | None:
    """Return how many of `texts`, from the first, have this fingerprint; None where they were changed since."""
    if not chosen_on:
        return None
    rows = int(chosen_on["rows"])
    return rows if fingerprint(texts[:rows]) == dict(chosen_on) else None
