"""The HTTP server of the `invoke` way: one case after the other with a resident model."""

from __future__ import annotations

import errno
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from nnunet_ext.errors import InputError

log = logging.getLogger(__name__)

OK, CREATED, UNPROCESSABLE, FAILED, NOT_YET = 200, 201, 422, 500, 503


@dataclass
class State:
    """What the endpoints know: the function that processes a case once the model is loaded, or why it is not."""

    process: Callable[[], list[str]] | None = None
    error: BaseException | None = None


def make_app(state: State) -> FastAPI:
    """The two endpoints of the platform."""
    app = FastAPI(openapi_url=None)
    one_at_a_time = threading.Lock()

    # Plain functions run in a thread pool, so that health is answered while a case is processed.
    @app.get("/health")
    def health() -> JSONResponse:
        ready = state.process is not None
        return JSONResponse({"ready": ready}, OK if ready else NOT_YET)

    @app.post("/invoke")
    def invoke() -> JSONResponse:
        if state.process is None:
            return JSONResponse({"detail": "the model is not loaded yet"}, NOT_YET)
        with one_at_a_time:
            try:
                return JSONResponse({"outputs": state.process()}, CREATED)
            except InputError as error:
                log.error("%s", error)
                return JSONResponse({"detail": str(error)}, UNPROCESSABLE)
            except Exception as error:
                log.exception("the case failed")
                return JSONResponse({"detail": f"{type(error).__name__}: {error}"}, FAILED)

    return app


def serve(load: Callable[[], Callable[[], list[str]]], port: int, host: str = "0.0.0.0") -> None:
    """Answer at once, load the model meanwhile, and serve until the process is told to stop.

    Args:
        load: loads the model and returns the function that processes the case now in the input.

    Raises:
        InputError: when the port is taken, or by `load`.
    """
    listener = _listen(host, port)
    state = State()
    server = _Server(uvicorn.Config(make_app(state), log_config=None, access_log=False, lifespan="off"))

    def run_load() -> None:
        try:
            state.process = load()
            log.info("ready on port %d", port)
        except BaseException as error:
            state.error = error
            server.should_exit = True

    threading.Thread(target=run_load, name="load", daemon=True).start()
    server.run(sockets=[listener])
    if state.error is not None:
        raise state.error


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the program: uvicorn would wait for the case that is being processed."""
        yield


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # Listening right away refuses a second process; binding alone would let both pass.
        listener.listen(socket.SOMAXCONN)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"port {port}: in use by another process, a free port is needed (--port)") from None
        raise InputError(f"port {port}: cannot be opened ({error.strerror}), a free port is needed (--port)") from None
    return listener
