"""Errors that pass by themselves, and errors that need a person."""

import errno
import os

import pytest

from dispatcher.errors import ConfigError, DispatcherError, cannot_write


@pytest.mark.parametrize(
    ("number", "code", "remedy"),
    [
        (errno.ENOSPC, 69, "make room on its disk"),
        (errno.EDQUOT, 69, "make room on its disk"),
        (errno.EROFS, 75, "mount it for writing, and try again"),
        (errno.EMFILE, 75, "try again when the host is well"),
        (errno.EIO, 75, "try again when the host is well"),
        (errno.EACCES, 78, "ask its owner"),
        (errno.ENOTDIR, 78, "ask its owner"),
    ],
)
def test_a_service_manager_tries_again_unless_somebody_must_act(
    number: int, code: int, remedy: str
) -> None:
    failed = cannot_write("cannot write /v", OSError(number, os.strerror(number)), "ask its owner")

    assert f"cannot write /v: {os.strerror(number)}; {remedy}" == str(failed)
    assert code == failed.exit_code
    assert isinstance(failed, DispatcherError)
    assert (code == 78) == isinstance(failed, ConfigError)
