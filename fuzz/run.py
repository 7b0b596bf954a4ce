"""Fuzz the readers of the compiled order book: `make fuzz`, or by hand.

    python fuzz/run.py --target update --judge portable --build fuzz --runs 1000000

It compiles the extension into build/fuzz, twice: as it is, and as processors without SSE2 run it. driver.c joins
Python, both and, where the build is `fuzz`, libFuzzer. `--replay FILE...` judges inputs again, one by one.

targets   update, snapshot, number: see tests/kits/fuzz_targets.py
judges    python: the oracle, json and Decimal (tests/kits/strict_reading.py), sees every message
          portable: the two ways in which the compiled book reads must agree, in C; the oracle sees the seeds, and one
          message in 64
builds    fuzz: AddressSanitizer, UBSan, the book's assertions, and coverage shows libFuzzer the way; needs clang
          sanitize: the same with gcc and without coverage: messages are changed blindly
          release: as it is shipped, changed blindly; it starts from what `fuzz` has found, if it has run

Inputs found are kept in build/fuzz/corpus/TARGET, what failed in build/fuzz/crashes/TARGET; neither belongs to the
project. A failure prints the message; a blind one also comes again with the same --seed and the same seeds. The line
printed at the end says how many inputs were executed in how many seconds.
"""

import argparse
import importlib.util
import os
import random
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
FOLDER = PROJECT / "build" / "fuzz"
TARGETS = ("update", "snapshot", "number")
COMPILERS = {
    "fuzz": ("clang", *(f"clang-{version}" for version in range(25, 13, -1))),
    "sanitize": ("gcc",),
    "release": ("cc", "gcc", "clang"),
}
MACHINE = os.uname().machine
SOURCES = (".py", ".pyx", ".pxi", ".c")
INPUT_BYTES_MAX = {"update": 2048, "snapshot": 2048, "number": 48}
NO_CLANG = """fuzzing with coverage needs clang and its run-time libraries (Debian, Ubuntu: apt install clang
libclang-rt-dev, or both with a version); --build sanitize does without it, and without coverage"""


