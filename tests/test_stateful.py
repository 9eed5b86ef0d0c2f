"""Random sequences of every operation against the oracle, in memory and in a directory.

`make stateful` is main(): the same machines, longer.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import conftest  # noqa: F401  (the profiles)
import mmsb
import numpy as np
import plain_reader
import proof
import pytest
from hypothesis import seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from kills import killed
from mmsb import _core
from model import (
    Create,
    Derive,
    Link,
    Model,
    Node,
    Refused,
    State,
    bind_all,
    canonical,
    changed_ranges,
    check_all_epochs,
    check_bus,
    check_snapshot,
    same,
)
from strategies import METAS, operations

SOURCES = st.none() | st.sampled_from(["physics", "control"])
DURABILITIES = st.none() | st.sampled_from(["memory", "os", "disk"])
# What a run may begin with: a page, what follows from it, and what follows from that.
SMALL_GRAPH = [
    Create("a", "u1", (5,), b"\1\2\3\4\5", "{}"),
    Derive("b", "u1", (5,), "{}", Node("function", "", (1,), poisons=True)),
    Derive("vel/x", "u1", (5,), "{}", Node("native", "a + 1", (2,))),
    Derive("pos", "u1", (20_000,), "{}", Node("function", "", (2, 1), deferred=True)),
    Create("Ä", None, (64,), None, "{}"),
    Link(3, 5, "control", there=True),
]
# Killed hosts a run: each costs as much as all other rules of the run together.
KILLS = st.sampled_from([0, 0, 0, 1])


def undone(states: list[State]) -> bool:
    """Whether a page was changed on the way and is at the end what it was at the beginning.

    The contract leaves open whether such a commit changed something; so it is aborted instead.
    """
    first, last = states[0], states[-1]
    return any(
        page.same_content(first.pages.get(i)) and not page.same_content(state.pages.get(i))
        for i, page in last.pages.items()
        for state in states
    )


class BusMachine(RuleBasedStateMachine):
    """The rules that hold for both kinds of bus."""

    seen: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.seen["runs"] += 1
        self.model = Model()
        self.kept: list[tuple[Any, State, int, dict[int, Any]]] = []
        self.digests: dict[str, tuple[Any, ...]] = {}
        self.keys: dict[tuple[Any, ...], str] = {}
        self.bus = self.make()

    def make(self) -> Any:
        return mmsb.Bus()

    def teardown(self) -> None:
        try:
            check_all_epochs(self.bus, self.model)
            self.look_at_kept()
        finally:
            for snap, *_ in self.kept:
                snap.close()
            self.bus.close()

    @initialize(graph=st.booleans())
    def begin_with_a_graph(self, graph: bool) -> None:
        for op in SMALL_GRAPH if graph else []:
            draft = self.model.head.copy()
            op.apply(draft)
            epoch, _ = self.model.commit(draft)
            assert op.on_bus(self.bus) == epoch

    @rule(epochs=st.none() | st.integers(1, 9), seconds=st.none() | st.sampled_from([0, 0.01, 5]))
    def retain(self, epochs: int | None, seconds: float | None) -> None:
        if epochs is not None and seconds is not None:
            with pytest.raises(mmsb.ArgumentError):
                self.bus.retain(epochs=epochs, seconds=seconds)
            return
        self.bus.retain(epochs=epochs, seconds=seconds)
        first = self.bus.stats()["retained_since"]
        assert first >= self.model.epoch + 1 - (epochs or 1) or seconds is not None
        for epoch in range(first, self.model.epoch + 1):
            assert self.bus.cost(epoch) == mmsb.Cost(None, 0, 0)

    # -- commits

    @rule(data=st.data())
    def one_operation(self, data: st.DataObject) -> None:
        draft = self.model.head.copy()
        op = data.draw(operations(self.model, draft, transaction=False))
        try:
            op.apply(draft)
            epoch, _ = self.model.commit(draft)
        except Refused as refused:
            self.seen[f"refused: {refused}"] += 1
            with pytest.raises(refused.error):
                op.on_bus(self.bus)
            return
        assert op.on_bus(self.bus) == epoch

    @rule(
        data=st.data(),
        count=st.integers(0, 5),
        abort=st.booleans(),
        source=SOURCES,
        meta=st.none() | METAS,
        durability=DURABILITIES,
    )
    def transaction(
        self,
        data: st.DataObject,
        count: int,
        abort: bool,
        source: str | None,
        meta: str | None,
        durability: str | None,
    ) -> None:
        value = json.loads(meta) if meta else None
        abort = abort and count > 1
        draft, before = self.model.head.copy(), self.model.epoch
        seen = [self.model.head]
        refused: type[Exception] | None = None
        tx = self.bus.transaction(source=source, meta=value, durability=durability)
        try:
            with tx:
                for _ in range(count):
                    op = data.draw(operations(self.model, draft, transaction=True))
                    try:
                        op.apply(draft)
                    except Refused as error:
                        refused = error.error
                    op.on_tx(tx, self.bus)
                    if refused:
                        break
                    seen.append(draft.copy())
                abort = abort or undone(seen)
                if not abort and not refused:
                    refused = self.model.refusal(draft)
                assert tx.epoch is None and tx.changed is False
                if abort:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            assert abort
        except mmsb.MMSBError as error:
            assert refused and isinstance(error, refused), (error, refused)
        else:
            assert not refused, "the transaction should have been refused"
            epoch, changed = self.model.commit(draft, source, value)
            assert (tx.epoch, tx.changed) == (epoch, changed)
            return
        assert (tx.epoch, tx.changed) == (None, False)
        assert self.bus.epoch == before

    @precondition(lambda self: len(self.model.states) > 2)
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        to = data.draw(st.integers(self.model.first, self.model.epoch))
        epoch, _ = self.model.commit(self.model.restored(to))
        assert self.bus.restore(to) == epoch
        bind_all(self.bus, self.model.head)
        assert self.bus.digest() == self.bus.digest(to)

    # -- looking

    @rule()
    def keep_a_snapshot(self) -> None:
        snap = self.bus.snapshot()
        arrays = {page.id: snap[page.id] for page in snap.pages}
        self.kept.append((snap, self.model.head, self.model.epoch, arrays))

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def drop_a_snapshot(self, data: st.DataObject) -> None:
        snap, state, epoch, arrays = self.kept.pop(data.draw(st.integers(0, len(self.kept) - 1)))
        check_snapshot(snap, state, epoch)
        snap.close()
        for i, array in arrays.items():
            same(array, state.pages[i])

    @rule(data=st.data())
    def look_back(self, data: st.DataObject) -> None:
        epoch = data.draw(st.integers(self.model.first, self.model.epoch))
        with self.bus.snapshot(epoch) as snap:
            check_snapshot(snap, self.model.at(epoch), epoch)
            digest = snap.digest()
        assert digest == self.bus.digest(epoch)
        key = self.model.at(epoch).key()
        assert self.digests.setdefault(digest, key) == key, "two states, one digest"
        assert self.keys.setdefault(key, digest) == digest, "one state, two digests"

    @rule(data=st.data())
    def look_at_the_log(self, data: st.DataObject) -> None:
        first = data.draw(
            st.integers(self.model.first + 1, max(self.model.first + 1, self.model.epoch))
        )
        last = data.draw(st.integers(first, self.model.epoch + 3))
        seen = list(self.bus.log(since=first, until=last))
        wanted = range(first, min(last, self.model.epoch) + 1)
        assert [c.epoch for c in seen] == list(wanted)
        for commit in seen:
            source, meta = self.model.commits[commit.epoch]
            assert (commit.source, canonical(commit.meta)) == (source, canonical(meta))
            old, new = self.model.at(commit.epoch - 1).pages, self.model.at(commit.epoch).pages
            touched = {i for i in old.keys() | new.keys() if old.get(i) != new.get(i)}
            assert touched <= set(commit.pages)
        times = [c.time for c in seen]
        assert times == sorted(times)
        backward = self.bus.log(since=first, until=last, reverse=True)
        assert [c.epoch for c in backward] == list(reversed(wanted))

    @rule(data=st.data())
    def look_at_a_difference(self, data: st.DataObject) -> None:
        epochs = st.integers(self.model.first, self.model.epoch)
        a, b = data.draw(epochs), data.draw(epochs)
        seen = list(self.bus.diff(a, b))
        assert [(d.page, d.change) for d in seen] == self.model.diff(a, b)
        for d in seen:
            old, new = self.model.at(a).pages.get(d.page), self.model.at(b).pages.get(d.page)
            assert d.name == (new or old).name
            if d.change == "changed":
                assert list(d.ranges) == changed_ranges(old.data, new.data, new.dtype.itemsize)
                for (start, stop), before, after in zip(d.ranges, d.old, d.new, strict=True):
                    assert (before.ndim, before.dtype) == (1, new.dtype)
                    assert before.tobytes() == old.data[start:stop]
                    assert after.tobytes() == new.data[start:stop]

    @precondition(lambda self: any(p.shape for p in self.model.head.pages.values()))
    @rule(data=st.data())
    def look_at_a_history(self, data: st.DataObject) -> None:
        fit = sorted(i for i, p in self.model.head.pages.items() if p.shape)
        i = data.draw(st.sampled_from(fit))
        since = data.draw(st.integers(self.model.first, self.model.epoch))
        index = data.draw(st.sampled_from([np.s_[:], np.s_[:1], np.s_[2:4]]))
        seen = [
            (c.epoch, value.shape, value.tobytes())
            for c, value in self.bus[i].history(index=index, since=since)
        ]
        assert seen == self.model.history(i, index, since, self.model.epoch)

    @rule(data=st.data(), count=st.integers(1, 4), on_disk=st.booleans())
    def fork(self, data: st.DataObject, count: int, on_disk: bool) -> None:
        at = data.draw(st.integers(self.model.first, self.model.epoch))
        model = self.model.fork(at)
        with tempfile.TemporaryDirectory(prefix="mmsb-fork-") as folder:
            path = Path(folder) / "f.mmsb"
            self.go_on_in(self.bus.fork(at, path=path if on_disk else None), model, data, count)
            if on_disk:
                with mmsb.open(path) as reader:
                    check_all_epochs(reader, model)
                    assert reader.verify().ok

    def go_on_in(self, made: mmsb.Bus, model: Model, data: st.DataObject, count: int) -> None:
        """Commit to a fork beside its model."""
        at = model.epoch
        with made as fork:
            model.head.tags.clear()
            model.head.tags.update(fork.tags)
            assert all(epoch <= at for epoch in fork.tags.values())
            check_bus(fork, model)
            bind_all(fork, model.head)
            for _ in range(count):
                draft = model.head.copy()
                op = data.draw(operations(model, draft, transaction=False))
                try:
                    op.apply(draft)
                    epoch, _ = model.commit(draft)
                except Refused:
                    continue
                assert op.on_bus(fork) == epoch
            check_all_epochs(fork, model)
            if at:
                with pytest.raises(mmsb.EpochNotFoundError):
                    fork.snapshot(at - 1)

    @precondition(lambda self: self.bus.path is None)
    @rule(data=st.data())
    def go_on_with_a_fork(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(self.model.first, self.model.epoch))
        parent, self.bus = self.bus, self.bus.fork(at)
        parent.close()
        self.model = self.model.fork(at)
        self.model.head.tags.clear()
        self.model.head.tags.update(self.bus.tags)
        bind_all(self.bus, self.model.head)

    def look_at_kept(self) -> None:
        for snap, state, epoch, arrays in self.kept:
            check_snapshot(snap, state, epoch)
            for i, array in arrays.items():
                same(array, state.pages[i])

    @invariant()
    def newest_state(self) -> None:
        self.seen["steps"] += 1
        check_bus(self.bus, self.model)


class StoreMachine(BusMachine):
    """A bus in a directory: checkpoints, closing and opening come on top."""

    segment_bytes: int | None = None

    def make(self) -> Any:
        # What opens of the time before the log: the states of kept checkpoints.
        self.older: dict[int, State] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="mmsb-stateful-"))
        self.path = self.folder / "s.mmsb"
        core = _core.Core.create(str(self.path), "memory", segment_bytes=self.segment_bytes)
        return mmsb.Bus._of(core)

    def open(self, durability: str | None) -> Any:
        core = _core.Core.open(str(self.path), "r+", durability, segment_bytes=self.segment_bytes)
        return mmsb.Bus._of(core)

    @initialize(durability=st.sampled_from(["memory", "os", "disk"]), kills=KILLS)
    def first_opening(self, durability: str, kills: int) -> None:
        self.kills = kills
        self.bus.close()
        self.bus = self.open(durability)
        bind_all(self.bus, self.model.head)

    @rule()
    def checkpoint(self) -> None:
        assert self.bus.checkpoint() == self.model.epoch

    @rule(
        data=st.data(),
        checkpoints=st.none() | st.integers(0, 3),
        every=st.none() | st.integers(1, 9),
    )
    def prune(self, data: st.DataObject, checkpoints: int | None, every: int | None) -> None:
        first, newest = self.model.first, self.model.epoch
        since = data.draw(st.none() | st.integers(0, newest))
        told = self.bus.prune(log_since=since, checkpoints=checkpoints, every=every, dry_run=True)
        report = self.bus.prune(log_since=since, checkpoints=checkpoints, every=every)
        # Indexes are made beside the commits, at any moment.
        gone_files = [[f for f in r.files if f[0].suffix != ".midx"] for r in (told, report)]
        assert gone_files[0] == gone_files[1]
        assert replace(told, files=(), bytes=0) == replace(report, files=(), bytes=0)
        self.seen["prunings"] += 1
        base = plain_reader.read_meta(self.path)["base_epoch"]
        assert first <= base <= max(first, since or 0)
        gone = {epoch for start, stop in told.epochs for epoch in range(start, stop)}
        older = {**self.older, **{epoch: self.model.at(epoch) for epoch in range(first, base)}}
        assert gone <= older.keys()
        assert gone.isdisjoint(self.model.head.tags.values())
        self.older = {epoch: state for epoch, state in older.items() if epoch not in gone}
        self.model.let_go(base)
        self.look_at_older()
        for epoch in gone:
            if epoch < self.bus.stats()["retained_since"]:
                with pytest.raises(mmsb.EpochNotFoundError):
                    self.bus.snapshot(epoch)

    def look_at_older(self) -> None:
        for epoch, state in self.older.items():
            with self.bus.snapshot(epoch) as snap:
                check_snapshot(snap, state, epoch)

    @rule()
    def sync(self) -> None:
        assert self.bus.sync() == self.model.epoch
        assert self.bus.durable_epoch == self.model.epoch

    @rule(durability=DURABILITIES)
    def reopen(self, durability: str | None) -> None:
        self.bus.close()
        assert self.bus.closed
        with mmsb.open(self.path) as reader:
            check_bus(reader, self.model)
            with pytest.raises(mmsb.ReadOnlyError):
                reader.create_page("never", size=1)
        self.bus = self.open(durability)
        bind_all(self.bus, self.model.head)
        assert self.bus.recovery.epoch == self.model.epoch
        assert (self.bus.recovery.torn_bytes, list(self.bus.recovery.quarantined)) == (0, [])
        self.look_at_kept()
        self.look_at_older()

    @rule()
    def recover(self) -> None:
        """What is provably good of a sound store is all of it."""
        self.bus.close()
        told = mmsb.recover(self.path, self.folder / "new.mmsb", newest=True)
        assert told.ok and told.torn_bytes == 0
        assert (told.epoch, told.appended, told.lost) == (self.model.epoch, None, ())
        with mmsb.open(self.folder / "new.mmsb") as new:
            check_bus(new, self.model)
        shutil.rmtree(self.folder / "new.mmsb")
        self.bus = self.open(None)
        bind_all(self.bus, self.model.head)
        self.look_at_kept()

    @precondition(lambda self: self.kills)
    @rule(
        data=st.data(),
        count=st.integers(0, 3),
        durability=st.sampled_from(["memory", "os", "disk"]),
        checkpoint=st.booleans(),
    )
    def kill(self, data: st.DataObject, count: int, durability: str, checkpoint: bool) -> None:
        """A host of its own process commits and is killed: nothing is synced, sealed or ended."""
        self.bus.close()
        self.kills -= 1
        self.seen["kills"] += 1
        before, state, ops = self.model.epoch, self.model.head, []
        for _ in range(count):
            draft = self.model.head.copy()
            op = data.draw(operations(self.model, draft, transaction=False))
            try:
                op.apply(draft)
                ops.append((op, self.model.commit(draft)[0]))
            except Refused:
                continue

        def work() -> None:
            bus = self.open(durability)
            bind_all(bus, state)
            for op, epoch in ops:
                assert op.on_bus(bus) == epoch
            if checkpoint:
                assert bus.checkpoint() == self.model.epoch
            with bus.snapshot(), bus.transaction() as tx:
                tx.create_page("never", data=b"not committed")
                os.kill(os.getpid(), signal.SIGKILL)

        killed(work)
        self.bus = self.open(None)
        if durability == "memory" and not checkpoint:  # it promises a prefix only
            assert before <= self.bus.epoch
            self.model.lose_after(self.bus.epoch)
        bind_all(self.bus, self.model.head)
        assert self.bus.recovery.epoch == self.model.epoch
        self.look_at_kept()

    @rule()
    def verify(self) -> None:
        report = self.bus.verify()
        assert report.ok and not report.problems
        assert report.records >= len(self.model.states) - 1

    def teardown(self) -> None:
        try:
            super().teardown()
            with mmsb.open(self.path) as reader:
                check_all_epochs(reader, self.model)
                assert reader.verify().ok
        finally:
            shutil.rmtree(self.folder)


class SegmentsMachine(StoreMachine):
    """The same with segments so small that the log is always rolling."""

    segment_bytes = 8192


MACHINES = [BusMachine, StoreMachine, SegmentsMachine]


# Newer interpreters warn of a fork beside threads; those of pytest-xdist are no danger to it.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("machine", MACHINES, ids=["memory", "directory", "segments"])
def test_bus_is_its_model(machine: type[BusMachine]) -> None:
    run_state_machine_as_test(machine)


def main() -> None:
    """Run all machines with the loaded Hypothesis profile and note what came of it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("profile", choices=["ci", "stateful", "deep"])
    parser.add_argument("seed", type=int)
    asked = parser.parse_args()
    settings.load_profile(asked.profile)
    for machine in MACHINES:
        run_state_machine_as_test(seed(asked.seed)(machine))
        print(f"{machine.__name__}, in all so far: {dict(BusMachine.seen)}", flush=True)
    profile, seen = settings.get_profile(asked.profile), BusMachine.seen
    proof.row(
        "18-stateful-python",
        "18 state machine, Python",
        "every operation, transactions, forks, checkpoints, time travel, reopening and killed hosts"
        f" against the model, {len(MACHINES)} machines of {profile.max_examples} x"
        f" {profile.stateful_step_count}",
        f"{seen['runs']} runs, {seen['steps']} steps, {seen['kills']} kills",
        asked.seed,
        "0 failures",
        f"make stateful STATEFUL={asked.profile} SEED={asked.seed}",
    )


if __name__ == "__main__":
    main()
