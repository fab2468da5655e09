"""The service itself, but for one thing: each increment has a transaction of its own."""

from typing import Any

from flask import Flask

from project import create_app


class _Uncombined:
    """Stands in for the combiner: whoever comes flushes, at once and alone."""

    def __init__(self, combiner: Any) -> None:
        self._flush = combiner._flush

    def submit(self, item: Any) -> Any:
        [result] = self._flush([item])
        return result


def app() -> Flask:
    """Return the service without group commit of increments."""
    service = create_app()
    service.extensions["increments"] = _Uncombined(service.extensions["increments"])
    return service
