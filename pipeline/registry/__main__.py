"""`python -m pipeline.registry`: see `pipeline.registry.store`."""

from pipeline.command import run
from pipeline.registry.store import main

if __name__ == "__main__":
    run(main)
