"""A Ray on this machine for one run: on 127.0.0.1, behind a token, in a folder of the user's alone."""

import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

_PREFIX: Final = "saplab-ray-"  # of the folders, before the process's number
_LONGEST: Final = 24  # characters of the folder for temporary files: sockets' paths may have 107 in all
_PATIENT: Final = {  # seconds and milliseconds: a machine that does other things as well starts processes slowly
    "worker_niceness": 0,  # added to the driver's own; Ray's 15 would starve tasks on such a machine
    "worker_register_timeout_seconds": 600,
    "health_check_initial_delay_ms": 60_000,
    "health_check_timeout_ms": 60_000,
    "health_check_failure_threshold": 10,
}
_START_SECONDS: Final = 120.0  # for a node to begin; Ray's own 30 s are too few on a machine that others use as well
_TOKENS: Final = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@contextmanager
def private_ray(ray: Any, cores: int) -> Iterator[Mapping[str, Any]]:
    """Prepare a Ray of this process's own, and yield the arguments of `ray.init`; shut it down before the end."""
    constants = ray._private.ray_constants
    clusters = constants.ENABLE_RAY_CLUSTER
    with _token(ray), _patience(ray._private.services), _folder() as folder:
        constants.ENABLE_RAY_CLUSTER = False  # what makes Ray choose 127.0.0.1
        try:
            yield {"address": "local", "num_cpus": cores, "include_dashboard": False, "_temp_dir": folder,
                   "_system_config": dict(_PATIENT)}  # fmt: skip
        finally:
            constants.ENABLE_RAY_CLUSTER = clusters


@contextmanager
def _token(ray: Any) -> Iterator[None]:
    """Let this process and those that it starts use a new token, which nobody else knows; then what was set before."""
    before = {name: os.environ.pop(name, None) for name in _TOKENS}
    patience = {"RAY_gcs_server_port_wait_time_s": "300"}
    os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), **patience})
    _forget(ray)
    try:
        yield
    finally:
        for name in (*before, *patience):
            os.environ.pop(name, None)
        os.environ.update({name: value for name, value in before.items() if value is not None})
        _forget(ray)


@contextmanager
def _patience(services: Any) -> Iterator[None]:
    """Let Ray wait for its node for longer than the 30 s that are written into it."""
    ask = services.get_node

    def get_node(*arguments: Any) -> Any:
        end = time.monotonic() + _START_SECONDS
        while True:
            try:
                return ask(*arguments)
            except RuntimeError:  # it is not there yet
                if time.monotonic() > end:
                    raise
            time.sleep(0.5)

    services.get_node = get_node
    try:
        yield
    finally:
        services.get_node = ask


def _forget(ray: Any) -> None:
    """Make Ray read its settings and token from the environment anew."""
    ray._raylet.Config.initialize("")
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _folder() -> Iterator[str]:
    """Make a folder that the user alone can enter, and remove it, and those that killed processes left."""
    base = Path(tempfile.gettempdir())
    if len(str(base)) > _LONGEST:
        base = Path("/tmp")
    for left in base.glob(f"{_PREFIX}*-*"):
        with suppress(OSError):  # somebody else has just removed it
            found, pid = left.lstat(), left.name.removeprefix(_PREFIX).partition("-")[0]
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not _runs(pid):
                shutil.rmtree(left, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=base)
    try:
        yield f"{folder}/r"  # Ray opens its own to everybody, but this one lies in that of the user alone
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _runs(pid: str) -> bool:
    """Return whether the process of a number may be there."""
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError, OverflowError):
        return True
    return True
