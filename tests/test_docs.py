"""The documents say what the code does: examples run, tables equal the code."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path

import mmsb
import pytest
from mmsb import _core

ROOT = Path(__file__).parent.parent


def blocks(path: Path) -> list[tuple[int, str]]:
    """The Python examples of a document with the lines at which they begin."""
    text = path.read_text()
    found = []
    for match in re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S):
        found.append((text[: match.start()].count("\n") + 2, match[1]))
    return found


def table(heading: str) -> list[list[str]]:
    """The rows of the first table below a heading of DIAGNOSTICS.md, without back-ticks."""
    text = (ROOT / "DIAGNOSTICS.md").read_text()
    section = re.search(rf"^#+ {heading}.*?$(.*?)(?=^#+ |\Z)", text, re.M | re.S | re.I)
    assert section, f"DIAGNOSTICS.md has no section {heading!r}"
    lines = re.findall(r"^\|(.*)\|\s*$", section[1], re.M)
    return [[cell.strip().strip("`") for cell in line.split("|")] for line in lines[2:]]


DOCUMENTS = [p for p in [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))] if blocks(p)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_the_examples_run(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other in one namespace and an empty directory, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    # What an example sets up for its process must not reach other tests.
    loggers = [logging.getLogger(), logging.getLogger("mmsb")]
    for logger in loggers:
        monkeypatch.setattr(logger, "handlers", list(logger.handlers))
    levels = [logger.level for logger in loggers]
    names: dict[str, object] = {"__name__": "__main__"}
    for line, code in blocks(document):
        exec(compile("\n" * (line - 1) + code, str(document), "exec"), names)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    for value in names.values():
        if isinstance(value, mmsb.Bus):
            value.close()


def test_the_readme_shows_how_to_add_in_place() -> None:
    text = (ROOT / "README.md").read_text()
    assert re.search(r"tx\[.*\] \+= ", text)
    assert "make demo" in text and "make test" in text
    assert ROOT / "README.md" in DOCUMENTS


def test_diagnostics_lists_every_error_code() -> None:
    written = [(row[0], row[1]) for row in table("Errors")]
    assert written == list(_core.ERROR_CODES)
    for name, kind in vars(mmsb).items():
        if isinstance(kind, type) and issubclass(kind, mmsb.MMSBError) and name != "MMSBError":
            assert (kind.code, name) in written


def test_diagnostics_lists_every_event() -> None:
    assert [row[0] for row in table("Events")] == list(_core.EVENTS)


def test_diagnostics_lists_every_environment_variable() -> None:
    used = set()
    for folder, suffix in (("python", ".py"), ("rust", ".rs")):
        for path in (ROOT / folder).rglob(f"*{suffix}"):
            # The museum and the proof are not part of what is shipped.
            if not {"target", "mmsb-proof", "museum.rs"} & set(path.parts):
                used |= set(re.findall(r"\bMMSB_[A-Z_]+\b", path.read_text()))
    assert {row[0] for row in table("Environment variables")} == used


def test_public_names_are_exactly_the_ones_that_are_announced() -> None:
    for name in mmsb.__all__:
        assert getattr(mmsb, name).__doc__ or name.startswith("__"), f"{name} has no docstring"
    for name in ("Bus", "Page", "Delta", "create", "open", "MMSBError", "__version__"):
        assert name in mmsb.__all__
    assert mmsb.__version__ == _core.__version__


def test_the_example_of_adding_in_place_is_in_the_docstring() -> None:
    assert re.search(r"tx\[.*\] \+= ", mmsb.Bus.transaction.__doc__ or "")


def test_no_document_names_a_place_of_this_machine() -> None:
    for path in [*ROOT.glob("*.md"), *(ROOT / "python").rglob("*.py")]:
        found = re.findall(r"(?<![\w.])/(?:work|root|home/\w+)/\S*", path.read_text())
        assert not found, f"{path.name}: {found}"


def test_the_pendulum_goes_on_where_it_was(tmp_path: Path) -> None:
    script, store = ROOT / "examples" / "pendulum.py", tmp_path / "pendulum.mmsb"

    def run(to: Path, steps: int) -> str:
        command = [sys.executable, str(script), str(to), str(steps)]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=60
        ).stdout

    run(store, 150)
    said = run(store, 300)
    assert said.startswith("step 300: angle ")
    assert said == run(tmp_path / "at-once.mmsb", 300)
