"""A file of the user that has a library's name is named, instead of an error that repeats for ever."""

import subprocess
import sys
import types
from pathlib import Path

import pytest

from ldc.network.libraries import require_library


def test_the_right_library_passes():
    require_library(pytest, "pytest", "raises", "fixture")


def test_another_module_is_named_with_its_file_and_what_to_do():
    module = types.ModuleType("websocket")
    module.__file__ = "somewhere/websocket.py"
    with pytest.raises(ImportError, match=r"somewhere/websocket\.py.*no WebSocket.*pip uninstall websocket"):
        require_library(module, "websocket-client", "WebSocket", "ABNF")


@pytest.mark.parametrize(
    ("file", "text", "package"),
    [
        ("websocket.py", "import json", "websocket-client"),
        ("websocket/__init__.py", "def create(): pass", "websocket-client"),
        ("requests.py", "def get(): pass", "requests"),
    ],
)
def test_a_program_beside_such_a_file_is_told_at_import(tmp_path: Path, file, text, package):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)
    (tmp_path / "bot.py").write_text("import ldc\n")
    ran = subprocess.run([sys.executable, "bot.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    last = ran.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ldc needs ")
    assert str(tmp_path / Path(file).parts[0]) in last
    assert f"of the package {package}" in last
