"""Reads requests with the parsers of Python's world, and says what each of them saw.

Takes lines of JSON, {"id": …, "stream": "bytes as latin-1"}; writes one line for each parser and stream:
{"id": …, "reader": …, "requests": [{"method", "target", "fields", "body", "trailers"}], "refused": null or why}.
A request is listed once it is whole. `trailers` is null where the parser does not tell them.
"""

import http.server
import io
import json
import sys

import h11
import httptools
import waitress.adjustments
import waitress.parser
from gunicorn.config import Config
from gunicorn.http.parser import RequestParser


def text(data):
    return bytes(data).decode("latin-1")


def request(method, target, fields, body, trailers):
    pairs = lambda fields: [[text(name).lower(), text(value)] for name, value in fields]
    return {
        "method": text(method),
        "target": text(target),
        "fields": pairs(fields),
        "body": text(body),
        "trailers": None if trailers is None else pairs(trailers),
    }


def read_h11(stream):
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(stream)
    connection.receive_data(b"")
    head, body = None, b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            head, body = event, b""
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            yield request(head.method, head.target, head.headers, body, event.headers)
            connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            connection.send(h11.EndOfMessage())
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()
        else:
            return


class Llhttp:
    """Collects what llhttp tells."""

    def __init__(self):
        self.whole = []

    def on_message_begin(self):
        self.target, self.fields, self.body, self.trailers, self.in_head = b"", [], b"", [], True

    def on_url(self, part):
        self.target += part

    def on_header(self, name, value):
        (self.fields if self.in_head else self.trailers).append((name, value))

    def on_headers_complete(self):
        self.in_head = False

    def on_body(self, part):
        self.body += part

    def on_message_complete(self):
        method = self.parser.get_method()
        self.whole.append(request(method, self.target, self.fields, self.body, self.trailers))


def read_httptools(stream):
    seen = Llhttp()
    seen.parser = httptools.HttpRequestParser(seen)
    try:
        seen.parser.feed_data(stream)
    except httptools.HttpParserUpgrade:
        pass
    finally:
        yield from seen.whole


def read_gunicorn(stream):
    config = Config()
    # Nothing is dropped or taken for wrong that the law leaves open.
    for setting, value in [
        ("permit_unconventional_http_method", True),
        ("header_map", "dangerous"),
        ("limit_request_line", 0),
        ("limit_request_fields", 32768),
        ("limit_request_field_size", 0),
    ]:
        config.set(setting, value)
    for head in RequestParser(config, iter([stream]), ("127.0.0.1", 1)):
        body = head.body.read()
        if len(body) < int(dict(head.headers).get("CONTENT-LENGTH", 0)):
            return
        fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in head.headers]
        yield request(head.method.encode("latin-1"), head.uri.encode("latin-1"), fields, body, None)


def read_waitress(stream):
    adjustments = waitress.adjustments.Adjustments(max_request_header_size=1 << 20)
    while stream:
        parser = waitress.parser.HTTPRequestParser(adjustments)
        while stream and not parser.completed:
            stream = stream[parser.received(stream):]
        if parser.error:
            raise ValueError(parser.error.body)
        if not parser.completed:
            return
        body = parser.get_body_stream().read()
        fields = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in parser.headers.items()]
        yield request(parser.command.encode(), parser.request_uri.encode("latin-1"), fields, body, None)
        if parser.connection_close:
            return


class Naive(http.server.BaseHTTPRequestHandler):
    """A server in the way of `wsgiref`: it knows bodies of a given length and no others."""

    protocol_version = "HTTP/1.1"

    def setup(self):
        self.rfile, self.wfile = io.BytesIO(self.request), io.BytesIO()

    def finish(self):
        pass

    def handle_one_request(self):
        self.close_connection = True
        self.raw_requestline = self.rfile.readline(1 << 17)
        if not self.raw_requestline:
            return
        if not self.parse_request():
            raise ValueError(self.wfile.getvalue().split(b"\r\n")[0])
        length = self.headers.get("content-length")
        if length is None and "transfer-encoding" in self.headers:
            raise ValueError("chunked is not known here")
        body = self.rfile.read(int(length or 0))
        if len(body) < int(length or 0):
            return
        fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers.raw_items()]
        method, target, _ = self.raw_requestline.rstrip(b"\r\n").split()
        self.server.append(request(method, target, fields, body, None))
        self.close_connection = False

    def log_message(self, *_):
        pass


def read_http_server(stream):
    seen = []
    try:
        Naive(stream, ("127.0.0.1", 1), seen)
    finally:
        yield from seen


READERS = {
    "h11": read_h11,
    "httptools": read_httptools,
    "gunicorn": read_gunicorn,
    "waitress": read_waitress,
    "http.server": read_http_server,
}

for line in sys.stdin:
    given = json.loads(line)
    for reader, read in READERS.items():
        requests, refused = [], None
        try:
            for seen in read(given["stream"].encode("latin-1")):
                requests.append(seen)
        except Exception as error:
            refused = f"{type(error).__name__}: {error}"
        print(json.dumps({"id": given["id"], "reader": reader, "requests": requests, "refused": refused}))
