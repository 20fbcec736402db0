"""The package's imports point one way, importing it is light, and no file names a private place."""

import ast
import pathlib
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = "transformer_jax"

# A room may import from the rooms above it in this list, and from itself.
ROOMS = (
    "typing",
    "errors",
    "files",
    "parsing",
    "interrupts",
    "layers",
    "models",
    "objectives",
    "decoding",
    "data",
    "parallel",
    "interop",
    "tasks",
    "visualize",
    "training",
    "planning",
    "__init__",  # the package itself, which shows the most used names
    "cli",
)


def room_of(module: str) -> str:
    """The room that a dotted module name of the package lies in."""
    return (module.split(".") + ["__init__"])[1]


def imported_modules(source: str, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each import of our own package, wherever in the file it stands."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: -node.level + 1 or None] if node.level else []
            base = ".".join(parts + ([node.module] if node.module else []))
            names = [base]
            if base == PACKAGE:  # `from transformer_jax import x`: x is a room or a shown name
                names = [f"{base}.{a.name}" if a.name in ROOMS else base for a in node.names]
        elif isinstance(node, ast.Call) and getattr(
            node.func, "attr", getattr(node.func, "id", "")
        ) in ("import_module", "__import__"):
            names = [a.value for a in node.args[:1] if isinstance(a, ast.Constant)]
            names = [package + n if str(n).startswith(".") else str(n) for n in names]
        yield from ((node.lineno, n) for n in names if n.split(".")[0] == PACKAGE)


def backward_imports(source: str, module: str, is_package: bool = False) -> list[str]:
    """The imports of a file that point back up the list of rooms, as messages."""
    allowed = ROOMS[: ROOMS.index(room_of(module)) + 1]
    return [
        f"{module}, line {line}: {room_of(module)} may not import {name}"
        for line, name in imported_modules(source, module, is_package)
        if room_of(name) not in allowed
    ]


def package_files() -> list[pathlib.Path]:
    return sorted((ROOT / PACKAGE).rglob("*.py"))


def module_name(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_every_room_is_on_the_list():
    rooms = {room_of(module_name(path)) for path in package_files()}
    assert rooms, f"no file found under {PACKAGE}/"
    assert rooms <= set(ROOMS), f"rooms without a place in the order: {rooms - set(ROOMS)}"


def test_imports_point_one_way_down_the_list():
    found = []
    for path in package_files():
        is_package = path.name == "__init__.py"
        found += backward_imports(path.read_text("utf-8"), module_name(path), is_package)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "statement",
    [
        "import transformer_jax.models.bert",
        "import jax, transformer_jax.training as training",
        "from transformer_jax import models",
        "from transformer_jax import Bert",
        "from transformer_jax.models import bert",
        "from ..models import bert",
        "from ..models.bert import Bert",
        "from .. import models",
        "def later():\n    from ..models import bert",
        "importlib.import_module('transformer_jax.models')",
    ],
)
def test_an_import_that_points_back_is_found(statement):
    assert len(backward_imports(statement, "transformer_jax.layers.masks")) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "import jax",
        "import transformer_jax.typing",
        "from transformer_jax import typing",
        "from transformer_jax.layers import attention",
        "from .attention import dense",
        "from . import attention",
        "from ..typing import Array",
        "from .. import errors",
    ],
)
def test_an_import_that_points_down_is_not(statement):
    assert not backward_imports(statement, "transformer_jax.layers.masks")


def test_relative_imports_of_an_init_file_start_at_its_own_package():
    source = "from .models import bert"  # layers/models.py there, models/ when read as a plain file
    assert not backward_imports(source, "transformer_jax.layers", is_package=True)
    assert backward_imports(source, "transformer_jax.layers", is_package=False)


def test_importing_the_package_brings_in_jax_and_flax_only():
    program = textwrap.dedent(f"""
        import sys
        import jax, flax, flax.linen, flax.struct
        before = set(sys.modules)
        import {PACKAGE}
        new = {{name.split(".")[0] for name in set(sys.modules) - before}}
        old = {{name.split(".")[0] for name in before}}
        print(*sorted(new - old - set(sys.stdlib_module_names)))
    """)
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [PACKAGE]


