"""Study files: found by name or path, read, changed by ``--set``, joined with their recipes."""

import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from busi_search.errors import InputError
from busi_search.files import user_path
from busi_search.spec import (
    About,
    Choice,
    Condition,
    DatasetSection,
    Hyperparameters,
    Range,
    StudySection,
    StudySpec,
    first_problem,
    nearest,
)


def bundled_studies() -> Path:
    """Return the folder of the study files that come with the package."""
    package = Path(__file__).resolve().parent
    installed = package / "studies"
    return installed if installed.is_dir() else package.parent / "studies"


def list_bundled() -> list[str]:
    """Return the names of the bundled studies, recipes included as ``recipes/NAME``."""
    root = bundled_studies()
    return sorted(
        path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.toml")
    )


def find_study_file(name_or_path: str) -> Path:
    """Return the file of a bundled study name or of a path to a TOML file.

    Raises:
        InputError: neither exists; the sentence names the nearest bundled study.
    """
    path = user_path(name_or_path)
    bundled = user_path(bundled_studies() / f"{name_or_path.removesuffix('.toml')}.toml")
    if bundled.is_file() and not path.is_absolute():
        return bundled
    if path.is_file():
        return path
    hint = nearest(name_or_path, list_bundled()).replace("known keys", "bundled studies")
    raise InputError(f"No study '{name_or_path}': it is neither a bundled name nor a file; {hint}")


def load_spec(name_or_path: str, overrides: tuple[str, ...] = ()) -> tuple[StudySpec, str]:
    """Read and check a study file.

    Args:
        name_or_path: a bundled name such as ``busi`` or the path of a TOML file.
        overrides: ``key=value`` strings, each replacing one value of the file; the key may stand
            alone (``epochs=5``) or with its section (``dataset.num_folds=3``).

    Returns:
        The checked study and the text of the file, verbatim, overrides appended as comments.

    Raises:
        InputError: the file is missing, is not TOML or breaks the schema.
    """
    path = find_study_file(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a valid TOML file ({error}).") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None
    for override in overrides:
        _apply_override(raw, override)
        text += f"\n# --set {override}"
    _read_recipes(raw, str(path))
    return parse_spec(raw, origin=str(path)), text


def _read_recipes(raw: dict[str, Any], origin: str) -> None:
    """Put the configurations of the named recipe files before the file's own recipes.

    What the study itself fixes (epochs, weights, image size …) holds for the named ones too, and
    ``recipe_epochs`` for all.
    """
    section = raw.get("study", {})
    own = raw.get("recipe", [])
    if not isinstance(section, dict) or not isinstance(own, list):
        return
    names, limit = section.get("recipes", []), section.get("recipe_epochs")
    if not isinstance(names, list):
        return
    fixed = raw.get("hyperparameters", {})
    if not isinstance(fixed, dict):
        return
    kept_out = {*fixed, "image_size_pixels"}
    entries: list[Any] = []
    for name in names:
        path = find_study_file(str(name))
        try:
            recipe = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{origin}: recipe {name} cannot be read ({error}).") from None
        parse_spec(recipe, origin=str(path))
        settings = dict(recipe.get("hyperparameters", {}))
        kept = {key: value for key, value in settings.items() if key not in kept_out}
        if isinstance(limit, int):
            kept["epochs"] = settings.get("epochs", limit)
        reported = recipe.get("study", {}).get("reported", "")
        entries.append({"name": path.stem, "reported": reported, **kept})
    raw["recipe"] = [*entries, *own]
    for entry in raw["recipe"]:
        if isinstance(limit, int) and isinstance(entry, dict):
            epochs = entry.get("epochs", fixed.get("epochs", limit))
            entry["epochs"] = min(limit, epochs) if isinstance(epochs, int) else epochs


def _apply_override(raw: dict[str, Any], override: str) -> None:
    """Replace one value in the decoded file; a fixed value takes a searched one's place."""
    key, separator, written = override.partition("=")
    key, written = key.strip(), written.strip()
    if not separator or not key or not written:
        raise InputError(f"--set {override}: expected key=value, for example --set epochs=5.")
    try:
        value = tomllib.loads(f"value = {written}")["value"]
    except tomllib.TOMLDecodeError:
        value = written
    if key == "recipe":
        raw[key] = value
        return
    section, _, name = key.rpartition(".")
    if not section:
        section = _section_of(name)
    if section == "hyperparameters" and isinstance(value, dict | list):
        section = "space"
    if section not in StudySpec.model_fields or section == "recipe":
        raise InputError(f"--set {override}: unknown section '{section}' in '{key}'.")
    if section in ("hyperparameters", "space"):
        if name not in Hyperparameters.model_fields:
            known = list(Hyperparameters.model_fields)
            raise InputError(f"--set {override}: unknown key '{name}'; {nearest(name, known)}")
        for other in ("hyperparameters", "space"):
            raw.get(other, {}).pop(name, None)
    raw.setdefault(section, {})[name] = value


def _section_of(name: str) -> str:
    if name in Hyperparameters.model_fields:
        return "hyperparameters"
    for section, model in (("study", StudySection), ("dataset", DatasetSection)):
        if name in model.model_fields:
            return section
    known = [
        *Hyperparameters.model_fields,
        *StudySection.model_fields,
        *DatasetSection.model_fields,
    ]
    raise InputError(f"--set {name}: unknown key; {nearest(name, known)}")


def _normalise_space(raw: dict[str, Any]) -> dict[str, Any]:
    """Accept ``name = [a, b]`` as the short form of ``name = {choices = [a, b]}``."""
    space = raw.get("space")
    if not isinstance(space, dict):
        return raw
    for name in space:
        if name not in Hyperparameters.model_fields:
            known = list(Hyperparameters.model_fields)
            raise InputError(f"unknown key 'space.{name}'; {nearest(name, known)}")
    short = {
        name: {"choices": value} if isinstance(value, list) else value
        for name, value in space.items()
    }
    return {**raw, "space": short}


def parse_spec(raw: dict[str, Any], *, origin: str) -> StudySpec:
    """Check a decoded study file.

    Raises:
        InputError: one sentence naming ``origin``, the key and what was expected.
    """
    try:
        normalised = _normalise_space(raw)
        for name, value in normalised.get("space", {}).items():
            kind: type[Condition] = Choice if "choices" in value else Range
            try:
                kind.model_validate(value)
            except ValidationError as error:
                raise InputError(f"space.{name}: {first_problem(error, kind)}") from None
        return StudySpec.model_validate(normalised)
    except ValidationError as error:
        raise InputError(f"{origin}: {first_problem(error, StudySpec)}.") from None
    except InputError as error:
        raise InputError(f"{origin}: {error}.") from None
    except (TypeError, AttributeError):
        raise InputError(
            f"{origin}: [space] must map names to ranges like {{ low = 0.0, high = 0.5 }} or lists."
        ) from None


def about_study(text: str) -> About:
    """Return the ``[about]`` of a study file.

    Args:
        text: of the file; empty where a study has none.

    Raises:
        InputError: what stands there is not allowed.
    """
    raw = tomllib.loads(text).get("about", {})
    for key, written in re.findall(r"^# --set about\.(\w+) *= *(.*)$", text, flags=re.MULTILINE):
        _apply_override({"about": raw}, f"about.{key}={written}")
    try:
        return About.model_validate(raw)
    except ValidationError as error:
        raise InputError(f"[about]: {first_problem(error, About)}.") from None
