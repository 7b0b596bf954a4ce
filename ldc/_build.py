"""How the installed package was built: "source", until the build puts its own copy of this file into the wheel.

In a wheel `BUILD` is what `LDC_BUILD` said ("release", "checked", "trace", "sanitize"), or "pure-python" if there is no
extension in it because `LDC_PURE_PYTHON=1` asked for that. Only then may the extension be missing: see `ldc.book`.
"""

__all__ = ["BUILD"]

BUILD = "source"
