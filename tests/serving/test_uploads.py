"""The file comes out of a form byte for byte, and forms without one are refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busi_search.errors import InputError
from busi_search.serving.uploads import read_upload

FORM = "multipart/form-data; boundary=----xyz"


def form(*parts: tuple[str, bytes]) -> bytes:
    """A form as curl and browsers write it."""
    body = b"".join(
        b"------xyz\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + content
        + b"\r\n"
        for head, content in parts
    )  # fmt: skip
    return body + b"------xyz--\r\n"


@settings(max_examples=200, deadline=None)
@given(
    content=st.one_of(
        st.binary(min_size=1, max_size=20_000),
        # Line ends of every kind, where a parser of text would change them.
        st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"\0", b"\xff", b"--", b"a"]), min_size=1)
        .map(b"".join),
    )
)  # fmt: skip
def test_every_byte_arrives(content: bytes) -> None:
    body = form(('name="box"', b"1,2,3,4"), ('name="file"; filename="scan.png"', content))
    found = read_upload(body, FORM)
    assert found.content == content
    assert found.name == "scan.png"
    assert found.fields == {"box": "1,2,3,4"}


def test_other_bodies_are_the_file() -> None:
    for kind in ("", "application/x-www-form-urlencoded", "image/png"):
        found = read_upload(b"\x89PNG\r\n", kind)
        assert (found.content, found.name) == (b"\x89PNG\r\n", None)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (form(('name="box"', b"1,2,3,4")), FORM),
        (form(('name="file"; filename="a.png"', b"")), FORM),
        (b"nothing of the kind", FORM),
        (form(('name="file"; filename="a.png"', b"x")), "multipart/form-data"),
        (b"", "multipart/form-data; boundary="),
    ],
)
def test_a_form_without_a_file_is_refused(body: bytes, kind: str) -> None:
    with pytest.raises(InputError, match="curl -F file="):
        read_upload(body, kind)


def test_names_are_shown_without_folders_and_control_characters() -> None:
    body = form(('name="file"; filename="C:\\\\patients\\\\a\tb.png"', b"x"))
    assert read_upload(body, FORM).name == "ab.png"
