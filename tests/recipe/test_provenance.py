"""What a training took: the machine without names, seconds over sessions, and energy only where it was measured."""

import getpass
import json
import platform
import re
import sys
from types import SimpleNamespace

import pytest

from empathy_trl.errors import UserError
from empathy_trl.recipe import provenance
from empathy_trl.recipe.provenance import ResourceUsage, carbon_intensity, git_commit, gpu_joules, hardware, versions


@pytest.fixture(autouse=True)
def no_intensity(monkeypatch):
    monkeypatch.delenv("CARBON_INTENSITY", raising=False)


@pytest.fixture
def counter(monkeypatch):
    """A GPU whose counter, in millijoules, the test sets."""

    class Error(Exception):
        pass

    state = SimpleNamespace(millijoules=5_000, uuids=[], fails=False)

    def read(handle):
        if state.fails:
            raise Error
        return state.millijoules

    module = SimpleNamespace(
        nvmlInit=lambda: None,
        NVMLError=Error,
        nvmlDeviceGetHandleByUUID=lambda uuid: state.uuids.append(uuid),
        nvmlDeviceGetTotalEnergyConsumption=read,
    )
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: SimpleNamespace(uuid=f"id-{device}"))
    return state


def test_hardware_names_neither_machine_nor_user():
    found = hardware()
    assert found["cores"] >= 1 and found["memory_gb"] > 0 and found["gpus"] == []
    text = json.dumps(found)
    assert platform.node() not in text and getpass.getuser() not in text


def test_the_processor_is_read_where_there_is_a_file(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: Some CPU: fast\nmodel name\t: Some CPU: fast\n")
    assert provenance._processor(tmp_path / "cpuinfo") == "Some CPU: fast"
    assert provenance._processor(tmp_path / "missing") == (platform.processor() or platform.machine())


def test_without_a_gpu_nothing_is_measured_and_nothing_is_guessed():
    assert gpu_joules() is None
    assert ResourceUsage({}).so_far()["energy"] is None


def test_energy_is_the_difference_of_the_counters(counter, monkeypatch):
    monkeypatch.setenv("CARBON_INTENSITY", "400")
    session = ResourceUsage({})
    counter.millijoules += 7_200_000_000
    assert session.so_far()["energy"] == {"kwh": 2.0, "of": "GPUs, by their own counters (NVML)", "grams_per_kwh": 400}
    assert set(counter.uuids) == {"GPU-id-0"}  # one process, one GPU


def test_a_gpu_without_a_counter_is_not_measured(counter):
    counter.fails = True
    assert gpu_joules() is None


def test_sessions_add_up(counter):
    first = ResourceUsage({})
    counter.millijoules += 3_600_000_000
    record = {"started": "earlier", **first.so_far()} | {"train_seconds": 1000.0}
    second = ResourceUsage(record)
    counter.millijoules += 3_600_000_000
    found = second.so_far()
    assert found["sessions"] == 2 and 1000.0 <= found["train_seconds"] < 1010 and found["energy"]["kwh"] == 2.0


@pytest.mark.parametrize("record", [{"started": "x"}, {"started": "x", "sessions": 1, "energy": None}])
def test_a_session_that_was_not_measured_leaves_the_sum_unknown(counter, record):
    assert ResourceUsage(record).so_far() == {"train_seconds": pytest.approx(0, abs=5), "sessions": 2, "energy": None}


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf"])
def test_a_wrong_intensity_is_an_error(monkeypatch, text):
    monkeypatch.setenv("CARBON_INTENSITY", text)
    with pytest.raises(
        UserError, match=f"CARBON_INTENSITY: '{text}' is not a number of at least 0; expected grams of CO2 per kWh"
    ):
        carbon_intensity()


def test_the_real_library_agrees_about_names():
    pynvml = pytest.importorskip("pynvml")
    assert all(hasattr(pynvml, name) for name in ("nvmlInit", "NVMLError", "nvmlDeviceGetHandleByUUID"))
    assert hasattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption")


def test_versions_and_commit_say_what_decided_the_result():
    assert {"python", "torch", "transformers", "trl"} <= versions().keys()
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", git_commit())
