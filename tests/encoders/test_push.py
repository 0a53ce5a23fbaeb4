"""What is pushed to a local stand-in of the hub's HTTP interface loads again by its name; sites are Spaces."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest
import torch
import yaml
from typer.testing import CliRunner

import carrara
from carrara.cli._main import app
from carrara.core.errors import UsageError, WeightsError
from carrara.core.record import Record, write_record
from carrara.encoders._hub.load import build_encoder, save_pretrained
from carrara.encoders._hub.push import push_encoder

SMALL = {
    "conv_channels": 16, "dim": 32, "num_layers": 2, "num_heads": 2, "ffn_dim": 64, "position_groups": 4
}  # fmt: skip
TOKEN = "hf_only_for_the_stand_in"
SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Repositories by name, each {path: content}, behind the routes that huggingface_hub calls."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Routes)
        self.repositories, self.objects, self.private, self.commits = {}, {}, {}, []
        self.spaces = {}
        self.url = f"http://127.0.0.1:{self.server_port}"


class Routes(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def reply(self, value=None, status=200, headers=None, body=None):
        body = json.dumps(value).encode() if body is None else body
        self.send_response(status)
        for name, content in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, content)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        hub, path = self.server, unquote(urlsplit(self.path).path)
        path = re.sub("^/api/spaces/", "/api/models/", path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.reply({"error": "Invalid username or password."}, 401)
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            if name in hub.repositories:
                self.reply({"error": "exists", "url": f"{hub.url}/{name}"}, 409)
                return
            hub.repositories[name] = {}
            if asked.get("type") == "space":
                hub.spaces[name] = asked["sdk"]
            hub.private[name] = asked.get("private") or asked.get("visibility") == "private"
            self.reply({"url": f"{hub.url}/{name}", "name": name})
        elif path == "/api/validate-yaml":
            text = json.loads(body)["content"]
            yaml.safe_load(text.split("---")[1])
            self.reply({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            modes = [
                {"path": file["path"], "shouldIgnore": False,
                 "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".png")) else "regular"}
                for file in json.loads(body)["files"]
            ]  # fmt: skip
            self.reply({"files": modes})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": f"{hub.url}/lfs/{each['oid']}", "header": {}}}}
                for each in json.loads(body)["objects"]
            ]
            self.reply(
                {"transfer": "basic", "objects": objects}, headers={"Content-Type": "application/vnd.git-lfs+json"}
            )
        elif "/commit/" in path:
            name = path.removeprefix("/api/models/").partition("/commit/")[0]
            lines = [json.loads(line) for line in body.splitlines() if line.strip()]
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    hub.repositories[name][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    hub.repositories[name][value["path"]] = hub.objects[value["oid"]]
                elif line["key"] == "deletedFile":
                    del hub.repositories[name][value["path"]]
                elif line["key"] == "header":
                    hub.commits.append(value["summary"])
            self.reply({"success": True, "commitUrl": f"{hub.url}/{name}/commit/{SHA}", "commitOid": SHA})
        else:
            self.reply({"error": f"no route {path}"}, 404)

    def do_PUT(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.rpartition("/")[2]
        if hashlib.sha256(content).hexdigest() != oid:
            self.reply({"error": "other content"}, 400)
            return
        self.server.objects[oid] = content
        self.reply({})

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub, path = self.server, unquote(urlsplit(self.path).path)
        path = re.sub("^/api/spaces/", "/api/models/", path)
        name, _, rest = (
            path.removeprefix("/api/models/")
            .lstrip("/")
            .partition("/resolve/" if "/resolve/" in path else "/revision/")
        )
        if "/tree/" in path:
            name = path.removeprefix("/api/models/").partition("/tree/")[0]
            files = [{"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                     for file, content in hub.repositories.get(name, {}).items()]  # fmt: skip
            self.reply(files)
        elif name not in hub.repositories:
            self.reply({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        elif path.startswith("/api/models/"):
            siblings = [{"rfilename": file} for file in hub.repositories[name]]
            self.reply({"id": name, "sha": SHA, "siblings": siblings, "private": False, "tags": []})
        else:
            content = hub.repositories[name].get(rest.partition("/")[2])
            if content is None:
                self.reply({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
                return
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": SHA}
            self.reply(headers=headers | {"Content-Type": "application/octet-stream"}, body=content)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # huggingface_hub reads the environment when it is imported, so its constants are set too.
    from huggingface_hub import constants

    for name, value in {
        "ENDPOINT": server.url,
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "mine"
    save_pretrained(build_encoder("mert-v0", 3, SMALL), path, "---\nlibrary_name: carrara\n---\n\n# mine\n")
    for name in ("run.json", "training/last.safetensors", "labels/codes/index.jsonl", "tensorboard/events"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("of this machine")
    (path / "metrics.png").write_bytes(b"\x89PNG")
    return path


def test_what_is_pushed_loads_again_by_its_name(hub, folder, tmp_path):
    address = push_encoder(folder, "lab/mine")
    assert address == f"{hub.url}/lab/mine/commit/{SHA}"
    assert sorted(hub.repositories["lab/mine"]) == ["README.md", "config.json", "metrics.png", "model.safetensors"]
    assert not hub.private["lab/mine"] and hub.commits == ["mine, by carrara push"]
    ours, theirs = carrara.load(folder), carrara.load("lab/mine")
    assert theirs.card.weights_sha256 == ours.card.weights_sha256
    samples = torch.randn(1, 16_000)
    assert torch.equal(ours.eval()(samples), theirs.eval()(samples))


def test_an_encoder_in_memory_is_pushed_as_it_would_be_saved(hub):
    encoder = build_encoder("mert-v0", 4, SMALL).eval()
    assert encoder.push_to_hub("lab/tuned", private=True) == f"{hub.url}/lab/tuned/commit/{SHA}"
    assert hub.private["lab/tuned"] and "model.safetensors" in hub.repositories["lab/tuned"]
    samples = torch.randn(1, 16_000)
    assert torch.equal(carrara.load("lab/tuned").eval()(samples), encoder(samples))
    with pytest.raises(UsageError, match="write it as org/name"):
        encoder.push_to_hub("tuned")


def test_the_vocabulary_of_a_text_tower_is_pushed_with_it(hub, roberta_json):
    sizes = {"dim": 8, "depths": (1, 1), "heads": (1, 2), "text_dim": 16, "text_layers": 1, "text_heads": 2}
    encoder = build_encoder("laion-clap-general", changes={**sizes, "text_ffn_dim": 32, "vocabulary": 400}).eval()
    encoder.tokenizer_json = roberta_json
    encoder.push_to_hub("lab/texts")
    again = carrara.load("lab/texts")
    assert again.tokenizer_json == roberta_json
    assert again.tokenize(["jazz"]) == encoder.tokenize(["jazz"])


def test_a_second_push_updates_the_repository(hub, folder):
    runner = CliRunner()
    first = runner.invoke(app, ["push", str(folder), "lab/mine", "--private", "--json"])
    assert json.loads(first.stdout) == {"repository": "lab/mine", "commit": f"{hub.url}/lab/mine/commit/{SHA}"}
    assert hub.private["lab/mine"]
    (folder / "README.md").write_text("---\nlibrary_name: carrara\n---\n\n# better\n")
    assert runner.invoke(app, ["push", str(folder), "lab/mine"]).exit_code == 0
    assert b"# better" in hub.repositories["lab/mine"]["README.md"]


def test_refusals_are_one_line_with_the_cure(hub, folder, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="holds no config.json; give the folder of a training run"):
        push_encoder(tmp_path, "lab/mine")
    with pytest.raises(UsageError, match="mine: is no repository of the hub; write it as org/name"):
        push_encoder(folder, "mine")
    with pytest.raises(UsageError, match="is no repository of the hub"):
        push_encoder(folder, "lab/..mine")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UsageError, match=r"the hub refuses the upload \(.*\); log in with `hf auth login`") as refused:
        push_encoder(folder, "lab/mine")
    assert "\n" not in str(refused.value) and not hub.repositories
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(WeightsError):
        push_encoder(folder, "lab/mine")
    (folder / "model.safetensors").write_bytes(whole)
    hub.shutdown()
    hub.server_close()
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between huggingface_hub's further attempts
    with pytest.raises(UsageError, match=r"cannot be uploaded \(.*\); check the connection") as refused:
        push_encoder(folder, "lab/mine")
    assert "\n" not in str(refused.value)


def test_a_site_is_a_static_space_and_a_second_push_replaces_it(hub, tmp_path):
    results = tmp_path / "results"
    task = {"version": 1, "dataset": "pebble", "split_scheme": "s", "task_type": "multiclass", "label": "key",
            "labels": ["x", "y"], "metrics": ["accuracy"], "monitor": "accuracy", "category": "acoustic"}  # fmt: skip
    values = {
        "task": {"name": "pebble/key", "version": 1, "fingerprint": "f", "task": task},
        "data": {"name": "pebble", "index": "i", "n": {"train": 3, "valid": 1, "test": 2}},
        "encoder": {"name": "first", "weights_sha256": "00", "output_version": 1, "parameters": 10},
        "protocol": {"name": "constrained", "version": 1, "tried": 6, "chosen": {}, "monitor": "valid"},
        "grid": [],
        "scores": {"accuracy": {"value": 0.5, "low": 0.4, "high": 0.6, "unit": "clip", "n": 2}},
        "run": {"seed": 0, "device": "cpu", "seconds": {}, "versions": {}, "git": "", "date": "2026-11-21",
                "command": "c"},
    }  # fmt: skip
    path = write_record(Record.model_validate(values), results)
    runner = CliRunner()
    done = runner.invoke(app, ["push-site", "lab/board", "--results", str(results), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["repository"] == "lab/board"
    files = hub.repositories["lab/board"]
    assert hub.spaces == {"lab/board": "static"}
    front = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert front["sdk"] == "static" and front["title"] == "board"
    assert b"leaderboard.js" in files["index.html"] and "data/systems/first.js" in files
    assert json.loads(files["data/leaderboard.json"])["systems"][0]["name"] == "first"

    path.unlink()
    write_record(Record.model_validate(values | {"encoder": values["encoder"] | {"name": "second"}}), results)
    site = tmp_path / "site"
    assert runner.invoke(app, ["leaderboard", str(results), "--site", str(site)]).exit_code == 0
    (site / "notes.txt").write_text("of this machine")
    assert runner.invoke(app, ["push-site", "lab/board", "--site", str(site)]).exit_code == 0
    assert "data/systems/second.js" in files and "data/systems/first.js" not in files
    assert "notes.txt" not in files and "README.md" in files
    done = runner.invoke(app, ["push-site", "lab/board", "--site", str(results)])
    assert done.exit_code == 2 and "holds no site" in done.stderr
