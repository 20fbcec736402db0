"""Models of the hub by name, from a server on this machine that speaks as the hub does."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading

import pytest

from tests.cli.encoders import write_encoder
from transformer_jax import load_pretrained
from transformer_jax.errors import UserError
from transformer_jax.interop import hub

SHA = "a" * 40
PROGRAM = """
import json, sys
from transformer_jax import load_pretrained
from transformer_jax.errors import UserError
from transformer_jax.interop.hub import local_folder
try:
    folder = local_folder(sys.argv[1])
    print(json.dumps([sorted(p.name for p in folder.iterdir()), load_pretrained(sys.argv[1]).kind]))
except UserError as error:
    print(json.dumps(str(error)))
"""


@pytest.fixture
def server(tmp_path):
    """Serves the files of a folder as the model org/small; its address, the folder, the paths."""
    folder, asked = tmp_path / "served", []
    write_encoder(folder, "masked_lm", pooler=False)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.do_HEAD(with_body=True)

        def do_HEAD(self, with_body=False):
            asked.append(self.path)
            path, names = self.path.partition("?")[0], sorted(p.name for p in folder.iterdir())
            if path.startswith("/api/models/org/small/revision/"):
                body = {
                    "id": "org/small",
                    "sha": SHA,
                    "siblings": [{"rfilename": n} for n in names],
                }
                body = json.dumps(body).encode()
            elif path.startswith("/api/models/org/small/tree/"):
                parts = [(n, (folder / n).read_bytes()) for n in names]
                body = [
                    dict(type="file", path=n, size=len(x), oid=hashlib.sha1(x).hexdigest())
                    for n, x in parts
                ]
                body = json.dumps(body).encode()
            elif path.startswith(f"/org/small/resolve/{SHA}/") and path.split("/")[-1] in names:
                body = (folder / path.split("/")[-1]).read_bytes()
            else:
                body = None
            self.send_response(404 if body is None else 200)
            if body is None:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("ETag", f'"{hashlib.sha1(body or b"").hexdigest()}"')
            self.send_header("X-Repo-Commit", SHA)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            if with_body and body:
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_port}", folder, asked
    listening.shutdown()
    listening.server_close()


def ask(name, address, home):
    found = {"HF_ENDPOINT": address, "HF_HOME": str(home), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name],
        env=os.environ | found,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_a_name_of_the_hub_is_a_folder_that_is_kept(server, tmp_path):
    address, folder, asked = server
    (folder / "flax_model.msgpack").write_bytes(b"large")
    (folder / "pytorch_model.bin").write_bytes(b"large")
    names, kind = ask("hf:org/small", address, tmp_path / "home")
    assert kind == "masked_lm"
    assert names == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert not any("msgpack" in path or ".bin" in path for path in asked)
    assert any("/revision/main" in path for path in asked)
    offline = "http://127.0.0.1:9"
    assert ask("hf:org/small", offline, tmp_path / "home") == [names, kind]
    ask("hf:org/small@v2", address, tmp_path / "home")
    assert any("/revision/v2" in path for path in asked)


def test_without_safetensors_the_older_file_is_taken(server, tmp_path):
    address, folder, _ = server
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    error = ask("hf:org/small", address, tmp_path / "home")
    assert "pytorch_model.bin" in error  # it is no such file, but it was taken


@pytest.mark.parametrize(
    ("name", "reason"), [("hf:org/none", "404"), ("hf:a/b/c", "'a/b/c'"), ("hf:", "''")]
)
def test_what_is_not_there_is_said(server, tmp_path, name, reason):
    error = ask(name, server[0], tmp_path / "home")
    assert error.startswith(f"{name} cannot be had from the hub: ") and reason in error


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    hub._download.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'transformer-jax\[hub\]'"):
        load_pretrained("hf:org/small")
