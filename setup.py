"""Builds the extension `ldc._book`, and nothing else. Everything that can be said as data is in pyproject.toml.

Environment variables, read at build time only:

    LDC_BUILD=release      the default: what wheels carry; no check that the code does not make itself
    LDC_BUILD=checked      Cython's bounds checks are on, and the book's own assertions (the C macro LDC_CHECKED)
    LDC_BUILD=trace        as checked, with line tracing: for coverage of the .pyx; use it with `build_ext --inplace`
    LDC_BUILD=sanitize     as checked, under AddressSanitizer and UBSan: needs LD_PRELOAD, see `make check`
    LDC_BUILD=fuzz         as sanitize, and counts what runs, for libFuzzer: needs CC=clang, see `make fuzz`
    LDC_BUILD=tsan         as checked, under ThreadSanitizer: see docs/fuzzing.md
    LDC_PORTABLE=1         what processors without SSE2 run, whatever the processor: see docs/fuzzing.md
    LDC_PURE_PYTHON=1      no extension: a wheel for every platform, with the book of `ldc/book/pure` (much slower)
    LDC_ANNOTATE=1         also write build/<build>/cython/ldc/_book.html, which shows where the code meets Python
    LDC_WERROR=1           warnings of the C compiler are errors (those of Cython always are)
    LDC_REPOSITORY=URL     where the sources are: the links of the package and of its README lead there

What was built stands in the wheel, as `ldc._build.BUILD`. Each build has a folder of its own below build/, because
neither Cython nor setuptools would notice that the switches have changed since an object file was written.
"""

import os
import re
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import BaseError, CCompilerError, ExecError, PlatformError

RELEASE = {"boundscheck": False, "wraparound": False, "initializedcheck": False, "cdivision": True}
# "wraparound" is off here too: on, a negative index would count from the end instead of being refused.
CHECKED = {"boundscheck": True, "wraparound": False, "initializedcheck": True, "cdivision": False}
EVERY_BUILD = {
    "language_level": 3,
    "binding": True,
    "embedsignature": True,
    "embedsignature.format": "python",
    "auto_pickle": False,
    "autotestdict": False,
    "warn.maybe_uninitialized": True,
    # It can do without the GIL: shown by .ci/free-threading, said in docs/evidence/free-threading.md.
    "freethreading_compatible": True,
}
DIRECTIVES = {
    "release": EVERY_BUILD | RELEASE,
    "checked": EVERY_BUILD | CHECKED,
    "trace": EVERY_BUILD | CHECKED | {"linetrace": True},
    "sanitize": EVERY_BUILD | CHECKED,
    "fuzz": EVERY_BUILD | CHECKED,
    "tsan": EVERY_BUILD | CHECKED,
}

MACROS = {
    "release": [],
    # LDC_PORTABLE: what processors without SSE2 run, so that it is tried somewhere; "sanitize" tries the rest.
    "checked": [("LDC_CHECKED", "1"), ("LDC_PORTABLE", "1")],
    # With sys.monitoring, which Cython would prefer on 3.13, coverage sees no line of a .pyx.
    "trace": [("LDC_CHECKED", "1"), ("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_USE_SYS_MONITORING", "0")],
    "sanitize": [("LDC_CHECKED", "1")],
    "fuzz": [("LDC_CHECKED", "1")],
    "tsan": [("LDC_CHECKED", "1")],
}

SANITIZERS = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer"]
COMPILE_ARGS = {
    # -g0: Python's own flags say -g, which takes a third of the time to compile and which nobody reads in a wheel.
    "release": ["-O3", "-g0"],
    "checked": ["-O2", "-g"],
    "trace": ["-O0", "-g"],
    # -fno-wrapv: Python's own flags define signed overflow, which would hide it from UBSan.
    "sanitize": [*SANITIZERS, "-fno-sanitize-recover=all", "-fno-wrapv", "-O1", "-g"],
    "fuzz": [*SANITIZERS, "-fno-sanitize-recover=all", "-fno-wrapv", "-O1", "-g", "-fsanitize=fuzzer-no-link"],
    "tsan": ["-fsanitize=thread", "-O1", "-g"],
}
LINK_ARGS = {"sanitize": SANITIZERS, "fuzz": [*SANITIZERS, "-shared-libasan"], "tsan": ["-fsanitize=thread"]}

NO_COMPILER = """
{problem}

ldc keeps its order books in an extension, which is compiled when there is no wheel for the platform. Either
  - install a C compiler and the headers of Python, and try again:
      Debian, Ubuntu:  apt install gcc python3-dev        Fedora:   dnf install gcc python3-devel
      macOS:           xcode-select --install             Windows:  the "Build Tools for Visual Studio"
  - or set LDC_PURE_PYTHON=1, and try again: the same order book in plain Python, without the speed.
"""


def choice(name: str, choices: list[str]) -> str:
    """Return the environment variable, or the first choice if it is unset or empty. Refuse what is not a choice."""
    value = os.environ.get(name) or choices[0]
    if value not in choices:
        sys.exit(f"{name}={value!r} is not one of {', '.join(choices)}")
    return value


MODE = choice("LDC_BUILD", list(DIRECTIVES))
PURE_PYTHON = choice("LDC_PURE_PYTHON", ["0", "1"]) == "1"
ANNOTATE = choice("LDC_ANNOTATE", ["0", "1"]) == "1"
WERROR = choice("LDC_WERROR", ["0", "1"]) == "1"
PORTABLE = choice("LDC_PORTABLE", ["0", "1"]) == "1"

