"""Requests that the service's OpenAPI allows and forbids get answers that it describes, and never a server error."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from carrara.features.search import open_library

CHECKS = [
    content_type_conformance,
    negative_data_rejection,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
]
OPERATIONS = {
    "POST /EMBED", "POST /TAG", "POST /FIND", "GET /HEALTH", "GET /METRICS", "GET /REST/PING",
    "GET /REST/GETSONICSIMILARTRACKS", "GET /REST/FINDSONICPATH", "GET /REST/GETOPENSUBSONICEXTENSIONS",
}  # fmt: skip


@pytest.mark.slow
def test_every_answer_is_described(start, mert, library):
    client = start(mert, open_library(library))
    schema = schemathesis.openapi.from_url(str(client.base_url.join("/openapi.json")))
    operations = [result.ok() for result in schema.get_all_operations()]
    assert {f"{each.method} {each.path}".upper() for each in operations} == OPERATIONS
    for operation in operations:
        for mode in schemathesis.GenerationMode:

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
            def answer_is_described(case):
                case.call_and_validate(checks=CHECKS)

            try:
                answer_is_described()
            except Unsatisfiable:  # no parameters, so nothing to get wrong
                assert mode is schemathesis.GenerationMode.NEGATIVE
