"""What of a request is looked at before any model is asked, and of an answer before it is given. Pure; knows no Triton.

Names, types and shapes of the inputs are Triton's own business: it refuses them before the router sees anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from wire.records import LONGEST_ID, row_id

LONGEST_UNIT = 200
LARGEST_BYTES = 64 * 2**20
"""Of one request: only tensors with a free dimension can come near it."""


class Refused(ValueError):
    """A request that no model is asked for; says what was found and what is expected."""


def refusal(error: Exception) -> str:
    """What the client is told of a request that could not be read; Triton hands on bytes that are no text."""
    if isinstance(error, Refused):
        return str(error)
    if isinstance(error, UnicodeDecodeError):
        return f"found the byte 0x{error.object[error.start]:02x} in the request's id or parameters; expected UTF-8"
    return (
        f"found a request that can't be read ({type(error).__name__}); expected id, parameters and rows as documented"
    )


def parameters_of(text: str) -> Mapping[str, Any]:
    """A request's own parameters, from the JSON that Triton gives."""
    return json.loads(text) if len(text) > 2 else {}


def unit_of(parameters: Mapping[str, Any], request_id: str) -> str:
    """By what a request is assigned: its `unit_id`, else its own id. Raises Refused."""
    unit = parameters.get("unit_id")
    if unit is None:
        return request_id
    if not isinstance(unit, str):
        raise Refused(f"found the parameter unit_id of type {type(unit).__name__}; expected a string")
    if not 1 <= len(unit) <= LONGEST_UNIT:
        raise Refused(f"found a unit_id of {len(unit)} characters; expected 1 to {LONGEST_UNIT}")
    if not _plain(unit):
        raise Refused("found a unit_id with half of a character pair; expected text")
    return unit


def require_id(request_id: str, rows: int) -> None:
    """Raises Refused unless the id, and that of its last row, can be kept."""
    if rows == 1 and len(request_id) <= LONGEST_ID and request_id.isascii() and request_id.isprintable():
        return  # nearly all of them
    longest = len(row_id(request_id, rows - 1, rows))
    if longest > LONGEST_ID:
        raise Refused(
            f"found a request id of {len(request_id)} characters for {rows} rows; expected at most "
            f"{LONGEST_ID - longest + len(request_id)}"
        )
    if not _plain(request_id) or any(ord(letter) < 32 or ord(letter) == 127 for letter in request_id):
        raise Refused("found a request id with a control character; expected text on one line")


def _plain(text: str) -> bool:
    return text.isascii() or not any(0xD800 <= ord(letter) < 0xE000 for letter in text)


def require_shape(name: str, inputs: np.ndarray, dims: Sequence[int]) -> None:
    """Raises Refused unless `inputs` are [rows, *dims]; -1 is free. Triton lets 0 rows pass, and takes 2**62 for 0."""
    found = inputs.shape
    if len(found) != len(dims) + 1 or any(wanted not in (-1, got) for wanted, got in zip(dims, found[1:], strict=True)):
        expected = ", ".join(map(str, ("rows", *dims)))
        raise Refused(f"found the shape {list(found)} of the input {name}; expected [{expected}]")


def require_rows(name: str, inputs: np.ndarray, finite: bool, largest: int = LARGEST_BYTES) -> None:
    """Raises Refused unless `inputs` [N, ...] have a row, are not too large and, where that is wanted, are finite."""
    if not len(inputs):
        raise Refused(f"found 0 rows in the input {name}; expected at least 1")
    if inputs.nbytes > largest:
        raise Refused(f"found {inputs.nbytes} bytes in the input {name}; expected at most {largest} a request")
    if finite and not is_finite(inputs):
        at = np.argwhere(~np.isfinite(inputs))[0]
        raise Refused(f"found {float(inputs[tuple(at)])} at {at.tolist()} of the input {name}; expected finite values")


def is_finite(values: np.ndarray) -> bool:
    """Whether no element is NaN or infinite; what can't be (whole numbers, text) is finite."""
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())


def fault(outputs: np.ndarray, rows: int, shape: Sequence[int], dtype: np.dtype) -> str:
    """What is wrong with the type or shape of a model's answer to so many rows; empty when nothing is. -1 is free."""
    fits = len(outputs.shape) == len(shape) + 1 and outputs.shape[0] == rows
    fits = fits and all(wanted in (-1, found) for wanted, found in zip(shape, outputs.shape[1:], strict=True))
    if fits and outputs.dtype == dtype:
        return ""
    return f"found {outputs.dtype} {list(outputs.shape)}; expected {dtype} {[rows, *shape]}"


def worse(outputs: np.ndarray, reference: np.ndarray) -> str:
    """What is wrong with an answer beside the champion's: not finite where that is (anywhere, if of another shape)."""
    if outputs.dtype.kind != "f":
        return ""
    lost = ~np.isfinite(outputs)
    if outputs.shape == reference.shape:
        lost &= np.isfinite(reference)
    return f"found {int(lost.sum())} of {lost.size} values not finite; expected a number" if lost.any() else ""
