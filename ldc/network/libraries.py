"""Whether a library is the one that ldc was written for. A file of the user may have its name."""

from types import ModuleType


def require_library(module: ModuleType, package: str, *names: str) -> None:
    """Raise ``ImportError`` if a module lacks one of these names: then another file was imported in its place.

    Args:
        module: what ``import`` has found.
        package: what provides the right one, as pip calls it.
        names: what ldc uses of it.
    """
    missing = [name for name in names if not hasattr(module, name)]
    if not missing:
        return
    name = module.__name__
    found = getattr(module, "__file__", None) or ", ".join(map(str, getattr(module, "__path__", ()))) or "no file"
    raise ImportError(
        f"ldc needs {name} of the package {package}, but `import {name}` finds {found}, which has no {missing[0]}. "
        f"Rename that file; or if the package {name!r} is installed, run `pip uninstall {name}` and "
        f"`pip install --force-reinstall {package}`."
    )
