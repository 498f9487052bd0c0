"""The stages of `dvc.yaml`, one module each, and what they share."""

import os

# Nothing here calls home unless a person asks for it: each library reads its own switch when it is imported.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")

# Offline, whatever a folder or a setting makes a library look up. The stage `base` alone asks the hub: it takes this
# back, and knows by the second variable, which child processes inherit too, that it was not a person who said so.
if "HF_HUB_OFFLINE" not in os.environ:
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_OFFLINE_BY_DEFAULT": "1"}
os.environ.setdefault("HF_EVALUATE_OFFLINE", "1")

# Same inputs, same bytes: without these, MKL's sums may differ in their last digit from one run to the next, by how
# memory happens to be aligned and how many threads it finds free.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
os.environ.setdefault("MKL_DYNAMIC", "FALSE")
