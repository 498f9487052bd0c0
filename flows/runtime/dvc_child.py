"""Bring one DVC node up to date and write the result as JSON: `python dvc_child.py RESULT_FILE NODE [--force]`.

`flows.runtime.stages` runs it in a process of its own, which can be ended with everything that it started. The result
comes from DVC's API, so that nothing depends on the wording of DVC's output.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

_INTERRUPTED = 130  # as a shell reports SIGINT, with which `flows.runtime.supervisor` ends this process


def main() -> None:
    """Run the node in the current folder; exit with 1 if it failed."""
    # `python -P` leaves out the folder of this file. The project comes last: its files must not shadow a library.
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    from pipeline.dvc_repo import reproduce

    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("result", metavar="RESULT_FILE", type=Path)
    parser.add_argument("node", metavar="NODE")
    parser.add_argument("--force", action="store_true")
    arguments = parser.parse_args()
    try:
        result = reproduce(arguments.node, force=arguments.force)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    arguments.result.write_text(json.dumps(asdict(result)), encoding="utf-8")
    sys.exit(0 if result.outcome else 1)


if __name__ == "__main__":
    main()
