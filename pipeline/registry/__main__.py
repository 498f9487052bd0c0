"""Versions of the model, which of them is the champion, and how it became that."""

from pipeline.command import run
from pipeline.registry.cli import main

if __name__ == "__main__":
    run(main)
