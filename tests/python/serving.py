"""HTTP servers of the tests' own, each on a port of its own."""

import http.server
import threading


class Listener(http.server.ThreadingHTTPServer):
    daemon_threads = True


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers for its `owner`, and logs nothing: the owner's counts tell enough."""

    protocol_version = "HTTP/1.1"
    owner = None

    def log_message(self, *_):
        pass


class Served:
    """What answers on `port` from `listen` on until it is stopped."""

    def listen(self, handler, listener=Listener):
        answering = type("Answering", (handler,), {"owner": self})
        self.listener = listener(("127.0.0.1", 0), answering)
        self.port = self.listener.server_address[1]
        threading.Thread(target=self.listener.serve_forever, daemon=True).start()

    def stop(self):
        self.listener.shutdown()
        self.listener.server_close()
