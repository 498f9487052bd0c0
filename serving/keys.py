"""API keys: random, named, kept as hashes; `python -m serving.keys new NAME` makes one.

They come from API_KEYS (`name:hash,name:hash`), from the file that API_KEYS_FILE names (one `name:hash` a line, lines
with # are comments), or from both. The keys have 256 random bits, so a plain SHA-256 is as secure as a slow hash.
"""

import hashlib
import hmac
import logging
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from pipeline import command
from pipeline.command import UserError

logger = logging.getLogger("bentoml.serving")

PREFIX = "fg2_"  # lets scanners for leaked secrets recognise a key
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HASH = re.compile(r"[0-9a-f]{64}")
_FIX = "make one with `python -m serving.keys new NAME`"


def new(name: str) -> tuple[str, str]:
    """Return a new key, and the line `name:hash` to configure the service with."""
    if not _NAME.fullmatch(name):
        raise UserError(f"the name {name!r} of a key must be 1 to 64 of A-Z a-z 0-9 . _ -, not starting with . _ -")
    key = PREFIX + secrets.token_urlsafe(32)
    return key, f"{name}:{_hash(key)}"


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


class Keys:
    """The keys that the environment configures; a changed file is read again before the next request is allowed.

    It fails closed: with a variable or a file that is set but empty, missing or unreadable, no request is allowed, and
    of a partly invalid file only the valid lines count.
    """

    def __init__(self) -> None:
        """Take the variables from the environment."""
        self._list = os.environ.get("API_KEYS")
        self._file = Path(os.environ["API_KEYS_FILE"]) if "API_KEYS_FILE" in os.environ else None
        self._read_fingerprint: tuple[int, ...] | str | None = "not read yet"
        self._hashes: dict[str, str] = {}

    def __bool__(self) -> bool:
        """Return whether keys are required."""
        return self._list is not None or self._file is not None

    def check(self) -> None:
        """Raise a UserError that lists all problems."""
        _, problems = self._read() if self else ({}, [])
        if problems:
            raise UserError(f"the API keys are invalid: {'; '.join(problems)}; {_FIX}")

    def name(self, key: str) -> str | None:
        """Return the name of `key`, None if it is unknown. Takes equally long for every unknown key."""
        self._read_changes()
        hashed = _hash(key)
        result = None
        for known, name in self._hashes.items():
            if hmac.compare_digest(known, hashed):
                result = name
        return result

    def _fingerprint(self) -> tuple[int, ...] | None:
        """Return a fingerprint of the file's metadata; None without one."""
        try:
            stat = self._file.stat() if self._file else None
        except OSError:
            return None
        # ctime too: `cp -p` of a file of the same size may keep all the others.
        return (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino) if stat else None

    def _read_changes(self) -> None:
        """Read a changed file; log its problems and how many keys are valid."""
        fingerprint = self._fingerprint()
        if fingerprint == self._read_fingerprint:
            return
        self._read_fingerprint = fingerprint
        self._hashes, problems = self._read()
        if problems:
            logger.error("%d API keys are accepted; ignored: %s; %s", len(self._hashes), "; ".join(problems), _FIX)
        else:
            logger.info("read %d API keys", len(self._hashes))

    def _read(self) -> tuple[dict[str, str], list[str]]:
        """Return the name for each hash, and all problems as sentences."""
        hashes: dict[str, str] = {}
        problems: list[str] = []
        for place, entry in self._entries(problems):
            name, _, hashed = entry.partition(":")
            if not _NAME.fullmatch(name) or not _HASH.fullmatch(hashed):
                # The entry is not quoted: it may be a key that somebody pasted instead of its hash.
                problems.append(f"{place} is not NAME:HASH with a SHA-256 hash of 64 hexadecimal digits")
            elif hashed in hashes:
                problems.append(f"{place} has the same key as {hashes[hashed]!r}")
            elif name in hashes.values():
                problems.append(f"{place} has the name {name!r} a second time")
            else:
                hashes[hashed] = name
        if not hashes and not problems:
            problems.append(
                f"{self._file or 'API_KEYS'} holds no key, so all requests are refused; to require none, unset it"
            )
        return hashes, problems

    def _entries(self, problems: list[str]) -> Iterator[tuple[str, str]]:
        """Yield the place of each `name:hash`, and the entry; add to `problems` where the file cannot be read."""
        for number, entry in enumerate((self._list or "").split(","), 1):
            if entry.strip():
                yield f"entry {number} of API_KEYS", entry.strip()
        if self._file is None:
            return
        try:
            lines = self._file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        except OSError as error:
            problems.append(f"the API keys in {self._file} (API_KEYS_FILE) cannot be read: {error.strerror}")
            return
        for number, line in enumerate(lines, 1):
            if line.strip() and not line.lstrip().startswith("#"):
                yield f"line {number} of {self._file}", line.strip()


def main() -> None:
    """Run the command."""
    parser = command.arg_parser()
    actions = parser.add_subparsers(required=True, metavar="new")
    making = actions.add_parser("new", help="print a new key, once, and the line to configure the service with")
    making.add_argument("name", help="whose key it is; appears in the log")
    key, line = new(parser.parse_args().name)
    command.echo(f"the key, shown only now:           {key}\nfor API_KEYS or API_KEYS_FILE:     {line}")


if __name__ == "__main__":
    command.run(main)
