"""Events reach Python's logging, and the library prints nothing by itself."""

from __future__ import annotations

import logging
from pathlib import Path

import mmsb
import pytest
from conftest import Runner
from mmsb import _core


def use(path: Path) -> None:
    with mmsb.create(path, durability="disk") as bus:
        bus.create_page("x", data=[1, 2, 3])
        with bus.transaction() as tx:
            tx["x"] += 1
        bus.checkpoint()
        bus.snapshot(1).close()
        with bus.fork(bus.epoch):
            pass
        bus.restore(1)
    with mmsb.open(path, mode="r+") as bus:
        assert bus.verify().ok


def test_events_have_stable_names_and_fields(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="mmsb"):
        use(store)
    records = [r for r in caplog.records if r.name.startswith("mmsb")]
    assert records, "operations emit events"
    for record in records:
        assert record.event in _core.EVENTS and isinstance(record.fields, dict)
        assert record.getMessage()
    assert {"mmsb.create", "mmsb.open", "mmsb.close"} <= {r.event for r in records}
    assert all(e == e.lower() and "." in e for e in _core.EVENTS)
    assert len(set(_core.EVENTS)) == len(_core.EVENTS)


def test_nothing_is_said_or_printed_unless_asked(
    store: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    use(store)
    assert not [r for r in caplog.records if r.name.startswith("mmsb")]
    assert capfd.readouterr() == ("", "")
    handlers = logging.getLogger("mmsb").handlers
    assert [type(h) for h in handlers] == [logging.NullHandler]


def test_recovery_and_quarantine_warn(
    store: Path, python: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    python(
        "import mmsb, os, sys\n"
        "bus = mmsb.create(sys.argv[1], durability='os')\n"
        "bus.create_page('x', data=[1, 2, 3])\n"
        "bus['x'][0] = 5\n"
        "os.kill(os.getpid(), 9)\n",
        store,
        check=False,
    )
    (segment,) = (store / "log").iterdir()
    data = segment.read_bytes()
    segment.write_bytes(data.rstrip(b"\0")[:-3])
    with caplog.at_level(logging.WARNING, logger="mmsb"), mmsb.open(store, mode="r+") as bus:
        quarantined = [Path(p).name for p in bus.recovery.quarantined]
    assert quarantined
    said = [r for r in caplog.records if r.name.startswith("mmsb")]
    assert said and all(r.levelno >= logging.WARNING for r in said)
    assert {r.event for r in said} == {"mmsb.recovery.torn", "mmsb.quarantine"}
    assert quarantined[0] in "\n".join(r.getMessage() for r in said)


def test_the_level_can_be_changed_while_it_runs(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("mmsb")

    def count() -> int:
        caplog.clear()
        bus["x"].write(bus.epoch)
        bus.sync()
        return len(caplog.records)

    with mmsb.create(store, durability="disk") as bus:
        bus.create_page("x", shape=2)
        before = logger.level
        try:
            logger.setLevel(logging.DEBUG)
            loud = count()
            logger.setLevel(logging.ERROR)
            quiet = count()
        finally:
            logger.setLevel(before)
    assert loud > 0 and quiet == 0


def test_a_handler_that_raises_or_uses_the_bus_breaks_no_commit(store: Path) -> None:
    class Odd(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(bus.epoch if bus is not None else -1)
            raise ZeroDivisionError

    seen: list[int] = []
    bus: mmsb.Bus | None = None
    logger = logging.getLogger("mmsb")
    handler, level = Odd(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        bus = mmsb.create(store, durability="disk")
        page = bus.create_page("x", shape=2)
        for i in range(1, 6):
            page.write(i)
        assert page[0] == 5
        bus.close()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert seen


FORKS_BESIDE_EVENTS = """
import logging, os, sys, threading
import mmsb

class Count(logging.Handler):
    said = 0

    def emit(self, record):
        Count.said += 1

sys.setswitchinterval(1e-6)
logger = logging.getLogger("mmsb")
logger.addHandler(Count())
logger.setLevel(logging.DEBUG)
done = threading.Event()

def talk():
    with mmsb.Bus() as bus:
        bus.create_page("x", shape=4)
        while not done.is_set():
            bus.fork(bus.epoch).close()  # an event each

threads = [threading.Thread(target=talk) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(50):
    pid = os.fork()
    if pid == 0:
        before = Count.said
        with mmsb.Bus() as bus:
            bus.fork(0).close()
        os._exit(Count.said == before)
    assert os.waitpid(pid, 0)[1] == 0, "no event reached the child's logger"
done.set()
for thread in threads:
    thread.join()
"""


def test_forks_beside_threads_that_log_do_not_deadlock(python: Runner) -> None:
    # The hooks of a fork once held the lock of the queue of events while they ran Python code:
    # a thread that waited for it with the interpreter in its hands never let them go on.
    python(FORKS_BESIDE_EVENTS)


def test_an_interrupt_while_an_event_is_logged_comes_out_of_the_call(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Interrupts(logging.Handler):
        """Raises as a signal handler would, at the first event it sees."""

        def emit(self, record: logging.LogRecord) -> None:
            logger.removeHandler(self)
            raise KeyboardInterrupt(record.event)

    logger = logging.getLogger("mmsb")
    with mmsb.create(store) as bus, caplog.at_level(logging.DEBUG, logger="mmsb"):
        page = bus.create_page("x", data=[1, 2, 3])
        caplog.clear()
        bus.checkpoint()
        usual = [r.event for r in caplog.records]
        page[0] = 9
        caplog.clear()
        logger.addHandler(Interrupts())
        with pytest.raises(KeyboardInterrupt) as raised:
            bus.checkpoint()
        made = {path.name for path in (store / "checkpoints").iterdir()}
        assert made == {f"{1:016x}.ckpt", f"{2:016x}.ckpt"}, "the call had ended"
        bus.stats()
        told = [str(raised.value), *(r.event for r in caplog.records)]
        assert told == usual, "the events behind it come with the next call"
    with mmsb.open(store) as reader:
        assert reader["x"].read().tolist() == [9, 2, 3] and reader.verify().ok
