"""Requests that the OpenAPI description allows and forbids get answers that it describes, and never a server error."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
    use_after_free,
)

from carrara.web.leaderboard import app
from carrara.web.leaderboard.database import add_token, open_database

CHECKS = [
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
    use_after_free,
]


@pytest.mark.slow
def test_every_answer_is_described(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(app, "MAX_REFUSED_TOKENS", 10**6)  # the checks send many
    url = f"sqlite:///{tmp_path}/l.db"
    headers = {"Authorization": f"Bearer {add_token(open_database(url), 'owner', 'admin')}"}
    with serve(url, per_minute=100_000) as (address, _):
        schema = schemathesis.openapi.from_url(f"{address}/api/openapi.json")
        operations = [result.ok() for result in schema.get_all_operations()]
        assert {f"{each.method} {each.path}".upper() for each in operations} == {
            "GET /API/HEALTH", "GET /API/AUDIT", "GET /API/RECORDS", "POST /API/RECORDS",
            "GET /API/RECORDS/{RECORD_ID}", "DELETE /API/RECORDS/{RECORD_ID}",
        }  # fmt: skip
        for operation in operations:
            for mode in schemathesis.GenerationMode:

                @given(case=operation.as_strategy(generation_mode=mode))
                @settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
                def answer_is_described(case):
                    case.call_and_validate(headers=headers, checks=CHECKS)

                try:
                    answer_is_described()
                except Unsatisfiable:  # no parameters, so nothing to get wrong
                    assert mode is schemathesis.GenerationMode.NEGATIVE
