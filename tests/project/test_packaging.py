"""What the sdist and the wheels carry, that the build says what it built, and that nothing falls back in silence.

The installed package is looked at as it is: it is what the wheel carried. The sdist and the plain Python wheel need no
compiler and are built here, from a copy of the sources; compiling from the sdist takes long: that is for `make check`.
"""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

import ldc
from ldc._build import BUILD

# What several of them look into is built once.
pytestmark = pytest.mark.xdist_group("packaging")

PROJECT = Path(__file__).parents[2]
NAME = "binance_local_depth_cache"
SOURCE_SUFFIXES = {".c", ".pxi", ".pyx"}


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, without the LDC_ variables of this process."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LDC_")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder, env=inherited | environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def settings_of_project() -> dict[str, Any]:
    return tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))


def build(folder: Path, kind: str, **environment: str) -> Path:
    """Build the sdist or the wheel of the sources in `folder` as an installer does, and return the file."""
    hook = f"from setuptools import build_meta; print('built', build_meta.build_{kind}('dist'))"
    built = run(folder, "-c", hook, **environment)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "dist" / built.stdout.split()[-1]


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources") / "project"
    left_behind = shutil.ignore_patterns(".git", ".venv*", "build", "dist", "*.egg-info", ".*_cache", ".hypothesis")
    shutil.copytree(PROJECT, folder, ignore=left_behind)
    # What must not get in lies around, as it would after building in place.
    (folder / "ldc" / "_book.c").write_text("/* generated */")
    (folder / "ldc" / f"_book{'.so'}").write_text("binary")
    return build(folder, "sdist")


@pytest.fixture(scope="session")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    [project] = folder.iterdir()
    return project


@pytest.fixture(scope="session")
def pure_wheel(unpacked: Path) -> Path:
    return build(unpacked, "wheel", LDC_PURE_PYTHON="1")


