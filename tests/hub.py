"""A stand-in for the Hugging Face hub on the loopback address, which speaks as much of
its protocol as the client needs to download and to upload."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Hub:
    """Repositories in memory.

    - `repositories`: By name, then by file; the bytes of each file.
    - `gated`: The repositories that want a login.
    - `truncated`: The files of which half is sent, as many times.
    - `requests`: What was asked, `"GET /user/name/resolve/main/config.json"`.
    """

    COMMIT = "c0ffee" + 34 * "0"

    def __init__(self):
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.truncated: dict[str, int] = {}
        self.requests: list[str] = []
        self.address = ""

    def add(self, repository: str, folder: Path) -> None:
        """Adds the files of a folder."""
        files = {file.name: file.read_bytes() for file in folder.iterdir()}
        self.repositories.setdefault(repository, {}).update(files)

    def committed(self, repository: str, lines: bytes) -> None:
        """Takes the files of a commit."""
        for line in lines.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                content = base64.b64decode(entry["value"]["content"])
                self.repositories[repository][entry["value"]["path"]] = content


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """The address of a server for a hub."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args) -> None:
            pass

        def do_HEAD(self):
            self.resolve()

        def do_GET(self):
            self.resolve()

        def do_POST(self):
            hub.requests.append(f"POST {self.path}")
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            parts = self.path.split("/")
            if self.headers["Authorization"] is None:
                self.answer(401, {"error": "Invalid username or password."})
            elif self.path == "/api/repos/create":
                asked = json.loads(body)
                name = "/".join(
                    filter(None, (asked.get("organization"), asked["name"]))
                )
                hub.repositories.setdefault(name, {})
                self.answer(200, {"url": f"{hub.address}/{name}", "name": name})
            elif "preupload" in parts:
                files = [
                    dict(path=f["path"], uploadMode="regular", shouldIgnore=False)
                    for f in json.loads(body)["files"]
                ]
                self.answer(200, {"files": files})
            elif "commit" in parts:
                name = "/".join(parts[3:5])
                hub.committed(name, body)
                address = f"{hub.address}/{name}/commit/{hub.COMMIT}"
                answer = dict(success=True, commitOid=hub.COMMIT, commitUrl=address)
                self.answer(200, answer)
            else:
                self.answer(200, {})

        def answer(self, status: int, body, **headers: str) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def resolve(self) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            if "/resolve/" not in self.path:
                self.answer(401, {"error": "?"})
                return
            repository, _, rest = self.path[1:].partition("/resolve/")
            revision, _, file = rest.partition("/")
            if revision == "moved":
                self.answer(302, b"", Location=f"/{repository}/resolve/main/{file}")
                return
            files = hub.repositories.get(repository)
            if files is None:
                self.answer(401, {"error": "?"}, X_Error_Code="RepoNotFound")
            elif repository in hub.gated:
                self.answer(403, {"error": "?"}, X_Error_Code="GatedRepo")
            elif revision not in ("main", hub.COMMIT):
                self.answer(404, {"error": "?"}, X_Error_Code="RevisionNotFound")
            elif file not in files:
                self.answer(404, {"error": "?"}, X_Error_Code="EntryNotFound")
            else:
                self.send_file(file, files[file])

        def send_file(self, file: str, data: bytes) -> None:
            begin = int((self.headers["Range"] or "bytes=0-")[6:].partition("-")[0])
            partial = {}
            if begin:
                where = f"bytes {begin}-{len(data) - 1}/{len(data)}"
                partial = dict(Content_Range=where)
            self.send_response(206 if begin else 200)
            headers = dict(
                X_Repo_Commit=hub.COMMIT,
                ETag=f'"{hashlib.sha256(data).hexdigest()}"',
                Accept_Ranges="bytes",
                Content_Length=str(len(data) - begin),
                **partial,
            )
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "HEAD":
                return
            data = data[begin:]
            if hub.truncated.get(file, 0) > 0:
                hub.truncated[file] -= 1
                self.wfile.write(data[: len(data) // 2])
                self.close_connection = True
                return
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub.address
    finally:
        server.shutdown()
        server.server_close()
