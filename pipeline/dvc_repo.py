"""The project as DVC sees it, with git or without, as after the download of a ZIP file.

Without git DVC stops unless its configuration says so. `python -m pipeline.dvc_repo` writes that where it is needed;
`make model` calls it, and whatever opens the repository here does the same.
"""

from pathlib import Path

from dvc.config import Config
from dvc.repo import Repo

from pipeline.command import UserError, arg_parser, run, warn

_FOLDER = Path(".dvc")


def open_repo(root: Path = Path()) -> Repo:
    """Return DVC's repository in `root`, to be used in a `with`; raises DVC's own exceptions."""
    allow_no_git(root)
    return Repo(str(root))


def allow_no_git(root: Path = Path()) -> None:
    """Let DVC work in `root` where it is in no git repository: for this copy alone, and said once."""
    folder = root.absolute()
    if not (root / _FOLDER).is_dir() or any((parent / ".git").exists() for parent in (folder, *folder.parents)):
        return
    config = Config(str(folder / _FOLDER))
    if config["core"].get("no_scm"):
        return
    with config.edit("local") as local:
        local["core"]["no_scm"] = True
    warn(
        "there is no git repository here, so no revision is recorded, and .dvc/config.local tells DVC to go on without "
        "(core.no_scm); after a `git init` take that back: `dvc config --local --unset core.no_scm`"
    )


def main() -> None:
    """Let DVC work here, with git or without."""
    arg_parser().parse_args()
    if not _FOLDER.is_dir():
        raise UserError(f"{_FOLDER}/ is not here; run the command from the root of the project's files")
    allow_no_git()


if __name__ == "__main__":
    run(main)
