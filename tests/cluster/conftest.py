"""Without Zenoh, as on a Python without the GIL, none of these tests can be imported."""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("zenoh") else ["test_*.py"]