REPOSITORY = os.environ.get("LDC_REPOSITORY", "").rstrip("/")

BUILD = "pure-python" if PURE_PYTHON else MODE
BUILD_FOLDER = Path("build", BUILD + "-werror" * WERROR + "-portable" * PORTABLE)


def readme() -> str:
    """Return the README; for a published build, with links that also work on the page of a package index."""
    text = Path("README.md").read_text(encoding="utf-8")
    if not REPOSITORY:
        return text
    text = re.sub(r"!\[([^\]]*)\]\((?!https?:)([^)]+)\)", rf"![\1]({REPOSITORY}/raw/main/\2)", text)
    return re.sub(r"(?<!!)\[([^\]]*)\]\((?!https?:|#)([^)]+)\)", rf"[\1]({REPOSITORY}/blob/main/\2)", text)


def project_urls() -> dict[str, str]:
    """Return the package's links, if it is known where the sources are."""
    pages = {
        "Source": "",
        "Documentation": "/tree/main/docs",
        "Issues": "/issues",
        "Changelog": "/blob/main/CHANGELOG.md",
    }
    return {name: REPOSITORY + path for name, path in pages.items()} if REPOSITORY else {}


def extension() -> Extension:
    """Return the one extension, with the flags of this build for this platform's usual compiler."""
    if sys.platform == "win32":
        if MODE not in ("release", "checked", "trace"):
            sys.exit(f"LDC_BUILD={MODE} needs gcc or clang")
        compile_args = ["/std:c11", "/W3", "/O2" if MODE == "release" else "/Od"] + ["/WX"] * WERROR
        link_args = []
    else:
        compile_args = ["-std=c11", "-Wall", "-Wextra", *COMPILE_ARGS[MODE]] + ["-Werror"] * WERROR
        link_args = LINK_ARGS.get(MODE, [])
    return Extension(
        "ldc._book",
        ["ldc/_book.pyx"],
        # Included by the .pyx; named here so that a change of one builds anew.
        depends=[path.as_posix() for path in (*sorted(Path("ldc/core").glob("*.pxi")), Path("include/ldc_shared.h"))],
        include_dirs=["include"],
        define_macros=MACROS[MODE] + [("LDC_PORTABLE", "1")] * PORTABLE,
        # Checks in C (`assert`) belong to the builds that check; Python's own flags switch them off everywhere.
        undef_macros=[] if MODE == "release" else ["NDEBUG"],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
        # Where dlopen is not in the C library itself: glibc before 2.34, as in manylinux.
        libraries=["dl"] if sys.platform.startswith("linux") else [],
    )


class BuildExtension(build_ext):
    """Translates and compiles, after a look whether that is possible at all: there is no falling back in silence."""

    def build_extensions(self) -> None:
        """Compile everything, or say what is missing."""
        self.require_compiler()
        try:
            super().build_extensions()
        except (CCompilerError, ExecError, PlatformError) as error:
            raise BaseError(NO_COMPILER.format(problem=f"The C compiler failed: {error}")) from error

    def build_extension(self, ext: Extension) -> None:
        """Translate one extension to C below the build folder, never into the sources, and compile it."""
        from Cython.Build import cythonize
        from Cython.Compiler import Options

        Options.warning_errors = True
        # Coverage finds the C file only beside the .pyx.
        folder = None if MODE == "trace" else str(BUILD_FOLDER / "cython")
        [translated] = cythonize([ext], build_dir=folder, compiler_directives=DIRECTIVES[MODE], annotate=ANNOTATE)
        ext.sources = translated.sources
        super().build_extension(ext)

    def require_compiler(self) -> None:
        """Raise if there is no compiler or no Python.h, in words that help more than the compiler's would."""
        command = getattr(self.compiler, "compiler_so", None)  # none on Windows, where setuptools itself says it well
        if command and shutil.which(command[0]) is None:
            raise BaseError(NO_COMPILER.format(problem=f"There is no C compiler: {command[0]!r} was not found."))
        header = Path(sysconfig.get_path("include"), "Python.h")
        if not header.exists():
            raise BaseError(NO_COMPILER.format(problem=f"The headers of Python are missing: there is no {header}."))


class BuildModules(build_py):
    """Copies the modules, and writes into the copy what was built."""

    def run(self) -> None:
        """Copy everything, and remove what an earlier build copied and the sources have no more."""
        super().run()
        if not self.editable_mode:
            current = {Path(output) for output in self.get_outputs(include_bytecode=False)}
            for path in Path(self.build_lib, "ldc").rglob("*"):
                if path not in current and path.suffix in (".py", ".pyi"):
                    path.unlink()

    def build_module(self, module: str, module_file: str, package: str) -> tuple[str, bool]:
        """Copy one module."""
        outfile, copied = super().build_module(module, module_file, package)
        if (package, module) == ("ldc", "_build"):
            source = Path(module_file).read_text(encoding="utf-8")
            recorded = source.replace('BUILD = "source"', f'BUILD = "{BUILD}"')
            assert recorded != source, f"{module_file} has changed its form: the build cannot be recorded"
            Path(outfile).write_text(recorded, encoding="utf-8")
        return outfile, copied


setup(
    long_description=readme(),
    long_description_content_type="text/markdown",
    project_urls=project_urls(),
    ext_modules=[] if PURE_PYTHON else [extension()],
    cmdclass={"build_ext": BuildExtension, "build_py": BuildModules},
    options={"build": {"build_base": str(BUILD_FOLDER)}},
)
