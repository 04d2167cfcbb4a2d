"""The kernel's files about memory: this process's score, and the counter of its cgroup."""

import fcntl
import os
import resource
from contextlib import closing
from pathlib import Path

import pytest

from dispatcher import wire
from dispatcher.executor.output.files import OutputFiles
from dispatcher.executor.starting.spawn import CannotStart, Spawner
from dispatcher.executor.system.oom import SCORE, OomCounter, OomScore, counters

ROOT = "23 1 0:20 / / rw - ext4 /dev/vda1 rw"


def proc(directory: Path, cgroup: str, *mounts: str) -> Path:
    """Make what /proc has of a process."""
    (directory / "cgroup").write_text(cgroup)
    (directory / "mountinfo").write_text("\n".join([ROOT, *mounts]) + "\n")
    return directory


@pytest.mark.parametrize(
    ("cgroup", "mount", "counter"),
    [
        (
            "0::/system.slice/dispatcher-executor.service\n",
            "31 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate",
            "/sys/fs/cgroup/system.slice/dispatcher-executor.service/memory.events",
        ),
        (
            "5:cpu,cpuacct:/a\n4:memory:/a/b\n0::/\n",
            "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
            "/sys/fs/cgroup/memory/a/b/memory.oom_control",
        ),
        (
            "4:memory:/docker/abc\n",
            "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory",
            "/sys/fs/cgroup/memory/memory.oom_control",
        ),
        (
            "0::/\n",
            "31 23 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup rw",
            "/sys/fs/cgroup/memory.events",
        ),
    ],
)
def test_the_counter_of_a_cgroup_is_found_where_it_is_mounted(
    tmp_path: Path, cgroup: str, mount: str, counter: str
) -> None:
    assert [counter] == counters(proc(tmp_path, cgroup, mount))


def test_a_host_without_a_memory_controller_has_no_counter(tmp_path: Path) -> None:
    mounts = (
        "36 31 0:33 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu",
        "37 31 0:34 /elsewhere /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
    )
    assert [] == counters(proc(tmp_path, "5:cpu:/a\n4:memory:/a\n", *mounts))
    assert [] == counters(tmp_path / "hidden")
    with closing(OomCounter(tmp_path)) as counter:
        assert counter.read() is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("memory.events", "low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 0\n"),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
    ],
)
def test_the_counter_is_read_again_and_again(tmp_path: Path, name: str, text: str) -> None:
    unified = name == "memory.events"
    kind = "cgroup2 cgroup2 rw" if unified else "cgroup cgroup rw,memory"
    found = proc(
        tmp_path, "0::/\n" if unified else "4:memory:/\n", f"9 8 0:1 / {tmp_path} rw - {kind}"
    )
    (tmp_path / name).write_text(text)
    with closing(OomCounter(found)) as counter:
        assert 2 == counter.read()

        (tmp_path / name).write_text(text.replace("oom_kill 2", "oom_kill 31"))

        assert 31 == counter.read()


def test_a_protection_is_given_up_for_a_start_and_taken_back(tmp_path: Path) -> None:
    file = tmp_path / "oom_score_adj"
    file.write_text("-500\n")
    reasons: list[str] = []
    score = OomScore.protected(reasons.append, str(file))
    assert score is not None
    with closing(score):
        score.lend()
        assert "0" == file.read_text().splitlines()[0]

        assert score.take_back()
        assert "-500" == file.read_text().splitlines()[0]
    assert [] == reasons


def test_it_is_given_up_around_each_start_also_one_that_fails(tmp_path: Path) -> None:
    score = tmp_path / "score"
    # A line written here follows the lines written before.
    descriptor = os.open(score, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    spawner = Spawner(
        OutputFiles(),
        environ={},
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE),
        oom_score=OomScore(descriptor, b"-500", pytest.fail),
    )

    def start(program: str) -> int:
        path = str(tmp_path / "output")
        uid = wire.RunUid("0" * 32)
        return spawner.start(
            wire.Start(uid=uid, epoch=1, command=(program,), env={}, output_path=path)
        )

    with closing(spawner):
        os.waitpid(start("true"), 0)
        with pytest.raises(CannotStart):
            start("/nonexistent/program")

    assert ["0", "-500"] * 2 == score.read_text().splitlines()


@pytest.mark.parametrize("own", ["0", "300"])
def test_a_score_that_protects_nothing_is_inherited(tmp_path: Path, own: str) -> None:
    file = tmp_path / "oom_score_adj"
    file.write_text(f"{own}\n")

    assert OomScore.protected(pytest.fail, str(file)) is None


def test_a_score_that_does_not_exist_is_reported(tmp_path: Path) -> None:
    reasons: list[str] = []

    assert OomScore.protected(reasons.append, str(tmp_path / "none")) is None
    assert [f"{tmp_path}/none: No such file or directory"] == reasons


def test_a_score_that_cannot_be_set_is_reported_once_and_not_touched() -> None:
    """So it is where /proc is read-only, or a privileged process set no lower one."""
    file = os.memfd_create("oom_score_adj", os.MFD_ALLOW_SEALING)
    try:
        os.write(file, b"-500\n")
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        reasons: list[str] = []

        assert OomScore.protected(reasons.append, f"/proc/self/fd/{file}") is None
        assert [f"{SCORE} cannot be set to -500: Operation not permitted"] == reasons
    finally:
        os.close(file)
