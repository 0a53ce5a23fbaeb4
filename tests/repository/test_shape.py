"""The house keeps its shape: small files, short functions, a paragraph at the head of each file, no stray marks."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = sorted((ROOT / "carrara").rglob("*.py"))
EVERYTHING = [*PACKAGE, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]


def name(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", EVERYTHING, ids=name)
def test_a_file_has_at_most_300_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


@pytest.mark.parametrize("path", PACKAGE, ids=name)
def test_a_function_has_at_most_60_lines(path):
    functions = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    long = {node.name: node.end_lineno - node.lineno + 1 for node in functions if node.end_lineno - node.lineno >= 60}
    assert not long


@pytest.mark.parametrize("path", EVERYTHING, ids=name)
def test_a_file_opens_with_its_paragraph(path):
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert text, "no docstring at the head"
    first = text.splitlines()[0]
    assert 10 <= len(first) <= 120
    assert first.rstrip()[-1] in ".?!:…"


@pytest.mark.parametrize("path", PACKAGE, ids=name)
def test_a_public_function_says_what_comes_back(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public = [
        node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]
    assert not [node.name for node in public if not ast.get_docstring(node)]


@pytest.mark.parametrize("path", EVERYTHING, ids=name)
def test_nothing_is_swallowed_or_left_for_later(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    broad = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"}))
        and not any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
    ]
    assert not broad, f"a broad except that does not raise again, at lines {broad}"
    marks = [word for word in ("TO" + "DO", "FIX" + "ME", "X" + "XX") if word in path.read_text(encoding="utf-8")]
    assert not marks
