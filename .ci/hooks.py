"""What schemathesis generates, made to mean what this API means by it."""

from typing import Any

import schemathesis


@schemathesis.hook
def map_body(_context: schemathesis.HookContext, body: Any) -> Any:
    """Write integers as integers: to JSON Schema 7.0 is one too, to this API it is not."""
    if isinstance(body, dict):
        return {name: map_body(_context, value) for name, value in body.items()}
    if isinstance(body, list):
        return [map_body(_context, item) for item in body]
    if isinstance(body, float) and body.is_integer():
        return int(body)
    return body
