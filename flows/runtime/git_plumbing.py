"""Commits made with git's plumbing and an index of their own.

A person's files, index, HEAD and branches stay as they are, no hook runs, and no signature is asked for.
"""

import hashlib
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FALLBACK_IDENTITY = {"NAME": "retrain", "EMAIL": "retrain@localhost"}  # if git knows no person
_STALE_LOCK = 600.0  # seconds; git holds the lock on a reference for milliseconds, so a killed process left it
# Settings for a person's own work, which must not act on these commits.
_OVERRIDES = {"core.hooksPath": os.devnull, "core.fsmonitor": "false", "core.splitIndex": "false"}
_CHUNK = 1 << 20  # bytes


class GitError(Exception):
    """Git refused, or is not usable here; the message is one sentence."""


class Git:
    """Git in one folder: a call returns what the command prints, and raises GitError if it fails."""

    def __init__(self, root: Path) -> None:
        """Raise GitError if git is not installed or `root` is in no repository with a work tree."""
        self._root = root
        self._environment = {**os.environ, "LC_ALL": "C", "GIT_LITERAL_PATHSPECS": "1", "GIT_OPTIONAL_LOCKS": "0"}
        self("rev-parse", "--show-toplevel")
        roles = ("AUTHOR", "COMMITTER")
        # useConfigOnly: git must not guess an identity from the machine's name.
        if any(self.code("-c", "user.useConfigOnly=true", "var", f"GIT_{role}_IDENT") for role in roles):
            self._environment |= {
                f"GIT_{role}_{key}": value for role in roles for key, value in _FALLBACK_IDENTITY.items()
            }

    def __call__(self, *arguments: str, stdin: str = "") -> str:
        """Return what the command prints."""
        result = self._run(arguments, stdin)
        if result.returncode:
            lines = [line for line in result.stderr.splitlines() if line] or [f"git {arguments[0]} failed"]
            raise GitError(re.sub(r"^(fatal|error): ", "", lines[0]))
        return result.stdout.strip("\n")

    def code(self, *arguments: str) -> int:
        """Return the command's exit code."""
        return self._run(arguments).returncode

    def tracked(self, *names: str) -> list[str]:
        """Return the files at and below these paths that the index has."""
        return self._list_files("--cached", *["--", *names])

    def untracked(self, *names: str, ignored: bool = False) -> list[str]:
        """Return the files at and below these paths that the index lacks; with `ignored`, also those git ignores."""
        return self._list_files("--others", *["--exclude-standard"] * (not ignored), "--", *names)

    def _list_files(self, *arguments: str) -> list[str]:
        names = self("ls-files", "-z", *arguments).split("\0")
        return [name for name in dict.fromkeys(names) if name and not name.endswith("/")]

    def commit(self, name: str) -> str | None:
        """Return the commit that a name resolves to; None if there is none."""
        return self._run(("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")).stdout.strip() or None

    @contextmanager
    def index(self, commit: str | None) -> Iterator[None]:
        """Give the commands in this block an index of their own, with the content of `commit`."""
        with tempfile.TemporaryDirectory(prefix="retrain_") as folder:
            outer = self._environment
            self._environment = {**outer, "GIT_INDEX_FILE": str(Path(folder) / "index")}
            try:
                self("read-tree", commit or "--empty")
                yield
            finally:
                self._environment = outer

    def add(self, names: list[str]) -> None:
        """Update files in the index to their state in the folder, deletions included; submodules stay as they are."""
        folders = [name for name in names if (self._root / name).is_dir()]
        replaced = [name for name in folders if not (self._root / name / ".git").exists()]  # files that became folders
        for options, group in (
            (("--force-remove",), replaced),
            (("--add", "--remove", "--replace"), set(names) - {*folders}),
        ):
            self("update-index", *options, "-z", "--stdin", stdin="".join(f"{name}\0" for name in sorted(group)))

    def make_commit(self, tree: str, parents: list[str], message: str) -> str:
        """Return a new commit, which no branch holds yet."""
        options = [part for parent in parents for part in ("-p", parent)]
        return self("commit-tree", "--no-gpg-sign", tree, *options, "-F", "-", stdin=message)

    def check_not_checked_out(self, ref: str) -> None:
        """Raise GitError if a worktree has the branch checked out: its files would look edited once it moves."""
        worktree = ""
        for line in self("worktree", "list", "--porcelain").splitlines():
            key, _, value = line.partition(" ")
            if key == "worktree":
                worktree = value
            elif (key, value) == ("branch", ref):
                name = ref.removeprefix("refs/heads/")
                raise GitError(
                    f"the branch {name} is checked out in {worktree}; switch to another branch there, or set another "
                    "one as retrain.branch in params.yaml"
                )

    def move(self, ref: str, commit: str, expected: str | None) -> None:
        """Move a reference from `expected` (None: it is new) to `commit`; GitError if it is elsewhere by now."""
        lock = Path(self("rev-parse", "--path-format=absolute", "--git-path", f"{ref}.lock"))
        if lock.exists() and time.time() - lock.stat().st_mtime > _STALE_LOCK:
            lock.unlink()
        self("update-ref", "--create-reflog", "-m", "retrain", ref, commit, expected or "0" * len(commit))

    def md5(self, commit: str, name: str) -> str | None:
        """Return the MD5 of a file as a checkout of the commit would have it; None if the commit lacks it."""
        command = self._command(("cat-file", "--filters", f"{commit}:./{name}"))
        with subprocess.Popen(  # noqa: S603
            command, cwd=self._root, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdout is not None
            digest = hashlib.md5(usedforsecurity=False)
            while chunk := process.stdout.read(_CHUNK):
                digest.update(chunk)
        return None if process.returncode else digest.hexdigest()

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        return ["git", *[part for name, value in _OVERRIDES.items() for part in ("-c", f"{name}={value}")], *arguments]

    def _run(self, arguments: tuple[str, ...], stdin: str = "") -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(  # noqa: S603
                self._command(arguments),
                cwd=self._root,
                env=self._environment,
                input=stdin,
                capture_output=True,
                encoding="utf-8",
                errors="surrogateescape",
                check=False,
            )
        except FileNotFoundError:
            raise GitError("git is not installed") from None
