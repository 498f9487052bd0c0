"""`python -m pipeline.data_diff`: see `pipeline.data_diff.compare`."""

from pipeline.command import run
from pipeline.data_diff.compare import main

if __name__ == "__main__":
    run(main)
