"""`doctor` names what is broken, and neither crashes nor hangs over it."""

import os
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from transrec import doctor
from transrec.doctor import Finding, can_train

Usage = namedtuple("Usage", "total used free")
GIB = 2**30


def named(findings: list[Finding], what: str) -> Finding:
    (found,) = [finding for finding in findings if finding.what == what]
    return found


def answers(monkeypatch: pytest.MonkeyPatch, answer: str = "", fault: str = "") -> None:
    monkeypatch.setattr(doctor, "_tried", lambda code, seconds=0.0: doctor._Answer(answer, fault))


PROBE = (
    '{"version": "2.8", "built_for": "CUDA 13", "devices": [{"name": "H100", "bytes": 85899345920}], '
    '"gpu_here": true, "backends": {"gloo": "", "nccl": "unhandled system error"}}'
)


def test_a_device_that_cannot_talk_to_others_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, PROBE)
    findings = list(doctor._torch())
    assert named(findings, "devices").found == "H100, 80 GiB"
    assert named(findings, "gloo").state == "ok"
    assert named(findings, "nccl").state == "fault"
    assert not can_train(findings)


def test_a_gpu_that_pytorch_cannot_use_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, PROBE.replace('{"name": "H100", "bytes": 85899345920}', "").replace(', "nccl"', ', "none"'))
    found = named(list(doctor._torch()), "devices")
    assert (found.state, found.found) == ("note", "there is a GPU that PyTorch cannot use")
    assert "nvidia-smi" in found.remedy


@pytest.mark.parametrize(
    ("check", "state"),
    [
        (doctor._torch, "fault"),
        (lambda: doctor._imported("DeepSpeed", "deepspeed", "fault"), "fault"),
        (lambda: doctor._imported("Ray", "ray", "note"), "note"),
    ],
)
def test_a_library_that_does_not_start_is_one_line(
    monkeypatch: pytest.MonkeyPatch, check: Callable[[], list[Finding]], state: str
) -> None:
    monkeypatch.setattr(doctor, "_version", lambda package: "1.0")
    answers(monkeypatch, fault="ImportError: libcudart.so.13: no such file")
    (found,) = check()
    assert found.state == state
    assert "libcudart.so.13" in found.found
    assert found.remedy


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda package: None)
    (found,) = doctor._imported("Ray", "ray", "note", "run pip install 'transrec[ray]'")
    assert (found.state, found.found, found.remedy) == ("note", "not installed", "run pip install 'transrec[ray]'")


def test_packages_in_wrong_versions_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["a>=2", "b<3", 'c>=1; extra == "x"'])
    monkeypatch.setattr(doctor, "_version", {"a": "1.9", "b": "2.0"}.get)
    (found,) = doctor._packages()
    assert (found.state, found.found) == ("fault", "a 1.9 (needs >=2)")


@pytest.mark.parametrize(
    ("free", "state"), [(100 * GIB, "ok"), (5 * GIB, "note"), (GIB // 8, "fault")], ids=["much", "little", "none"]
)
def test_the_room_on_the_disk_decides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, state: str) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: Usage(free, 0, free))
    (found,) = doctor._disk("cache", tmp_path / "not" / "yet", "fault")
    assert found.state == state


def test_a_folder_that_cannot_be_written_is_a_fault() -> None:
    (found,) = doctor._disk("cache", Path("/proc/cache"), "fault")
    assert found.state == "fault"
    assert found.remedy == "choose another cache"


def test_small_shared_memory_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: Usage(2**26, 0, 2**26))
    (found,) = doctor._shared_memory()
    assert found.state == "note"
    assert "--shm-size" in found.remedy


def test_a_missing_compiler_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    (found,) = doctor._compiler()
    assert found.state == "note"
    assert "no-such-compiler" in found.found


def test_the_hub_is_asked_for_a_limited_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    (found,) = doctor._hub(offline=False)
    assert found.state == "note"
    assert found.found.startswith("http://127.0.0.1:9 cannot be reached: ")
    assert "HF_HUB_OFFLINE=1" in found.remedy


def test_the_hub_is_not_asked_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_tried", lambda *anything: pytest.fail("asked"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert [found.found for found in doctor._hub(offline=True)] == ["not asked"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert [found.state for found in doctor._hub(offline=False)] == ["ok"]


def test_a_try_that_hangs_is_ended() -> None:
    began = time.monotonic()
    answer = doctor._tried("import time; time.sleep(60)", 1.0)
    assert answer.fault == "no answer within 1 s"
    assert time.monotonic() - began < 30


def test_a_try_that_crashes_is_one_line() -> None:
    assert doctor._tried("import os; os.abort()").fault.startswith("it ended with code -")
    assert doctor._tried("raise ValueError('two\\nlines')").fault == "lines"


def test_a_check_that_fails_does_not_end_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise OSError("no /proc")

    monkeypatch.setattr(doctor, "_memory", broken)
    answers(monkeypatch, PROBE)
    findings = list(doctor.examine(offline=True))
    advice = "find out why; the rest of this report is not affected"
    assert named(findings, "memory") == Finding("memory", "note", "the check itself failed: OSError: no /proc", advice)
    assert named(findings, "extras").found.startswith("installed: ")
    assert os.sep in named(findings, "working folder").found
