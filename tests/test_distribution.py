"""
What is released: built from a checkout, installed where nothing else of it is, and run there.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import resource_tokens

ROOT = Path(__file__).parent.parent
VERSION = resource_tokens.__version__


def python(*args: str, cwd: Path, interpreter: str = sys.executable) -> str:
    # Isolated from PYTHONPATH and from the directory at hand, or the checkout would be found.
    done = subprocess.run(
        [interpreter, "-I", *args], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


def built(hook: str, source: Path, target: Path) -> Path:
    """
    What the build backend makes of a source tree (PEP 517).
    """
    code = f"from hatchling.build import {hook}; print({hook}({str(target)!r}))"
    return target / python("-c", code, cwd=source).splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    The source distribution, unpacked.
    """
    folder = tmp_path_factory.mktemp("sdist")
    archive = built("build_sdist", ROOT, folder)
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / f"resource_tokens-{VERSION}"


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    The wheel, built from the source distribution and from nothing else.
    """
    return built("build_wheel", sdist, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def interpreter(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """
    A virtual environment with the wheel in it. What it depends on is lent from this one, by a path
    that brings no package of its own.
    """
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(folder)
    paths = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", "venv", paths))
    python("-m", "pip", "-q", "install", "--no-deps", "--target", str(site), str(wheel), cwd=ROOT)
    (site / "lent.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return str(folder / "bin" / "python")


def test_the_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    """
    Every module, the marker that the package has types, and the licence; no test, no cache.
    """
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
    package = ROOT / "resource_tokens"
    modules = {str(path.relative_to(ROOT)) for path in package.rglob("*.py")}

    assert set() == modules - names
    assert "resource_tokens/py.typed" in names
    assert f"resource_tokens-{VERSION}.dist-info/licenses/LICENSE" in names
    assert set() == {
        name
        for name in names - modules
        if not name.startswith(f"resource_tokens-{VERSION}.dist-info/")
        and not name.endswith(("py.typed", ".json"))
    }


def test_the_source_distribution_has_what_it_needs(sdist: Path) -> None:
    """
    Whoever has it can run the tests, build the documentation, and read what was promised.
    """
    wanted = [
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "Makefile",
        "README.md",
        "SECURITY.md",
        "benchmarks/compared/__main__.py",
        "conftest.py",
        "docs/conf.py",
        "docs/index.md",
        "examples/observability/dashboard.json",
        "pyproject.toml",
        "resource_tokens/py.typed",
        "tests/conftest.py",
        "tests/servers/oidc_provider/package-lock.json",
    ]

    assert [] == [name for name in wanted if not (sdist / name).is_file()]
    assert [] == [path for path in sdist.rglob("*") if path.name in ("__pycache__", ".git")]


def test_the_wheel_works_where_nothing_else_is(interpreter: str, sdist: Path) -> None:
    """
    Installed in a fresh environment it is imported from there, says its version, and does a job:
    the quickstart of the source distribution.
    """
    code = "import resource_tokens as r; print(r.__version__, r.__file__)"
    version, file = python("-c", code, cwd=sdist, interpreter=interpreter).split()
    told = python("examples/quickstart.py", cwd=sdist, interpreter=interpreter)

    assert VERSION == version
    assert Path(file).is_relative_to(Path(interpreter).parents[1])
    assert 7 == told.count("  ok ")


def test_the_wheel_brings_its_fixtures_and_its_kit(interpreter: str, tmp_path: Path) -> None:
    """
    pytest finds the plugin of the installed package, and the conformance kit in it.
    """
    kit = ("--pyargs", "resource_tokens.conformance", "-k", "test_two_users_race and httpx-sync")
    told = python("-m", "pytest", "-q", *kit, cwd=tmp_path, interpreter=interpreter)

    assert "1 passed" in told


def test_the_dependencies_are_those_that_are_imported(wheel: Path) -> None:
    """
    Four packages come along, and each extra has its own; nothing of the tests does.
    """
    with zipfile.ZipFile(wheel) as packed:
        text = packed.read(f"resource_tokens-{VERSION}.dist-info/METADATA").decode()
    required = [line.split(": ", 1)[1] for line in text.splitlines() if "Requires-Dist" in line]
    plain = sorted(line.split(">=")[0] for line in required if "extra ==" not in line)

    assert ["cachetools", "cryptography", "httpx", "pyjwt"] == plain
    assert "Typing :: Typed" in text