def unpack_wheel(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


# ------------------------------------------------------------------------------------------------------- what is where


def test_the_sdist_carries_the_sources_and_nothing_that_a_build_made(sdist: Path, unpacked: Path) -> None:
    with tarfile.open(sdist) as archive:
        carried = {Path(*Path(name).parts[1:]).as_posix() for name in archive.getnames()}
    written = {path.relative_to(PROJECT).as_posix() for path in (PROJECT / "ldc").iterdir() if path.is_file()}
    written = {name for name in written if Path(name).suffix in (".py", ".pyi", ".pyx", ".pxi", ".typed")}
    assert len(written) > 10
    assert written - carried == set()
    assert {"setup.py", "pyproject.toml", "LICENSE", "README.md", "Makefile", ".ci/run"} - carried == set()
    assert {"binance_local_depth_cache.py", "tests/project/test_packaging.py", "docs/order-book.md"} - carried == set()
    assert {"mkdocs.yml", "docs/reference/manager.md", "examples/top_of_book.py"} - carried == set()
    made = (".c", ".so", ".pyd", ".html", ".pyc")
    assert [name for name in carried if name.endswith(made) and "/static/" not in name] == []


def test_the_installed_package_carries_types_and_no_sources_of_the_extension() -> None:
    if BUILD == "source":
        pytest.skip("ldc is run from its sources here; `make test` installs it")
    files = importlib.metadata.files(NAME)
    names = {str(file) for file in files or () if ".dist-info" not in str(file) and "__pycache__" not in str(file)}
    extensions = {name for name in names if name.endswith((".so", ".pyd"))}
    assert {"ldc/py.typed", "ldc/_book.pyi", "ldc/__init__.py", "binance_local_depth_cache.py"} - names == set()
    assert {name for name in names if Path(name).suffix in SOURCE_SUFFIXES} == set()
    assert len(extensions) == (0 if BUILD == "pure-python" else 1)
    assert importlib.metadata.version(NAME) == ldc.__version__


def test_only_the_declared_libraries_are_required() -> None:
    project = settings_of_project()["project"]
    assert sorted(requirement.split(">")[0] for requirement in project["dependencies"]) == [
        "requests",
        "websocket-client",
    ]


def test_wheels_are_built_and_tested_for_every_python_that_is_promised() -> None:
    settings = settings_of_project()
    promised = re.findall(r"Python :: (3\.\d+)", " ".join(settings["project"]["classifiers"]))
    assert f">={promised[0]}" == settings["project"]["requires-python"]
    built = [f"3.{name[3:5]}" for name in settings["tool"]["cibuildwheel"]["build"]]
    tested = (PROJECT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    assert set(promised) <= set(built) == set(re.findall(r'"(3\.\d+)"', re.search(r"python: \[.*\]", tested)[0]))


def test_wheels_without_the_gil_are_built_and_tested_where_that_is_promised() -> None:
    settings = settings_of_project()
    assert any("Free Threading ::" in each for each in settings["project"]["classifiers"])
    assert '"freethreading_compatible": True' in (PROJECT / "setup.py").read_text(encoding="utf-8")
    built = [f"3.{name[3:6]}" for name in settings["tool"]["cibuildwheel"]["build"] if name[5] == "t"]
    tested = (PROJECT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    assert built == re.findall(r'python-version: "(3\.\d+t)"', tested)


def test_wheels_without_the_gil_are_tested_with_all_that_can_be_had_there() -> None:
    settings = settings_of_project()
    extras = settings["project"]["optional-dependencies"]["test"]
    [ours] = [each for each in extras if each.startswith("binance-local-depth-cache")]
    [override] = settings["tool"]["cibuildwheel"]["overrides"]
    had = ours.replace("cluster,", "")  # Zenoh has no wheel for Python without the GIL
    assert f"binance-local-depth-cache[{','.join(override['test-extras'])}]" == had
    assert [each for each in extras if each != ours and not each.startswith("orjson")] == override["test-requires"]


@pytest.mark.parametrize("platform", ["linux", "macos", "windows"])
def test_cibuildwheel_builds_the_wheels_that_are_asked_for(platform: str) -> None:
    """An identifier that it does not know it leaves out, and says nothing."""
    pytest.importorskip("cibuildwheel", reason="cibuildwheel 4 is not installed")
    told = run(
        PROJECT, "-m", "cibuildwheel", "--print-build-identifiers", "--platform", platform, "--archs", "all", "."
    )
    assert told.returncode == 0, told.stderr
    built = {identifier.partition("-")[0] for identifier in told.stdout.split()}
    assert built == {name.removesuffix("-*") for name in settings_of_project()["tool"]["cibuildwheel"]["build"]}


def test_what_the_tests_of_a_wheel_name_exists() -> None:
    settings = settings_of_project()["tool"]["cibuildwheel"]
    commands = [settings["test-command"], *(each["test-command"] for each in settings["overrides"])]
    named = re.findall(r"\{project\}/([\w/.]+)", " ".join(command for each in commands for command in each))
    assert len(named) > 3
    assert [name for name in named if not (PROJECT / name).exists()] == []


# ---------------------------------------------------------------------------------- the build says what it built


def test_a_build_that_is_asked_for_python_carries_no_extension_and_says_so(pure_wheel: Path, tmp_path: Path) -> None:
    assert pure_wheel.name.endswith("-py3-none-any.whl")
    installed = unpack_wheel(pure_wheel, tmp_path)
    files = [path for path in (installed / "ldc").rglob("*") if path.is_file()]
    page = {path for path in files if path.parent == installed / "ldc" / "gateway" / "static"}
    assert {path.suffix for path in set(files) - page} == {".py", ".pyi", ".typed"}
    assert {path.suffix for path in page} == {".css", ".html", ".js", ".svg", ".txt"}
    ours = {path.relative_to(PROJECT / "ldc").as_posix() for path in (PROJECT / "ldc").rglob("*.py")}
    assert {path.relative_to(installed / "ldc").as_posix() for path in files if path.suffix == ".py"} == ours
    asked = run(tmp_path, "-c", "import ldc, ldc._build; print(ldc.IMPLEMENTATION, ldc._build.BUILD)", PYTHONPATH="")
    assert asked.stdout.split() == ["python", "pure-python"], asked.stderr


def metadata_of(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return archive.read(name).decode()


def test_a_published_build_links_to_its_repository_and_so_does_its_readme(unpacked: Path, tmp_path: Path) -> None:
    home = "https://example.org/somebody/ldc"
    project = shutil.copytree(unpacked, tmp_path / "project")
    metadata = metadata_of(build(project, "wheel", LDC_PURE_PYTHON="1", LDC_REPOSITORY=home + "/"))
    links = dict(re.findall(r"^Project-URL: (\w+), (\S+)$", metadata, re.MULTILINE))
    assert links["Source"] == home
    assert set(links) == {"Source", "Documentation", "Issues", "Changelog"}
    targets = re.findall(r"\]\(([^)]+)\)", metadata)
    assert len(targets) > 10
    assert [each for each in targets if not each.startswith("https://")] == []
    assert f"{home}/raw/main/docs/images/watch-one-market.png" in targets


def test_a_build_that_knows_no_repository_links_nowhere(pure_wheel: Path) -> None:
    assert "Project-URL" not in metadata_of(pure_wheel)
    assert "](docs/tutorial.md)" in metadata_of(pure_wheel)


def test_two_builds_are_the_same_to_the_byte(unpacked: Path, tmp_path: Path) -> None:
    environment = {"LDC_PURE_PYTHON": "1", "SOURCE_DATE_EPOCH": "1700000000"}
    one, other = (shutil.copytree(unpacked, tmp_path / name) for name in ("one", "other"))
    assert build(one, "wheel", **environment).read_bytes() == build(other, "wheel", **environment).read_bytes()


def test_every_action_of_the_workflows_is_pinned_by_its_digest() -> None:
    used = [
        line.strip().removeprefix("- ")
        for path in sorted((PROJECT / ".github" / "workflows").glob("*.yml"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip().removeprefix("- ").startswith("uses: ")
    ]
    assert len(used) > 10
    pinned = re.compile(r"uses: (\./\.github/workflows/\w+\.yml|[\w./-]+@[0-9a-f]{40}  # v[\d.]+)")
    assert [line for line in used if not pinned.fullmatch(line)] == []


def test_a_release_waits_for_the_tests_and_is_in_the_changelog() -> None:
    text = (PROJECT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    assert "needs: [version, test, wheels, sbom]" in text
    assert "CHANGELOG.md" in text


def test_the_extra_all_has_every_extra_that_users_need() -> None:
    extras = settings_of_project()["project"]["optional-dependencies"]
    [everything] = extras["all"]
    named = set(re.search(r"\[(.+)\]", everything)[1].split(","))
    assert named == set(extras) - {"all", "dev", "docs", "test"}


def test_the_sources_say_that_they_are_not_built() -> None:
    assert 'BUILD = "source"\n' in (PROJECT / "ldc" / "_build.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("variable", ["LDC_BUILD", "LDC_PORTABLE", "LDC_PURE_PYTHON", "LDC_WERROR", "LDC_ANNOTATE"])
def test_a_build_switch_with_an_unknown_value_is_refused(variable: str) -> None:
    refused = run(PROJECT, "setup.py", "--version", **{variable: "fast"})
    assert refused.returncode != 0
    assert f"{variable}='fast' is not one of" in refused.stderr


def test_a_build_without_a_compiler_fails_and_says_what_to_do(unpacked: Path, tmp_path: Path) -> None:
    failed = run(unpacked, "setup.py", "build_ext", "--build-lib", str(tmp_path), CC="no-such-compiler")
    if sys.platform == "win32":
        pytest.skip("setuptools finds the compiler by itself on Windows")
    assert failed.returncode != 0
    assert "There is no C compiler: 'no-such-compiler' was not found." in failed.stderr
    assert "LDC_PURE_PYTHON=1" in failed.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.check
def test_a_wheel_with_the_extension_can_be_built_from_the_sdist(unpacked: Path, tmp_path: Path) -> None:
    installed = unpack_wheel(build(unpacked, "wheel"), tmp_path)
    assert [path.name for path in (installed / "ldc").iterdir() if path.suffix in SOURCE_SUFFIXES] == []
    asked = run(tmp_path, "-c", "import ldc, ldc._build; print(ldc.IMPLEMENTATION, ldc._build.BUILD)", PYTHONPATH="")
    assert asked.stdout.split() == ["cython", "release"], asked.stderr


# --------------------------------------------------------------------------------------- nothing falls back in silence


@pytest.fixture
def without_extension(tmp_path: Path) -> Path:
    """A folder with a copy of the package that lacks its extension."""
    shutil.copytree(PROJECT / "ldc", tmp_path / "ldc", ignore=shutil.ignore_patterns("*.so", "*.pyd"))
    return tmp_path


def imported(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(folder, "-c", "import ldc; print(ldc.IMPLEMENTATION)", PYTHONPATH="", **environment)


def test_a_source_folder_without_its_extension_cannot_be_imported(without_extension: Path) -> None:
    refused = imported(without_extension)
    assert refused.returncode != 0
    assert f"The compiled order book is not built in {str(without_extension / 'ldc')!r}" in refused.stderr
    assert "LDC_PURE_PYTHON=1" in refused.stderr


def test_an_installation_that_lost_its_extension_cannot_be_imported(without_extension: Path) -> None:
    build_file = without_extension / "ldc" / "_build.py"
    build_file.write_text(build_file.read_text(encoding="utf-8").replace('"source"', '"release"'), encoding="utf-8")
    refused = imported(without_extension)
    assert refused.returncode != 0
    assert "The compiled order book is missing from this installation." in refused.stderr


def test_a_broken_extension_cannot_be_imported(without_extension: Path) -> None:
    (without_extension / "ldc" / "_book.py").write_text("from ldc.types import no_such_name", encoding="utf-8")
    refused = imported(without_extension)
    assert refused.returncode != 0
    assert "The compiled order book cannot be loaded: cannot import name 'no_such_name'" in refused.stderr


def test_plain_python_is_used_when_it_is_asked_for(without_extension: Path) -> None:
    assert imported(without_extension, LDC_PURE_PYTHON="1").stdout == "python\n"


def test_a_request_that_cannot_be_understood_is_refused(without_extension: Path) -> None:
    refused = imported(without_extension, LDC_PURE_PYTHON="yes")
    assert refused.returncode != 0
    assert "LDC_PURE_PYTHON='yes' is neither '1'" in refused.stderr
