"""An app that answers at once, or, at /slow, when it may: after /tmp/finish is there."""

import http.server
import os
import time


class App(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "10")
        self.end_headers()
        self.wfile.write(b"first")
        self.wfile.flush()
        while self.path == "/slow" and not os.path.exists("/tmp/finish"):
            time.sleep(0.05)
        self.wfile.write(b"later")

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", 3000), App).serve_forever()
