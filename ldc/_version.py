"""The version, and nothing else: the build reads this file without running it."""

__all__ = ["__version__"]

__version__ = "0.1.0"
