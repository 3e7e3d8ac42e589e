"""The shape of the code: who may import whom, sizes, names, docstrings, nothing dead."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "logqueue"

FILE_LINES_MAX = 300
# One job each, and every part needs the others' invariants in view.
LARGER = {
    "logqueue.storage.queue": 545,  # one FIFO in HTTPSQS's words and in those of the v1 API
    "logqueue.storage.delivery": 405,
    "logqueue.storage.format": 340,  # all structures of the format on one page, as docs/format.md
    "logqueue.storage.log": 340,
    "logqueue.messages": 330,
}
FUNCTION_LINES_MAX = 60
# shutil and contextmanager are not ours.
BANNED = re.compile(r"(?<!context)manager|helper|(?<!sh)util|mgr", re.IGNORECASE)


def modules(root: Path = PACKAGE) -> dict[str, ast.Module]:
    """Dotted name -> syntax tree."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


MODULES = modules()
each_module = pytest.mark.parametrize("module", MODULES)


def imports(module: str) -> set[str]:
    """Everything that a module imports: its own package's modules by full name, the others by
    their first name."""
    found = set()
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "relative imports hide where things come from"
            assert node.level == 0
            for each in node.names:
                submodule = f"{node.module}.{each.name}"
                found.add(submodule if submodule in MODULES else node.module)
    return {each if each.startswith("logqueue") else each.partition(".")[0] for each in found}


def ours(module: str) -> set[str]:
    return {each for each in imports(module) if each.startswith("logqueue.")}


def test_imports_have_one_direction() -> None:
    """No cycle: the modules can be put in an order in which each needs only earlier ones."""
    left = {module: ours(module) for module in MODULES}
    while left:
        ready = {module for module, needs in left.items() if not needs & left.keys() - {module}}
        assert ready, f"these import each other: {sorted(left)}"
        left = {module: needs for module, needs in left.items() if module not in ready}


def inside(package: str) -> list[str]:
    return [module for module in MODULES if module.startswith(f"logqueue.{package}.")]


# package -> (what it may import of ours besides itself, what it may not import of others)
BOUNDS = {
    "storage": ({"logqueue.errors", "logqueue.options"}, {"trio", "h11", "outcome", "socket"}),
    "web": (
        {"logqueue.errors", "logqueue.options", "logqueue.config", "logqueue.duration"},
        {"os", "mmap", "fcntl", "crc32c"},
    ),
    "fsck": ({"logqueue.errors", "logqueue.storage"}, {"trio", "h11", "mmap", "socket"}),
    "client": ({"logqueue.errors"}, {"h11", "mmap", "socket"}),
}


@pytest.mark.parametrize("package", BOUNDS)
def test_each_package_keeps_to_its_side(package: str) -> None:
    allowed, forbidden = BOUNDS[package]
    assert inside(package)
    for module in inside(package):
        strangers = {
            each
            for each in ours(module)
            if not any(f"{each}.".startswith(f"{ok}.") for ok in allowed | {f"logqueue.{package}"})
        }
        assert not strangers, f"{module} imports {strangers}"
        assert not imports(module) & forbidden, module


def test_only_the_composition_root_knows_both_halves() -> None:
    """The others see of `web` only the ports and their vocabulary."""
    both = {"logqueue.daemon"}
    both |= {f"logqueue.{each}" for each in ("monitor", "census", "metrics")}  # they watch the two
    ports = {"logqueue.web.queues", "logqueue.web.message", "logqueue.web.pages"}
    for module in MODULES:
        if module not in both and not module.startswith("logqueue.web"):
            web = {each for each in ours(module) if each.startswith("logqueue.web")}
            assert web <= ports, module


def test_the_daemon_does_without_the_client() -> None:
    """And so without its HTTP library."""
    needed, left = set(), {"logqueue.__main__", "logqueue.daemon"}
    while left:
        needed |= left
        left = {each for module in left for each in ours(module)} - needed
    assert not {each for each in needed if each.startswith("logqueue.client")}
    assert all("httpcore" not in imports(module) for module in needed)


def test_the_disk_seam_is_the_only_way_to_the_disk() -> None:
    """Everything else of the storage names files and asks `Disk` and `Extent`."""
    for module in inside("storage"):
        if module in tuple(
            f"logqueue.storage.{each}" for each in ("disk", "failpoint", "lock", "refusals")
        ):
            continue
        for node in ast.walk(MODULES[module]):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.value.id == "os":
                    assert node.attr == "path", f"{module}:{node.lineno} uses os.{node.attr}"
                assert node.value.id != "shutil", module
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "open", f"{module}:{node.lineno} opens a file"


def test_no_module_is_dead() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    entries = {target.partition(":")[0] for target in project["scripts"].values()}
    used = {each for module in MODULES for each in ours(module) - {module}}
    packages = {module.rpartition(".")[0] for module in MODULES}
    assert set(MODULES) - used - entries - packages == {"logqueue.__main__"}


@each_module
def test_files_stay_small(module: str) -> None:
    path = PACKAGE.parent.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LARGER.get(module, FILE_LINES_MAX)


def definitions(
    module: str,
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield f"{module}:{node.lineno} {node.name}", node


@each_module
def test_functions_stay_small(module: str) -> None:
    for place, node in definitions(module):
        if not isinstance(node, ast.ClassDef):
            assert (node.end_lineno or 0) - node.lineno < FUNCTION_LINES_MAX, place


@each_module
def test_no_statement_is_a_mere_string(module: str) -> None:
    tree = MODULES[module]
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bodies = [each.body[:1] for each in ast.walk(tree) if isinstance(each, documented)]
    docstrings = [statement for body in bodies for statement in body]
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            assert node in docstrings, f"{module}, line {node.lineno}"


@each_module
def test_names_say_what_a_thing_is(module: str) -> None:
    assert not BANNED.search(module)
    for place, node in definitions(module):
        assert not BANNED.search(node.name), place
    for name in ast.walk(MODULES[module]):
        if isinstance(name, ast.Name):
            assert not BANNED.search(name.id), f"{module}:{name.lineno} {name.id}"


PORT_METHODS = {
    method.name
    for tree in MODULES.values()
    for node in ast.walk(tree)
    if isinstance(node, ast.ClassDef)
    and any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases)
    for method in node.body
    if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(method)
}


def undocumented(module: str) -> Iterator[str]:
    """Public functions, classes and methods without a docstring.  What fills a port is described
    where the port is declared."""
    tree = MODULES[module]
    if not ast.get_docstring(tree):
        yield module
    scopes: list[tuple[str, ast.Module | ast.ClassDef]] = [(module, tree)]
    while scopes:
        where, scope = scopes.pop()
        for node in scope.body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            if node.name.startswith("_"):
                continue
            in_class = isinstance(scope, ast.ClassDef)
            if not ast.get_docstring(node) and not (in_class and node.name in PORT_METHODS):
                yield f"{where}.{node.name}"
            if isinstance(node, ast.ClassDef):
                scopes.append((f"{where}.{node.name}", node))


@each_module
def test_everything_public_has_a_docstring(module: str) -> None:
    assert list(undocumented(module)) == []
