"""An MLflow server in this process that breaks on command, over real HTTP."""

import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from werkzeug.serving import BaseWSGIServer, make_server

from busi_search.home import quiet_mlflow
from tests.ports import free_port

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


class TrackingServer:
    """Serves runs and artifacts from ``root``; ``mode`` says how it answers.

    Modes: ``ok``; ``error`` (503, nothing done); ``lost`` (done, but the answer never arrives);
    ``hang`` (nothing is done and nothing answered for ``hang_seconds``). ``stop`` refuses
    connections, as a server that is not there. The next answer to a path that ends with
    ``lose_once`` is lost; ``num_calls`` counts the calls of every path.
    """

    def __init__(self, root: Path) -> None:
        quiet_mlflow()
        os.environ["_MLFLOW_SERVER_FILE_STORE"] = f"sqlite:///{root / 'server.db'}"
        os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = "mlflow-artifacts:/"
        os.environ["_MLFLOW_SERVER_ARTIFACT_DESTINATION"] = str(root / "served")
        os.environ["_MLFLOW_SERVER_SERVE_ARTIFACTS"] = "true"
        from mlflow.server import app, handlers

        handlers._tracking_store = handlers._model_registry_store = None
        handlers._artifact_repo = None
        self._app: Application = app.wsgi_app
        self.mode = "ok"
        self.hang_seconds = 6.0
        self.lose_once = ""
        self.num_calls: Counter[str] = Counter()
        self._server: BaseWSGIServer | None = None
        self._port = free_port()
        self.start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def _serve(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path, mode = environ["PATH_INFO"], self.mode
        self.num_calls[path] += 1
        if self.lose_once and path.endswith(self.lose_once):
            self.lose_once, mode = "", "lost"
        if mode == "hang":
            time.sleep(self.hang_seconds)
        if mode in ("error", "hang"):
            start_response("503 Service Unavailable", [("Content-Type", "text/plain")])
            return [b"down"]
        if mode == "lost":
            list(self._app(environ, lambda *_: lambda _: None))
            raise ConnectionResetError("the answer is lost")
        return self._app(environ, start_response)

    def start(self) -> None:
        """Listen, always on the same port.

        Raises:
            OSError: the port is taken, and stays so.
        """
        for last in (False,) * 50 + (True,):
            try:
                self._server = make_server("127.0.0.1", self._port, self._serve, threaded=True)
                break
            except SystemExit:  # which would end pytest's own clearing up, too
                if last:
                    raise OSError(f"port {self._port} is taken: {who_has(self._port)}") from None
                time.sleep(0.2)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


def who_has(port: int) -> str:
    """What Linux knows of a port's sockets, for a test's message."""
    line = ["ss", "-tanp", f"( sport = :{port} or dport = :{port} )"]
    try:
        return subprocess.run(line, capture_output=True, text=True, check=False).stdout
    except OSError as error:
        return str(error)
