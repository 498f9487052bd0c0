"""Make pairs to rank from labelled texts: `python -m bench.rank_pairs train.csv data/pairs.csv --queries 1500`.

Each text is a query; its label's name, as a sentence, is its relevant passage, and those of other labels are drawn by
the seed. So a corpus such as banking77 becomes a search for the help page that answers a question. Labels that share
words are alike, which makes some of the others hard.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from pipeline.command import UserError, arg_parser, echo, run


def main() -> None:
    """Read the labelled texts and write the pairs."""
    parser = arg_parser()
    parser.add_argument("source", type=Path, help="a CSV with a column of texts and one of labels")
    parser.add_argument("target", type=Path, help="the CSV to write: query, passage, relevance")
    parser.add_argument("--text", default="text", help="the column of texts (%(default)s)")
    parser.add_argument("--label", default="category", help="the column of labels (%(default)s)")
    parser.add_argument("--queries", type=int, default=1500, help="how many texts, drawn by the seed (%(default)s)")
    parser.add_argument("--others", type=int, default=7, help="irrelevant passages of each (%(default)s)")
    parser.add_argument("--seed", type=int, default=42, help="of what is drawn (%(default)s)")
    arguments = parser.parse_args()
    table = pd.read_csv(arguments.source, dtype=str, keep_default_na=False)
    if missing := {arguments.text, arguments.label} - set(table.columns):
        raise UserError(f"{arguments.source}: there is no column {', '.join(sorted(missing))}; name it by an option")
    draw = random.Random(arguments.seed)
    texts = list(zip(table[arguments.text], table[arguments.label], strict=True))
    chosen = draw.sample(texts, min(arguments.queries, len(texts)))
    rows = list(pairs(chosen, sorted(set(table[arguments.label])), arguments.others, draw))
    arguments.target.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=["query", "passage", "relevance"]).to_csv(
        arguments.target, index=False, lineterminator="\n"
    )
    echo(f"{arguments.target}: {len(chosen)} queries, {len(rows)} pairs")


def pairs(
    texts: Sequence[tuple[str, str]], labels: Sequence[str], others: int, draw: random.Random
) -> Iterator[tuple[str, str, int]]:
    """Yield each text with its label's passage and those of `others` other labels, in random order."""
    for text, label in texts:
        drawn = [label, *draw.sample([other for other in labels if other != label], min(others, len(labels) - 1))]
        draw.shuffle(drawn)
        for name in drawn:
            yield text, passage(name), int(name == label)


def passage(label: str) -> str:
    """Return a label's name as the title of a help page."""
    return f"Help with: {label.replace('_', ' ').strip().lower()}"


if __name__ == "__main__":
    run(main)
