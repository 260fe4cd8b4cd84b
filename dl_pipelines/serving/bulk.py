"""Scores many inputs through the router at full speed: several requests under way, each of as many rows as it takes.

An interrupted run goes on where it was, under the same request ids, so that nothing is twice in the log. Any other run,
also one over the same inputs whose file was removed, asks anew under ids of its own.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dl_pipelines.serving.bulk_inputs import Inputs, find_inputs
from dl_pipelines.serving.bulk_pieces import Pieces, alone
from dl_pipelines.serving.bulk_rows import Row, schema_of, table_of
from dl_pipelines.serving.client import PATIENCE_MS, Caller, PredictError, acknowledge, check_inputs
from dl_pipelines.serving.process import TritonError
from dl_pipelines.store.digest import digest_json
from dl_pipelines.store.workspace import Workspace
from dl_pipelines.tasks.base import Task
from dl_pipelines.wire.records import row_id

if TYPE_CHECKING:
    import numpy as np

    from dl_pipelines.serving.server import TritonServer

STAGE = "predict"
THREADS = 6
"""Requests under way."""
AHEAD = 4
"""Batches of each thread that may be done before their turn to be written has come."""
PIECE_ROWS = 2000
TRIES = 3
NAMED = 20


@dataclass(frozen=True)
class Scored:
    """How many inputs have been answered to, how many of them by an earlier run, and those that have not, with why.

    `anew`: an unfinished run over other inputs, or of another model, was given up.
    """

    rows: int
    before: int
    failed: tuple[tuple[str, str], ...]
    anew: bool = False


def score(workspace: Workspace, task: Task, given: Sequence[str], out: Path) -> Scored:
    """Ask the router for every input of `given` (see find_inputs) and write `out`, Parquet, in their order.

    All of it is one unit: while a challenger is tried, one arm gets the whole of it. Which model answered a row is in
    the log, by its request id: the file names only who was champion when it began.

    Columns: `input`, `request_id`, `outputs` (flat), `answer_json`, `error` (null where there is an answer). An input
    that can't be read, or that the router refuses, has an error; the others are done. Raises PredictError when the
    server gives no answers, NoChampion, TritonError, OSError: what was done is kept for the next run.
    """
    from dl_pipelines.serving.champion import artifact_of
    from dl_pipelines.serving.repair import serving

    inputs = find_inputs(task, given)
    if not out.absolute().parent.is_dir() or out.is_dir():
        raise PredictError(f"found no folder for {out}, or a folder in its place; expected a file that can be written")
    about = artifact_of(workspace).read_json("model.json")
    digest = digest_json([workspace.project, about["model"], about["max_batch"], inputs.digest])
    pieces = Pieces(out, digest)
    with alone(workspace.home, out):
        if pieces.is_done():
            pieces.clear()
            failed = tuple(pieces.refused())
            return Scored(len(inputs) - len(failed), len(inputs) - len(failed), failed)
        run, anew = pieces.begin()
        batch = int(about["max_batch"])
        size = batch * max(1, PIECE_ROWS // batch)
        starts = range(0, len(inputs), size)
        done = [start for start in starts if pieces.has(start)]
        left = sorted({*starts} - {*done})
        before = sum(min(size, len(inputs) - start) for start in done)
        answered = before - sum(1 for _ in pieces.failed(done))
        if left:
            with serving(workspace) as server:
                patience = max(PATIENCE_MS, float(about["timeout_ms"]))
                work = _Work(workspace, task, server, inputs, f"bulk-{digest[:16]}", run, patience)
                work.run(pieces, left, size, batch, before)
        failed = tuple(pieces.failed(starts))
        shape = list(task.signature().outputs[0].shape)
        facts = {"project": workspace.project, "champion": about["model"], "shape": shape}
        pieces.finish(starts, schema_of(task), facts)
        return Scored(len(inputs) - len(failed), answered, failed, anew)


class _Work:
    def __init__(
        self, workspace: Workspace, task: Task, server: TritonServer, inputs: Inputs, unit: str, run: str,
        timeout_ms: float,
    ):  # fmt: skip
        """`unit` is what the arm is assigned by, the same for every run over these inputs."""
        self._workspace, self._task, self._server, self._inputs = workspace, task, server, inputs
        self._unit, self._name, self._timeout_ms = unit, f"{unit}-{run}" if run else unit, timeout_ms
        self._own, self._mending, self._callers = threading.local(), threading.Lock(), list[Caller]()

    def run(self, pieces: Pieces, left: Sequence[int], size: int, batch: int, done: int) -> None:
        """Score the pieces that are left and store each when it is whole."""
        total, told = len(self._inputs), 0.0
        batches = [
            range(at, min(at + batch, start + size, total))
            for start in left
            for at in range(start, min(start + size, total), batch)
        ]
        rows: list[Row] = []
        pool = ThreadPoolExecutor(THREADS)
        try:
            for numbers, answered in self._in_order(pool, batches):
                rows += answered
                if numbers.stop == total or numbers.stop % size == 0:
                    acknowledge(
                        self._workspace.home,
                        self._workspace.project,
                        [row.request_id for row in rows if row.request_id],
                    )
                    pieces.put(numbers.stop - len(rows), table_of(self._task, rows))
                    done, rows = done + len(rows), []
                if time.monotonic() - told > 1 or numbers.stop == total:
                    told = time.monotonic()
                    self._workspace.progress(STAGE, "scoring", done + len(rows), total)
        finally:
            pool.shutdown(cancel_futures=True)
            for caller in self._callers:
                caller.close()

    def _in_order(self, pool: ThreadPoolExecutor, batches: Sequence[range]) -> Iterator[tuple[range, list[Row]]]:
        waiting: deque[tuple[range, Future[list[Row]]]] = deque()
        for numbers in batches:
            if len(waiting) == THREADS * AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
            waiting.append((numbers, pool.submit(self._batch, numbers)))
        for numbers, future in waiting:
            yield numbers, future.result()

    def _batch(self, numbers: range) -> list[Row]:
        """Read and ask for some inputs; those of one shape go in one request."""
        rows: dict[int, Row] = {}
        shapes: dict[tuple[int, ...], dict[int, np.ndarray]] = {}
        for number in numbers:
            try:
                value = self._inputs.read(number)
                check_inputs(self._task, value[None])
                shapes.setdefault(value.shape, {})[number] = value
            except (ValueError, OSError) as error:
                rows[number] = Row(self._inputs.name(number), error=str(error))
        for values in shapes.values():
            rows |= self._rows(values)
        return [rows[number] for number in numbers]

    def _rows(self, values: dict[int, np.ndarray]) -> dict[int, Row]:
        """Ask for rows together; when the router refuses them, one by one, to find out which."""
        import numpy as np

        numbers = list(values)
        request_id = f"{self._name}-{numbers[0]}" + (f"x{len(numbers)}" if len(numbers) > 1 else "")
        names = [self._inputs.name(number) for number in numbers]
        try:
            outputs = self._ask(np.stack(list(values.values())), request_id)
        except _RefusedError as error:
            if len(numbers) > 1:
                return {key: row for number in numbers for key, row in self._rows({number: values[number]}).items()}
            return {numbers[0]: Row(names[0], error=str(error))}
        ids = [row_id(request_id, place, len(numbers)) for place in range(len(numbers))]
        return {
            number: Row(name, id_, output)
            for number, name, id_, output in zip(numbers, names, ids, outputs, strict=True)
        }

    def _ask(self, rows: np.ndarray, request_id: str) -> np.ndarray:
        """Ask, and again when the server was lost meanwhile. Raises _RefusedError, PredictError."""
        from tritonclient.utils import InferenceServerException

        from dl_pipelines.serving.repair import ensure_served

        told = ""
        for attempt in range(TRIES):
            try:
                if attempt:
                    with self._mending:
                        ensure_served(self._workspace, self._server)
                    self._own.caller = None
                return self._caller()(rows, request_id)
            except InferenceServerException as error:
                told = str(error.message())
                if "INVALID_ARGUMENT" in str(error.status()):
                    raise _RefusedError(told) from error
            except TritonError as error:
                told = str(error)
        raise PredictError(
            f"found no answer to {request_id} after {TRIES} tries ({told}); expected one; look at server/server.log in "
            "the home; what was scored is kept: run the same command again"
        )

    def _caller(self) -> Caller:
        """This thread's own."""
        caller = getattr(self._own, "caller", None)
        if caller is None:
            signature = self._task.signature()
            caller = Caller.of(self._server.grpc, self._workspace.project, signature, self._timeout_ms, self._unit)
            self._own.caller = caller
            self._callers.append(caller)
        return caller


class _RefusedError(Exception):
    """The router does not take an input; says why."""
