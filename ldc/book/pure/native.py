"""What stands for `NativeLoop` where there is no extension. Python's `selectors` waits there."""

from typing import Any, Never


class NativeLoop:
    """Cannot be made, so that no selector is one."""

    def __new__(cls, *_arguments: Any, **_named: Any) -> Never:
        """Raise OSError, as where the system has no poll."""
        raise OSError("the loop without the GIL needs the extension")
