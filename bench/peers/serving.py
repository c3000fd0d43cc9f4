"""How a worker carries out its orders: one at a time, each within a deadline.

A watchdog that needs no cooperation from the transport ends the worker when an order
takes longer, so that no wait is without end and no peer pays for timeouts of its own.
The end of the socket means that the measuring process is gone, and the worker exits
at once, whatever its main thread does.
"""

from __future__ import annotations

import faulthandler
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, Final, NoReturn

from ..errors import BenchError
from .control import Control, to_measuring_process

EXIT_ORPHANED: Final = 3

Orders = queue.SimpleQueue[dict[str, Any]]


def serve(make: Callable[[], object], where: str, deadline: float) -> NoReturn:
    """Make the worker, carry out orders until told to stop, each in `deadline` s, and exit.

    An order names a public method of what `make` returns. `where` is the socket, as
    `to_measuring_process` takes it.
    """
    control = to_measuring_process(where)
    orders: Orders = queue.SimpleQueue()
    threading.Thread(target=_read, args=(control, orders), daemon=True).start()
    try:
        worker = make()
    except Exception as error:
        _answer(control, error)
    else:
        _carry_out(worker, orders, control, deadline)
    sys.stdout.flush()
    sys.stderr.flush()
    # Libraries may hold threads that would delay an orderly exit.
    os._exit(0)


def _carry_out(worker: object, orders: Orders, control: Control, deadline: float) -> None:
    while (order := orders.get())["do"] != "stop":
        faulthandler.dump_traceback_later(deadline, exit=True)
        try:
            value = getattr(worker, order.pop("do"))(**order)
        except Exception as error:
            _answer(control, error)
        else:
            control.send({"value": value})
        finally:
            faulthandler.cancel_dump_traceback_later()


def _answer(control: Control, error: Exception) -> None:
    traceback.print_exc()
    control.send({"error": f"{type(error).__name__}: {error}"})


def _read(control: Control, orders: Orders) -> None:
    while True:
        try:
            orders.put(control.receive())
        except BenchError:
            os._exit(EXIT_ORPHANED)
