"""Evaluates pynvml expressions from stdin, one a line, and answers each with one JSON line."""

import ctypes
import json
import sys
from typing import Any

import pynvml


def plain(value: Any) -> Any:
    """Turn structs and handles into what JSON knows."""
    if isinstance(value, ctypes.Structure):
        return {name: plain(getattr(value, name)) for name, *_ in value._fields_}
    if isinstance(value, ctypes.Union):
        return value.ullVal if hasattr(value, "ullVal") else str(value)
    if isinstance(value, (ctypes.Array, list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode()
    return value if isinstance(value, (int, float, str, type(None))) else str(value)


def main() -> None:
    """Answer until stdin ends."""
    names: dict[str, Any] = {**vars(pynvml), "ctypes": ctypes}
    names["gpu"] = lambda index=0: pynvml.nvmlDeviceGetHandleByIndex(index)
    names["library"] = lambda: pynvml.nvmlLib
    names["keep"] = names
    for line in sys.stdin:
        try:
            answer = {"value": plain(eval(line, names))}  # noqa: S307 (the test's own expressions)
        except pynvml.NVMLError as error:
            answer = {"error": error.value, "text": str(error)}
        print(json.dumps(answer), flush=True)


main()
