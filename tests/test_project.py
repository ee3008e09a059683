"""Rules of the house that no ready-made linter knows: the mirror of tests, names, settings on paper, banned calls."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shared.settings import Settings

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for top in ("shared", "services") for path in (ROOT / top).rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in SOURCES]
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in zip(NAMES, SOURCES, strict=True)}

# Modules without a test module of their own, each with its reason.
UNMIRRORED = {
    "shared/errors.py": "classes without behaviour; the tests of every layer raise them",
}
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "manager", "managers", "misc"}
BANNED_CALLS = {"eval", "exec", "compile", "torch.load", "torch.save", "os.system", "os.popen", "os.getenv", "os.environ.get"}
BANNED_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
# Calls that are right in one place, each with its reason.
ALLOWED_CALLS = {
    ("shared/jobs/worker.py", "os.environ.get"): "the executor tells its child who the parent is; no setting",
}
LOG_METHODS = {"debug", "info", "warning", "error", "exception", "critical"}


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """Every call of a module with the dotted text of what is called."""
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def imported_modules(tree: ast.AST) -> set[str]:
    """The first part of every imported name."""
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    return {name.partition(".")[0] for name in found}


def true_words(tree: ast.AST, call: ast.Call) -> set[str]:
    """The arguments that a call sets to True literally, also through a dictionary written out in the same module."""
    dictionaries = {
        ast.unparse(target): node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    }
    words = [(word.arg, word.value) for word in call.keywords if word.arg is not None]
    for word in call.keywords:
        if word.arg is None and (spread := dictionaries.get(ast.unparse(word.value))) is not None:
            words += [(key.value, value) for key, value in zip(spread.keys, spread.values, strict=True) if isinstance(key, ast.Constant)]
    return {str(name) for name, value in words if isinstance(value, ast.Constant) and value.value is True}


def mirror(name: str) -> Path:
    """Where the tests of a module belong."""
    path = Path(name)
    return Path("tests") / path.parent / f"test_{path.name}"


def findings_in(source: str) -> list[str]:
    """What the lint of calls says about a piece of source."""
    return list(lint_calls(ast.parse(source)))


def lint_calls(tree: ast.AST) -> list[str]:
    """Calls that Lethe never makes, or never makes that way, with their lines."""
    found = [f"imports {module}" for module in sorted(imported_modules(tree) & BANNED_MODULES)]
    for called, call in calls(tree):
        where = f"line {call.lineno}: {called}"
        if called in BANNED_CALLS:
            found.append(f"{where} is banned")
        if any(word.arg == "shell" and not (isinstance(word.value, ast.Constant) and word.value.value is False) for word in call.keywords):
            found.append(f"{where} goes through a shell")
        if called.endswith(".from_pretrained"):
            if "local_files_only" not in true_words(tree, call):
                found.append(f"{where} without local_files_only=True")
            # Tokenizers and schedulers have no weights, and take no such argument.
            if not re.search(r"tokenizer|scheduler", called, re.IGNORECASE) and "use_safetensors" not in true_words(tree, call):
                found.append(f"{where} without use_safetensors=True")
        owner, _, method = called.rpartition(".")
        if method in LOG_METHODS and re.fullmatch(r"(.*\.)?_?(log|logger)", owner, re.IGNORECASE):
            found += [f"{where} formats text into a log call" for argument in call.args if is_formatted(argument)]
    return found


def is_formatted(node: ast.expr) -> bool:
    """Whether an expression is text with values put into it."""
    if isinstance(node, ast.JoinedStr):
        return True
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        return True
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format"


@pytest.mark.parametrize("name", NAMES)
def test_module_says_its_purpose(name: str) -> None:
    assert ast.get_docstring(TREES[name]), f"{name} opens without a docstring"


@pytest.mark.parametrize("name", [name for name in NAMES if Path(name).stem not in {"__init__", "__main__"}])
def test_module_has_its_test_module(name: str) -> None:
    if name in UNMIRRORED:
        assert not (ROOT / mirror(name)).exists(), f"{name} has a test module now; take it off the list"
    else:
        assert (ROOT / mirror(name)).is_file(), f"{name} needs {mirror(name)}"


@pytest.mark.parametrize("name", NAMES)
def test_module_name_says_what_is_inside(name: str) -> None:
    assert not {Path(name).stem, *Path(name).parent.parts} & VAGUE_NAMES


@pytest.mark.parametrize("name", NAMES)
def test_module_makes_no_banned_call(name: str) -> None:
    allowed = [call for module, call in ALLOWED_CALLS if module == name]
    assert [finding for finding in lint_calls(TREES[name]) if not any(f": {call} is banned" in finding for call in allowed)] == []


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name.endswith("__init__.py") and "__all__" in (ROOT / name).read_text(encoding="utf-8")]
)
def test_package_exports_what_it_says(name: str) -> None:
    package = importlib.import_module(".".join(Path(name).parent.parts))
    assert [item for item in package.__all__ if not hasattr(package, item)] == []
    assert sorted(set(package.__all__)) == sorted(package.__all__)


@pytest.mark.parametrize(
    ("source", "finding"),
    [
        ("import pickle", "imports pickle"),
        ("from joblib import dump", "imports joblib"),
        ("eval('1')", "line 1: eval is banned"),
        ("import torch\ntorch.load(path)", "line 2: torch.load is banned"),
        ("run(command, shell=True)", "line 1: run goes through a shell"),
        ("UNet.from_pretrained(p, local_files_only=True)", "line 1: UNet.from_pretrained without use_safetensors=True"),
        ("UNet.from_pretrained(p, use_safetensors=True)", "line 1: UNet.from_pretrained without local_files_only=True"),
        ("log.info(f'{prompt}')", "line 1: log.info formats text into a log call"),
        ("self._logger.error('%s' % prompt)", "line 1: self._logger.error formats text into a log call"),
        ("log.debug('{}'.format(prompt))", "line 1: log.debug formats text into a log call"),
    ],
)
def test_banned_source_is_found(source: str, finding: str) -> None:
    assert findings_in(source) == [finding]


@pytest.mark.parametrize(
    "source",
    [
        "log.info('job finished', job=job_id)",
        "model.eval()",
        "re.compile('a')",
        "run(command, shell=False)",
        "CLIPTokenizer.from_pretrained(path, local_files_only=True)",
        "UNet.from_pretrained(path, use_safetensors=True, local_files_only=True)",
        "local = {'use_safetensors': True, 'local_files_only': True}\nUNet.from_pretrained(path, **local)",
    ],
)
def test_harmless_source_passes(source: str) -> None:
    assert findings_in(source) == []


def template() -> dict[str, str]:
    """Variables and defaults that .env.template shows."""
    text = (ROOT / ".env.template").read_text(encoding="utf-8")
    return dict(re.findall(r"^#?(LETHE_[A-Z0-9_]+)=(.*)$", text, flags=re.MULTILINE))


def test_env_template_shows_every_setting() -> None:
    assert set(template()) == {f"LETHE_{name.upper()}" for name in Settings.model_fields}


def test_env_template_shows_true_defaults() -> None:
    shown = {name.removeprefix("LETHE_").lower(): value for name, value in template().items() if value}
    wanting = {name: field.default for name, field in Settings.model_fields.items() if field.default not in {None, ""}}
    assert Settings.model_validate(shown).model_dump(include=set(wanting)) == wanting


def test_every_setting_says_what_it_means() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("module", ["shared.cli", "shared.client"])
def test_command_line_starts_without_tensor_libraries(module: str) -> None:
    script = f"import sys, {module}; print(sorted({{'torch', 'diffusers', 'transformers'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("page", [path.relative_to(ROOT) for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]], ids=str)
def test_page_links_to_files_that_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", (ROOT / page).read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link and not link.startswith("mailto:")]
    assert [link for link in local if not (ROOT / page.parent / link).exists()] == []


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "adr").glob("[0-9]*.md")), ids=lambda path: path.stem)
def test_decision_record_has_every_part(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    parts = ["Status", "Context", "Decision", "Consequences", "Alternatives", "References"]
    assert re.findall(r"^\*\*(\w+)\*\*", text, flags=re.MULTILINE) == parts
