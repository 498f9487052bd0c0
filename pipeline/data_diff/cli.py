"""The command `python -m pipeline.data_diff OLD [NEW]`: it reads what the stages made and changes nothing."""

from pathlib import Path

from pipeline import params, paths
from pipeline.command import UserError, arg_parser, echo, echo_json
from pipeline.data_diff.compare import diff
from pipeline.data_diff.render import page, table
from pipeline.data_diff.resolve import clean_data_file


def main() -> None:
    """Run the command."""
    parser = arg_parser()
    source = "a clean parquet file, a git revision, a model folder, or a version of the registry (champion, a tag, ...)"
    parser.add_argument("old", metavar="OLD", help=source)
    parser.add_argument("new", metavar="NEW", nargs="?", default=str(paths.CLEAN), help=f"default: {paths.CLEAN}")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--page", metavar="FILE", type=Path, help="write an HTML page too")
    arguments = parser.parse_args()

    with clean_data_file(arguments.old) as old, clean_data_file(arguments.new) as new:
        result = diff(old, new, names=(arguments.old, arguments.new), region=_phone_region())
    if arguments.page:
        try:
            arguments.page.parent.mkdir(parents=True, exist_ok=True)
            arguments.page.write_text(page(result), encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"--page {arguments.page}: cannot be written ({error.strerror}); name another file"
            ) from None
    if arguments.json:
        echo_json(result.as_json())
    else:
        echo(table(result))


def _phone_region() -> str:
    """Return the region of the rule `phone`; outside a checkout there is none."""
    return params.load().validate_.rules.phone.region if paths.PARAMS.is_file() else "none"
