"""The command line: every command in both formats, exit statuses, wrong use, damage."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mmsb
import numpy as np
import pytest
from mmsb.cli import main

COMMANDS = [
    *["demo", "info", "pages", "log", "show", "diff", "compare"],
    *["verify", "backup", "recover", "checkpoint", "export"],
]
NOON = 946_728_000_000_000_000  # 2000-01-01 12:00 UTC


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A closed store with six epochs, a tag and an unnamed page."""
    path = tmp_path / "sim.mmsb"
    ticks = iter(range(NOON, NOON + 10**12, 10**9))
    with mmsb.create(path, durability="os", clock=lambda: next(ticks)) as bus:
        bus.create_page("pos", shape=(2, 3), dtype="f4", meta={"unit": "m"})
        for step in range(3):
            with bus.transaction(source="physics", meta={"step": step}) as tx:
                tx["pos"] += 0.5
        bus.tag("start", 2)
        bus.create_page(data=b"\x00\x01\xff")
    return path


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are as wide as they need to be; a test runner may say how wide its terminal is."""
    monkeypatch.delenv("COLUMNS", raising=False)


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    """The exit status, stdout and stderr of one command."""
    status = main([str(arg) for arg in argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def good(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """The stdout of a command that succeeds."""
    status, out, err = run(capsys, *argv)
    assert status == 0, err
    return out


def good_json(capsys: pytest.CaptureFixture[str], *argv: object) -> Any:
    """The JSON of a command that succeeds and has nothing else to say."""
    status, out, err = run(capsys, *argv, "--json")
    assert (status, err) == (0, "")
    return json.loads(out)


# --- the program --------------------------------------------------------------------------------


def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    top = good(capsys, "--help")
    for name in COMMANDS:
        assert f"\n    {name}" in top
        text = good(capsys, name, "--help")
        assert f"example:\n  mmsb {name}" in text
        assert "--json" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert good(capsys, "--version") == f"mmsb {mmsb.__version__}\n"


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["fly"],
        ["info"],
        ["info", "x", "y"],
        ["show", "x"],
        ["diff", "x", "1"],
        ["log", "x", "-n", "0"],
        ["log", "x", "-n", "many"],
        ["log", "x", "--meta", "step"],
        ["export", "x"],
        ["verify", "x", "--fast"],
        ["backup", "x"],
        ["recover", "x"],
        ["recover", "x", "y", "--upto", "start"],
        ["compare", "x"],
    ],
    ids=" ".join,
)
def test_wrong_use_is_2_and_leaves_stdout_empty(
    capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    status, out, err = run(capsys, *argv)
    assert (status, out) == (2, "")
    assert err


def test_a_process_of_its_own(filled: Path) -> None:
    command = [sys.executable, "-m", "mmsb", "pages", str(filled)]
    environment = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "\x1b[" in done.stdout
    environment["NO_COLOR"] = "1"
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert "\x1b[3" not in done.stdout  # may be bold, has no colour
    del environment["NO_COLOR"], environment["FORCE_COLOR"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert "\x1b" not in done.stdout + done.stderr
    done = subprocess.run([*command[:3], "fly"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")


def test_a_reader_that_has_seen_enough_is_no_error(filled: Path) -> None:
    with mmsb.open(filled, mode="r+") as bus:
        for _ in range(3000):
            bus["pos"][0, 0] += np.float32(1)
    command = [sys.executable, "-m", "mmsb", "log", str(filled), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == b""


def test_the_library_does_not_import_the_command_line() -> None:
    code = "import mmsb, sys; print([m for m in sys.modules if m.split('.')[0] == 'rich'])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"


# --- info, pages, show --------------------------------------------------------------------------


def test_info(capsys: pytest.CaptureFixture[str], filled: Path) -> None:
    facts = good_json(capsys, "info", filled)
    with mmsb.open(filled) as bus:
        assert facts["digest"] == bus.digest()
    assert facts["path"] == str(filled)
    assert (facts["epoch"], facts["pages"], facts["state_bytes"]) == (6, 2, 27)
    assert facts["tags"] == {"start": 2}
    assert facts["durability"] == "os"
    assert (facts["checkpoints"], facts["quarantined"], facts["torn_bytes"]) == (0, 0, 0)
    assert facts["disk_bytes"] > facts["log_bytes"] > 0
    assert facts["last_commit"]["time"].startswith("2000-01-01T12:00:")
    text = good(capsys, "info", filled)
    for part in (facts["digest"], "start=2", "27 B", str(filled)):
        assert part in text


def test_info_of_an_empty_store(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    mmsb.create(tmp_path / "empty").close()
    facts = good_json(capsys, "info", tmp_path / "empty")
    assert (facts["epoch"], facts["pages"], facts["last_commit"]) == (0, 0, None)
    assert "none" in good(capsys, "info", tmp_path / "empty")
    assert good(capsys, "log", tmp_path / "empty")
    assert good_json(capsys, "pages", tmp_path / "empty") == {"epoch": 0, "pages": []}


def test_pages(capsys: pytest.CaptureFixture[str], filled: Path) -> None:
    facts = good_json(capsys, "pages", filled)
    assert facts["epoch"] == 6
    assert facts["pages"] == [
        {
            "id": 1,
            "name": "pos",
            "dtype": "float32",
            "shape": [2, 3],
            "nbytes": 24,
            "epoch": 4,
            "meta": {"unit": "m"},
        },
        {
            "id": 2,
            "name": None,
            "dtype": "uint8",
            "shape": [3],
            "nbytes": 3,
            "epoch": 6,
            "meta": {},
        },
    ]
    text = good(capsys, "pages", filled)
    assert len(text.splitlines()) == 3
    assert all(part in text for part in ("pos", "(2, 3)", "float32", '{"unit": "m"}'))


def test_pages_of_the_past(capsys: pytest.CaptureFixture[str], filled: Path) -> None:
    assert len(good_json(capsys, "pages", filled, "--epoch", "start")["pages"]) == 1
    assert good_json(capsys, "pages", filled, "--epoch", "0")["pages"] == []


def test_show(capsys: pytest.CaptureFixture[str], filled: Path) -> None:
    facts = good_json(capsys, "show", filled, "pos")
    assert facts["values"] == [[1.5] * 3] * 2
    assert (facts["at_epoch"], facts["epoch"], facts["dtype"]) == (6, 4, "float32")
    assert good_json(capsys, "show", filled, "2")["values"] == [0, 1, 255]
    text = good(capsys, "show", filled, "pos")
    assert "[1.5 1.5 1.5]" in text and "epoch 6" in text


@pytest.mark.parametrize(("epoch", "value"), [("1", 0.0), ("start", 0.5), ("3", 1.0)])
def test_show_the_past(
    capsys: pytest.CaptureFixture[str], filled: Path, epoch: str, value: float
) -> None:
    facts = good_json(capsys, "show", filled, "pos", "--epoch", epoch)
    assert facts["values"] == [[value] * 3] * 2


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (np.array([1.5, np.nan, -np.inf]), [1.5, "nan", "-inf"]),
        (np.array([True, False]), [True, False]),
        (np.array(["ä", "bc"]), ["ä", "bc"]),
        (np.array([b"ab"]), ["6162"]),
        (np.array([1 + 2j]), [[1.0, 2.0]]),
        (np.array(["2003-08-27"], "M8[ns]"), ["2003-08-27T00:00:00.000000000"]),
        (np.array([(1, 2.5)], [("a", "i4"), ("b", "f8")]), [[1, 2.5]]),
        (np.array(7), 7),
        (np.zeros((0, 3)), []),
    ],
    ids=lambda value: str(getattr(value, "dtype", "")),
)
def test_show_any_dtype(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, data: np.ndarray, shown: object
) -> None:
    with mmsb.create(tmp_path / "s") as bus:
        bus.create_page("x", data=data)
    assert good_json(capsys, "show", tmp_path / "s", "x")["values"] == shown
    assert good(capsys, "show", tmp_path / "s", "x")


def test_text_from_a_store_cannot_steer_the_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with mmsb.create(tmp_path / "s") as bus:
        bus.create_page("[red]x[/red]", data=[0], meta={"note": "a\x1b[2Jb\u202e"})
        bus["[red]x[/red]"].write([1], source="\u202e", meta={"k": "\x9b2J"})
    for command in ("info", "pages", "log"):
        text = good(capsys, command, tmp_path / "s")
        assert not set(text) & set("\x1b\x9b\u202e")
    assert "[red]x[/red]" in good(capsys, "pages", tmp_path / "s")


# --- log, diff ----------------------------------------------------------------------------------


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_log(capsys: pytest.CaptureFixture[str], filled: Path) -> None:
    commits = lines(good(capsys, "log", filled, "--json"))
    assert [commit["epoch"] for commit in commits] == [6, 5, 4, 3, 2, 1]
    assert [commit["source"] for commit in commits[2:5]] == ["physics"] * 3
    third = commits[3]
    assert third == {
        "epoch": 3,
        "time": third["time"],
        "source": "physics",
        "meta": {"step": 1},
        "pages": [1],
        "bytes": 24,
        "changes": [],
    }
    assert third["time"].startswith("2000-01-01T12:00:") and third["time"].endswith("Z")
    assert commits[1]["changes"] == [{"kind": "tag", "name": "start", "epoch": 2}]
    created = commits[5]["changes"][0]
    assert (created["kind"], created["name"], created["dtype"]) == ("create", "pos", "float32")
    text = good(capsys, "log", filled)
    assert len(text.splitlines()) == 7
    assert all(part in text for part in ("physics", '{"step": 2}', "create pos", "tag start"))


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        (["--source", "physics"], [4, 3, 2]),
        (["--meta", "step=1"], [3]),
        (["--meta", 'step="1"'], []),
        (["--page", "pos", "--since", "2"], [4, 3, 2]),
        (["--page", "2"], [6]),
        (["--until", "start"], [2, 1]),
        (["--since", "3", "--until", "4"], [4, 3]),
        (["-n", "2"], [6, 5]),
    ],
    ids=lambda value: " ".join(value) if value and isinstance(value[0], str) else "",
)
def test_log_filters(
    capsys: pytest.CaptureFixture[str], filled: Path, options: list[str], epochs: list[int]
) -> None:
    out = good(capsys, "log", filled, *options, "--json")
    assert [commit["epoch"] for commit in lines(out)] == epochs
    assert len(good(capsys, "log", filled, *options).splitlines()) == len(epochs) + 1


def test_log_says_that_there_is_more(capsys: pytest.CaptureFixture[str], filled: Path) -> None:
    status, out, err = run(capsys, "log", filled, "-n", "5")
    assert (status, len(out.splitlines())) == (0, 6)
    assert "newest 5" in err
    assert run(capsys, "log", filled, "-n", "6")[2] == ""


def test_diff(capsys: pytest.CaptureFixture[str], filled: Path) -> None:
    facts = good_json(capsys, "diff", filled, "start", "6")
    assert (facts["a"], facts["b"]) == ("start", 6)
    changed, created = facts["pages"]
    assert (changed["page"], changed["name"], changed["change"]) == (1, "pos", "changed")
    assert changed["ranges"] == [[0, 24]]
    assert (changed["old"], changed["new"]) == ([[0.5] * 6], [[1.5] * 6])
    assert (created["page"], created["change"]) == (2, "created")
    text = good(capsys, "diff", filled, "start", "6")
    assert "0.5, 0.5, 0.5, ..." in text and "created" in text


def test_diff_of_one_page_and_of_nothing(capsys: pytest.CaptureFixture[str], filled: Path) -> None:
    facts = good_json(capsys, "diff", filled, "1", "6", "--page", "pos")
    assert [entry["name"] for entry in facts["pages"]] == ["pos"]
    assert good_json(capsys, "diff", filled, "4", "5")["pages"] == []


# --- verify, checkpoint, export -----------------------------------------------------------------


def test_verify_a_sound_store(capsys: pytest.CaptureFixture[str], filled: Path) -> None:
    facts = good_json(capsys, "verify", filled)
    assert (facts["ok"], facts["problems"], facts["epoch"]) == (True, [], 6)
    assert facts["records"] >= 6 and facts["bytes"] > 0
    assert good(capsys, "verify", filled).startswith("ok: ")


def damage(path: Path) -> Path:
    """Flip a bit in the middle of what the log holds."""
    (segment,) = sorted((path / "log").iterdir())
    data = bytearray(segment.read_bytes())
    data[4096 + (len(data) - 4096) // 2] ^= 0x10
    segment.write_bytes(data)
    return segment


def test_verify_a_damaged_store(capsys: pytest.CaptureFixture[str], filled: Path) -> None:
    segment = damage(filled)
    status, out, err = run(capsys, "verify", filled, "--json")
    assert (status, err) == (1, "")
    facts = json.loads(out)
    assert facts["ok"] is False
    problem = facts["problems"][0]
    assert problem["code"] == "corruption"
    assert problem["file"].endswith(segment.name)
    assert problem["offset"] >= 4096
    status, out, _ = run(capsys, "verify", filled)
    assert status == 1
    assert out.startswith("corruption: ") and segment.name in out
    # It does not open, and all of it is looked at even so.
    (filled / "meta-0").write_bytes(bytes(4096))
    status, out, _ = run(capsys, "verify", filled, "--json")
    facts = json.loads(out)
    assert (status, facts["ok"], len(facts["problems"])) == (1, False, 2)
    assert facts["records"] >= 4 and facts["bytes"] > 4096


def test_backup(capsys: pytest.CaptureFixture[str], filled: Path, tmp_path: Path) -> None:
    facts = good_json(capsys, "backup", filled, tmp_path / "copy")
    assert facts == {"path": str(tmp_path / "copy"), "epoch": 6}
    assert "epoch 6" in good(capsys, "backup", filled, tmp_path / "another")
    for name in ("copy", "another"):
        with mmsb.open(filled) as bus, mmsb.open(tmp_path / name) as copy:
            assert copy.digest() == bus.digest()
    status, _, err = run(capsys, "backup", filled, tmp_path / "copy")
    assert status == 1 and "bus-exists" in err


def test_recover(capsys: pytest.CaptureFixture[str], filled: Path, tmp_path: Path) -> None:
    facts = good_json(capsys, "recover", filled, tmp_path / "whole")
    assert (facts["ok"], facts["epoch"], facts["problems"], facts["lost"]) == (True, 6, [], [])
    assert "all epochs up to 3" in good(capsys, "recover", filled, tmp_path / "3", "--upto", "3")
    with mmsb.open(filled, mode="r+") as bus:
        bus.checkpoint()
        bus["pos"][0, 0] = 9
    segments = sorted((filled / "log").iterdir())
    data = bytearray(segments[0].read_bytes())
    data[4096 + (len(data) - 4096) // 2] ^= 0x10
    segments[0].write_bytes(data)
    status, out, err = run(capsys, "recover", filled, tmp_path / "new", "--json")
    facts = json.loads(out)
    assert (status, err, facts["ok"], facts["appended"]) == (1, "", False, None)
    epoch = facts["epoch"]
    assert 0 < epoch < 5 and facts["later"] == [[6, 8]] and facts["lost"] == [[epoch + 1, 6]]
    assert facts["problems"][0]["file"] == str(segments[0])
    status, out, err = run(capsys, "recover", filled, tmp_path / "shown")
    assert status == 1 and "--newest" in err
    assert "corruption: " in out and "whole behind the damage: epochs 6 to 7" in out
    status, out, _ = run(capsys, "recover", filled, tmp_path / "newest", "--newest")
    assert status == 1 and f"the state of epoch 7 as epoch {epoch + 1}" in out
    with mmsb.open(tmp_path / "newest") as bus:
        assert bus["pos"][0, 0] == 9
    status, _, err = run(capsys, "recover", filled, filled)
    assert status == 1 and "argument" in err


def test_compare(capsys: pytest.CaptureFixture[str], filled: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    good(capsys, "backup", filled, copy)
    assert good_json(capsys, "compare", filled, copy) == {"equal": True}
    assert good(capsys, "compare", filled, copy).startswith("equal")
    with mmsb.open(copy, mode="r+") as bus:
        bus["pos"].write(7, source="there", meta={"step": 9})
    status, out, err = run(capsys, "compare", filled, copy, "--json")
    facts = json.loads(out)
    assert (status, err, facts["kind"], facts["epoch"]) == (1, "", "length", 7)
    assert facts["commit_a"] is None and facts["commit_b"]["source"] == "there"
    with mmsb.open(filled, mode="r+") as bus:
        bus["pos"][1, 2] = np.nan
    status, out, err = run(capsys, "compare", filled, copy, "--json")
    facts = json.loads(out)
    assert (facts["equal"], facts["kind"], facts["name"]) == (False, "bytes", "pos")
    assert (facts["index"], facts["a"], facts["b"]) == ([0, 0], 1.5, 7.0)
    status, out, _ = run(capsys, "compare", filled, copy)
    assert status == 1
    assert "they part in epoch 7: bytes of page 1 'pos' at byte" in out and "there" in out


@pytest.mark.parametrize(
    "command", [["info"], ["pages"], ["log"], ["show", "pos"], ["diff", "1", "2"], ["checkpoint"]]
)
def test_no_command_shows_a_damaged_state(
    capsys: pytest.CaptureFixture[str], filled: Path, command: list[str]
) -> None:
    segment = damage(filled)
    name, *rest = command
    status, out, err = run(capsys, name, filled, *rest)
    assert (status, out) == (1, "")
    assert "mmsb: corruption: " in err and segment.name in err
    status, out, _ = run(capsys, name, filled, *rest, "--json")
    assert status == 1
    assert json.loads(out)["error"]["code"] == "corruption"


def test_a_torn_tail_is_told_and_harmless(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with mmsb.create(tmp_path / "live", durability="os") as bus:
        bus.create_page("x", data=np.arange(100.0))
        bus["x"][...] = 1.0
        shutil.copytree(tmp_path / "live", tmp_path / "copy")  # as a crash would leave it
    (segment,) = (tmp_path / "copy" / "log").iterdir()
    data = segment.read_bytes().rstrip(b"\0")
    segment.write_bytes(data[:-10])
    facts = good_json(capsys, "info", tmp_path / "copy")
    assert facts["epoch"] == 1
    assert facts["torn_bytes"] > 0
    assert "never finished" in run(capsys, "info", tmp_path / "copy")[2]
    assert good_json(capsys, "checkpoint", tmp_path / "copy")["epoch"] == 1
    assert good_json(capsys, "verify", tmp_path / "copy")["ok"] is True
    assert "quarantine" in run(capsys, "info", tmp_path / "copy")[2]
    facts = good_json(capsys, "info", tmp_path / "copy")
    assert (facts["torn_bytes"], facts["quarantined"], facts["checkpoints"]) == (0, 1, 1)


def test_checkpoint(capsys: pytest.CaptureFixture[str], filled: Path) -> None:
    facts = good_json(capsys, "checkpoint", filled)
    assert facts["epoch"] == 6 and facts["seconds"] >= 0
    assert good_json(capsys, "info", filled)["checkpoints"] == 1
    with mmsb.open(filled) as bus:
        assert bus.recovery is not None and bus.recovery.checkpoint_epoch == 6
    assert "epoch 6" in good(capsys, "checkpoint", filled)


def test_export(capsys: pytest.CaptureFixture[str], filled: Path, tmp_path: Path) -> None:
    target = tmp_path / "now.npz"
    facts = good_json(capsys, "export", filled, target)
    assert facts == {
        "file": str(target),
        "epoch": 6,
        "pages": ["pos", "#2"],
        "bytes": target.stat().st_size,
    }
    with np.load(target) as arrays:
        assert arrays["pos"].dtype == np.float32
        np.testing.assert_array_equal(arrays["pos"], np.full((2, 3), 1.5))
        np.testing.assert_array_equal(arrays["#2"], [0, 1, 255])
    assert "epoch 2" in good(capsys, "export", filled, tmp_path / "past.npz", "--epoch", "start")
    with np.load(tmp_path / "past.npz") as arrays:
        assert list(arrays) == ["pos"]
        np.testing.assert_array_equal(arrays["pos"], np.full((2, 3), 0.5))


def test_export_takes_any_page_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with mmsb.create(tmp_path / "s") as bus:
        for name in ("file", "a/b", "ü", "x.npy"):
            bus.create_page(name, data=[1])
    good(capsys, "export", tmp_path / "s", tmp_path / "o.npz")
    with np.load(tmp_path / "o.npz") as arrays:
        assert len(arrays) == 4
        assert arrays["file"].tolist() == arrays["a/b"].tolist() == [1]


def test_export_keeps_what_is_there(
    capsys: pytest.CaptureFixture[str], filled: Path, tmp_path: Path
) -> None:
    target = tmp_path / "precious.npz"
    target.write_bytes(b"precious")
    status, out, err = run(capsys, "export", filled, target)
    assert (status, out) == (2, "")
    assert str(target) in err
    assert target.read_bytes() == b"precious"
    status, _, err = run(capsys, "export", filled, tmp_path / "no" / "such" / "folder.npz")
    assert status == 1 and "folder.npz" in err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["precious.npz", "sim.mmsb"]


# --- problems -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["show", "velocity"], "page-not-found"),
        (["show", "99"], "page-not-found"),
        (["show", "9" * 5000], "page-not-found"),
        (["show", "pos", "--epoch", "99"], "epoch-not-found"),
        (["show", "pos", "--epoch", "end"], "tag-not-found"),
        (["show", "2", "--epoch", "start"], "page-not-found"),
        (["pages", "--epoch", str(2**64)], "epoch-not-found"),
        (["log", "--page", "velocity"], "page-not-found"),
        (["log", "--since", "end"], "tag-not-found"),
        (["diff", "1", "99"], "epoch-not-found"),
        (["diff", "1", "end"], "tag-not-found"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else value,
)
def test_what_is_not_there_is_1(
    capsys: pytest.CaptureFixture[str], filled: Path, command: list[str], code: str
) -> None:
    name, *rest = command
    status, out, err = run(capsys, name, filled, *rest)
    assert (status, out) == (1, "")
    assert err.startswith(f"mmsb: {code}: ")
    status, out, _ = run(capsys, name, filled, *rest, "--json")
    assert status == 1
    assert json.loads(out)["error"]["code"] == code


@pytest.mark.parametrize("command", ["info", "pages", "log", "verify", "checkpoint"])
def test_a_directory_that_is_no_store(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        status, out, err = run(capsys, command, path)
        assert (status, out) == (1, "")
        assert "bus-not-found" in err and str(path) in err
    assert not (tmp_path / "missing").exists()


def test_a_store_in_use_can_be_read_but_not_checkpointed(
    capsys: pytest.CaptureFixture[str], filled: Path
) -> None:
    with mmsb.open(filled, mode="r+") as bus:
        bus["pos"][0, 0] = 9
        bus.sync()
        assert good_json(capsys, "show", filled, "pos")["values"][0][0] == 9
        status, out, err = run(capsys, "checkpoint", filled)
        assert (status, out) == (1, "")
        assert "bus-locked" in err and str(os.getpid()) in err
