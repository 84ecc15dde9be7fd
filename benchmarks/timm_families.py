"""One small network of every family of timm's: does it train, freeze, export and come back equal?

    uv run python -m benchmarks.timm_families --to docs/reference/pretrained.md

writes a table into that page: about ten seconds a family on one core. ``--after NAME`` begins with
the family after that one.
"""

import argparse
import io
import re
import time
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch.nn import functional as F

from busi_search.errors import InputError
from busi_search.training.classifier import ImageClassifier
from busi_search.training.fit import make_optimizer
from busi_search.training.freezing import freeze_backbone
from busi_search.training.zoo import build_model

SIZES = (32, 64, 96, 128, 160, 192, 224, 240, 256, 299, 331)
BEGIN, END = "<!-- begin of the table -->", "<!-- end of the table -->"


@dataclass
class Row:
    """What was found for one network."""

    family: str
    name: str
    num_weights: int
    size: int | None = None
    num_stages: int = 0
    problem: str = ""
    seconds: float = 0.0


def smallest_networks() -> dict[str, tuple[str, int]]:
    """Return the network with the fewest weights of every family, by the family's name."""
    found = {}
    for family in timm.list_modules():
        counts = {}
        for name in timm.list_models(module=family):
            try:
                with torch.device("meta"):
                    net = timm.create_model(name, num_classes=0)
            except Exception:
                continue  # some cannot be built without a device; a larger one stands for them
            counts[name] = sum(weight.numel() for weight in net.parameters())
        if counts:
            name = min(counts, key=lambda key: counts[key])
            found[family] = (name, counts[name])
    return found


def examine(family: str, name: str, num_weights: int) -> Row:
    """Train, freeze, export and reload one network, at the smallest side that it takes."""
    row, begun = Row(family, name, num_weights), time.perf_counter()
    model = None
    for size in SIZES:
        try:
            model = build_model(f"timm/{name}", num_classes=3, image_size_pixels=size)
        except InputError as error:
            row.problem = str(error)
            continue
        except Exception as error:
            row.problem = _first_line("build", error)
            break
        row.size, row.num_stages, row.problem = size, len(model.stages), ""
        break
    if model is not None:
        for step in (_train, _export, _freeze):
            try:
                step(model, row.size)
            except Exception as error:
                row.problem = _first_line(step.__name__[1:], error)
                break
    row.seconds = time.perf_counter() - begun
    return row


def _first_line(step: str, error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{step}: {type(error).__name__}: {lines[0][:90]}"


def _pixels(size: int) -> torch.Tensor:
    return torch.randint(0, 256, (4, 1, size, size)).float()


def _train(model: ImageClassifier, size: int) -> None:
    model.train()
    loss = F.cross_entropy(model(_pixels(size)), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    reached = [weight.grad is not None for weight in model.parameters()]
    share = sum(reached) / len(reached)
    assert share > 0.95, f"a gradient reaches only {share:.0%} of the tensors"
    assert bool(loss.isfinite()), "the loss is no number"


def _freeze(model: ImageClassifier, size: int) -> None:
    for depth in range(len(model.stages) + 1):
        model.zero_grad(set_to_none=True)
        freeze_backbone(model, depth)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        optimizer = make_optimizer(model, "sgd", learning_rate=1e-4, weight_decay=0.1)
        F.cross_entropy(model(_pixels(size)), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
        for key, value in model.state_dict().items():
            if key.startswith("stages.") and int(key.split(".")[1]) < depth:
                assert torch.equal(before[key], value), f"{key} moved at depth {depth}"


def _export(model: ImageClassifier, size: int) -> None:
    model.eval()
    batch = torch.export.Dim("batch")
    example = torch.zeros(2, 1, size, size)
    program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for count in (1, 4):
        pixels = _pixels(size)[:count]
        with torch.inference_mode():
            torch.testing.assert_close(loaded(pixels), model(pixels), atol=1e-4, rtol=1e-4)


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table, failures last."""
    lines = [
        "| family | smallest network | weights | smallest side | stages | problem |",
        "|---|---|---:|---:|---:|---|",
    ]
    for row in sorted(rows, key=lambda row: (bool(row.problem), row.family)):
        problem = row.problem.replace("|", "\\|") or "none"
        lines.append(
            f"| {row.family} | `timm/{row.name}` | {row.num_weights / 1e6:.1f} M | "
            f"{row.size or '–'} | {row.num_stages or '–'} | {problem} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Examine every family and write the table between its marks in a page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--to", type=Path)
    parser.add_argument("--family", action="append")
    parser.add_argument("--after", default="", help="only families whose names come later")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for family, (name, count) in smallest_networks().items():
        if family <= chosen.after or (chosen.family and family not in chosen.family):
            continue
        torch.manual_seed(0)
        rows.append(examine(family, name, count))
        print(rows[-1], flush=True)
    text = table(rows)
    print(text)
    if chosen.to is not None:
        page = chosen.to.read_text()
        new = f"{BEGIN}\n\n{text}\n\n{END}"
        chosen.to.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: new, page, flags=re.DOTALL))


if __name__ == "__main__":
    main()
