import http.client
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from PIL import Image

from busi_search.data.phantom import simulate_phantom
from busi_search.errors import InputError
from busi_search.models.loading import load_champion
from busi_search.models.out_of_distribution import (
    OutOfDistributionCheck,
    fit_out_of_distribution_check,
)
from busi_search.models.predict import Classifier
from busi_search.report.study_result import StudyResult
from busi_search.serving.app import make_app
from busi_search.serving.occlusion import occlusion_map
from tests.command import BUSI_SEARCH, call_here
from tests.data.dicoms import dicom
from tests.ports import free_port

CANDIDATE = "models:/busi-classifier@candidate"


@pytest.fixture(scope="module")
def classifier(tiny_result: StudyResult) -> Classifier:
    return load_champion(tiny_result.context.home, CANDIDATE)


@contextmanager
def serving(classifier: Classifier, **limits: float) -> Iterator[int]:
    """The application on a port of its own, in this process."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(make_app(classifier, **limits), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(timeout=120)
        listening.close()
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def port(classifier: Classifier) -> Iterator[int]:
    with serving(classifier) as number:
        yield number


def ask(
    port: int, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, dict(response.getheaders()), content


def png(pixels: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def image() -> bytes:
    return png(simulate_phantom(30, size_pixels=64, seed=5).images[0])


def test_the_answer_is_that_of_the_command_line(
    port: int, classifier: Classifier, image: bytes, tmp_path: Path
) -> None:
    status, _, content = ask(port, "POST", "/predict", image)
    assert status == 200
    answer = json.loads(content)
    (tmp_path / "a.png").write_bytes(image)
    (known,) = classifier.predict(tmp_path / "a.png")
    assert answer["label"] == known.label
    assert answer["probabilities"] == pytest.approx(known.probabilities, abs=1e-5)
    verdict = answer["verdict"]
    assert verdict["positive"] == (
        known.probabilities[classifier.positive_class] >= classifier.operating_threshold
    )
    assert verdict["text"].startswith("Called" if verdict["positive"] else "Not called")
    # One image, one answer: page, command line and Python say the same.
    told = known.to_json()
    for key in ("label", "most_likely", "out_of_distribution", "file_notes"):
        assert answer[key] == told[key], key
    assert verdict["text"] == told["verdict"]["text"]
    assert answer["model"] == classifier.about.to_json()
    assert not answer["model"]["sealed_test"]["opened"]
    assert f"{classifier.operating_sensitivity:.0%}" in verdict["limits"]
    assert "occlusion" not in answer
    explained = json.loads(ask(port, "POST", "/predict?explain=1", image)[2])
    assert explained["occlusion"]["overlay"].startswith("data:image/png;base64,")
    assert "without gradients" in explained["occlusion"]["text"]


def test_examples_are_of_every_class_and_get_answers(port: int, classifier: Classifier) -> None:
    model = json.loads(ask(port, "GET", "/model")[2])
    assert model["version"] == classifier.version
    assert model["simulated"] is True
    assert any("cv_auc" in key for key in model["figures"])
    assert set(model["examples"]) == set(classifier.class_names)
    for index in range(len(model["examples"])):
        status, _, content = ask(port, "GET", f"/examples/{index}.png")
        assert status == 200
        assert ask(port, "POST", "/predict", content)[0] == 200
    assert ask(port, "GET", f"/examples/{len(model['examples'])}.png")[0] == 404


def test_a_form_holds_the_file_its_name_and_what_is_asked(port: int, image: bytes) -> None:
    """As ``curl -F file=@scan.png -F explain=1`` sends it."""
    parts = [
        b'Content-Disposition: form-data; name="explain"\r\n\r\n1',
        b'Content-Disposition: form-data; name="file"; filename="scan.png"\r\n'
        b"Content-Type: image/png\r\n\r\n" + image,
    ]
    body = b"".join(b"--xyz\r\n" + part + b"\r\n" for part in parts) + b"--xyz--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=xyz"}
    status, _, content = ask(port, "POST", "/predict", body, **headers)
    assert status == 200
    answer, plain = json.loads(content), json.loads(ask(port, "POST", "/predict", image)[2])
    assert answer["file"] == "scan.png"
    assert plain["file"] is None
    assert answer["probabilities"] == plain["probabilities"]
    assert "occlusion" in answer
    status, _, content = ask(port, "POST", "/predict", b"--xyz--\r\n", **headers)
    assert status == 422
    assert "curl -F file=@image.png" in json.loads(content)["error"]


@pytest.mark.parametrize(
    ("method", "path", "wanted", "allowed"),
    [
        ("GET", "/nothing", 404, None),
        ("POST", "/nothing", 404, None),
        ("GET", "/predict", 405, "POST"),
        ("POST", "/", 405, "GET, HEAD"),
        ("DELETE", "/model", 405, "GET, HEAD"),
    ],
)
def test_what_is_not_there_is_said_in_json(
    port: int, method: str, path: str, wanted: int, allowed: str | None
) -> None:
    status, headers, content = ask(port, method, path)
    assert status == wanted
    assert json.loads(content)["error"].endswith(".")
    assert headers.get("allow") == allowed
    assert headers["x-content-type-options"] == "nosniff"
    assert ask(port, method, path, Host="evil.example")[0] == 403


@pytest.mark.parametrize("path", ["/", "/page.js", "/page.css", "/model"])
def test_the_page_needs_no_other_host_and_allows_none(port: int, path: str) -> None:
    status, headers, content = ask(port, "GET", path)
    assert status == 200
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert b"//" not in content.replace(b"models:/", b"").replace(b"http://127.0.0.1", b"")


@pytest.mark.parametrize("path", ["/", "/model", "/examples/0.png", "/predict"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:80"},
        {"Host": "[::1]:80"},  # only 127.0.0.1 is listened on
        {"Host": "localhost:80:90"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1"},
    ],
)
def test_other_hosts_and_origins_are_refused(
    port: int, path: str, headers: dict[str, str], image: bytes
) -> None:
    method = "POST" if path == "/predict" else "GET"
    status, _, content = ask(port, method, path, image if method == "POST" else None, **headers)
    assert status == 403
    assert "error" in json.loads(content)


def test_the_own_origin_is_served(port: int, image: bytes) -> None:
    for host in ("127.0.0.1", "localhost"):
        headers = {"Host": f"{host}:{port}", "Origin": f"http://{host}:{port}"}
        assert ask(port, "POST", "/predict", image, **headers)[0] == 200


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("unpickled",)


@pytest.mark.parametrize("body", [b"", b"no image", pickle.dumps(_Bomb()), b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_gets_one_sentence(
    port: int, body: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, content = ask(port, "POST", "/predict", body)
    assert status == 422
    assert json.loads(content)["error"].endswith(".")
    assert list(tmp_path.iterdir()) == []


def test_large_and_slow_uploads_are_cut_off(classifier: Classifier, image: bytes) -> None:
    with serving(classifier, max_body_bytes=len(image), body_seconds=2) as port:
        assert ask(port, "POST", "/predict", image)[0] == 200
        assert ask(port, "POST", "/predict", image + b"x")[0] == 413
        chunked = b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n" % (len(image) + 1)
        for rest, wanted in (
            (b"Content-Length: 10\r\n\r\nfour", b"408"),
            (chunked + image + b"x\r\n0\r\n\r\n", b"413"),
        ):
            with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
                connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\n" + rest)
                assert connection.recv(100).split()[1] == wanted


def test_a_model_without_stored_statistics_says_so(
    classifier: Classifier, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "familiarity", None)
    with serving(classifier) as port:
        answer = json.loads(ask(port, "POST", "/predict", image)[2])
    assert answer["familiarity"]["unlike"] is None
    assert "so the image was not compared" in answer["familiarity"]["text"]


def test_dicom_and_other_containers_are_judged_or_refused(
    port: int, classifier: Classifier, image: bytes, tmp_path: Path
) -> None:
    pixels = np.asarray(Image.open(BytesIO(image)))
    screen = np.zeros((80, 90), np.uint8)
    screen[8:72, 20:84] = pixels
    region = (20, 8, 83, 71, 1, 1)
    still = dicom(tmp_path / "still.dcm", screen, regions=[region])
    plain = json.loads(ask(port, "POST", "/predict", image)[2])
    found = json.loads(ask(port, "POST", "/predict", still.read_bytes())[2])
    assert found["probabilities"] == plain["probabilities"]
    assert found["file_notes"] == plain["file_notes"] == []
    clip = dicom(tmp_path / "clip.dcm", np.stack([pixels[::-1], pixels, pixels[::-1]]))
    found = json.loads(ask(port, "POST", "/predict", clip.read_bytes())[2])
    assert found["probabilities"] == plain["probabilities"]
    assert found["file_notes"] == ["The file has 3 frames; frame 2 was judged."]
    rows = classifier.predict(clip)
    assert [row.path for row in rows] == [f"{clip}#{number}" for number in (1, 2, 3)]
    assert rows[1].probabilities == plain["probabilities"]
    pages = BytesIO()
    Image.fromarray(pixels).save(
        pages, "TIFF", save_all=True, append_images=[Image.new("L", (8, 8))]
    )
    found = json.loads(ask(port, "POST", "/predict", pages.getvalue())[2])
    assert found["file_notes"] == ["The file has 2 pages or frames; the first was judged."]
    status, _, content = ask(port, "POST", "/predict", png(pixels // 40))
    assert status == 422
    assert "nearly black" in json.loads(content)["error"]
    side = classifier.size_pixels
    for wrong in (np.ones((1, side, side), np.uint8), np.ones((1, side, side), np.float32)):
        with pytest.raises(InputError, match="0 to 255"):
            classifier.predict_pixels(wrong)
    with pytest.raises(InputError, match="takes"):
        classifier.predict_pixels(np.full((1, side, side + 1), 99, np.uint8))


def test_unlike_images_are_far_and_fresh_ones_are_not(rng: np.random.Generator) -> None:
    known = fit_out_of_distribution_check(simulate_phantom(300, size_pixels=64, seed=0).images)
    assert OutOfDistributionCheck.from_json(json.loads(json.dumps(known.to_json()))) == known
    fresh = simulate_phantom(300, size_pixels=64, seed=1).images
    assert np.mean(known.distance(fresh) > known.limit) < 0.12
    odd = {
        "black": np.zeros((64, 64)),
        "white": np.full((64, 64), 255),
        "noise": rng.integers(0, 256, (64, 64)),
        "negative": 255 - fresh[0],
        "text": np.kron(rng.integers(0, 2, (16, 16)) * 255, np.ones((4, 4))),
    }
    for name, pixels in odd.items():
        assert known.distance(pixels.astype(np.uint8)[None])[0] > known.limit, name


def test_the_map_finds_the_part_an_answer_hangs_on() -> None:
    def bright_corner(pixels: np.ndarray) -> np.ndarray:
        share = pixels[:, :8, :8].mean(axis=(1, 2)) / 255
        return np.stack([1 - share, share], axis=1).astype(np.float32)

    image = np.zeros((32, 32), np.uint8)
    image[:8, :8] = 255
    falls = occlusion_map(image, bright_corner, 1)
    assert falls is not None
    assert falls.argmax() == 0
    assert np.allclose(falls[4:, 4:], 0)
    assert occlusion_map(image, bright_corner, 0)[0, 0] == pytest.approx(-falls[0, 0])
    assert occlusion_map(image, bright_corner, 1, seconds_allowed=0) is None


@pytest.mark.slow
def test_serve_answers_and_ends(tiny_result: StudyResult, image: bytes) -> None:
    home, port = str(tiny_result.context.home.root), free_port()
    words = ["--home", home, "serve", "--port", str(port), "--no-browser"]
    words += ["--model-uri", CANDIDATE]
    process = subprocess.Popen(
        [*BUSI_SEARCH, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == f"http://127.0.0.1:{port}/"
        assert ask(port, "POST", "/predict", image)[0] == 200
        taken = call_here(*words)
        assert taken.returncode == 2
        assert "--port" in taken.stderr
    finally:
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=300)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr


@pytest.mark.slow
def test_a_browser_shows_the_answer(port: int, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    words = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    words += ["--virtual-time-budget=15000", "--dump-dom"]
    deadline = time.monotonic() + 300
    page = ""
    while "Research use only" not in page and time.monotonic() < deadline:
        page = subprocess.run(
            [chromium, *words, f"http://127.0.0.1:{port}/#example=1"],
            check=False, capture_output=True, text=True, timeout=300,
        ).stdout  # fmt: skip
    assert 'id="answer" hidden' not in page
    assert "alled malignant: the probability" in page
    assert "SIMULATED" in page
    assert page.count("<progress") == 3
    assert 'src="data:image/png;base64,' in page
