"""The stages of `dvc.yaml`, one module each, and the code they share."""

import logging
import os

# No telemetry, unless the user turns it on: each library reads its own switch when it is imported.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")

# Offline, whatever a model folder or a setting makes a library look up. Only the stage `base` contacts the hub: the
# second variable, which child processes inherit, tells it that the user did not ask for offline mode.
if "HF_HUB_OFFLINE" not in os.environ:
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_OFFLINE_BY_DEFAULT": "1"}
os.environ.setdefault("HF_EVALUATE_OFFLINE", "1")
# peft imports bitsandbytes where it is installed, which asks the hub for kernels, and warns that it got none.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

# Same inputs, same bytes: without these, MKL's sums differ in the last digit between runs, depending on how memory is
# aligned and how many threads are free.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
os.environ.setdefault("MKL_DYNAMIC", "FALSE")
