"""Take the picture of a run's report that the README shows, with Chromium: `python docs/picture.py`."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "reports" / "promote" / "report.html"
PICTURE = ROOT / "docs" / "report.png"
WIDTH, HEIGHT = 770, 1300  # of each half: the verdict, and what was written
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")


def main() -> None:
    """Write the picture; exits with a sentence where there is no page, no browser or no picture."""
    if not PAGE.is_file():
        sys.exit(f"error: {PAGE} is not here; make it with `python -m pipeline.promote --dry-run`")
    if shutil.which("chromium") is None:
        sys.exit("error: chromium is not installed")
    halves = "".join(
        f'<iframe src="{PAGE.as_uri()}{part}" width="{WIDTH}" height="{HEIGHT}" style="border: 0"></iframe>'
        for part in ("", "#samples")
    )
    with tempfile.TemporaryDirectory() as folder:
        both = Path(folder) / "both.html"
        both.write_text(f'<!DOCTYPE html><body style="margin: 0; display: flex">{halves}', encoding="utf-8")
        done = subprocess.run(  # noqa: S603 - our own command
            [
                *("chromium", *FLAGS, "--hide-scrollbars", f"--user-data-dir={folder}/profile"),
                *(f"--window-size={2 * WIDTH},{HEIGHT}", f"--screenshot={folder}/both.png", both.as_uri()),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if not Path(folder, "both.png").is_file():
            sys.exit(f"error: chromium took no picture: {done.stderr[-500:]}")
        shutil.copy(Path(folder, "both.png"), PICTURE)


if __name__ == "__main__":
    main()
