"""What a bus does not depend on: the working directory, and whether its host is at work."""

from __future__ import annotations

from pathlib import Path

import mmsb
import pytest


def test_a_relative_path_survives_chdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with mmsb.create("sim.mmsb", durability="os") as bus:
        page = bus.create_page("x", data=[1, 2])
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        page[0] = 9
        assert bus.checkpoint() == 2 and bus.verify().ok
        assert [c.epoch for c in bus.log()] == [1, 2]
    with mmsb.open(tmp_path / "sim.mmsb") as bus:
        assert bus["x"].read().tolist() == [9, 2]


def test_a_reader_verifies_a_store_whose_host_is_at_work(tmp_path: Path) -> None:
    with mmsb.create(tmp_path / "sim.mmsb", durability="os") as host:
        page = host.create_page("x", shape=100, dtype="i8")
        for i in range(1, 2001):
            page[i % 100] = i
            if i % 100 == 0:
                with mmsb.open(tmp_path / "sim.mmsb") as reader:
                    assert reader.epoch == host.epoch
                    page[0] = -i
                    report = reader.verify()
                    assert report.ok, report.problems
                    assert reader["x"].read().tolist() != page.read().tolist()
