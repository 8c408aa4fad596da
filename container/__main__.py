"""`python -m container`: the whole program, and the one place that turns errors into exit codes."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import TYPE_CHECKING

from container.outputs import check_output, remove_unfinished
from container.settings import Settings, parse
from nnunet_ext.errors import InputError, one_line

# torch takes more than a second to import: the server answers before, and a wrong command line does not wait for it.
if TYPE_CHECKING:
    from nnunet_ext.inference.predictor import Predictor
    from nnunet_ext.koos.packaged import Grader

log = logging.getLogger("container")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when all is done, 2 for bad input, 1 for anything else; the last line on stderr says what it was."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    settings = parse(arguments)
    _stop_at_once(settings)
    # Python handles signals in the main thread, between two steps of its own: it must not be inside a long computation.
    with ThreadPoolExecutor(1, "program") as executor:
        return executor.submit(_guarded, settings).result()


def _guarded(settings: Settings) -> int:
    try:
        _run(settings)
    except InputError as error:
        print(f"container: {error}", file=sys.stderr, flush=True)
        return 2
    except Exception as error:
        log.exception("unexpected error")
        print(f"container: {one_line(error)}", file=sys.stderr, flush=True)
        return 1
    return 0


def _run(settings: Settings) -> None:
    check_output(settings.output)
    if settings.api == "invoke":
        from container.server import serve

        serve(lambda: _processor(settings), settings.port)
        return
    from container.inputs import INPUTS, has_sockets

    if has_sockets(settings.input):
        names = _processor(settings)()
        log.info("wrote %s", ", ".join(names))
        return
    from nnunet_ext.inference.folder import find_cases, predict_folder, require_apart

    predictor = _predictor(settings)
    try:
        cases = find_cases(settings.input, predictor.model.first.channels, settings.pattern, settings.names)
    except InputError as error:
        raise InputError(f"{error}, or a case with {INPUTS}") from None
    require_apart(cases, settings.output)
    grader = _grader(predictor)
    failed = predict_folder(predictor, cases, settings.output)
    if grader is not None:
        failed |= grader.grade_folder([case for case in cases if case.name not in failed], settings.output)
    if failed:
        first = next(iter(failed.values()))
        raise InputError(f"{len(failed)} of {len(cases)} cases failed, the first: {first}")


def _processor(settings: Settings) -> Callable[[], list[str]]:
    from container.case import process_case

    predictor = _predictor(settings)
    grader = _grader(predictor)
    return lambda: process_case(predictor, settings.input, settings.output, grader)


def _predictor(settings: Settings) -> Predictor:
    from nnunet_ext.inference.package import read_package
    from nnunet_ext.inference.predictor import FAST_STEP, STEP, Predictor

    model = read_package(settings.model)
    return Predictor(model, settings.device, FAST_STEP if settings.fast else STEP, mirror=not settings.fast)


def _grader(predictor: Predictor) -> Grader | None:
    """What grades the masks, if the package holds a Koos model."""
    if predictor.model.koos is None:
        return None
    from nnunet_ext.koos.packaged import Grader

    return Grader(predictor.model, predictor.device)


def _stop_at_once(settings: Settings) -> None:
    """End on SIGTERM and SIGINT within moments: unfinished files are removed, the case is given up."""

    def stop(number: int, frame: FrameType | None) -> None:
        remove_unfinished(settings.output)
        log.info("stopped by %s", signal.Signals(number).name)
        # Not sys.exit: threads in the middle of a network pass would be waited for.
        os._exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


if __name__ == "__main__":
    sys.exit(main())
