"""Compare two clean data sets: rows, splits, lengths, words."""

from pipeline.command import run
from pipeline.data_diff.cli import main

if __name__ == "__main__":
    run(main)
