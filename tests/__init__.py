"""The tests; before any of them imports prometheus_client, which asks only once where to keep its counters.

Their own clients reach the servers that they start without a proxy that the environment may name.
"""

import atexit
import os
import shutil
import tempfile

os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="prometheus-")
atexit.register(shutil.rmtree, os.environ["PROMETHEUS_MULTIPROC_DIR"])

os.environ["NO_PROXY"] = os.environ["no_proxy"] = "localhost,127.0.0.1,::1"
