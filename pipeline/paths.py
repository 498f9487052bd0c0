"""Where each stage reads and writes, relative to the repository's root; `dvc.yaml` declares the same paths."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARAMS = Path("params.yaml")

BASE = Path("models/base")
BASE_TOKENIZER = BASE / "tokenizer.json"

CLEAN = Path("data/clean.parquet")
QUARANTINE = Path("reports/validate/quarantine.csv")
VALIDATE_METRICS = Path("reports/validate/metrics.json")
VALIDATE_REPORT = Path("reports/validate/report.html")
EXPECTATIONS = Path("reports/validate/expectations.json")

TOKENS = Path("data/tokens")
TOKEN_BUDGET = Path("reports/tokenize/token_budget.json")

CANDIDATE = Path("models/candidate")
MANIFEST = CANDIDATE / "manifest.json"
CHECKPOINTS = Path("models/checkpoints")
TRAINING_LOSS = Path("reports/finetune/training_loss.csv")
VALIDATION_LOSS = Path("reports/finetune/validation_loss.csv")
LOSS_CURVE = Path("reports/finetune/loss.svg")
FINETUNE_METRICS = Path("reports/finetune/metrics.json")

EVALUATE_METRICS = Path("reports/evaluate/metrics.json")
PERPLEXITY_PLOT = Path("reports/evaluate/perplexity.csv")
SCORES = Path("reports/evaluate/scores.parquet")
GENERATIONS = Path("reports/evaluate/generations.json")
SAMPLES = Path("reports/evaluate/samples.json")
SAMPLES_PAGE = Path("reports/evaluate/samples.md")

VERDICT = Path("reports/promote/verdict.json")
REPORT = Path("reports/promote/report.html")
REGISTRY = Path("registry")


@contextmanager
def scratch(stage: str) -> Iterator[Path]:
    """Yield an empty folder for what `stage` puts aside, and delete it; first the one that a killed run left.

    It lies beside the data, for the folder of temporary files is memory on many machines.
    """
    folder = Path("data") / f".{stage}"
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
