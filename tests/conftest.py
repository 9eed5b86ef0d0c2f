"""Fixtures, Hypothesis profiles and the leak check that all tests share."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import mmsb
import pytest
from hypothesis import HealthCheck, settings
from proof import held

_CALM = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
settings.register_profile(
    "dev", max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=_CALM
)
settings.register_profile(
    "ci",
    max_examples=200,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=_CALM,
    print_blob=True,
)
# The state machines of `make stateful` and of STATEFUL=deep.
settings.register_profile(
    "stateful", settings.get_profile("ci"), max_examples=500, stateful_step_count=100
)
settings.register_profile(
    "deep", settings.get_profile("ci"), max_examples=5000, stateful_step_count=500
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


_PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell the leak check whether the test passed: a failed one keeps its frames alive."""
    report = yield
    if call.when == "call":
        item.stash[_PASSED] = report.passed
    return report


def pytest_collection_finish() -> None:
    """Take what importing has made out of the collector's sight: then collecting costs little."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_interrupts() -> None:
    """Ctrl-C raises, also where the tests run in the background and it would be ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_leak(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that passes leaves no descriptor, thread or child behind."""
    before = held()
    yield
    if not request.node.stash.get(_PASSED, False):
        return
    request.node.funcargs.clear()  # pytest would hold the fixtures a little longer
    until = time.monotonic() + 2
    while True:
        gc.collect()
        left = held() - before
        if not left or time.monotonic() > until:
            break
        time.sleep(0.02)  # a helper thread of the bus may still be closing its file
    assert not left, f"left behind: {sorted(left)}"


@pytest.fixture(params=["memory", "directory"])
def bus(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[mmsb.Bus]:
    """A fresh bus of either kind."""
    made = mmsb.Bus() if request.param == "memory" else mmsb.create(tmp_path / "s", durability="os")
    yield made
    made.close()


@pytest.fixture
def mem() -> Iterator[mmsb.Bus]:
    """A fresh bus in memory, for what does not depend on the kind."""
    with mmsb.Bus() as made:
        yield made


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A path at which there is no store yet."""
    return tmp_path / "store.mmsb"


Runner = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def python() -> Runner:
    """Run code in a fresh interpreter; ``check=False`` lets it fail."""

    def run(code: str, *args: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, args)],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=Path(__file__).parent,
        )
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run
