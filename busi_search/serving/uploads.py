"""The image file in the body of a request: its bytes alone, or a form that holds it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from email.parser import BytesParser

from busi_search.errors import InputError

# Longer names and values of form fields are cut: they are shown, or are numbers.
MAX_TEXT = 200


@dataclass(frozen=True)
class Upload:
    """An image file that was sent.

    Attributes:
        content: its bytes.
        name: what the sender calls it; None: not said.
        fields: other fields of the form, by name.
    """

    content: bytes
    name: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)


def read_upload(body: bytes, content_type: str) -> Upload:
    """Return the image file that a request holds.

    Args:
        body: of the request.
        content_type: its header. Of ``multipart/form-data``, as ``curl -F file=@image.png`` and
            HTML forms send it, the first file is taken; of any other type the body is the file.

    Raises:
        InputError: a form that holds no file, or an empty one.
    """
    if not content_type.lower().startswith("multipart/form-data"):
        return Upload(body)
    header = content_type.replace("\r", " ").replace("\n", " ").encode("latin-1", "replace")
    form = BytesParser().parsebytes(b"Content-Type: " + header + b"\r\n\r\n" + body)
    parts = form.get_payload() if form.is_multipart() else []
    found: Upload | None = None
    fields: dict[str, str] = {}
    for part in parts if isinstance(parts, list) else []:
        if not isinstance(part, Message) or part.is_multipart():
            continue
        content = part.get_payload(decode=True)
        content = content if isinstance(content, bytes) else b""
        name = part.get_filename()
        if name is not None:
            found = found or Upload(content, _shown(name))
        elif isinstance(said := part.get_param("name", header="content-disposition"), str):
            fields[said[:MAX_TEXT]] = content[:MAX_TEXT].decode("utf-8", "replace")
    if found is None or not found.content:
        raise InputError(
            "The form holds no file; send one as curl -F file=@image.png does, or POST the bytes "
            "of an image file."
        )
    return Upload(found.content, found.name, fields)


def _shown(name: str) -> str:
    """The last part of a file's name, without characters that cannot be shown."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(c for c in last if c.isprintable())[:MAX_TEXT]
