"""`doctor` on this machine, and on one where training cannot work."""

import json
from pathlib import Path

from commands import ForkedCommands

from transrec import doctor


def test_it_finds_that_training_works_here(commands: ForkedCommands, tmp_path: Path) -> None:
    finished = commands.run("doctor", "--offline", "--json", "--cache", tmp_path)
    document = json.loads(finished.stdout)
    checks = {check["what"]: check for check in document["checks"]}
    assert finished.code == (0 if document["can_train"] else 1)
    assert {"Python", "packages", "PyTorch", "gloo", "DeepSpeed", "shared memory", "cache", "Ray"} <= checks.keys()
    assert checks["gloo"]["state"] == "ok", checks["gloo"]
    assert str(tmp_path) in checks["cache"]["found"]
    assert all(check["state"] == "ok" or check["remedy"] for check in checks.values())


def without_torch() -> None:
    """Have everything that is tried in a process of its own fail, as if its libraries were broken."""
    doctor._tried = lambda code, seconds=0.0: doctor._Answer("", "ImportError: libtorch.so: cannot open")  # type: ignore[assignment]


def test_a_machine_on_which_training_cannot_work(commands: ForkedCommands) -> None:
    finished = commands.start("doctor", "--offline", before=without_torch).wait()
    assert finished.code == 1
    assert finished.stderr == ""
    lines = finished.stdout.splitlines()
    assert lines[-1] == "Training will not work here until the faults are fixed."
    (fault,) = (number for number, line in enumerate(lines) if line.startswith("FAULT  PyTorch"))
    assert "libtorch.so" in lines[fault]
    assert lines[fault + 1].strip().startswith("→ ")
