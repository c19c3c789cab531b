"""Traces, as a real OpenTelemetry collector gets them: a server for OTLP by gRPC."""

import concurrent.futures
import queue

import grpc
import pytest
from conftest import Server, run
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as messages
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as services

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


class Collector(services.TraceServiceServicer):
    def __init__(self):
        self.spans, self.resources = queue.Queue(), []
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=2))
        services.add_TraceServiceServicer_to_server(self, self.server)
        self.url = f"http://127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def Export(self, request, context):  # noqa: N802, the name is the protocol's
        for resource in request.resource_spans:
            self.resources.append(attributes(resource.resource))
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans.put(span)
        return messages.ExportTraceServiceResponse()

    def taken(self):
        """All spans so far, by name."""
        found = {}
        while not self.spans.empty():
            span = self.spans.get()
            found.setdefault(span.name, []).append(span)
        return found


def attributes(of):
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in of.attributes}


@pytest.fixture
def collector():
    collector = Collector()
    yield collector
    collector.server.stop(grace=None)


def test_a_statement_is_a_span_of_its_request_in_the_trace_of_the_client(tmp_path, collector):
    server = Server("store", tmp_path, "--otlp-endpoint", collector.url, "--workers", "1")
    answer = server.sql("SELECT 1 AS x", traceparent=f"00-{TRACE}-{PARENT}-01")
    assert answer.status == 200
    assert server.sql("SELECT nothing").status == 400
    for sql in [
        "CREATE TABLE docs (id TEXT, PRIMARY KEY (id))",
        "INSERT INTO docs VALUES ('a')",
        "CREATE TRANSFORM up ON docs FROM STATUS 'RAW' TO STATUS 'UP' AS SELECT id FROM input",
        "SELECT schedule_job('up', id) FROM docs",
        "CALL run_jobs('up', wait => '1 minute')",
    ]:
        assert server.sql(sql).status == 200
    # The end of the server sends what is left.
    server.stop()
    spans = collector.taken()
    assert collector.resources[0]["service.name"] == "sluicegate"

    request = next(span for span in spans["request"] if span.trace_id.hex() == TRACE)
    assert request.parent_span_id.hex() == PARENT
    assert attributes(request)["route"] == "/v1/sql"
    statement = next(span for span in spans["statement"] if span.trace_id.hex() == TRACE)
    assert statement.parent_span_id == request.span_id
    shown = attributes(statement)
    assert shown["statement_id"] == answer.headers["Sluicegate-Statement-Id"]
    assert (shown["kind"], shown["actor"], shown["outcome"]) == ("query", "ann", "committed")
    assert statement.end_time_unix_nano > statement.start_time_unix_nano

    others = [span for span in spans["statement"] if span.trace_id.hex() != TRACE]
    failed = [shown for shown in map(attributes, others) if shown["outcome"] == "failed"]
    assert [shown["error_code"] for shown in failed] == ["SG1002"]
    assert {attributes(span)["transform"] for span in spans["group"]} == {"up"}


def test_a_collector_that_is_not_there_is_in_nobodys_way(tmp_path):
    server = Server("store", tmp_path, "--otlp-endpoint", "http://127.0.0.1:9")
    assert server.number("SELECT 1 AS x") == 1
    server.stop()
    assert server.process.returncode == 0
    run("--store", "store", "check", folder=tmp_path)


def test_an_address_that_is_none_is_refused(tmp_path):
    with pytest.raises(AssertionError, match="SG4003"):
        run("--otlp-endpoint", "not an address", "-c", "SELECT 1", folder=tmp_path)
