"""The workflows call what there is, by names that cannot change under them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.M))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_every_target_that_a_workflow_makes_exists(workflow: Path) -> None:
    text = workflow.read_text()
    named = re.findall(r"\bmake ([a-z][a-z-]*)", text)
    for listed in re.findall(r"^ +make:\n((?: +- .+\n)+)", text, re.M):
        named += re.findall(r"- ([a-z][a-z-]*)", listed)
    assert named and set(named) <= TARGETS


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_are_pinned_and_may_do_little(workflow: Path) -> None:
    text = workflow.read_text()
    for action in re.findall(r"uses: (.*)", text):
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", action), action
    jobs = re.findall(r"^    runs-on: ", text, re.M)
    assert len(re.findall(r"^    timeout-minutes: \d+$", text, re.M)) == len(jobs)
    assert re.findall(r"permissions:.*\n.*", text) == ["permissions:\n  contents: read"]
    assert text.count("actions/checkout@") == text.count("persist-credentials: false")
    assert re.search(r"^concurrency:", text, re.M)


def test_every_row_of_the_proof_has_its_own_place() -> None:
    """`scripts/reliability` keeps what was not run again, and sorts by id."""
    reliability = (ROOT / "RELIABILITY.md").read_text()
    ids = re.findall(r"^\| (\d\S*) \|", reliability, re.M)
    assert ids == sorted(set(ids))
