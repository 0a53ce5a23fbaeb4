"""Rules of the source that a program can check, each with its reason in CONTRIBUTING.md."""

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = sorted((ROOT / "carrara").rglob("*.py"))
EVERYTHING = [*PACKAGE, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]
MAX_FILE_LINES, MAX_FUNCTION_LINES = 500, 80
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def name(path):
    return path.relative_to(ROOT).as_posix()


def test_files_and_functions_are_of_readable_length():
    too_long = [
        f"{name(path)}: {lines} lines"
        for path in EVERYTHING
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MAX_FILE_LINES
    ]
    too_long += [
        f"{name(path)}:{node.lineno} {node.name}: {lines} lines"
        for path in PACKAGE
        for node in ast.walk(tree_of(path))
        if isinstance(node, FUNCTIONS) and (lines := node.end_lineno - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert not too_long


def test_files_and_public_definitions_have_docstrings():
    undocumented = []
    for path in EVERYTHING:
        first = (ast.get_docstring(tree_of(path)) or "").partition("\n")[0].rstrip()
        if not (10 <= len(first) <= 120 and first[-1] in ".?!:…"):
            undocumented.append(f"{name(path)}: its first line is no sentence of 10 to 120 characters")
    for path in PACKAGE:
        undocumented += [
            f"{name(path)}:{node.lineno} {node.name}"
            for node in tree_of(path).body
            if isinstance(node, (*FUNCTIONS, ast.ClassDef))
            and not node.name.startswith("_")
            and not ast.get_docstring(node)
        ]
    assert not undocumented


def described_names(docstring, section):
    """Return the names in a section such as `Args:` of a docstring."""
    block = re.search(rf"^{section}:\n((?:(?: +.*)?\n?)*)", docstring or "", re.MULTILINE)
    entries = re.findall(r"^    ([*\w, ]+?)(?: \(.*?\))?:(?: |$)", block.group(1) if block else "", re.MULTILINE)
    return [each.strip("* ") for entry in entries for each in re.split(r", | and ", entry)]


def parameters(function):
    """Return the names of a function's parameters."""
    own = function.args
    starred = [argument for argument in (own.vararg, own.kwarg) if argument]
    return {argument.arg for argument in [*own.posonlyargs, *own.args, *own.kwonlyargs, *starred]}


def test_docstrings_describe_parameters_that_exist():
    unknown = []
    for path in PACKAGE:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, FUNCTIONS):
                wrong = set(described_names(ast.get_docstring(node), "Args")) - parameters(node)
            elif isinstance(node, ast.ClassDef):
                inits = [each for each in node.body if isinstance(each, FUNCTIONS) and each.name == "__init__"]
                wrong = {each for init in inits for each in described_names(ast.get_docstring(node), "Args")}
                wrong -= {each for init in inits for each in parameters(init)}
            else:
                continue
            unknown += [f"{name(path)}:{node.lineno} {node.name}: {each}" for each in sorted(wrong)]
    assert not unknown


def test_json_of_others_is_read_by_the_one_helper():
    """Python's own reader takes NaN, any depth and any number of digits; what the package itself wrote is no matter."""
    faults = [
        f"{name(path)}:{node.lineno}"
        for path in PACKAGE
        if path.name != "strict_json.py"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("json.load", "json.loads")
        and not ast.unparse(node.args[0]).startswith("json.dumps(")
    ]
    assert not faults


def test_no_error_is_swallowed_and_there_are_no_todos():
    faults = []
    for path in EVERYTHING:
        faults += [
            f"{name(path)}:{node.lineno} catches everything and raises nothing"
            for node in ast.walk(tree_of(path))
            if isinstance(node, ast.ExceptHandler)
            and (
                node.type is None
                or (isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"})
            )
            and not any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
        ]
        marks = re.findall("TO" + "DO|FIX" + "ME|X" + "XX", path.read_text(encoding="utf-8"))
        faults += [f"{name(path)}: {mark}" for mark in marks]
    assert not faults


def test_no_public_name_is_defined_twice_in_the_package():
    # Commands carry the names of the functions that they call.
    defined = defaultdict(list)
    for path in PACKAGE:
        if path.parent.name != "cli":
            for node in tree_of(path).body:
                if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and not node.name.startswith("_"):
                    defined[node.name].append(name(path))
    assert not {key: paths for key, paths in defined.items() if len(paths) > 1}


def test_no_argument_is_a_tuple_that_hides_three_others():
    hidden = [
        f"{name(path)}:{node.lineno} {node.name}({argument.arg})"
        for path in PACKAGE
        for node in ast.walk(tree_of(path))
        if isinstance(node, FUNCTIONS)
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        if isinstance(argument.annotation, ast.Subscript)
        and isinstance(argument.annotation.value, ast.Name)
        and argument.annotation.value.id == "tuple"
        and isinstance(argument.annotation.slice, ast.Tuple)
        and len({ast.dump(element) for element in argument.annotation.slice.elts}) > 1
        and len(argument.annotation.slice.elts) >= 3
        and not any(isinstance(element, ast.Constant) for element in argument.annotation.slice.elts)
    ]
    assert not hidden


def test_every_citation_resolves():
    """A citation is `[key]`, `[key §4.2]`, `[key table 5.3]` or `[notes/benchmark §2.4]`."""
    citation = re.compile(
        r"\[((?:[a-z]+\d{4}[a-z]*)|(?:[a-z0-9]+-poster)|(?:notes/[a-z]+))((?: (?:§|table|figure|appendix)[^\]]*)?)\]"
    )
    keys = set(
        re.findall(r"^- \*\*\[([a-z0-9-]+)\]\*\*", (ROOT / "docs/references.md").read_text(encoding="utf-8"), re.M)
    )
    sources = [*PACKAGE, *sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    unresolved = []
    for path in sources:
        text = path.read_text(encoding="utf-8")
        for key, where in citation.findall(text):
            if key.startswith("notes/"):
                page = ROOT / "docs" / f"{key}.md"
                sections = (
                    re.findall(r"^#+ ([\d.]*\d)", page.read_text(encoding="utf-8"), re.M) if page.is_file() else []
                )
                cited = re.findall(r"\d+(?:\.\d+)*", where.partition(",")[0])
                if not page.is_file() or any(section not in sections for section in cited):
                    unresolved.append(f"{name(path)}: [{key}{where}]")
            elif key not in keys:
                unresolved.append(f"{name(path)}: [{key}{where}]")
        unresolved += [
            f"{name(path)}: {old}"
            for old in re.findall(r"\b(?:benchmark|pretraining|encoders|style|costs|dependencies)\.md\b(?!\))", text)
            if path.suffix == ".py"
        ]
    assert not sorted(set(unresolved))