def main() -> None:
    """Build what is missing, and start itself again under the sanitizers' run-time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=TARGETS, required=True)
    parser.add_argument("--judge", choices=("python", "portable"), default="python")
    parser.add_argument("--build", choices=("fuzz", "sanitize", "release"), default="fuzz")
    parser.add_argument("--runs", type=int, default=0, help="0: no end")
    parser.add_argument("--seconds", type=int, default=0, help="0: no end (only with the build fuzz)")
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    parser.add_argument("--replay", nargs="*", type=Path, help="judge these files instead")
    options = parser.parse_args()
    if os.environ.get("LDC_FUZZ_CHILD"):
        sys.path[:0] = [str(site(options.build)), str(PROJECT / "tests" / "kits"), str(driver(options.build).parent)]
        fuzz(options)
        return
    compiler = compiler_of(options.build)
    build(compiler, options.build)
    environment = os.environ | {"LDC_FUZZ_CHILD": "1"}
    if options.build != "release":
        # Python itself is not sanitized. Its own allocator would hide overruns, and it leaks on purpose.
        # Two builds of the book have a global of the same name, which nothing reads here.
        environment |= {
            "LD_PRELOAD": ":".join(runtimes(compiler, options.build)),
            "PYTHONMALLOC": "malloc",
            "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:handle_abort=0:verify_asan_link_order=0"
            ":detect_odr_violation=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
    os.execve(sys.executable, [sys.executable, "-P", str(Path(__file__)), *sys.argv[1:]], environment)


def compiler_of(build: str) -> str:
    """Return the compiler of a build, or end with what is missing."""
    compiler = os.environ.get("CC") or next(filter(None, map(shutil.which, COMPILERS[build])), None)
    if compiler is None:
        sys.exit(NO_CLANG if build == "fuzz" else f"there is none of the compilers {', '.join(COMPILERS[build])}")
    return compiler


def site(build: str, *, portable: bool = False) -> Path:
    return FOLDER / build / ("site-portable" if portable else "site")


def driver(build: str) -> Path:
    return FOLDER / build / "driver" / ("driver" + sysconfig.get_config_var("EXT_SUFFIX"))


def runtimes(compiler: str, build: str) -> list[str]:
    """Return the run-time libraries of the sanitizers, which must be loaded before Python."""
    if build == "fuzz":
        # The driver first: the book's counters must find libFuzzer, and not what stands in for it in the run-time.
        return [str(driver(build)), library(compiler, f"libclang_rt.asan-{MACHINE}.so", "libclang_rt.asan.so")]
    return [library(compiler, "libasan.so"), library(compiler, "libubsan.so")]


def library(compiler: str, *spellings: str) -> str:
    for spelling in spellings:
        path = subprocess.check_output([compiler, f"-print-file-name={spelling}"], text=True).strip()
        if Path(path).is_absolute() and Path(path).exists():
            return path
    sys.exit(f"{compiler} has no {spellings[0]}; {NO_CLANG}")


def build(compiler: str, variant: str) -> None:
    """Compile the package and the driver, unless they are newer than their sources."""
    sources = [path for folder in ("ldc", "fuzz") for path in (PROJECT / folder).rglob("*") if path.suffix in SOURCES]
    newest = max(path.stat().st_mtime for path in [PROJECT / "setup.py", *sources])
    if driver(variant).exists() and driver(variant).stat().st_mtime > newest:
        return
    driver(variant).parent.mkdir(parents=True, exist_ok=True)
    for is_portable in (False, True):
        folder = site(variant, portable=is_portable)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
             "--no-build-isolation", "--target", folder, PROJECT],
            env=os.environ | {"CC": compiler, "LDC_BUILD": variant, "LDC_PORTABLE": str(int(is_portable))}, check=True,
        )  # fmt: skip
    libfuzzer = []
    if variant == "fuzz":
        archive = library(compiler, f"libclang_rt.fuzzer_no_main-{MACHINE}.a", "libclang_rt.fuzzer_no_main.a")
        libfuzzer = ["-DLDC_LIBFUZZER", archive, "-lstdc++", "-lm", "-lpthread"]
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O2", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Wno-unused-parameter",
         "-I", sysconfig.get_path("include"), PROJECT / "fuzz" / "driver.c", *libfuzzer, "-o", driver(variant)],
        check=True,
    )  # fmt: skip


def fuzz(options: argparse.Namespace) -> None:
    """Run libFuzzer in this process; it ends it."""
    # The book's counters find libFuzzer among the global symbols.
    sys.setdlopenflags(os.RTLD_NOW | os.RTLD_GLOBAL)
    import driver

    from ldc._build import BUILD

    os.environ.pop("LD_PRELOAD", None)  # not for what this process starts, such as the symbolizer
    assert options.build == BUILD, (options.build, BUILD)

    import fuzz_seeds
    import fuzz_targets

    from ldc import _book

    oracle = fuzz_targets.TARGETS[options.target](_book)
    judge = options.target, oracle, None if options.judge == "python" else (_book, portable_book(options.build))
    if options.replay is not None:
        print(driver.replay([path.read_bytes() for path in options.replay], *judge))
        return
    captures = os.environ.get("LDC_CAPTURES")
    seeds = fuzz_seeds.corpus(options.target, Path(captures) if captures else None)
    for seed in seeds:
        oracle(seed)
    found = FOLDER / "corpus" / options.target
    print(f"fuzzing {options.target}, judge {options.judge}, build {options.build}", flush=True)
    if options.build != "fuzz":
        seeds += [path.read_bytes() for path in sorted(found.glob("*"))]
        tokens = [token.encode() for token in fuzz_seeds.TOKENS + fuzz_seeds.NUMBERS if token]
        seed = options.seed or random.SystemRandom().randrange(1, 2**32)
        print(f"{len(seeds)} seeds, --seed {seed}", flush=True)
        driver.blind(seeds, tokens, options.runs or 2**62, seed, *judge)
        return
    run_libfuzzer(options, judge, seeds, found)


def portable_book(build: str) -> ModuleType:
    """Import the book once more, from the build for processors without SSE2."""
    [file] = (site(build, portable=True) / "ldc").glob("_book*.so")
    spec = importlib.util.spec_from_file_location("ldc._book", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_libfuzzer(options: argparse.Namespace, judge: tuple[Any, ...], seeds: list[bytes], found: Path) -> None:
    """Hand over to libFuzzer, which ends the process."""
    import driver
    import fuzz_seeds

    begin, crashes = (FOLDER / name / options.target for name in ("seeds", "crashes"))
    for folder in (found, begin, crashes):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (begin / f"{number:04}").write_bytes(seed)
    dictionary = FOLDER / "dictionary"
    dictionary.write_text(fuzz_seeds.dictionary(), encoding="ascii")
    arguments = [
        "fuzz", f"-artifact_prefix={crashes}/", f"-dict={dictionary}", f"-max_len={INPUT_BYTES_MAX[options.target]}",
        "-rss_limit_mb=4096", "-timeout=20", "-print_final_stats=1",
        f"-seed={options.seed}",
    ]  # fmt: skip
    if options.runs:
        arguments.append(f"-runs={options.runs}")
    if options.seconds:
        arguments.append(f"-max_total_time={options.seconds}")
    driver.run([*arguments, str(found), str(begin)], *judge)


if __name__ == "__main__":
    main()
