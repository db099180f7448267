# SPDX-License-Identifier: Apache-2.0
"""The exception classes, their table and their text."""

import builtins
import pickle

import pytest

from ndverbs import Status, errors
from ndverbs.errors import ClosedError, RdmaError, error, error_class, error_from_result

BUILTINS = {
    Status.CONNECTION_REFUSED: builtins.ConnectionRefusedError,
    Status.CONNECTION_RESET: builtins.ConnectionResetError,
    Status.CONNECTION_DISCONNECTED: builtins.ConnectionResetError,
    Status.CONNECTION_ABORTED: builtins.ConnectionAbortedError,
    Status.IO_TIMEOUT: builtins.TimeoutError,
    Status.ACCESS_VIOLATION: builtins.PermissionError,
    Status.ACCESS_DENIED: builtins.PermissionError,
    Status.INVALID_PARAMETER: builtins.ValueError,
    Status.INVALID_ADDRESS: builtins.ValueError,
    Status.INVALID_BUFFER_SIZE: builtins.ValueError,
    Status.DATA_OVERRUN: builtins.ValueError,
    Status.FILE_FORCED_CLOSED: ClosedError,
}


@pytest.mark.parametrize("status", list(BUILTINS), ids=lambda status: status.name)
def test_a_status_raises_a_class_that_is_also_the_builtin(status):
    made = error(status, "something failed")
    assert isinstance(made, BUILTINS[status])
    assert isinstance(made, RdmaError)
    assert isinstance(made, OSError)


@pytest.mark.parametrize("status", list(Status), ids=lambda status: status.name)
def test_every_status_makes_an_exception_that_keeps_it(status):
    made = error(status, "something failed")
    assert made.status is status
    assert type(made) is error_class(status)


def test_a_status_without_a_class_of_its_own_raises_the_base_class():
    assert error_class(Status.NO_MORE_ENTRIES) is RdmaError


def test_a_status_may_be_given_as_a_number():
    assert error_class(0xC00000B5) is errors.RdmaTimeoutError
    assert error(0xC00000B5, "late").status is Status.IO_TIMEOUT


def test_a_number_that_is_no_status_is_refused():
    with pytest.raises(ValueError, match="is not a valid Status"):
        error_class(0x12345678)


def test_the_text_says_what_failed_what_was_reported_and_what_to_try():
    made = error(Status.IO_TIMEOUT, "connect failed", detail="no answer", hint="try again")
    assert str(made) == "connect failed (no answer); try again"
    assert str(error(Status.IO_TIMEOUT, "connect failed")) == "connect failed"


def test_the_system_error_becomes_errno():
    made = error(Status.SHARING_VIOLATION, "bind failed", os_error=98)
    assert made.errno == 98
    assert made.strerror == "bind failed"
    assert str(made) == "bind failed"
    assert error(Status.SHARING_VIOLATION, "bind failed").errno is None


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("os_error", [0, 98])
def test_an_exception_survives_pickling(protocol, os_error):
    made = error(
        Status.ACCESS_DENIED,
        "read refused",
        context=("a", 1),
        detail="said the peer",
        hint="ask for it",
        os_error=os_error,
    )
    again = pickle.loads(pickle.dumps(made, protocol))
    assert type(again) is type(made)
    assert str(again) == str(made)
    names = ("status", "what", "context", "detail", "hint", "errno", "args")
    assert [getattr(again, n) for n in names] == [getattr(made, n) for n in names]


def test_a_buffer_error_of_the_core_is_one_whatever_its_status():
    made = errors.from_core(int(Status.ACCESS_DENIED), "read-only", "copy it", 0, True)
    assert isinstance(made, builtins.BufferError)
    assert not isinstance(made, builtins.PermissionError)
    assert made.status is Status.ACCESS_DENIED


def test_an_error_of_the_core_without_a_hint_has_none():
    assert errors.from_core(int(Status.CANCELLED), "gone", "", 0, False).hint is None


def test_a_failed_result_becomes_an_exception_with_its_context_and_detail():
    from ndverbs import OperationType, Result

    result = Result(
        (Status.REMOTE_RESOURCES, 0, "qp", "request", OperationType.READ, 0, None, "peer said no")
    )
    made = error_from_result(result)
    assert made.status is Status.REMOTE_RESOURCES
    assert made.context == "request"
    assert str(made) == (
        "read completed with REMOTE_RESOURCES (peer said no); "
        "the peer's region must be registered still, with this right and size"
    )


def test_every_error_derives_from_rdma_error_and_has_a_docstring():
    classes = [
        value
        for value in vars(errors).values()
        if isinstance(value, type)
        and issubclass(value, BaseException)
        and not issubclass(value, Warning)
    ]
    assert len(classes) == 10
    assert all(issubclass(cls, RdmaError) and cls.__doc__ for cls in classes)
