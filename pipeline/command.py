"""How every command of the pipeline ends: quietly, or with one sentence for its user."""

import sys
from collections.abc import Callable
from typing import NoReturn

from tqdm import tqdm

MISTAKE_OF_THE_CALLER = 2  # as argparse has it; 1 is left for "the verdict is no"


class UserError(Exception):
    """A mistake that the user can mend; its text names what was found, what was expected and the mend."""


def say(sentence: str) -> None:
    """Print a sentence for the user beside the command's output, on a line of its own above a progress bar."""
    tqdm.write(sentence, file=sys.stderr)


def run(main: Callable[[], None]) -> NoReturn:
    """Call `main`, then exit with 0; a UserError is printed without its traceback and exits with 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the message is the command's output
        sys.exit(MISTAKE_OF_THE_CALLER)
    except KeyboardInterrupt:
        sys.exit(130)  # what a shell reports for a command ended by Ctrl-C
    sys.exit(0)
