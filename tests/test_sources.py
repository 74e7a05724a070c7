# SPDX-License-Identifier: Apache-2.0
"""Rules that our sources keep, read off the sources themselves."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path for name in ("cli", "runner", "attention", "fla") for path in (ROOT / name).rglob("*.py")
)


def foreign_names(tree: ast.Module) -> set[str]:
    """Names bound by imports anywhere in a module, our own included."""
    return {
        (alias.asname or alias.name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }


def root_name(node: ast.expr) -> str | None:
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def targets(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, (ast.Assign, ast.Delete)):
        return [
            leaf
            for target in node.targets
            for leaf in (target.elts if isinstance(target, (ast.Tuple, ast.List)) else [target])
        ]
    if isinstance(node, (ast.AugAssign, ast.AnnAssign, ast.NamedExpr)):
        return [node.target]
    if isinstance(node, (ast.For, ast.AsyncFor)):
        return [node.target]
    return []


def patches(source: str) -> list[str]:
    """Statements that change an attribute of something imported."""
    tree = ast.parse(source)
    foreign = foreign_names(tree)
    found = [
        ast.unparse(node)
        for node in ast.walk(tree)
        for target in targets(node)
        if isinstance(target, (ast.Attribute, ast.Subscript)) and root_name(target) in foreign
    ]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in ("setattr", "delattr", "object.__setattr__", "type.__setattr__"):
            found.append(ast.unparse(node))
        if re.search(r"\bmock\.patch|\bpatch\.object|__dict__\.update|vars\(.*\)\.update", name):
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_monkey_patching(path: Path):
    assert patches(path.read_text()) == []


@pytest.mark.parametrize(
    "statement",
    [
        "import vllm.v1.worker as w\nw.Worker = None",
        "import vllm\nvllm.a.b.c = 1",
        "from vllm.x import Layer\nLayer.forward = None",
        "from vllm.x import registry\nregistry['GDN'] = None",
        "from vllm.x import Layer\nLayer.count += 1",
        "from vllm.x import Layer\ndel Layer.forward",
        "import vllm\nsetattr(vllm, 'a', 1)",
        "from vllm.x import Layer\nLayer.a, b = 1, 2",
        "def f():\n    import torch\n    torch.set_num_threads = None",
    ],
)
def test_the_monkey_patching_check_can_fail(statement: str):
    assert patches(statement)


def test_the_kernels_compute_no_table():
    for path in SOURCES:
        if path.is_relative_to(ROOT / "fla"):
            assert not re.search(r"\bprepare_(chunk|update|final|lens)", path.read_text()), path


LAYERS = ("attention", "fla", "runner", "cli")
"""From the bottom: a file imports of its own layer or of those before it."""


def own_imports(path: Path) -> set[Path]:
    """The files of ours that ``path`` imports, whether now, later or for types alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "ascend_gdn":
                found.add(ROOT.joinpath(*parts[1:]).with_suffix(".py"))
    return found & set(SOURCES)


def layer(path: Path) -> int:
    return LAYERS.index(path.relative_to(ROOT).parts[0])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_go_one_way(path: Path):
    back = [each for each in own_imports(path) if layer(each) > layer(path)]
    assert back == []


def circles(imports: dict[Path, set[Path]]) -> set[Path]:
    """Files that import themselves, by way of others or not."""
    left = dict(imports)
    while True:
        ends = {path for path, found in left.items() if not found & left.keys()}
        if not ends:
            return set(left)
        left = {path: found for path, found in left.items() if path not in ends}


def test_no_file_imports_itself_by_way_of_others():
    imports = {path: own_imports(path) for path in SOURCES}
    assert sum(map(len, imports.values())) > len(SOURCES)  # they are found
    assert circles(imports) == set()


def test_the_circle_check_can_fail():
    a, b, c = (Path(name) for name in "abc")
    assert circles({a: {b}, b: {c}, c: set()}) == set()
    assert circles({a: {b}, b: {a}, c: set()}) == {a, b}


def test_no_file_is_long():
    long = {
        str(path): lines for path in SOURCES if (lines := len(path.read_text().splitlines())) > 250
    }
    assert long == {}


def test_no_silent_defaults_on_upstream_objects():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr"):
                # The lazy exports look a name up in our own module.
                assert ast.unparse(node) == "getattr(import_module(module), name)", path
