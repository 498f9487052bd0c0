"""The tests; before any of them imports prometheus_client, which asks only once where to keep its counters."""

import atexit
import os
import shutil
import tempfile

os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="prometheus-")
atexit.register(shutil.rmtree, os.environ["PROMETHEUS_MULTIPROC_DIR"])
