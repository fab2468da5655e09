"""What a client may meet on its way: a proxy that cuts connections, a server that says no."""

import socket
import threading
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Proxy:
    """Hands everything on, but swallows an answer where it is told to, and hangs up instead.

    with Proxy(port) as proxy:
        proxy.cuts = 2      # the next two answers never arrive,
    proxy.passes = 1    # after one more that does
    """

    def __init__(self, port):
        self._upstream = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self.cuts = 0
        self.passes = 0
        self.cut = 0
        self.connections = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self):
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                server = socket.create_connection(self._upstream)
                for pump in (self._requests, self._answers):
                    threading.Thread(target=pump, args=(client, server), daemon=True).start()

    def _requests(self, client, server):
        with suppress(OSError):
            while piece := client.recv(65536):
                server.sendall(piece)
            server.shutdown(socket.SHUT_WR)

    def _answers(self, client, server):
        with closing(client), closing(server), suppress(OSError):
            # What has an answer was done; whether the client hears of it is another question.
            while piece := server.recv(65536):
                with self._lock:
                    passes = self.passes > 0
                    self.passes -= passes
                    cuts = self.cuts > 0 and not passes
                    self.cuts -= cuts
                    self.cut += cuts
                if cuts:
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(piece)


class Script:
    """A server that gives the answers of a list, one after the other, and keeps the requests.

    An answer is (status, headers, body).
    """

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                script.requests.append((self.command, self.path, dict(self.headers)))
                status, headers, body = script.answers.pop(0)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = answer  # noqa: N815

            def log_message(self, *_):
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def url(self):
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        serve = self._server.serve_forever
        threading.Thread(target=serve, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