# What runs or imports what a file or a name says, and where that is meant.
MEANT = {
    ("cli/config_file.py", "exec_module"),  # --config FILE.py is a program of the user's
    ("__init__.py", "import_module"),  # of a room of our own
    ("data/tfds_builders.py", "import_module"),  # of a data set of TFDS
}
RUNS = "eval exec compile".split()  # as functions; `re.compile` is another thing
UNPACKS = "__import__ exec_module import_module extract extractall".split()
PICKLES = "pickle marshal shelve yaml dill joblib".split()


def runs_files(source: str) -> Iterator[str]:
    """The functions that a file calls to run, unpickle or unpack what another file holds."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in (*RUNS, *UNPACKS):
                yield name
            case ast.Call(func=ast.Attribute(attr=name)) if name in UNPACKS:
                yield name
            case ast.Attribute(value=ast.Name(id="np" | "numpy" | "torch"), attr="load"):
                yield "load"
            case ast.Import(names=names):
                yield from (alias.name for alias in names if alias.name in PICKLES)
            case ast.ImportFrom(module=name) if name in PICKLES:
                yield name


def test_nothing_runs_what_a_file_says():
    found = {
        (path.relative_to(ROOT / PACKAGE).as_posix(), name)
        for path in package_files()
        for name in runs_files(path.read_text("utf-8"))
    }
    assert found == MEANT


@pytest.mark.parametrize(
    "statement",
    [
        "eval(x)",
        "__import__(x)",
        "spec.loader.exec_module(x)",
        "np.load(x)",
        "torch.load(x)",
        "import pickle",
        "from yaml import load",
        "archive.extractall(x)",
    ],
)
def test_what_runs_a_file_is_found(statement):
    assert len(set(runs_files(statement))) == 1
    assert not set(runs_files("re.compile(x); json.loads(x); model.eval(); import pickletools"))


# Written in pieces, so that this file does not name what it looks for.
REGISTRY_HOSTS = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("download", "pytorch", "org"),
        ("anaconda", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("yarnpkg", "com"),
        ("deb", "debian", "org"),
        ("proxy", "golang", "org"),
        ("crates", "io"),
        ("rubygems", "org"),
    )
]
PRIVATE_PLACES = {
    "a package registry": re.compile("|".join(map(re.escape, REGISTRY_HOSTS))),
    "a path of someone's machine": re.compile(
        r"(?<![\w./~-])/(?:home|Users|root|work|workspace)/\w|\b[A-Z]:\\Users\\"
    ),
}
CORPORA = {".tsv", ".csv", ".jsonl"}  # sentences may speak of any place


def private_places(text: str) -> list[str]:
    """What a text says about where it was written, one message each."""
    return [
        f"line {number} names {what}: {line.strip()[:80]}"
        for number, line in enumerate(text.splitlines(), 1)
        for what, pattern in PRIVATE_PLACES.items()
        if pattern.search(line)
    ]


def test_no_file_names_a_registry_host_or_a_path_of_someones_machine():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    found = []
    for name in sorted(filter(None, names.decode().split("\0"))):
        path = ROOT / name
        if path.is_file() and path.suffix not in CORPORA:
            text = path.read_bytes().decode("utf-8", "replace")
            found += [f"{name}: {message}" for message in private_places(text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("--index-url https://" + REGISTRY_HOSTS[0] + "/simple", 1),
        ("/".join(["", "home", "ada", "data"]), 1),
        ("open('" + "/".join(["", "Users", "ada"]) + "')", 1),
        ("https://example.com/home/page and docs/home/page and runs/demo", 0),
        ("pip install -c constraints.txt", 0),
    ],
)
def test_private_places_are_recognised(text, count):
    assert len(private_places(text)) == count
